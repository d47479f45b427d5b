// A whole decoder layer over a cache of keys and values, forward only.
#pragma once
#include <cstdint>

#include "common/bfloat16.h"
#include "router/kernel.h"

namespace ernie5::cpu {

struct DecoderLayerShape {
  int64_t batch, tokens;   // rows, and the new tokens of each
  int64_t past, capacity;  // tokens of a row that the caches hold, and have room for; past + tokens <= capacity
  int64_t hidden, heads, kv_heads, head_dim;
  int64_t mlp_width;                     // of the dense feed-forward layer or the shared experts; 0: there are none
  int64_t experts, top_k, expert_width;  // experts 0: a dense layer
  int64_t angles;                        // rows of cos and sin: tokens, or batch * tokens
  int64_t mask_batch, mask_columns;      // of the mask: 1 or batch; 0 where every key is visible
  Score score;
  double scaling;
  float epsilon;
};

// As [in, out], rows of a matrix one after the other.
template <typename T>
struct DecoderLayerWeights {
  const T *input_norm, *q_proj, *k_proj, *v_proj, *o_proj, *post_attention_norm;
  const T *mlp_gate, *mlp_up, *mlp_down;             // null without such a layer
  const float *router, *expert_bias, *expert_mask;   // [hidden, experts], [experts], [experts]
  const T *gate_up, *down;                           // as in expert_ffn
};

// h = x + attention(norm(x)); out = h + mlp(norm(h)), where mlp is the dense layer, or routed and shared experts.
// x, out [batch, tokens, hidden]; cos, sin [angles, head_dim / 2]; mask int [mask_batch, past + tokens, mask_columns];
// key_cache, value_cache [batch, capacity, kv_heads, head_dim], into which the new tokens are written behind `past`;
// tokens_per_expert [experts]. Sums and activations are in compute_t<T>, products of few rows read the weights as they lie.
template <typename T>
void decoder_layer(const DecoderLayerShape& shape, const DecoderLayerWeights<T>& weights, const T* x, const float* cos,
                   const float* sin, const int32_t* mask, T* key_cache, T* value_cache, T* out,
                   int64_t* tokens_per_expert);

}  // namespace ernie5::cpu
