// What the CUDA kernels share: types, vectors of 16 bytes, reductions, the tensor-core instructions of sm_80, launches.
#pragma once
#include <cmath>
#include <cstdint>

#ifdef ERNIE5_CUDA_EMULATION
#include "common/cuda_emulation.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

namespace ernie5::cuda {

using bf16 = __nv_bfloat16;
using fp16 = __half;

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;
constexpr float kLog2e = 1.4426950408889634f;

template <typename T>
__host__ __device__ constexpr T ceil_div(T value, T by) {
  return (value + by - 1) / by;
}

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(bf16 value) { return __bfloat162float(value); }
__device__ __forceinline__ float to_float(fp16 value) { return __half2float(value); }

template <typename T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) {
  return value;
}
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float value) {
  return __float2bfloat16(value);
}
template <>
__device__ __forceinline__ fp16 from_float<fp16>(float value) {
  return __float2half(value);
}

// N values that are loaded and stored by one instruction; N = kVector<T> makes 16 bytes.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};
template <typename T>
constexpr int kVector = 16 / static_cast<int>(sizeof(T));

template <int N, typename T>
__device__ __forceinline__ Pack<T, N> load(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <int N, typename T>
__device__ __forceinline__ void store(T* to, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// Memory accesses stay on their side of it.
__device__ __forceinline__ void compiler_barrier() { asm volatile("" ::: "memory"); }

inline bool is_aligned(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer) % 16 == 0; }

struct Sum {
  __device__ float operator()(float one, float other) const { return one + other; }
};
struct Max {
  __device__ float operator()(float one, float other) const { return fmaxf(one, other); }
};

// The same result, in the same order of operations, in each group of `lanes` lanes.
template <typename Combine>
__device__ __forceinline__ float warp_reduce(float value, Combine combine, int lanes = kWarp) {
  for (int mask = lanes / 2; mask > 0; mask /= 2) value = combine(value, __shfl_xor_sync(kAllLanes, value, mask));
  return value;
}

// Over kThreads threads of one block, in all of them; every thread of the block must call it.
template <int kThreads, typename Combine>
__device__ __forceinline__ float block_reduce(float value, Combine combine) {
  value = warp_reduce(value, combine);
  if constexpr (kThreads > kWarp) {
    constexpr int kWarps = kThreads / kWarp;
    __shared__ float parts[kWarps];
    __syncthreads();  // parts may still be read from the call before
    if (threadIdx.x % kWarp == 0) parts[threadIdx.x / kWarp] = value;
    __syncthreads();
    value = parts[0];
    for (int warp = 1; warp < kWarps; ++warp) value = combine(value, parts[warp]);
  }
  return value;
}

// The block's dynamic shared memory.
__device__ __forceinline__ unsigned char* shared_memory() {
#ifdef ERNIE5_CUDA_EMULATION
  const auto address = reinterpret_cast<uintptr_t>(emulation::block.shared.data());
  return reinterpret_cast<unsigned char*>((address + 127) / 128 * 128);
#else
  extern __shared__ __align__(128) unsigned char bytes[];
  return bytes;
#endif
}

// 16 bytes from device to shared memory, not waited for; zeros where not valid.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool valid) {
#ifdef ERNIE5_CUDA_EMULATION
  emulation::copy_async(to, from, valid);
#else
  const auto target = static_cast<unsigned>(__cvta_generic_to_shared(to));
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;\n" ::"r"(target), "l"(from), "r"(bytes)
               : "memory");
#endif
}
__device__ __forceinline__ void commit_copies() {
#ifdef ERNIE5_CUDA_EMULATION
  emulation::commit_copies();
#else
  asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
}
// Until at most kPending of the groups that this thread committed are under way.
template <int kPending>
__device__ __forceinline__ void wait_copies() {
#ifdef ERNIE5_CUDA_EMULATION
  emulation::wait_copies(kPending);
#else
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
#endif
}

// Four 8x8 matrices of 16-bit values; lanes 8i..8i+7 give the rows of matrix i (16 bytes each), which lands in
// fragment[i].
template <bool kTransposed>
__device__ __forceinline__ void load_matrices(uint32_t (&fragment)[4], const void* row) {
#ifdef ERNIE5_CUDA_EMULATION
  const auto four = emulation::load_matrices(row, kTransposed);
  for (int i = 0; i < 4; ++i) fragment[i] = four.at[i];
#else
  const auto source = static_cast<unsigned>(__cvta_generic_to_shared(row));
  if constexpr (kTransposed)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(source)
                 : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(fragment[0]), "=r"(fragment[1]), "=r"(fragment[2]), "=r"(fragment[3])
                 : "r"(source)
                 : "memory");
#endif
}

// c [16, 8] += a [16, 16] b [16, 8], bfloat16 products, float sums. Lane 4g + t holds c at (g, 2t), (g, 2t+1), (g+8,
// 2t), (g+8, 2t+1).
__device__ __forceinline__ void multiply(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#ifdef ERNIE5_CUDA_EMULATION
  const auto products = emulation::multiply({{a[0], a[1], a[2], a[3]}, {b0, b1}, {c[0], c[1], c[2], c[3]}});
  for (int i = 0; i < 4; ++i) c[i] = products.c[i];
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, "
      "%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// Two floats rounded to bfloat16, the first in the low half.
__device__ __forceinline__ uint32_t pack_bf16(float low, float high) {
#ifdef ERNIE5_CUDA_EMULATION
  return static_cast<uint32_t>(bf16(low).bits) | static_cast<uint32_t>(bf16(high).bits) << 16;
#else
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&pair);
#endif
}

__device__ __forceinline__ float exp2_fast(float value) {
#ifdef ERNIE5_CUDA_EMULATION
  return std::exp2(value);
#else
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(result) : "f"(value));
  return result;
#endif
}

// Where a 16-byte chunk of a tile's row lies: chunks are exchanged within each 128 bytes, so that the eight rows that
// ldmatrix reads at once lie in different banks. kChunks: of a row, a multiple of 8.
template <int kChunks>
__host__ __device__ constexpr int swizzled(int row, int chunk) {
  return row * kChunks + (chunk ^ (row & 7));
}

inline int num_multiprocessors() {
#ifdef ERNIE5_CUDA_EMULATION
  return 3;
#else
  int device = 0, count = 1;
  if (cudaGetDevice(&device) == cudaSuccess) cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return count;
#endif
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 threads, size_t shared_bytes, cudaStream_t stream,
                   Arguments... arguments) {
#ifdef ERNIE5_CUDA_EMULATION
  static_cast<void>(stream);
  emulation::run_grid(grid, threads, shared_bytes, [=] { kernel(static_cast<Parameters>(arguments)...); });
  return cudaSuccess;
#else
  if (shared_bytes > 48 << 10) {
    const cudaError_t error =
        cudaFuncSetAttribute(reinterpret_cast<const void*>(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize,
                             static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return error;
  }
  // clang-format off: it does not know <<<
  kernel<<<grid, threads, shared_bytes, stream>>>(static_cast<Parameters>(arguments)...);
  // clang-format on
  return cudaGetLastError();
#endif
}

}  // namespace ernie5::cuda
