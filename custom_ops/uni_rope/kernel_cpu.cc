#include "uni_rope/kernel.h"

#include "common/parallel.h"

// Products are rounded before they are summed, so that every bit is the definition's; it waits for memory anyway.
#pragma GCC optimize("fp-contract=off")

namespace ernie5::cpu {

template <typename T>
void uni_rope(const T* states, const float* cos, const float* sin, int64_t tokens, int64_t angles, int64_t heads,
              int64_t pairs, bool back, T* out) {
  using C = compute_t<T>;
  const C sign = back ? -1 : 1;
  parallel_ranges(tokens, tokens * heads * pairs * 2, [&](int64_t begin, int64_t end, int) {
    for (int64_t token = begin; token < end; ++token) {
      const float *cosines = cos + token % angles * pairs, *sines = sin + token % angles * pairs;
      for (int64_t head = 0; head < heads; ++head) {
        const int64_t start = (token * heads + head) * 2 * pairs;
        const T *first = states + start, *second = first + pairs;
        T *out_first = out + start, *out_second = out_first + pairs;
#pragma omp simd
        for (int64_t j = 0; j < pairs; ++j) {
          const C c = cosines[j], s = sign * C(sines[j]), one = first[j], other = second[j];
          out_first[j] = T(one * c - other * s);
          out_second[j] = T(other * c + one * s);
        }
      }
    }
  });
}

#define INSTANTIATE(T) \
  template void uni_rope<T>(const T*, const float*, const float*, int64_t, int64_t, int64_t, int64_t, bool, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)

}  // namespace ernie5::cpu
