// CUDA's execution model on the host, as far as these kernels use it, so that their logic is tested where there is no
// GPU: the same sources compiled by a C++ compiler with -DERNIE5_CUDA_EMULATION.
//
// Blocks run one after another; the threads of a block are fibers that stop at barriers and warp instructions. The
// order in which warps and lanes go on is drawn from ERNIE5_EMULATION_SEED, and an asynchronous copy happens at its
// wait, or at once with ERNIE5_EMULATION_EAGER=1: a result that depends on either shows a missing barrier or wait. What
// this cannot show: races between blocks, memory ordering, registers, speed.
#pragma once
#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "common/bfloat16.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static
#define __restrict__

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct int4 {
  int x, y, z, w;
};
struct alignas(8) float2 {
  float x, y;
};
inline int4 make_int4(int x, int y, int z, int w) { return {x, y, z, w}; }
inline dim3 threadIdx, blockIdx, blockDim, gridDim;

using cudaStream_t = void*;
using cudaError_t = int;
enum : int { cudaSuccess = 0, cudaErrorInvalidValue = 1 };
inline const char* cudaGetErrorString(cudaError_t code) { return code ? "invalid argument" : "no error"; }

using __nv_bfloat16 = ernie5::bfloat16;
using __half = _Float16;
inline float __bfloat162float(__nv_bfloat16 value) { return value; }
inline __nv_bfloat16 __float2bfloat16(float value) { return __nv_bfloat16(value); }
inline float __half2float(__half value) { return static_cast<float>(value); }
inline __half __float2half(float value) { return static_cast<__half>(value); }
inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
inline float __expf(float value) { return std::exp(value); }
inline float __fdividef(float one, float other) { return one / other; }
inline int __popc(unsigned bits) { return __builtin_popcount(bits); }
inline int __ffs(unsigned bits) { return __builtin_ffs(static_cast<int>(bits)); }
using std::max;
using std::min;

namespace ernie5::emulation {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 128 << 10, kSlotBytes = 64;

struct Copy {
  void* to;
  const void* from;
  bool valid;
};

struct Fiber {
  jmp_buf context;
  ucontext_t start;
  std::vector<unsigned char> stack;
  const int* watched = nullptr;  // it waits as long as *watched == value
  int value = 0;
  bool started = false, done = false;
  dim3 thread;
  int index = 0;
  std::vector<std::vector<Copy>> groups;  // asynchronous copies, the last group is open
};

struct Warp {
  int lanes = 0, arrived = 0, generation = 0;
  const char* kind = "";
  alignas(16) unsigned char in[kWarp][kSlotBytes], out[kWarp][kSlotBytes];
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<unsigned char> shared;
  int live = 0, arrived = 0, generation = 0;
  Fiber* current = nullptr;
  bool eager = false;  // asynchronous copies happen at once
  jmp_buf scheduler;
  std::function<void()> body;
};
inline Block block;

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "emulation: %s (block %u %u %u)\n", what, blockIdx.x, blockIdx.y, blockIdx.z);
  std::abort();
}

__attribute__((noinline)) inline void wait(const int* watched, int value) {
  Fiber* const self = block.current;
  self->watched = watched;
  self->value = value;
  if (_setjmp(self->context) == 0) _longjmp(block.scheduler, 1);
}

inline void entry() {
  block.body();
  Fiber* const self = block.current;
  self->done = true;
  if (--block.live > 0 && block.arrived == block.live) {
    block.arrived = 0;
    ++block.generation;
  }
  _longjmp(block.scheduler, 1);
}

__attribute__((noinline)) inline void resume(Fiber* fiber) {
  if (_setjmp(block.scheduler)) return;
  block.current = fiber;
  threadIdx = fiber->thread;
  if (fiber->started) _longjmp(fiber->context, 1);
  fiber->started = true;
  setcontext(&fiber->start);
}

inline bool runnable(const Fiber& fiber) { return !fiber.done && !(fiber.watched && *fiber.watched == fiber.value); }

inline void run_block(std::mt19937& random, bool shuffled) {
  const int threads = static_cast<int>(block.fibers.size());
  std::vector<int> warps(block.warps.size());
  for (size_t warp = 0; warp < warps.size(); ++warp) warps[warp] = static_cast<int>(warp);
  std::vector<int> lanes(kWarp);
  for (int lane = 0; lane < kWarp; ++lane) lanes[lane] = lane;
  while (block.live) {
    bool progress = false;
    if (shuffled) std::shuffle(warps.begin(), warps.end(), random);
    for (const int warp : warps) {
      bool moved = true;
      while (moved) {
        moved = false;
        if (shuffled) std::shuffle(lanes.begin(), lanes.end(), random);
        for (const int lane : lanes) {
          const int index = warp * kWarp + lane;
          if (index >= threads || !runnable(block.fibers[index])) continue;
          resume(&block.fibers[index]);
          moved = progress = true;
        }
      }
    }
    if (!progress && block.live) fail("threads wait for each other: a barrier or warp instruction that not all reach");
  }
}

