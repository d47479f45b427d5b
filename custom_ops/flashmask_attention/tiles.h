// Products of blocks whose sums stay in registers.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "common/few_rows.h"
#include "common/gemm.h"
#include "common/gemm_bf16.h"

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

// c [m, width] (+)= a [m, k] b [k, width], m a multiple of kRowTile; in bfloat16 where that is chosen.
template <bool kAdd, typename C>
void rows_product(const C* a, int64_t lda, int64_t m, const C* b, int64_t ldb, int64_t k, int64_t width, C* c, int64_t ldc) {
  if constexpr (std::is_same_v<C, float>)
    if (bf16_products()) return gemm_bf16(false, false, m, width, k, a, lda, b, ldb, kAdd, c, ldc);
  for (int64_t row = 0; row < m; row += kRowTile)
    block_product<kRowTile, kAdd>(a + row * lda, lda, 1, b, ldb, k, width, c + row * ldc, ldc);
}

// c [kKeys, width] += a^T b, a [m, kKeys], b [m, width]; likewise.
template <int64_t kKeys, typename C>
void keys_product(const C* a, const C* b, int64_t ldb, int64_t m, int64_t width, C* c, int64_t ldc) {
  constexpr int kKeyTile = 8;
  if constexpr (std::is_same_v<C, float>)
    if (bf16_products()) return gemm_bf16(true, false, kKeys, width, m, a, kKeys, b, ldb, true, c, ldc);
  for (int64_t key = 0; key < kKeys; key += kKeyTile)
    block_product<kKeyTile, true>(a + key, 1, kKeys, b, ldb, m, width, c + key * ldc, ldc);
}

}  // namespace ernie5::cpu
