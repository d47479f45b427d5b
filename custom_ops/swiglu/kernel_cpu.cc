#include "swiglu/kernel.h"

#include "common/elementary.h"
#include "common/parallel.h"

namespace ernie5::cpu {

template <typename T>
void swiglu_forward(const T* gate, const T* up, int64_t rows, int64_t width, int64_t stride, T* y) {
  using C = compute_t<T>;
  parallel_ranges(rows, rows * width, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const T *gates = gate + row * stride, *ups = up + row * stride;
      T* const out = y + row * width;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        const C g = gates[i];
        out[i] = T(g / (C(1) + vector_exp(-g)) * C(ups[i]));
      }
    }
  });
}

// With s = sigmoid(gate): grad_up = grad_y * gate * s, grad_gate = grad_y * up * s * (1 + gate * (1 - s)).
template <typename T>
void swiglu_backward(const T* gate, const T* up, const T* grad_y, int64_t rows, int64_t width, int64_t stride,
                     T* grad_gate, T* grad_up) {
  using C = compute_t<T>;
  parallel_ranges(rows, rows * width, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const T *gates = gate + row * stride, *ups = up + row * stride, *grads = grad_y + row * width;
      T *const by_gate = grad_gate + row * stride, *const by_up = grad_up + row * stride;
#pragma omp simd
      for (int64_t i = 0; i < width; ++i) {
        const C g = gates[i], grad = grads[i];
        const C share = C(1) / (C(1) + vector_exp(-g));
        by_gate[i] = T(grad * C(ups[i]) * share * (C(1) + g * (C(1) - share)));
        by_up[i] = T(grad * g * share);
      }
    }
  });
}

#define INSTANTIATE(T)                                                                                  \
  template void swiglu_forward<T>(const T*, const T*, int64_t, int64_t, int64_t, T*);                   \
  template void swiglu_backward<T>(const T*, const T*, const T*, int64_t, int64_t, int64_t, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)

}  // namespace ernie5::cpu