inline void run_grid(dim3 grid, dim3 threads, size_t shared_bytes, const std::function<void()>& body) {
  const char* const seed = std::getenv("ERNIE5_EMULATION_SEED");
  std::mt19937 random(seed ? static_cast<unsigned>(std::atoi(seed)) : 0);
  const int count = static_cast<int>(threads.x * threads.y * threads.z);
  if (count > 1024) fail("more than 1024 threads in a block");
  block.fibers.resize(count);
  block.warps.assign((count + kWarp - 1) / kWarp, Warp{});
  block.body = body;
  block.eager = std::getenv("ERNIE5_EMULATION_EAGER") != nullptr;
  gridDim = grid;
  blockDim = threads;
  for (unsigned z = 0; z < grid.z; ++z)
    for (unsigned y = 0; y < grid.y; ++y)
      for (unsigned x = 0; x < grid.x; ++x) {
        blockIdx = dim3(x, y, z);
        block.shared.assign(shared_bytes + 128, 0xff);  // NaN wherever nobody wrote
        block.live = count;
        block.arrived = 0;
        for (auto& warp : block.warps) warp.arrived = warp.lanes = 0;
        for (int index = 0; index < count; ++index) {
          Fiber& fiber = block.fibers[index];
          fiber.stack.resize(kStackBytes);
          fiber.watched = nullptr;
          fiber.started = fiber.done = false;
          fiber.index = index;
          fiber.groups.assign(1, {});
          fiber.thread = dim3(index % threads.x, index / threads.x % threads.y, index / (threads.x * threads.y));
          getcontext(&fiber.start);
          fiber.start.uc_stack.ss_sp = fiber.stack.data();
          fiber.start.uc_stack.ss_size = fiber.stack.size();
          fiber.start.uc_link = nullptr;
          makecontext(&fiber.start, entry, 0);
          ++block.warps[index / kWarp].lanes;
        }
        run_block(random, seed != nullptr);
      }
}

// All lanes of the warp hand in a value; compute(in, out) is called once with the values of all.
template <typename Out, typename In, typename Compute>
Out collective(const char* kind, const In& value, const Compute& compute) {
  static_assert(sizeof(In) <= kSlotBytes && sizeof(Out) <= kSlotBytes);
  Warp& warp = block.warps[block.current->index / kWarp];
  const int lane = block.current->index % kWarp, generation = warp.generation;
  if (warp.arrived && std::strcmp(warp.kind, kind)) fail("lanes of a warp are at different instructions");
  warp.kind = kind;
  std::memcpy(warp.in[lane], &value, sizeof(In));
  if (++warp.arrived == warp.lanes) {
    In in[kWarp];
    Out out[kWarp];
    for (int one = 0; one < warp.lanes; ++one) std::memcpy(&in[one], warp.in[one], sizeof(In));
    compute(in, out, warp.lanes);
    for (int one = 0; one < warp.lanes; ++one) std::memcpy(warp.out[one], &out[one], sizeof(Out));
    warp.arrived = 0;
    ++warp.generation;
  } else {
    wait(&warp.generation, generation);
  }
  Out result;
  std::memcpy(&result, warp.out[lane], sizeof(Out));
  return result;
}

template <typename T>
struct FromLane {
  T value;
  int lane;
};
template <typename T>
T shuffle(const char* kind, T value, int from) {
  return collective<T>(kind, FromLane<T>{value, from}, [](const FromLane<T>* in, T* out, int lanes) {
    for (int lane = 0; lane < lanes; ++lane) out[lane] = in[in[lane].lane % lanes].value;
  });
}
inline int lane_id() { return block.current->index % kWarp; }

struct Four {
  uint32_t at[4];
};
inline Four load_matrices(const void* row, bool transposed) {
  return collective<Four>(transposed ? "ldmatrix.trans" : "ldmatrix", row,
                          [=](const void* const* rows, Four* out, int lanes) {
                            if (lanes != kWarp) fail("ldmatrix in a warp that is not full");
                            for (int lane = 0; lane < kWarp; ++lane)
                              for (int matrix = 0; matrix < 4; ++matrix) {
                                uint16_t pair[2];
                                for (int one = 0; one < 2; ++one) {
                                  const int line = transposed ? lane % 4 * 2 + one : lane / 4,
                                            place = transposed ? lane / 4 : lane % 4 * 2 + one;
                                  if (reinterpret_cast<uintptr_t>(rows[matrix * 8 + line]) % 16)
                                    fail("ldmatrix: a row is not aligned");
                                  pair[one] = static_cast<const uint16_t*>(rows[matrix * 8 + line])[place];
                                }
                                std::memcpy(&out[lane].at[matrix], pair, 4);
                              }
                          });
}

