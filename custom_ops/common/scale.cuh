// out = values * factor, the factor being on the device: what a saved gradient becomes in the backward pass.
#pragma once
#include <type_traits>

#include "common/cuda.cuh"

namespace ernie5::cuda {

template <typename T, int N>
__global__ void __launch_bounds__(256) scale_kernel(const T* values, const float* factor, int64_t packs, T* out) {
  const float by = *factor;
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; index < packs; index += step) {
    auto pack = load<N>(values + index * N);
#pragma unroll
    for (int i = 0; i < N; ++i) pack.at[i] = from_float<T>(to_float(pack.at[i]) * by);
    store<N>(out + index * N, pack);
  }
}

// values, out [count]; factor float [1].
template <typename T>
cudaError_t scale(const T* values, const float* factor, int64_t count, T* out, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const auto run = [&](auto pack) {
    const int64_t packs = count / decltype(pack)::value, blocks = ceil_div<int64_t>(packs, 256);
    return launch(scale_kernel<T, decltype(pack)::value>, static_cast<unsigned>(blocks < 1 << 16 ? blocks : 1 << 16),
                  256, 0, stream, values, factor, packs, out);
  };
  if (count % kVector<T> == 0 && is_aligned(values) && is_aligned(out))
    return run(std::integral_constant<int, kVector<T>>());
  return run(std::integral_constant<int, 1>());
}

}  // namespace ernie5::cuda
