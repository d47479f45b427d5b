// y = silu(gate) * up * weight, and the gradients. gate and up are rows of `ffn` numbers that begin `stride` apart, so that
// they may be the halves of one array (stride 2 * ffn). T is float, fp16 or bf16.
#pragma once
#include <type_traits>

#include "common/cuda.cuh"

namespace ernie5::cuda {

__device__ __forceinline__ float sigmoid(float value) { return 1.0f / (1.0f + __expf(-value)); }
__device__ __forceinline__ float swiglu(float gate, float up) { return gate * sigmoid(gate) * up; }

// row_weights float [count] or null -> y [count, ffn]. A thread makes one pack.
template <typename T, int N>
__global__ void __launch_bounds__(256) swiglu_forward_kernel(const T* gates, const T* ups, const float* row_weights,
                                                             int64_t count, int ffn, int64_t stride, T* y) {
  const int packs = ffn / N;
  const int64_t total = count * packs, step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; index < total; index += step) {
    const int64_t row = index / packs, place = (index % packs) * N;
    const auto gate = load<N>(gates + row * stride + place), up = load<N>(ups + row * stride + place);
    const float weight = row_weights ? row_weights[row] : 1.0f;
    Pack<T, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) out.at[i] = from_float<T>(swiglu(to_float(gate.at[i]), to_float(up.at[i])) * weight);
    store<N>(y + row * ffn + place, out);
  }
}

// A block a row. y (null: not wanted) is computed again; grad_weights [count] only with row_weights. The gradients lie as
// gate and up do, and may overwrite them.
template <typename T, int N>
__global__ void __launch_bounds__(256)
    swiglu_backward_kernel(const T* gates, const T* ups, const float* row_weights, const T* grad_y, int ffn,
                           int64_t stride, T* grad_gates, T* grad_ups, float* grad_weights, T* y) {
  const int packs = ffn / N;
  const int64_t row = blockIdx.x;
  const float weight = row_weights ? row_weights[row] : 1.0f;
  gates += row * stride, ups += row * stride, grad_gates += row * stride, grad_ups += row * stride;
  float total = 0;  // of grad_y * silu(gate) * up
  for (int pack = threadIdx.x; pack < packs; pack += 256) {
    const auto gate = load<N>(gates + pack * N), up = load<N>(ups + pack * N),
               grad = load<N>(grad_y + row * ffn + pack * N);
    Pack<T, N> grad_gate, grad_up, out;
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float g = to_float(gate.at[i]), u = to_float(up.at[i]), dy = to_float(grad.at[i]);
      const float share = sigmoid(g), silu = g * share;
      total += dy * silu * u;
      grad_gate.at[i] = from_float<T>(dy * weight * u * share * (1.0f + g * (1.0f - share)));
      grad_up.at[i] = from_float<T>(dy * weight * silu);
      out.at[i] = from_float<T>(silu * u * weight);
    }
    store<N>(grad_gates + pack * N, grad_gate);
    store<N>(grad_ups + pack * N, grad_up);
    if (y) store<N>(y + row * ffn + pack * N, out);
  }
  if (grad_weights == nullptr) return;
  total = block_reduce<256>(total, Sum());
  if (threadIdx.x == 0) grad_weights[row] = total;
}

template <typename T>
cudaError_t swiglu_forward(const T* gate, const T* up, const float* row_weights, int64_t count, int64_t ffn,
                           int64_t stride, T* y, cudaStream_t stream) {
  if (count == 0 || ffn == 0) return cudaSuccess;
  const auto run = [&](auto pack) {
    constexpr int N = decltype(pack)::value;
    const int64_t blocks = ceil_div<int64_t>(count * (ffn / N), 256);
    return launch(swiglu_forward_kernel<T, N>, static_cast<unsigned>(blocks < 1 << 20 ? blocks : 1 << 20), 256, 0,
                  stream, gate, up, row_weights, count, ffn, stride, y);
  };
  const bool aligned = is_aligned(gate) && is_aligned(up) && is_aligned(y);
  if (ffn % kVector<T> == 0 && stride % kVector<T> == 0 && aligned)
    return run(std::integral_constant<int, kVector<T>>());
  return run(std::integral_constant<int, 1>());
}

template <typename T>
cudaError_t swiglu_backward(const T* gate, const T* up, const float* row_weights, const T* grad_y, int64_t count,
                            int64_t ffn, int64_t stride, T* grad_gate, T* grad_up, float* grad_weights, T* y,
                            cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const auto run = [&](auto pack) {
    return launch(swiglu_backward_kernel<T, decltype(pack)::value>, static_cast<unsigned>(count), 256, 0, stream, gate, up,
                  row_weights, grad_y, ffn, stride, grad_gate, grad_up, grad_weights, y);
  };
  const bool aligned = is_aligned(gate) && is_aligned(up) && is_aligned(grad_y) && is_aligned(grad_gate) &&
                       is_aligned(grad_up) && is_aligned(y);
  if (ffn % kVector<T> == 0 && stride % kVector<T> == 0 && aligned)
    return run(std::integral_constant<int, kVector<T>>());
  return run(std::integral_constant<int, 1>());
}

}  // namespace ernie5::cuda
