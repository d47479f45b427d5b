// Mean cross-entropy of a token's bits, in nats a bit: mean of max(x, 0) - x * target + log(1 + exp(-|x|)), times the row's
// weight, and its gradient from the same numbers. T is float, fp16 or bf16. Tokens have few bits (tens), so eight lanes
// take a row.
#pragma once
#include "common/cuda.cuh"

namespace ernie5::cuda {

constexpr int kBitLanes = 8, kBitRows = 256 / kBitLanes;

template <typename T>
__global__ void __launch_bounds__(256)
    bitwise_cross_entropy_kernel(const T* logits, const float* targets, const float* row_weights, int64_t rows,
                                 int bits, int64_t stride, float* losses, T* grad) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kBitRows + threadIdx.x / kBitLanes;
  float total = 0;
  if (row < rows) {
    const float share = row_weights[row] / bits;
    for (int bit = threadIdx.x % kBitLanes; bit < bits; bit += kBitLanes) {
      const float x = to_float(logits[row * stride + bit]), target = targets[row * bits + bit];
      const float decay = __expf(-fabsf(x));
      total += (fmaxf(x, 0.0f) - x * target + log1pf(decay)) * share;
      const float sigmoid = (x < 0 ? decay : 1.0f) / (1.0f + decay);
      if (grad) grad[row * stride + bit] = from_float<T>((sigmoid - target) * share);
    }
    if (grad)
      for (int64_t bit = bits + threadIdx.x % kBitLanes; bit < stride; bit += kBitLanes)
        grad[row * stride + bit] = from_float<T>(0.0f);
  }
  total = warp_reduce(total, Sum(), kBitLanes);
  if (row < rows && threadIdx.x % kBitLanes == 0) losses[row] = total;
}

// logits and grad (or null) [rows, stride], of which the first `bits` of a row count; targets float [rows, bits];
// row_weights float [rows] -> losses float [rows], row_weights * mean; grad: of their sum.
template <typename T>
cudaError_t bitwise_cross_entropy(const T* logits, const float* targets, const float* row_weights, int64_t rows,
                                  int64_t bits, int64_t stride, float* losses, T* grad, cudaStream_t stream) {
  if (bits < 1 || bits > stride) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  return launch(bitwise_cross_entropy_kernel<T>, static_cast<unsigned>(ceil_div<int64_t>(rows, kBitRows)), 256, 0,
                stream, logits, targets, row_weights, rows, bits, stride, losses, grad);
}

}  // namespace ernie5::cuda
