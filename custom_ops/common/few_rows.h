// Products of a few rows, as in decoding: the matrix is read once, as it lies, and that is all the time they take.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/bfloat16.h"
#include "common/scratch.h"

namespace ernie5::cpu {

constexpr int64_t kPrefetched = 12;  // rows of a matrix ahead: its rows are too far apart for the processor to guess

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
      if constexpr (std::is_same_v<B, C>) {
        std::memcpy(&line[v], b + inner * ldb + v * kWidth, sizeof(Line));
      } else {
        line[v] = widen(b + inner * ldb + v * kWidth);
      }
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

}  // namespace ernie5::cpu
