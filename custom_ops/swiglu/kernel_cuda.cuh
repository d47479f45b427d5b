// y = silu(gate) * up * weight of rows [gate, up], each `ffn` wide, and the gradients. T is float, fp16 or bf16.
#pragma once
#include <type_traits>

#include "common/cuda.cuh"

namespace ernie5::cuda {

__device__ __forceinline__ float sigmoid(float value) { return 1.0f / (1.0f + __expf(-value)); }
__device__ __forceinline__ float swiglu(float gate, float up) { return gate * sigmoid(gate) * up; }

// rows [count, 2 * ffn], row_weights float [count] or null -> y [count, ffn]. A thread makes one pack.
template <typename T, int N>
__global__ void __launch_bounds__(256)
    swiglu_forward_kernel(const T* rows, const float* row_weights, int64_t count, int ffn, T* y) {
  const int packs = ffn / N;
  const int64_t total = count * packs, step = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; index < total; index += step) {
    const int64_t row = index / packs, place = (index % packs) * N;
    const auto gate = load<N>(rows + row * 2 * ffn + place), up = load<N>(rows + row * 2 * ffn + ffn + place);
    const float weight = row_weights ? row_weights[row] : 1.0f;
    Pack<T, N> out;
#pragma unroll
    for (int i = 0; i < N; ++i) out.at[i] = from_float<T>(swiglu(to_float(gate.at[i]), to_float(up.at[i])) * weight);
    store<N>(y + row * ffn + place, out);
  }
}

// A block a row. y (null: not wanted) is computed again; grad_weights [count] only with row_weights. The gradient of
// the rows may overwrite them.
template <typename T, int N>
__global__ void __launch_bounds__(256) swiglu_backward_kernel(const T* rows, const float* row_weights, const T* grad_y,
                                                              int ffn, T* grad_rows, float* grad_weights, T* y) {
  const int packs = ffn / N;
  const int64_t row = blockIdx.x;
  const float weight = row_weights ? row_weights[row] : 1.0f;
  const T *gates = rows + row * 2 * ffn, *ups = gates + ffn;
  T *grad_gates = grad_rows + row * 2 * ffn, *grad_ups = grad_gates + ffn;
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
cudaError_t swiglu_forward(const T* rows, const float* row_weights, int64_t count, int64_t ffn, T* y,
                           cudaStream_t stream) {
  if (count == 0 || ffn == 0) return cudaSuccess;
  const auto run = [&](auto pack) {
    constexpr int N = decltype(pack)::value;
    const int64_t blocks = ceil_div<int64_t>(count * (ffn / N), 256);
    return launch(swiglu_forward_kernel<T, N>, static_cast<unsigned>(blocks < 1 << 20 ? blocks : 1 << 20), 256, 0,
                  stream, rows, row_weights, count, ffn, y);
  };
  if (ffn % kVector<T> == 0 && is_aligned(rows) && is_aligned(y)) return run(std::integral_constant<int, kVector<T>>());
  return run(std::integral_constant<int, 1>());
}

template <typename T>
cudaError_t swiglu_backward(const T* rows, const float* row_weights, const T* grad_y, int64_t count, int64_t ffn,
                            T* grad_rows, float* grad_weights, T* y, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const auto run = [&](auto pack) {
    return launch(swiglu_backward_kernel<T, decltype(pack)::value>, static_cast<unsigned>(count), 256, 0, stream, rows,
                  row_weights, grad_y, ffn, grad_rows, grad_weights, y);
  };
  const bool aligned = is_aligned(rows) && is_aligned(grad_y) && is_aligned(grad_rows) && is_aligned(y);
  if (ffn % kVector<T> == 0 && aligned) return run(std::integral_constant<int, kVector<T>>());
  return run(std::integral_constant<int, 1>());
}

}  // namespace ernie5::cuda
