// Cross-entropy over a large vocabulary whose logits are made a chunk of columns at a time: a running log-sum-exp, then
// the gradient of each chunk in place of its logits. T is float, fp16 or bf16; a block works on a row.
#pragma once
#include <type_traits>

#include "common/cuda.cuh"

namespace ernie5::cuda {

// What is known of a row after some of its columns: highest logit, sum of exp(logit - highest), logit of the label.
struct RowState {
  float *highest, *total, *chosen;  // [rows] each
};

constexpr int kLossBlock = 512;

// Two running sums become one.
__device__ __forceinline__ void merge(float& highest, float& total, float other_highest, float other_total) {
  const float both = fmaxf(highest, other_highest);
  if (both == -INFINITY) return;  // nothing was seen yet
  total = total * __expf(highest - both) + other_total * __expf(other_highest - both);
  highest = both;
}

template <typename T, int N>
__global__ void __launch_bounds__(kLossBlock)
    cross_entropy_chunk_kernel(const T* logits, const int64_t* labels, int64_t first_column, int columns, bool is_first,
                               RowState state) {
  __shared__ float highs[kLossBlock / kWarp], totals[kLossBlock / kWarp];
  const int64_t row = blockIdx.x;
  const T* const line = logits + row * columns;
  float highest = -INFINITY, total = 0;
  for (int place = threadIdx.x * N; place < columns; place += kLossBlock * N) {
    const auto pack = load<N>(line + place);
    float top = to_float(pack.at[0]);
#pragma unroll
    for (int i = 1; i < N; ++i) top = fmaxf(top, to_float(pack.at[i]));
    if (top > highest) {
      total *= __expf(highest - top);
      highest = top;
    }
    if (highest == -INFINITY) continue;  // -inf - -inf is no number
#pragma unroll
    for (int i = 0; i < N; ++i) total += __expf(to_float(pack.at[i]) - highest);
  }
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
    merge(highest, total, __shfl_xor_sync(kAllLanes, highest, distance), __shfl_xor_sync(kAllLanes, total, distance));
  if (threadIdx.x % kWarp == 0) {
    highs[threadIdx.x / kWarp] = highest;
    totals[threadIdx.x / kWarp] = total;
  }
  __syncthreads();
  if (threadIdx.x) return;
  for (int warp = 1; warp < kLossBlock / kWarp; ++warp) merge(highest, total, highs[warp], totals[warp]);
  if (!is_first) merge(highest, total, state.highest[row], state.total[row]);
  state.highest[row] = highest;
  state.total[row] = total;
  const int64_t label = labels[row] - first_column;
  if (label >= 0 && label < columns)
    state.chosen[row] = to_float(line[label]);
  else if (is_first)
    state.chosen[row] = 0;
}

// loss = log(total) + highest - chosen, 0 where the label is ignored; lse = log(total) + highest. lse may be
// state.highest.
static __global__ void __launch_bounds__(256)
    cross_entropy_finish_kernel(const int64_t* labels, int64_t ignore_index, int64_t rows, RowState state, float* loss,
                                float* lse) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (row >= rows) return;
  const float sum = logf(state.total[row]) + state.highest[row];
  loss[row] = labels[row] == ignore_index ? 0.0f : sum - state.chosen[row];
  lse[row] = sum;
}

// logits become grad_loss[row] * (softmax - 1 at the label), 0 where the label is ignored.
template <typename T, int N>
__global__ void __launch_bounds__(kLossBlock)
    cross_entropy_backward_kernel(T* logits, const int64_t* labels, const float* lse, const float* grad_loss,
                                  int64_t first_column, int columns, int64_t ignore_index) {
  const int64_t row = blockIdx.x, label = labels[row];
  const bool ignored = label == ignore_index;
  const float sum = lse[row], grad = ignored ? 0.0f : grad_loss[row];
  T* const line = logits + row * columns;
  for (int place = threadIdx.x * N; place < columns; place += kLossBlock * N) {
    auto pack = load<N>(line + place);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const float share = __expf(to_float(pack.at[i]) - sum) - (label == first_column + place + i ? 1.0f : 0.0f);
      pack.at[i] = from_float<T>(ignored ? 0.0f : grad * share);  // of an ignored row any logit, even NaN
    }
    store<N>(line + place, pack);
  }
}

template <typename T>
cudaError_t cross_entropy_chunk(const T* logits, const int64_t* labels, int64_t rows, int64_t first_column,
                                int64_t columns, bool is_first, RowState state, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const auto run = [&](auto pack) {
    return launch(cross_entropy_chunk_kernel<T, decltype(pack)::value>, static_cast<unsigned>(rows), kLossBlock, 0,
                  stream, logits, labels, first_column, columns, is_first, state);
  };
  if (columns % kVector<T> == 0 && is_aligned(logits)) return run(std::integral_constant<int, kVector<T>>());
  return run(std::integral_constant<int, 1>());
}

inline cudaError_t cross_entropy_finish(const int64_t* labels, int64_t ignore_index, int64_t rows, RowState state,
                                        float* loss, float* lse, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return launch(cross_entropy_finish_kernel, static_cast<unsigned>(ceil_div<int64_t>(rows, 256)), 256, 0, stream,
                labels, ignore_index, rows, state, loss, lse);
}

template <typename T>
cudaError_t cross_entropy_backward(T* logits, const int64_t* labels, const float* lse, const float* grad_loss,
                                   int64_t rows, int64_t first_column, int64_t columns, int64_t ignore_index,
                                   cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const auto run = [&](auto pack) {
    return launch(cross_entropy_backward_kernel<T, decltype(pack)::value>, static_cast<unsigned>(rows), kLossBlock, 0,
                  stream, logits, labels, lse, grad_loss, first_column, columns, ignore_index);
  };
  if (columns % kVector<T> == 0 && is_aligned(logits)) return run(std::integral_constant<int, kVector<T>>());
  return run(std::integral_constant<int, 1>());
}

}  // namespace ernie5::cuda
