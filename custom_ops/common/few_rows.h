// Products of a few rows, as in decoding: the matrix is read once, as it lies, and that is all the time they take.
#pragma once
#include <cstdint>
#include <cstring>

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

// c [R, V lines of columns] = a [R, k] b [k, ..]. The sums stay in registers, each over k in order, so that a row's bits
// depend neither on R nor on how b lies.
template <int R, int V, bool kFarApart, typename C>
void tile_product(const C* a, int64_t lda, const C* b, int64_t ldb, int64_t k, C* c, int64_t ldc) {
  using Line = typename Lanes<C>::type;
  constexpr int64_t kWidth = sizeof(Line) / sizeof(C);
  Line sum[R][V] = {};
  for (int64_t inner = 0; inner < k; ++inner) {
    Line line[V];
#pragma GCC unroll 16
    for (int v = 0; v < V; ++v) {
      if constexpr (kFarApart) __builtin_prefetch(b + (inner + kPrefetched) * ldb + v * kWidth);
      std::memcpy(&line[v], b + inner * ldb + v * kWidth, sizeof(Line));
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

// c [R, n] = a [R, k] b [k, n] from column `first` on, b as it lies.
template <int R, typename C>
void few_rows_product(const C* a, int64_t k, const C* b, int64_t n, int64_t first, C* c) {
  constexpr int64_t kWidth = kCacheLine / sizeof(C), kLines = R == 1 ? 16 : R == 2 ? 8 : R == 3 ? 5 : 4;
  int64_t column = first;
  for (; column + kLines * kWidth <= n; column += kLines * kWidth)
    tile_product<R, kLines, true>(a, k, b + column, n, k, c + column, n);
  for (; column + kWidth <= n; column += kWidth) tile_product<R, 1, true>(a, k, b + column, n, k, c + column, n);
  for (; column < n; ++column)
    for (int r = 0; r < R; ++r) {
      C sum = 0;
      for (int64_t inner = 0; inner < k; ++inner) sum += a[r * k + inner] * b[inner * n + column];
      c[r * n + column] = sum;
    }
}

template <typename C>
void columns_product(const C* a, const C* b, int64_t m, int64_t n, int64_t k, int64_t first, C* c) {
  int64_t row = 0;
  for (; row + 4 <= m; row += 4) few_rows_product<4>(a + row * k, k, b, n, first, c + row * n);
  switch (m - row) {
    case 1: few_rows_product<1>(a + row * k, k, b, n, first, c + row * n); break;
    case 2: few_rows_product<2>(a + row * k, k, b, n, first, c + row * n); break;
    case 3: few_rows_product<3>(a + row * k, k, b, n, first, c + row * n); break;
  }
}

}  // namespace ernie5::cpu
