// The router (ernie5/layers/router.py): scores, biased top-k, renormalised weights and counts in one pass over the
// logits. A warp works on a token and holds its scores in registers: lane l has experts l, l + 32, ...
#pragma once
#include <climits>
#include <type_traits>

#include "common/cuda.cuh"

namespace ernie5::cuda {

constexpr int kRouterMaxExperts = 1024, kRouterMaxTopK = kWarp;
constexpr int kRouterWarps = 8;
constexpr float kSmallestSum = 1e-12f;  // below it the chosen scores are not renormalised

// Softmax or sigmoid of logits + mask, in place of the logits; mask may be null.
template <int kPerLane>
__device__ __forceinline__ void router_scores(const float* logits, const float* mask, int experts, bool softmax,
                                              float (&scores)[kPerLane]) {
  const int lane = threadIdx.x % kWarp;
  float highest = -INFINITY;
#pragma unroll
  for (int slot = 0; slot < kPerLane; ++slot) {
    const int expert = slot * kWarp + lane;
    scores[slot] = expert < experts ? logits[expert] + (mask ? mask[expert] : 0.0f) : -INFINITY;
    highest = fmaxf(highest, scores[slot]);
  }
  if (!softmax) {
#pragma unroll
    for (int slot = 0; slot < kPerLane; ++slot) scores[slot] = 1.0f / (1.0f + expf(-scores[slot]));
    return;
  }
  highest = warp_reduce(highest, Max());
  float total = 0;
#pragma unroll
  for (int slot = 0; slot < kPerLane; ++slot) total += scores[slot] = expf(scores[slot] - highest);
  total = warp_reduce(total, Sum());
#pragma unroll
  for (int slot = 0; slot < kPerLane; ++slot) scores[slot] /= total;
}

template <int kPerLane>
__global__ void __launch_bounds__(kRouterWarps* kWarp)
    router_forward_kernel(const float* logits, const float* bias, const float* mask, int64_t tokens, int experts,
                          int top_k, bool softmax, float scaling, int64_t* topk_ids, float* topk_weights, float* totals,
                          unsigned long long* tokens_per_expert) {
  __shared__ int counts[kRouterMaxExperts];
  for (int expert = threadIdx.x; expert < experts; expert += blockDim.x) counts[expert] = 0;
  __syncthreads();
  const int lane = threadIdx.x % kWarp;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kRouterWarps;
  for (int64_t token = static_cast<int64_t>(blockIdx.x) * kRouterWarps + threadIdx.x / kWarp; token < tokens;
       token += step) {
    float scores[kPerLane], choice[kPerLane];
    router_scores<kPerLane>(logits + token * experts, mask, experts, softmax, scores);
#pragma unroll
    for (int slot = 0; slot < kPerLane; ++slot) {
      const int expert = slot * kWarp + lane;
      const float moved =
          expert < experts ? scores[slot] + (bias ? bias[expert] : 0.0f) + (mask ? mask[expert] : 0.0f) : 0.0f;
      choice[slot] = moved == moved ? moved : -INFINITY;  // what is no number is chosen last
    }
    unsigned taken = 0;  // a bit a slot
    int my_id = 0;       // of this lane's choice, lane < top_k
    float my_score = 0, total = 0;
    for (int turn = 0; turn < top_k; ++turn) {
      float best = -INFINITY;
      int best_id = INT_MAX;
#pragma unroll
      for (int slot = 0; slot < kPerLane; ++slot) {
        const int expert = slot * kWarp + lane;
        const bool better =
            choice[slot] > best || best_id == INT_MAX;  // slots go up in expert: the first of equals stays
        if (expert < experts && !(taken >> slot & 1) && better) {
          best = choice[slot];
          best_id = expert;
        }
      }
#pragma unroll
      for (int distance = kWarp / 2; distance > 0; distance /= 2) {
        const float other = __shfl_xor_sync(kAllLanes, best, distance);
        const int other_id = __shfl_xor_sync(kAllLanes, best_id, distance);
        if (other_id != INT_MAX && (best_id == INT_MAX || other > best || (other == best && other_id < best_id))) {
          best = other;
          best_id = other_id;
        }
      }
      float score = 0;
#pragma unroll
      for (int slot = 0; slot < kPerLane; ++slot)
        if (slot * kWarp + lane == best_id) {
          score = scores[slot];
          taken |= 1u << slot;
        }
      score = __shfl_sync(kAllLanes, score, best_id % kWarp);
      total += score;
      if (lane == turn) {
        my_id = best_id;
        my_score = score;
      }
    }
    if (lane < top_k) {
      topk_ids[token * top_k + lane] = my_id;
      topk_weights[token * top_k + lane] = my_score / fmaxf(total, kSmallestSum) * scaling;
      atomicAdd(&counts[my_id], 1);
    }
    if (lane == 0) totals[token] = total;
  }
  __syncthreads();
  for (int expert = threadIdx.x; expert < experts; expert += blockDim.x)
    if (counts[expert]) atomicAdd(&tokens_per_expert[expert], static_cast<unsigned long long>(counts[expert]));
}

// The scores are computed again from the logits.
template <int kPerLane>
__global__ void __launch_bounds__(kRouterWarps* kWarp)
    router_backward_kernel(const float* logits, const float* mask, const int64_t* topk_ids, const float* grad_weights,
                           int64_t tokens, int experts, int top_k, bool softmax, float scaling, float* grad_logits) {
  const int lane = threadIdx.x % kWarp;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kRouterWarps;
  for (int64_t token = static_cast<int64_t>(blockIdx.x) * kRouterWarps + threadIdx.x / kWarp; token < tokens;
       token += step) {
    float scores[kPerLane], grads[kPerLane];
    router_scores<kPerLane>(logits + token * experts, mask, experts, softmax, scores);
    const bool chose = lane < top_k;
    const int my_id = chose ? static_cast<int>(topk_ids[token * top_k + lane]) : 0;
    float my_grad = chose ? grad_weights[token * top_k + lane] * scaling : 0.0f, my_score = 0;
    for (int turn = 0; turn < top_k; ++turn) {
      const int id = __shfl_sync(kAllLanes, my_id, turn);
      float score = 0;
#pragma unroll
      for (int slot = 0; slot < kPerLane; ++slot)
        if (slot * kWarp + lane == id) score = scores[slot];
      score = __shfl_sync(kAllLanes, score, id % kWarp);
      if (lane == turn) my_score = score;
    }
    const float total = warp_reduce(my_score, Sum());
    // weight = score / total * scaling, or score / kSmallestSum * scaling
    const float shared = total > kSmallestSum ? warp_reduce(my_grad * my_score, Sum()) / total : 0.0f;
    if (chose) my_grad = (my_grad - shared) / fmaxf(total, kSmallestSum);  // of the chosen scores
    const float mean = softmax ? warp_reduce(my_grad * my_score, Sum()) : 0.0f;
#pragma unroll
    for (int slot = 0; slot < kPerLane; ++slot) grads[slot] = 0;
    for (int turn = 0; turn < top_k; ++turn) {
      const int id = __shfl_sync(kAllLanes, my_id, turn);
      const float grad = __shfl_sync(kAllLanes, my_grad, turn);
#pragma unroll
      for (int slot = 0; slot < kPerLane; ++slot)
        if (slot * kWarp + lane == id) grads[slot] = grad;
    }
#pragma unroll
    for (int slot = 0; slot < kPerLane; ++slot) {
      const int expert = slot * kWarp + lane;
      const float slope = softmax ? grads[slot] - mean : grads[slot] * (1.0f - scores[slot]);
      if (expert < experts) grad_logits[token * experts + expert] = scores[slot] * slope;
    }
  }
}

// run(slots a lane), the smallest that holds the experts.
template <typename Run>
cudaError_t with_router_width(int64_t experts, const Run& run) {
  if (experts <= 2 * kWarp) return run(std::integral_constant<int, 2>());
  if (experts <= 4 * kWarp) return run(std::integral_constant<int, 4>());
  if (experts <= 8 * kWarp) return run(std::integral_constant<int, 8>());
  if (experts <= 12 * kWarp) return run(std::integral_constant<int, 12>());
  return run(std::integral_constant<int, 32>());
}

inline unsigned router_blocks(int64_t tokens) {
  const int64_t blocks = ceil_div<int64_t>(tokens, kRouterWarps);
  return static_cast<unsigned>(blocks < 1 ? 1 : blocks < 2048 ? blocks : 2048);
}

// logits float [tokens, experts]; bias, mask float [experts] or null -> topk_ids int64 and topk_weights float [tokens,
// top_k], totals float [tokens] (the sums of the chosen scores), tokens_per_expert int64 [experts]. Of equal choices the
// lowest id comes first.
inline cudaError_t router_forward(const float* logits, const float* bias, const float* mask, int64_t tokens,
                                  int64_t experts, int64_t top_k, bool softmax, float scaling, int64_t* topk_ids,
                                  float* topk_weights, float* totals, int64_t* tokens_per_expert,
                                  cudaStream_t stream) {
  if (experts > kRouterMaxExperts || top_k > kRouterMaxTopK || top_k > experts) return cudaErrorInvalidValue;
  const cudaError_t error = cudaMemsetAsync(tokens_per_expert, 0, experts * sizeof(int64_t), stream);
  if (error != cudaSuccess || tokens == 0) return error;
  return with_router_width(experts, [&](auto slots) {
    return launch(router_forward_kernel<decltype(slots)::value>, router_blocks(tokens), kRouterWarps * kWarp, 0, stream,
                  logits, bias, mask, tokens, experts, top_k, softmax, scaling, topk_ids, topk_weights, totals,
                  reinterpret_cast<unsigned long long*>(tokens_per_expert));
  });
}

inline cudaError_t router_backward(const float* logits, const float* mask, const int64_t* topk_ids,
                                   const float* grad_weights, int64_t tokens, int64_t experts, int64_t top_k,
                                   bool softmax, float scaling, float* grad_logits, cudaStream_t stream) {
  if (experts > kRouterMaxExperts || top_k > kRouterMaxTopK || top_k > experts) return cudaErrorInvalidValue;
  if (tokens == 0) return cudaSuccess;
  return with_router_width(experts, [&](auto slots) {
    return launch(router_backward_kernel<decltype(slots)::value>, router_blocks(tokens), kRouterWarps * kWarp, 0,
                  stream, logits, mask, topk_ids, grad_weights, tokens, experts, top_k, softmax, scaling, grad_logits);
  });
}

}  // namespace ernie5::cuda
