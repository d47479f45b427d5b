// Dense products of floats whose factors are rounded to bfloat16, row-major; sums are float.
#pragma once
#include <cstdint>

namespace ernie5::cpu {

// Whether this library was compiled for a processor that multiplies bfloat16 (AVX512-BF16).
bool has_bf16_products();

// c [m, n] = op(a) op(b), or c += op(a) op(b); op(a) [m, k], op(b) [k, n], transposed where said; lda, ldb, ldc: elements
// from one stored row to the next. Factors are rounded to the nearest bfloat16. On one thread inside a parallel region, else on
// all; the bits do not depend on the threads. Only where has_bf16_products().
void gemm_bf16(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
               const float* b, int64_t ldb, bool add, float* c, int64_t ldc);

}  // namespace ernie5::cpu
