// Products of blocks whose sums stay in registers.
#pragma once
#include <cstdint>
#include <cstring>

#include "common/few_rows.h"

namespace ernie5::cpu {

constexpr int64_t kRowTile = 14;  // rows of a product whose sums fill 28 registers, two vectors a row
template <typename C>
constexpr int64_t kLane = kCacheLine / static_cast<int64_t>(sizeof(C));

// c [R, V vectors] (+)= a b: element (row, inner) of a is a[row * row_step + inner * inner_step], b [k, ..] begins its rows ldb
// apart.
template <int R, int V, bool kAdd, typename C>
void block_tile(const C* a, int64_t row_step, int64_t inner_step, const C* b, int64_t ldb, int64_t k, C* c, int64_t ldc) {
  using Line = typename Lanes<C>::type;
  Line sum[R][V] = {};
  for (int64_t inner = 0; inner < k; ++inner) {
    Line line[V];
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) std::memcpy(&line[v], b + inner * ldb + v * kLane<C>, sizeof(Line));
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < V; ++v) sum[r][v] += a[r * row_step + inner * inner_step] * line[v];
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 2
    for (int v = 0; v < V; ++v) {
      C* const out = c + r * ldc + v * kLane<C>;
      if constexpr (kAdd) {
        Line before;
        std::memcpy(&before, out, sizeof(Line));
        sum[r][v] += before;
      }
      std::memcpy(out, &sum[r][v], sizeof(Line));
    }
}

// As above for any number of vectors: c [R, width], width a multiple of a vector.
template <int R, bool kAdd, typename C>
void block_product(const C* a, int64_t row_step, int64_t inner_step, const C* b, int64_t ldb, int64_t k, int64_t width, C* c,
                   int64_t ldc) {
  int64_t column = 0;
  for (; column + 2 * kLane<C> <= width; column += 2 * kLane<C>)
    block_tile<R, 2, kAdd>(a, row_step, inner_step, b + column, ldb, k, c + column, ldc);
  if (column < width) block_tile<R, 1, kAdd>(a, row_step, inner_step, b + column, ldb, k, c + column, ldc);
}

}  // namespace ernie5::cpu
