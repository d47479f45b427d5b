// Dense products, row-major, by the BLAS that Paddle ships (MKL); a plain loop where there is none.
#pragma once
#include <cstdint>

namespace ernie5::cpu {

// c [m, n] = alpha * op(a) op(b) + beta * c, op(a) [m, k] and op(b) [k, n]; transposed where said. lda, ldb, ldc: elements
// from one stored row to the next. T is float or double. On one thread inside a parallel region, else on all.
template <typename T>
void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda,
          const T* b, int64_t ldb, T beta, T* c, int64_t ldc);

// Whether `mixed_gemm` and attention round float factors to bfloat16: a choice of the process, which begins as ERNIE5_BF16_PRODUCTS=1 says
// or false, and never true where the processor has no such products.
bool bf16_products();

// c (+)= op(a) op(b) of weights and activations: gemm, or gemm_bf16 where bf16_products() and T is float.
template <typename T>
void mixed_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b,
                int64_t ldb, bool add, T* c, int64_t ldc);

}  // namespace ernie5::cpu
