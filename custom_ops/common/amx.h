// Products in bfloat16 on the matrix unit of Sapphire Rapids and later (AMX), where the library is compiled for it.
#pragma once
#include <algorithm>
#include <cstdint>

#include "common/pack_bf16.h"

#ifdef ERNIE5_EMULATE_AMX
#include "common/amx_emulation.h"
#elif defined(__AMX_BF16__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace ernie5::cpu {

constexpr int64_t kAmxRows = 32;  // two tiles of 16 rows, beside two of 16 columns

#if defined(__AMX_BF16__) || defined(ERNIE5_EMULATE_AMX)

// Whether the system lets this process use the tiles; it is asked once.
inline bool has_amx() {
#ifdef ERNIE5_EMULATE_AMX
  return true;
#else
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA (asm/prctl.h)
  static const bool granted = syscall(SYS_arch_prctl, kRequest, kTileData) == 0;
  return granted;
#endif
}

// The shape of all eight tiles, 16 rows of 64 bytes, for as long as it lives. A thread's own; others that use tiles, such as
// oneDNN, leave none behind.
class AmxTiles {
 public:
  explicit AmxTiles(bool used) : used_(used) {
    if (!used) return;
    struct alignas(64) {
      uint8_t palette = 1, start_row = 0, reserved[14] = {};
      uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
      uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
    } shape;
    _tile_loadconfig(&shape);
  }
  ~AmxTiles() {
    if (used_) _tile_release();
  }
  AmxTiles(const AmxTiles&) = delete;
  AmxTiles& operator=(const AmxTiles&) = delete;

 private:
  const bool used_;
};

// c [m, count <= kColumns] (+)= a b. a [m to a multiple of kAmxRows, row_step], pairs of a row one after the other; b [pairs,
// kColumns]; pairs a multiple of 16, zeros behind the last real one in both.
inline void amx_panel_product(const Pair* a, int64_t row_step, const Pair* b, int64_t pairs, int64_t m, bool add, float* c,
                              int64_t ldc, int64_t count) {
  alignas(64) float room[kAmxRows * kColumns];
  for (int64_t row = 0; row < m; row += kAmxRows) {
    const int64_t rows = std::min(kAmxRows, m - row);
    const bool whole = rows == kAmxRows && count == kColumns;
    float* const out = whole ? c + row * ldc : room;
    const int64_t step = whole ? ldc : kColumns, bytes = step * static_cast<int64_t>(sizeof(float));
    if (add && !whole)
      for (int64_t r = 0; r < rows; ++r) std::copy_n(c + (row + r) * ldc, count, room + r * kColumns);
    if (add) {
      _tile_loadd(0, out, bytes);
      _tile_loadd(1, out + kLane, bytes);
      _tile_loadd(2, out + kLane * step, bytes);
      _tile_loadd(3, out + kLane * step + kLane, bytes);
    } else {
      _tile_zero(0);
      _tile_zero(1);
      _tile_zero(2);
      _tile_zero(3);
    }
    for (int64_t p = 0; p < pairs; p += kLane) {
      const Pair* const own = a + row * row_step + p;
      _tile_loadd(4, own, row_step * sizeof(Pair));
      _tile_loadd(5, own + kLane * row_step, row_step * sizeof(Pair));
      _tile_loadd(6, b + p * kColumns, kColumns * sizeof(Pair));
      _tile_loadd(7, b + p * kColumns + kLane, kColumns * sizeof(Pair));
      _tile_dpbf16ps(0, 4, 6);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(2, 5, 6);
      _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out, bytes);
    _tile_stored(1, out + kLane, bytes);
    _tile_stored(2, out + kLane * step, bytes);
    _tile_stored(3, out + kLane * step + kLane, bytes);
    if (!whole)
      for (int64_t r = 0; r < rows; ++r) std::copy_n(room + r * kColumns, count, c + (row + r) * ldc);
  }
}

#else

inline bool has_amx() { return false; }
struct AmxTiles {
  explicit AmxTiles(bool) {}
};
inline void amx_panel_product(const Pair*, int64_t, const Pair*, int64_t, int64_t, bool, float*, int64_t, int64_t) {}

#endif

}  // namespace ernie5::cpu
