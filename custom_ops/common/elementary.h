// exp and log1p as straight-line code, which the compiler turns into vectors inside of a simd loop; libm's are calls.
// float: within 2 units in the last place; double: libm. NaN stays NaN.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

namespace ernie5 {

// exp(x); above 88.7 that of 88.7 instead of infinity, below -87 zero instead of numbers near 1e-38.
inline float vector_exp(float x) {
  x = x > 88.72f ? 88.72f : x;
  x = x < -87.33f ? -87.33f : x;
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, which stands in the low bits
  const float shifted = x * 1.44269504089f + kShift;
  const float whole = shifted - kShift;
  const float rest = (x - whole * 0.693359375f) + whole * 2.12194440e-4f;  // ln 2 in two parts
  float series = 1.9875691500e-4f;
  series = series * rest + 1.3981999507e-3f;
  series = series * rest + 8.3334519073e-3f;
  series = series * rest + 4.1665795894e-2f;
  series = series * rest + 1.6666665459e-1f;
  series = series * rest + 5.0000001201e-1f;
  series = series * rest * rest + rest + 1.0f;
  uint32_t bits;
  std::memcpy(&bits, &shifted, 4);
  bits = (bits + 126) << 23;  // 2^(whole - 1), as 2^128 is no float
  float power;
  std::memcpy(&power, &bits, 4);
  return series * power * 2.0f;
}
inline double vector_exp(double x) { return std::exp(x); }

// log(1 + y) for 0 <= y <= 1.
inline float vector_log1p(float y) {
  // With z = y / (2 + y), at most 1/3: log(1 + y) = 2 atanh(z).
  const float z = y / (2.0f + y), square = z * z;
  float series = 0.076923077f + square * 0.066666667f;
  series = series * square + 0.090909091f;
  series = series * square + 0.11111111f;
  series = series * square + 0.14285714f;
  series = series * square + 0.2f;
  series = series * square + 0.33333333f;
  return 2.0f * (z + z * square * series);
}
inline double vector_log1p(double y) { return std::log1p(y); }

}  // namespace ernie5
