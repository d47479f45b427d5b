// Mean cross-entropy of a token's bits, in nats a bit: mean of max(x, 0) - x * target + log(1 + exp(-|x|)). T is float,
// fp16 or bf16. Tokens have few bits (tens), so eight lanes take a row.
#pragma once
#include "common/cuda.cuh"

namespace ernie5::cuda {

constexpr int kBitLanes = 8, kBitRows = 256 / kBitLanes;

// logits and targets [rows, bits] -> loss float [rows].
template <typename T>
__global__ void __launch_bounds__(256)
    bitwise_forward_kernel(const T* logits, const T* targets, int64_t rows, int bits, float* loss) {
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kBitRows + threadIdx.x / kBitLanes;
  float total = 0;
  if (row < rows)
    for (int bit = threadIdx.x % kBitLanes; bit < bits; bit += kBitLanes) {
      const float x = to_float(logits[row * bits + bit]), target = to_float(targets[row * bits + bit]);
      total += fmaxf(x, 0.0f) - x * target + log1pf(__expf(-fabsf(x)));
    }
  total = warp_reduce(total, Sum(), kBitLanes);
  if (row < rows && threadIdx.x % kBitLanes == 0) loss[row] = total / bits;
}

// grad_logits = (sigmoid(x) - target) / bits * grad_loss[row]; it may overwrite the logits.
template <typename T>
__global__ void __launch_bounds__(256)
    bitwise_backward_kernel(const T* logits, const T* targets, const float* grad_loss, int64_t total, int bits,
                            T* grad_logits) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * 256 + threadIdx.x;
  if (index >= total) return;
  const float share = 1.0f / (1.0f + __expf(-to_float(logits[index])));
  grad_logits[index] = from_float<T>((share - to_float(targets[index])) / bits * grad_loss[index / bits]);
}

template <typename T>
cudaError_t bitwise_cross_entropy_forward(const T* logits, const T* targets, int64_t rows, int64_t bits, float* loss,
                                          cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  return launch(bitwise_forward_kernel<T>, static_cast<unsigned>(ceil_div<int64_t>(rows, kBitRows)), 256, 0, stream,
                logits, targets, rows, bits, loss);
}

template <typename T>
cudaError_t bitwise_cross_entropy_backward(const T* logits, const T* targets, const float* grad_loss, int64_t rows,
                                           int64_t bits, T* grad_logits, cudaStream_t stream) {
  if (rows * bits == 0) return cudaSuccess;
  return launch(bitwise_backward_kernel<T>, static_cast<unsigned>(ceil_div<int64_t>(rows * bits, 256)), 256, 0, stream,
                logits, targets, grad_loss, rows * bits, bits, grad_logits);
}

}  // namespace ernie5::cuda
