#include "common/gemm_bf16.h"

#include <algorithm>
#include <cstdlib>

#ifdef __AVX512BF16__
#include "common/amx.h"
#include "common/pack_bf16.h"
#include "common/parallel.h"
#include "common/scratch.h"
#endif

namespace ernie5::cpu {

#ifndef __AVX512BF16__

bool has_bf16_products() { return false; }
void gemm_bf16(bool, bool, int64_t, int64_t, int64_t, const float*, int64_t, const float*, int64_t, bool, float*, int64_t) {
  std::abort();  // nobody asks where has_bf16_products() says no
}

#else

namespace {

// vdpbf16ps multiplies 16 pairs of b, one a column, by one pair of a, and adds both products to the column's sum: 1.95 times
// the rate of float on Zen 4.
constexpr int64_t kRows = 14;    // of a tile of kColumns: 28 registers of sums
constexpr int64_t kDepth = 512;  // of k at once: a panel of b stays in the first cache

// c [R, count <= kColumns] (+)= a b. Pair p of row r of a is a[r * row_step + p * pair_step]; b [pairs, kColumns].
template <int R>
void tile(const Pair* a, int64_t row_step, int64_t pair_step, const Pair* b, int64_t pairs, bool add, float* c, int64_t ldc,
          int64_t count) {
  __m512 sum[R][2];
  const __mmask16 mask[2] = {first_lanes(count), first_lanes(count - kLane)};
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < 2; ++v)
      sum[r][v] = add ? _mm512_maskz_loadu_ps(mask[v], c + r * ldc + v * kLane) : _mm512_setzero_ps();
  for (int64_t p = 0; p < pairs; ++p) {
    const __m512bh first = (__m512bh)_mm512_loadu_si512(b + p * kColumns);
    const __m512bh second = (__m512bh)_mm512_loadu_si512(b + p * kColumns + kLane);
#pragma GCC unroll 14
    for (int r = 0; r < R; ++r) {
      const __m512bh factor = (__m512bh)_mm512_set1_epi32(static_cast<int>(a[r * row_step + p * pair_step]));
      sum[r][0] = _mm512_dpbf16_ps(sum[r][0], factor, first);
      sum[r][1] = _mm512_dpbf16_ps(sum[r][1], factor, second);
    }
  }
#pragma GCC unroll 14
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < 2; ++v) _mm512_mask_storeu_ps(c + r * ldc + v * kLane, mask[v], sum[r][v]);
}

int64_t round_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

// All rows against one panel of b.
void panel_product(const Pair* a, int64_t row_step, int64_t pair_step, const Pair* b, int64_t pairs, int64_t m, bool add,
                   float* c, int64_t ldc, int64_t count) {
  int64_t row = 0;
  for (; row + kRows <= m; row += kRows)
    tile<kRows>(a + row * row_step, row_step, pair_step, b, pairs, add, c + row * ldc, ldc, count);
  for (; row + 7 <= m; row += 7)
    tile<7>(a + row * row_step, row_step, pair_step, b, pairs, add, c + row * ldc, ldc, count);
  for (; row + 3 <= m; row += 3)
    tile<3>(a + row * row_step, row_step, pair_step, b, pairs, add, c + row * ldc, ldc, count);
  for (; row < m; ++row) tile<1>(a + row * row_step, row_step, pair_step, b, pairs, add, c + row * ldc, ldc, count);
}

}  // namespace

bool has_bf16_products() { return true; }

void gemm_bf16(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const float* a, int64_t lda,
               const float* b, int64_t ldb, bool add, float* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  if (k == 0) {
    for (int64_t row = 0; !add && row < m; ++row) std::fill_n(c + row * ldc, n, 0.0f);
    return;
  }
  const bool amx = has_amx();
  const int64_t panels = (n + kColumns - 1) / kColumns, deepest = (std::min(k, kDepth) + 1) / 2;
  // a is packed row by row, or, transposed and not for AMX, pair by pair. AMX reads whole tiles: zeros fill them up.
  const int64_t row_step = amx ? round_up(deepest, kLane) : transpose_a ? 1 : deepest;
  const int64_t pair_step = transpose_a && !amx ? m : 1, rows = amx ? round_up(m, kAmxRows) : m;
  Scratch<Pair> packed(std::max(rows * row_step, m * deepest));
  if (amx) std::fill_n(packed.get(), rows * row_step, Pair{0});
  for (int64_t from = 0; from < k; from += kDepth) {
    const int64_t depth = std::min(kDepth, k - from), pairs = (depth + 1) / 2;
    if (transpose_a && amx) {
      pack_columns_as_rows(a + from * lda, lda, depth, m, packed.get(), row_step);
    } else if (transpose_a) {
      parallel_ranges(pairs, m * depth, [&](int64_t begin, int64_t end, int) {
        const int64_t first = 2 * begin, count = std::min(2 * end, depth) - first;
        if (count > 0) pack_columns(a + (from + first) * lda, lda, count, m, packed.get() + begin * m, m);
      });
    } else {
      parallel_ranges(m, m * depth, [&](int64_t begin, int64_t end, int) {
        for (int64_t row = begin; row < end; ++row) {
          pack_row(a + row * lda + from, depth, packed.get() + row * row_step);
          if (amx) std::fill(packed.get() + row * row_step + pairs, packed.get() + (row + 1) * row_step, Pair{0});
        }
      });
    }
    parallel_ranges(panels, m * n * depth, [&](int64_t begin, int64_t end, int) {
      alignas(kCacheLine) thread_local static Pair panel[kDepth / 2 * kColumns];
      const AmxTiles tiles(amx);
      for (int64_t index = begin; index < end; ++index) {
        const int64_t column = index * kColumns, count = std::min(kColumns, n - column);
        if (amx || count < kColumns) std::fill_n(panel, round_up(pairs, kLane) * kColumns, Pair{0});
        if (transpose_b)
          pack_rows_as_columns(b + column * ldb + from, ldb, depth, count, panel);
        else
          pack_columns(b + from * ldb + column, ldb, depth, count, panel, kColumns);
        if (amx)
          amx_panel_product(packed.get(), row_step, panel, round_up(pairs, kLane), m, add || from > 0, c + column, ldc, count);
        else
          panel_product(packed.get(), row_step, pair_step, panel, pairs, m, add || from > 0, c + column, ldc, count);
      }
    });
  }
}

#endif

}  // namespace ernie5::cpu
