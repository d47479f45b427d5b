// The tile instructions in plain C++, so that what is made of them can be tested on a processor without AMX.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>

namespace ernie5::amx {

struct State {
  bool configured = false;
  unsigned char tile[8][16][64];
};
inline State& state() {
  thread_local State own;
  return own;
}
inline void check(bool fits) {
  if (!fits) std::abort();
}

inline void load_config(const void* shape) {
  const auto* const bytes = static_cast<const unsigned char*>(shape);
  check(bytes[0] == 1);
  for (int tile = 0; tile < 8; ++tile) check(bytes[16 + 2 * tile] == 64 && bytes[48 + tile] == 16);
  state().configured = true;
}
inline void release() { state().configured = false; }
inline void zero(int tile) {
  check(state().configured);
  std::memset(state().tile[tile], 0, 1024);
}
inline void load(int tile, const void* from, int64_t step) {
  check(state().configured);
  for (int row = 0; row < 16; ++row)
    std::memcpy(state().tile[tile][row], static_cast<const char*>(from) + row * step, 64);
}
inline void store(int tile, void* to, int64_t step) {
  for (int row = 0; row < 16; ++row)
    std::memcpy(static_cast<char*>(to) + row * step, state().tile[tile][row], 64);
}
// c[m][n] += a[m][2k] * b[k][2n] + a[m][2k + 1] * b[k][2n + 1], factors bfloat16, sums float.
inline void multiply(int c, int a, int b) {
  const auto number = [](const unsigned char* row, int index) {
    uint16_t half;
    std::memcpy(&half, row + 2 * index, 2);
    const uint32_t word = static_cast<uint32_t>(half) << 16;
    float value;
    std::memcpy(&value, &word, 4);
    return value;
  };
  auto& tile = state().tile;
  for (int m = 0; m < 16; ++m)
    for (int k = 0; k < 16; ++k)
      for (int n = 0; n < 16; ++n) {
        float sum;
        std::memcpy(&sum, tile[c][m] + 4 * n, 4);
        sum += number(tile[a][m], 2 * k) * number(tile[b][k], 2 * n);
        sum += number(tile[a][m], 2 * k + 1) * number(tile[b][k], 2 * n + 1);
        std::memcpy(tile[c][m] + 4 * n, &sum, 4);
      }
}

}  // namespace ernie5::amx

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig ernie5::amx::load_config
#define _tile_release ernie5::amx::release
#define _tile_zero ernie5::amx::zero
#define _tile_loadd ernie5::amx::load
#define _tile_stored ernie5::amx::store
#define _tile_dpbf16ps ernie5::amx::multiply
