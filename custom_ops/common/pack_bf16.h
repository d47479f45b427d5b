// Factors of products in bfloat16: floats packed as pairs that follow each other along the summed dim.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstdint>

namespace ernie5::cpu {

// Two factors that follow each other along k, the first in the low half.
using Pair = uint32_t;
constexpr int64_t kLane = 16;            // pairs of a vector
constexpr int64_t kColumns = 2 * kLane;  // of a panel of the right factor

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
inline void pack_row(const float* from, int64_t k, Pair* to) {
  int64_t i = 0;
  for (; i + 2 * kLane <= k; i += 2 * kLane)
    _mm512_storeu_si512(to + i / 2, rounded(_mm512_loadu_ps(from + i), _mm512_loadu_ps(from + i + kLane)));
  if (i < k)
    _mm512_mask_storeu_epi32(to + i / 2, first_lanes((k - i + 1) / 2),
                             rounded(load(from + i, k - i), load(from + i + kLane, k - i - kLane)));
}

// to [pairs, to_step] from rows [k, count] that lie ld apart: the numbers of a column become its pairs.
inline void pack_columns(const float* from, int64_t ld, int64_t k, int64_t count, Pair* to, int64_t to_step) {
  for (int64_t i = 0; i < k; i += 2)
    for (int64_t j = 0; j < count; j += kLane) {
      const __m512 low = load(from + i * ld + j, count - j);
      const __m512 high = i + 1 < k ? load(from + (i + 1) * ld + j, count - j) : _mm512_setzero_ps();
      _mm512_mask_storeu_epi32(to + i / 2 * to_step + j, first_lanes(count - j), interleaved(low, high));
    }
}

// Rows become columns: 16 vectors of 16 pairs.
inline void transpose(__m512i (&r)[16]) {
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

// to [rows, to_step] from rows [k, count] that lie ld apart: the numbers of a column become one row's pairs, with zeros to a
// whole vector behind the last, and rows of zeros to a multiple of 16.
inline void pack_columns_as_rows(const float* from, int64_t ld, int64_t k, int64_t count, Pair* to, int64_t to_step) {
  for (int64_t j = 0; j < count; j += kLane)
    for (int64_t i = 0; i < k; i += 2 * kLane) {
      __m512i pairs[16];
      for (int64_t p = 0; p < kLane; ++p) {
        const int64_t at = i + 2 * p;
        const __m512 low = load(from + at * ld + j, at < k ? count - j : 0);
        pairs[p] = interleaved(low, load(from + (at + 1) * ld + j, at + 1 < k ? count - j : 0));
      }
      transpose(pairs);
      for (int64_t r = 0; r < kLane; ++r) _mm512_storeu_si512(to + (j + r) * to_step + i / 2, pairs[r]);
    }
}

// to [pairs, kColumns] from `count` rows of k numbers that lie ld apart, zeros behind the last row.
inline void pack_rows_as_columns(const float* from, int64_t ld, int64_t k, int64_t count, Pair* to) {
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

}  // namespace ernie5::cpu