struct Operands {
  uint32_t a[4], b[2];
  float c[4];
};
struct Products {
  float c[4];
};
// mma.m16n8k16: lane = 4 * group + thread; fragments as in the PTX manual's figures for .bf16.
inline Products multiply(const Operands& operands) {
  return collective<Products>("mma", operands, [](const Operands* in, Products* out, int lanes) {
    if (lanes != kWarp) fail("mma in a warp that is not full");
    float a[16][16], b[16][8];
    for (int lane = 0; lane < kWarp; ++lane)
      for (int part = 0; part < 4; ++part) {
        __nv_bfloat16 pair[2];
        std::memcpy(pair, &in[lane].a[part], 4);
        for (int one = 0; one < 2; ++one) a[lane / 4 + part % 2 * 8][lane % 4 * 2 + part / 2 * 8 + one] = pair[one];
        if (part > 1) continue;
        std::memcpy(pair, &in[lane].b[part], 4);
        for (int one = 0; one < 2; ++one) b[lane % 4 * 2 + part * 8 + one][lane / 4] = pair[one];
      }
    float product[16][8] = {};
    for (int i = 0; i < 16; ++i)
      for (int k = 0; k < 16; ++k)
        for (int j = 0; j < 8; ++j) product[i][j] += a[i][k] * b[k][j];
    for (int lane = 0; lane < kWarp; ++lane)
      for (int one = 0; one < 4; ++one)
        out[lane].c[one] = in[lane].c[one] + product[lane / 4 + one / 2 * 8][lane % 4 * 2 + one % 2];
  });
}

inline void perform(const Copy& copy) {
  if (copy.valid)
    std::memcpy(copy.to, copy.from, 16);
  else
    std::memset(copy.to, 0, 16);
}
inline void copy_async(void* to, const void* from, bool valid) {
  if ((reinterpret_cast<uintptr_t>(to) | (valid ? reinterpret_cast<uintptr_t>(from) : 0)) % 16)
    fail("cp.async: not aligned");
  if (block.eager)
    perform({to, from, valid});
  else
    block.current->groups.back().push_back({to, from, valid});
}
inline void commit_copies() { block.current->groups.emplace_back(); }
inline void wait_copies(int pending) {
  auto& groups = block.current->groups;
  while (static_cast<int>(groups.size()) > pending + 1) {
    for (const Copy& copy : groups.front()) perform(copy);
    groups.erase(groups.begin());
  }
}

}  // namespace ernie5::emulation

inline void __syncthreads() {
  auto& block = ernie5::emulation::block;
  const int generation = block.generation;
  if (++block.arrived == block.live) {
    block.arrived = 0;
    ++block.generation;
  } else {
    ernie5::emulation::wait(&block.generation, generation);
  }
}
inline void __syncwarp() {
  ernie5::emulation::collective<int>("syncwarp", 0,
                                     [](const int*, int* out, int lanes) { std::fill(out, out + lanes, 0); });
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return ernie5::emulation::shuffle("shfl.xor", value, ernie5::emulation::lane_id() ^ mask);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int distance) {
  const int lane = ernie5::emulation::lane_id();
  return ernie5::emulation::shuffle("shfl.up", value, lane < distance ? lane : lane - distance);
}
template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return ernie5::emulation::shuffle("shfl", value, lane);
}
inline unsigned __ballot_sync(unsigned, bool set) {
  return ernie5::emulation::collective<unsigned>("ballot", set, [](const bool* in, unsigned* out, int lanes) {
    unsigned bits = 0;
    for (int lane = 0; lane < lanes; ++lane) bits |= static_cast<unsigned>(in[lane]) << lane;
    std::fill(out, out + lanes, bits);
  });
}
inline unsigned __match_any_sync(unsigned, int value) {
  return ernie5::emulation::collective<unsigned>("match", value, [](const int* in, unsigned* out, int lanes) {
    for (int lane = 0; lane < lanes; ++lane) {
      out[lane] = 0;
      for (int other = 0; other < lanes; ++other) out[lane] |= static_cast<unsigned>(in[other] == in[lane]) << other;
    }
  });
}
template <typename T>
T atomicAdd(T* target, T value) {
  const T before = *target;
  *target += value;
  return before;
}

inline cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t) {
  std::memset(target, value, bytes);
  return cudaSuccess;
}
