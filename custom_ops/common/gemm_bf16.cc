#include "common/gemm_bf16.h"

#include <algorithm>
#include <cstdlib>

#ifdef __AVX512BF16__
#include <immintrin.h>

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

// A pair: two factors that follow each other along k, the first in the low half. vdpbf16ps multiplies 16 pairs of b, one a
// column, by one pair of a, and adds both products to the column's sum: 1.95 times the rate of float on Zen 4.
using Pair = uint32_t;
constexpr int64_t kRows = 14, kLane = 16, kColumns = 2 * kLane;  // of a tile: 28 registers of sums
constexpr int64_t kDepth = 512;                                  // of k at once: a panel of b stays in the first cache

inline __m512i rounded(__m512 low, __m512 high) { return (__m512i)_mm512_cvtne2ps_pbh(high, low); }

// Pairs of two rows that follow each other along k: lane j of the result is (low[j], high[j]).
inline __m512i interleaved(__m512 low, __m512 high) {
  const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                                         19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, rounded(low, high));
}

inline __mmask16 first_lanes(int64_t count) {
  return count >= kLane ? static_cast<__mmask16>(0xffff) : static_cast<__mmask16>((1u << std::max<int64_t>(count, 0)) - 1);
}

inline __m512 load(const float* from, int64_t count) { return _mm512_maskz_loadu_ps(first_lanes(count), from); }

// to [pairs]: one row of k numbers as pairs, a zero behind an odd last one.
void pack_row(const float* from, int64_t k, Pair* to) {
  int64_t i = 0;
  for (; i + 2 * kLane <= k; i += 2 * kLane)
    _mm512_storeu_si512(to + i / 2, rounded(_mm512_loadu_ps(from + i), _mm512_loadu_ps(from + i + kLane)));
  if (i < k)
    _mm512_mask_storeu_epi32(to + i / 2, first_lanes((k - i + 1) / 2),
                             rounded(load(from + i, k - i), load(from + i + kLane, k - i - kLane)));
}

// to [pairs, to_step] from rows [k, count] that lie ld apart: the numbers of a column become its pairs.
void pack_columns(const float* from, int64_t ld, int64_t k, int64_t count, Pair* to, int64_t to_step) {
  for (int64_t i = 0; i < k; i += 2)
    for (int64_t j = 0; j < count; j += kLane) {
      const __m512 low = load(from + i * ld + j, count - j);
      const __m512 high = i + 1 < k ? load(from + (i + 1) * ld + j, count - j) : _mm512_setzero_ps();
      _mm512_mask_storeu_epi32(to + i / 2 * to_step + j, first_lanes(count - j), interleaved(low, high));
    }
}

// Rows become columns: 16 vectors of 16 pairs.
void transpose(__m512i (&r)[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
    t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
    r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
    r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
  }
}

// to [pairs, kColumns] from `count` rows of k numbers that lie ld apart, zeros behind the last row.
void pack_rows_as_columns(const float* from, int64_t ld, int64_t k, int64_t count, Pair* to) {
  for (int64_t first = 0; first < kColumns; first += kLane)
    for (int64_t i = 0; i < k; i += 2 * kLane) {
      __m512i rows[16];
      for (int64_t j = 0; j < kLane; ++j) {
        const float* const row = from + (first + j) * ld + i;
        const int64_t left = first + j < count ? k - i : 0;
        rows[j] = left >= 2 * kLane ? rounded(_mm512_loadu_ps(row), _mm512_loadu_ps(row + kLane))
                                    : rounded(load(row, left), load(row + kLane, left - kLane));
      }
      transpose(rows);
      const int64_t pairs = std::min(kLane, (k - i + 1) / 2);
      for (int64_t p = 0; p < pairs; ++p) _mm512_storeu_si512(to + (i / 2 + p) * kColumns + first, rows[p]);
    }
}

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
  const int64_t panels = (n + kColumns - 1) / kColumns, deepest = (std::min(k, kDepth) + 1) / 2;
  const int64_t row_step = transpose_a ? 1 : deepest, pair_step = transpose_a ? m : 1;
  Scratch<Pair> packed(m * deepest);
  for (int64_t from = 0; from < k; from += kDepth) {
    const int64_t depth = std::min(kDepth, k - from), pairs = (depth + 1) / 2;
    if (transpose_a) {
      parallel_ranges(pairs, m * depth, [&](int64_t begin, int64_t end, int) {
        const int64_t first = 2 * begin, count = std::min(2 * end, depth) - first;
        if (count > 0) pack_columns(a + (from + first) * lda, lda, count, m, packed.get() + begin * m, m);
      });
    } else {
      parallel_ranges(m, m * depth, [&](int64_t begin, int64_t end, int) {
        for (int64_t row = begin; row < end; ++row) pack_row(a + row * lda + from, depth, packed.get() + row * row_step);
      });
    }
    parallel_ranges(panels, m * n * depth, [&](int64_t begin, int64_t end, int) {
      alignas(kCacheLine) thread_local static Pair panel[kDepth / 2 * kColumns];
      for (int64_t index = begin; index < end; ++index) {
        const int64_t column = index * kColumns, count = std::min(kColumns, n - column);
        if (transpose_b) {
          pack_rows_as_columns(b + column * ldb + from, ldb, depth, count, panel);
        } else {
          if (count < kColumns) std::fill_n(panel, pairs * kColumns, Pair{0});
          pack_columns(b + from * ldb + column, ldb, depth, count, panel, kColumns);
        }
        panel_product(packed.get(), row_step, pair_step, panel, pairs, m, add || from > 0, c + column, ldc, count);
      }
    });
  }
}

#endif

}  // namespace ernie5::cpu
