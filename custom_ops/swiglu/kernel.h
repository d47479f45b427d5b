// silu(gate) * up, the gate of a SwiGLU layer.
#pragma once
#include <cstdint>

#include "common/bfloat16.h"

namespace ernie5::cpu {

// y = gate * sigmoid(gate) * up, computed in compute_t<T>. gate and up: rows of `width` numbers that begin `stride` apart,
// so that they may be the halves of one array (stride 2 * width); y [rows, width].
template <typename T>
void swiglu_forward(const T* gate, const T* up, int64_t rows, int64_t width, int64_t stride, T* y);

// The gradients by gate and up, strided as these are.
template <typename T>
void swiglu_backward(const T* gate, const T* up, const T* grad_y, int64_t rows, int64_t width, int64_t stride,
                     T* grad_gate, T* grad_up);

}  // namespace ernie5::cpu
