// Uni-RoPE (ernie5/layers/rope.py): the angles of (t, h, w) positions, and the turn by them. T is float, fp16 or bf16.
#pragma once
#include <type_traits>

#include "common/cuda.cuh"

namespace ernie5::cuda {

// position_ids float [tokens, 3], axes int64 [pairs] of 0..2, inverse_frequency float [pairs] -> cos, sin float
// [tokens, pairs]. The accurate sincosf: positions reach 1e5 and more.
static __global__ void __launch_bounds__(256)
    uni_rope_angles_kernel(const float* position_ids, const int64_t* axes, const float* inverse_frequency,
                           int64_t total, int pairs, float* cos, float* sin) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (index >= total) return;
  const int pair = static_cast<int>(index % pairs);
  float s, c;
  sincosf(position_ids[index / pairs * 3 + axes[pair]] * inverse_frequency[pair], &s, &c);
  cos[index] = c;
  sin[index] = s;
}

// states and out [tokens, heads, 2 * pairs] (they may be one): dims (j, j + pairs) of each head turned by sign * angle
// j of the token; cos and sin [angles, pairs] serve the tokens in turn, angles at a time. A block takes tokens in turn; a thread's packs of cos and sin serve as many heads as it meets.
template <typename T, int N>
__global__ void __launch_bounds__(256) uni_rope_kernel(const T* states, const float* cos, const float* sin,
                                                       int64_t tokens, int64_t angles, int heads, int pairs,
                                                       float sign, T* out) {
  const int packs = pairs / N;
  for (int64_t token = blockIdx.x; token < tokens; token += gridDim.x) {
    const int64_t angle = token % angles;
    const float *cosines = cos + angle * pairs, *sines = sin + angle * pairs;
    for (int index = threadIdx.x; index < heads * packs; index += 256) {
      const int place = index % packs * N;
      const int64_t start = (token * heads + index / packs) * 2 * pairs + place;
      auto first = load<N>(states + start), second = load<N>(states + start + pairs);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float c = cosines[place + i], s = sines[place + i] * sign;
        const float one = to_float(first.at[i]), other = to_float(second.at[i]);
        first.at[i] = from_float<T>(one * c - other * s);
        second.at[i] = from_float<T>(other * c + one * s);
      }
      store<N>(out + start, first);
      store<N>(out + start + pairs, second);
    }
  }
}

inline cudaError_t uni_rope_angles(const float* position_ids, const int64_t* axes, const float* inverse_frequency,
                                   int64_t tokens, int64_t pairs, float* cos, float* sin, cudaStream_t stream) {
  if (tokens * pairs == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>(ceil_div<int64_t>(tokens * pairs, 256));
  return launch(uni_rope_angles_kernel, blocks, 256, 0, stream, position_ids, axes, inverse_frequency, tokens * pairs,
                pairs, cos, sin);
}

// sign 1 turns, -1 turns back: the gradient.
template <typename T>
cudaError_t uni_rope(const T* states, const float* cos, const float* sin, int64_t tokens, int64_t angles, int64_t heads,
                     int64_t pairs, float sign, T* out, cudaStream_t stream) {
  if (tokens * heads * pairs == 0) return cudaSuccess;
  const auto run = [&](auto pack) {
    const auto blocks = static_cast<unsigned>(tokens < 1 << 20 ? tokens : 1 << 20);
    return launch(uni_rope_kernel<T, decltype(pack)::value>, blocks, 256, 0, stream, states, cos, sin, tokens,
                  angles, heads, pairs, sign, out);
  };
  if (pairs % kVector<T> == 0 && is_aligned(states) && is_aligned(out))
    return run(std::integral_constant<int, kVector<T>>());
  return run(std::integral_constant<int, 1>());
}

}  // namespace ernie5::cuda
