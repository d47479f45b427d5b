#include "rms_norm/kernel.h"

#include <cmath>
#include <vector>

#include "common/parallel.h"

namespace ernie5::cpu {

template <typename T>
void rms_norm_forward(const T* x, const T* residual, const T* weight, int64_t rows, int64_t hidden, float epsilon,
                      T* sum, T* y, compute_t<T>* inverse) {
  using C = compute_t<T>;
  parallel_ranges(rows, rows * hidden, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const T* s = x + row * hidden;
      if (residual) {
        const T* other = residual + row * hidden;
        T* into = sum + row * hidden;
#pragma omp simd
        for (int64_t i = 0; i < hidden; ++i) into[i] = T(C(s[i]) + C(other[i]));
        s = into;
      }
      C squares = 0;
#pragma omp simd reduction(+ : squares)
      for (int64_t i = 0; i < hidden; ++i) squares += C(s[i]) * C(s[i]);
      const C scale = C(1) / std::sqrt(squares / C(hidden) + C(epsilon));
      inverse[row] = scale;
      T* out = y + row * hidden;
#pragma omp simd
      for (int64_t i = 0; i < hidden; ++i) out[i] = T(C(s[i]) * scale * C(weight[i]));
    }
  });
}

// With n = s * inverse and g = grad_y * weight: grad_s = inverse * (g - n * mean(g * n)), grad_weight = sum of grad_y * n.
template <typename T>
void rms_norm_backward(const T* s, const T* weight, const compute_t<T>* inverse, const T* grad_y, const T* grad_sum,
                       int64_t rows, int64_t hidden, T* grad_s, T* grad_weight) {
  using C = compute_t<T>;
  const int threads = omp_get_max_threads();
  std::vector<C> weight_sums(static_cast<size_t>(threads * hidden));
  parallel_ranges(rows, rows * hidden, [&](int64_t begin, int64_t end, int thread) {
    C* weight_sum = weight_sums.data() + thread * hidden;
    for (int64_t row = begin; row < end; ++row) {
      const T *in = s + row * hidden, *grad = grad_y + row * hidden;
      T* out = grad_s + row * hidden;
      const C scale = inverse[row];
      C product = 0;
#pragma omp simd reduction(+ : product)
      for (int64_t i = 0; i < hidden; ++i) product += C(grad[i]) * C(weight[i]) * C(in[i]);
      const C mean = product * scale / C(hidden);  // of g * n
#pragma omp simd
      for (int64_t i = 0; i < hidden; ++i) {
        const C normalized = C(in[i]) * scale;
        weight_sum[i] += C(grad[i]) * normalized;
        out[i] = T(scale * (C(grad[i]) * C(weight[i]) - normalized * mean));
      }
      if (grad_sum) {
        const T* more = grad_sum + row * hidden;
#pragma omp simd
        for (int64_t i = 0; i < hidden; ++i) out[i] = T(C(out[i]) + C(more[i]));
      }
    }
  });
  for (int64_t i = 0; i < hidden; ++i) {
    C total = 0;
    for (int thread = 0; thread < threads; ++thread) total += weight_sums[thread * hidden + i];
    grad_weight[i] = T(total);
  }
}

#define INSTANTIATE(T)                                                                                               \
  template void rms_norm_forward<T>(const T*, const T*, const T*, int64_t, int64_t, float, T*, T*, compute_t<T>*);    \
  template void rms_norm_backward<T>(const T*, const T*, const compute_t<T>*, const T*, const T*, int64_t, int64_t,    \
                                     T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)

}  // namespace ernie5::cpu
