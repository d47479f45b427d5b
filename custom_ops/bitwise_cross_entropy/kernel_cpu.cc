#include "bitwise_cross_entropy/kernel.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/elementary.h"
#include "common/parallel.h"

namespace ernie5::cpu {

template <typename T>
compute_t<T> bitwise_cross_entropy(const T* logits, const compute_t<T>* targets, const float* row_weights, int64_t rows,
                                   int64_t bits, int64_t stride, T* grad) {
  using C = compute_t<T>;
  std::vector<C> losses(static_cast<size_t>(rows));
  parallel_ranges(rows, rows * bits, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const T* const x = logits + row * stride;
      const C* const target = targets + row * bits;
      const C weight = C(row_weights[row]) / C(bits);
      C total = 0;
#pragma omp simd reduction(+ : total)
      for (int64_t i = 0; i < bits; ++i) {
        const C value = x[i], size = value < 0 ? -value : value, small = vector_exp(-size);
        total += (value > 0 ? value : C(0)) - value * target[i] + vector_log1p(small);
      }
      losses[row] = total * weight;
      if (!grad) continue;
      T* const out = grad + row * stride;
#pragma omp simd
      for (int64_t i = 0; i < bits; ++i) out[i] = T((C(1) / (C(1) + vector_exp(-C(x[i]))) - target[i]) * weight);
      std::fill(out + bits, out + stride, T(C(0)));
    }
  });
  double sum = 0;
  for (const C loss : losses) sum += loss;
  return C(sum);
}

template <typename T>
void scale_bits(const T* grad, compute_t<T> scale, int64_t count, T* out) {
  using C = compute_t<T>;
  parallel_ranges(count, count, [&](int64_t begin, int64_t end, int) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) out[i] = T(C(grad[i]) * scale);
  });
}

#define INSTANTIATE(T)                                                                                                  \
  template compute_t<T> bitwise_cross_entropy<T>(const T*, const compute_t<T>*, const float*, int64_t, int64_t, int64_t, \
                                                 T*);                                                                   \
  template void scale_bits<T>(const T*, compute_t<T>, int64_t, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)

}  // namespace ernie5::cpu
