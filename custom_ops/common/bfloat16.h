// A bfloat16 that is only stored: kernels load it as float and round to nearest even when they store.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace ernie5 {

struct bfloat16 {
  uint16_t bits;
  bfloat16() = default;
  explicit bfloat16(float value) {
    uint32_t word;
    std::memcpy(&word, &value, 4);
    const bool is_nan = (word & 0x7fffffff) > 0x7f800000;
    bits = is_nan ? static_cast<uint16_t>((word >> 16) | 0x40)
                  : static_cast<uint16_t>((word + 0x7fff + ((word >> 16) & 1)) >> 16);
  }
  operator float() const {
    const uint32_t word = static_cast<uint32_t>(bits) << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
  }
};

// What a kernel computes in: double for double, float for everything else.
template <typename T>
using compute_t = std::conditional_t<std::is_same_v<T, double>, double, float>;

// to [count] = from, in another type.
template <typename From, typename To>
void convert(const From* from, int64_t count, To* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = To(compute_t<From>(from[i]));
}

// to [count] += from, summed in the compute type.
template <typename From, typename To>
void add(const From* from, int64_t count, To* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = To(compute_t<To>(to[i]) + compute_t<To>(from[i]));
}

}  // namespace ernie5
