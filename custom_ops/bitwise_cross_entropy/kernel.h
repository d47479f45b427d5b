// Cross-entropy of bits that are predicted apart from each other.
#pragma once
#include <cstdint>

#include "common/bfloat16.h"

namespace ernie5::cpu {

// The sum over rows of row_weights * mean over bits of max(x, 0) - x * target + log(1 + exp(-|x|)), and its gradient by the
// logits x where that is not null: (sigmoid(x) - target) * row_weight / bits. logits, grad [rows, stride], of which the
// first `bits` of a row count (the others' gradient is 0); targets [rows, bits]; row_weights [rows].
template <typename T>
compute_t<T> bitwise_cross_entropy(const T* logits, const compute_t<T>* targets, const float* row_weights, int64_t rows,
                                   int64_t bits, int64_t stride, T* grad);

// out = grad * scale, `count` of them.
template <typename T>
void scale_bits(const T* grad, compute_t<T> scale, int64_t count, T* out);

}  // namespace ernie5::cpu
