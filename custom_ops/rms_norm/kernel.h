// Root-mean-square normalisation of rows, and of the sum of two.
#pragma once
#include <cstdint>

#include "common/bfloat16.h"

namespace ernie5::cpu {

// y = s * inverse * weight, s = x + residual, inverse = 1 / sqrt(mean(s^2) + epsilon), computed in compute_t<T>.
// x, residual, sum, y [rows, hidden]; weight [hidden]; inverse [rows]. residual and sum are null together.
template <typename T>
void rms_norm_forward(const T* x, const T* residual, const T* weight, int64_t rows, int64_t hidden, float epsilon,
                      T* sum, T* y, compute_t<T>* inverse);

// Gradients of y by s and weight; grad_sum [rows, hidden] or null is added to the first.
template <typename T>
void rms_norm_backward(const T* s, const T* weight, const compute_t<T>* inverse, const T* grad_y, const T* grad_sum,
                       int64_t rows, int64_t hidden, T* grad_s, T* grad_weight);

}  // namespace ernie5::cpu
