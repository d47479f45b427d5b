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

}  // namespace ernie5
