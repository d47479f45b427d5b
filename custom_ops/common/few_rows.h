// Products of a few rows, as in decoding: the matrix is read once, as it lies, and that is all the time they take.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __AVX512F__
#include <immintrin.h>
#endif

#include "common/bfloat16.h"
#include "common/scratch.h"

namespace ernie5::cpu {

constexpr int64_t kPrefetched = 12;  // rows of a matrix ahead: its rows are too far apart for the processor to guess
constexpr int64_t kPrefetchedBytes = 8192;  // ahead, where they are not

// Vectors of one cache line.
template <typename C>
struct Lanes;
template <>
struct Lanes<float> {
  typedef float type __attribute__((vector_size(64)));
};
template <>
struct Lanes<double> {
  typedef double type __attribute__((vector_size(64)));
};

// Sixteen bfloat16 as float, which they begin.
inline Lanes<float>::type widen(const bfloat16* from) {
  typedef uint16_t Halves __attribute__((vector_size(32)));
  typedef uint32_t Words __attribute__((vector_size(64)));
  Halves halves;
  std::memcpy(&halves, from, sizeof(halves));
  const Words words = __builtin_convertvector(halves, Words) << 16;
  Lanes<float>::type line;
  std::memcpy(&line, &words, sizeof(line));
  return line;
}

template <typename C, typename B>
typename Lanes<C>::type load_line(const B* from) {
  if constexpr (std::is_same_v<B, C>) {
    typename Lanes<C>::type line;
    std::memcpy(&line, from, sizeof(line));
    return line;
  } else {
    return widen(from);
  }
}

// c [R, V lines of columns] = a [R, k] b [k, ..]. The sums stay in registers, each over k in order, so that a row's bits
// depend neither on R nor on how b lies.
template <int R, int V, bool kFarApart, typename C, typename B>
void tile_product(const C* a, int64_t lda, const B* b, int64_t ldb, int64_t k, C* c, int64_t ldc) {
  using Line = typename Lanes<C>::type;
  constexpr int64_t kWidth = sizeof(Line) / sizeof(C);
  Line sum[R][V] = {};
  for (int64_t inner = 0; inner < k; ++inner) {
    Line line[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      if constexpr (kFarApart) __builtin_prefetch(b + (inner + kPrefetched) * ldb + v * kWidth);
      line[v] = load_line<C>(b + inner * ldb + v * kWidth);
    }
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
      for (int v = 0; v < V; ++v) sum[r][v] += a[r * lda + inner] * line[v];
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) std::memcpy(c + r * ldc + v * kWidth, &sum[r][v], sizeof(Line));
}

// c [R, n] = a [R, k] b [k, n], b as it lies.
template <int R, typename C, typename B>
void few_rows_product(const C* a, int64_t lda, const B* b, int64_t ldb, int64_t n, int64_t k, C* c, int64_t ldc) {
  constexpr int64_t kWidth = kCacheLine / sizeof(C), kLines = R == 1 ? 16 : R == 2 ? 8 : R == 3 ? 5 : 4;
  int64_t column = 0;
  for (; column + kLines * kWidth <= n; column += kLines * kWidth)
    tile_product<R, kLines, true>(a, lda, b + column, ldb, k, c + column, ldc);
  if constexpr (kLines > 8)
    for (; column + 8 * kWidth <= n; column += 8 * kWidth)
      tile_product<R, 8, true>(a, lda, b + column, ldb, k, c + column, ldc);
  for (; column + 4 * kWidth <= n; column += 4 * kWidth)  // one line's sum would wait for itself
    tile_product<R, 4, true>(a, lda, b + column, ldb, k, c + column, ldc);
  for (; column + kWidth <= n; column += kWidth) tile_product<R, 1, true>(a, lda, b + column, ldb, k, c + column, ldc);
  for (; column < n; ++column)
    for (int r = 0; r < R; ++r) {
      C sum = 0;
      for (int64_t inner = 0; inner < k; ++inner) sum += a[r * lda + inner] * C(b[inner * ldb + column]);
      c[r * ldc + column] = sum;
    }
}

// c [m, n] = a [m, k] b [k, n]; C is float or double, B is C, or bfloat16 beside float.
template <typename C, typename B>
void columns_product(const C* a, int64_t lda, const B* b, int64_t ldb, int64_t m, int64_t n, int64_t k, C* c, int64_t ldc) {
  int64_t row = 0;
  for (; row + 4 <= m; row += 4) few_rows_product<4>(a + row * lda, lda, b, ldb, n, k, c + row * ldc, ldc);
  switch (m - row) {
    case 1: few_rows_product<1>(a + row * lda, lda, b, ldb, n, k, c + row * ldc, ldc); break;
    case 2: few_rows_product<2>(a + row * lda, lda, b, ldb, n, k, c + row * ldc, ldc); break;
    case 3: few_rows_product<3>(a + row * lda, lda, b, ldb, n, k, c + row * ldc, ldc); break;
  }
}

// The sum of a vector.
inline double sum_of(const Lanes<double>::type& line) {
  double sum = 0;
  for (int i = 0; i < 8; ++i) sum += line[i];
  return sum;
}
inline float sum_of(const Lanes<float>::type& line) {
#ifdef __AVX512F__
  return _mm512_reduce_add_ps(reinterpret_cast<const __m512&>(line));
#else
  float sum = 0;
  for (int i = 0; i < 16; ++i) sum += line[i];
  return sum;
#endif
}

// c [R] = a [R, k] b [k]: a row of b at a time, since memory is read fastest from end to end.
template <int R, typename C, typename B>
void dots(const C* a, int64_t lda, const B* b, int64_t k, C* c, int64_t ldc) {
  using Line = typename Lanes<C>::type;
  constexpr int64_t kWidth = sizeof(Line) / sizeof(C), kLines = R == 1 ? 4 : R <= 4 ? 2 : 1;  // sums that do not wait
  Line sum[R][kLines] = {};
  int64_t inner = 0;
  for (; inner + kLines * kWidth <= k; inner += kLines * kWidth)
#pragma GCC unroll 4
    for (int64_t line = 0; line < kLines; ++line) {
      const int64_t at = inner + line * kWidth;
      __builtin_prefetch(b + at + kPrefetchedBytes / sizeof(B));
      const Line own = load_line<C>(b + at);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) sum[r][line] += load_line<C>(a + r * lda + at) * own;
    }
  for (int r = 0; r < R; ++r) {
    for (int64_t line = 1; line < kLines; ++line) sum[r][0] += sum[r][line];
    C total = sum_of(sum[r][0]);
    for (int64_t i = inner; i < k; ++i) total += a[r * lda + i] * C(b[i]);
    c[r * ldc] = total;
  }
}

// c [m, n] = a [m, k] b [n, k]^T.
template <typename C, typename B>
void transposed_product(const C* a, int64_t lda, const B* b, int64_t ldb, int64_t m, int64_t n, int64_t k, C* c,
                        int64_t ldc) {
  for (int64_t column = 0; column < n; ++column, b += ldb, ++c) {
    int64_t row = 0;
    for (; row + 8 <= m; row += 8) dots<8>(a + row * lda, lda, b, k, c + row * ldc, ldc);
    for (; row + 4 <= m; row += 4) dots<4>(a + row * lda, lda, b, k, c + row * ldc, ldc);
    for (; row + 2 <= m; row += 2) dots<2>(a + row * lda, lda, b, k, c + row * ldc, ldc);
    if (row < m) dots<1>(a + row * lda, lda, b, k, c + row * ldc, ldc);
  }
}

}  // namespace ernie5::cpu
