// A whole decoder layer over pages of keys and values, forward only.
#pragma once
#include <cstdint>

#include "common/bfloat16.h"
#include "router/kernel.h"

namespace ernie5::cpu {

// Some of the tokens, [first, first + tokens): the next ones of a sequence that has kept `past` keys, and
// whose next token has this number. They differ where keys have been let go.
struct DecoderRow {
  int64_t first, tokens, past, number;
  const int32_t* pages;  // numbers of its pages, with room for the new keys
};

struct DecoderLayerShape {
  int64_t tokens;  // of all rows, one row behind the other
  const DecoderRow* rows;
  int64_t num_rows, page_keys;
  const int32_t* seen;  // int [pages, page_keys, 2]: who sees each key, as in `KeyPages`
  int64_t hidden, heads, kv_heads, head_dim;
  int64_t mlp_width;                     // of the dense feed-forward layer or the shared experts; 0: there are none
  int64_t experts, top_k, expert_width;  // experts 0: a dense layer
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
// x, out [tokens, hidden]; cos, sin [tokens, head_dim / 2]; keys, values [pages, page_keys, kv_heads, head_dim], into which
// those of the new tokens are written; tokens_per_expert [experts]. Sums and activations are in compute_t<T>, products of few
// rows read the weights as they lie.
template <typename T>
void decoder_layer(const DecoderLayerShape& shape, const DecoderLayerWeights<T>& weights, const T* x, const float* cos,
                   const float* sin, T* keys, T* values, T* out, int64_t* tokens_per_expert);

}  // namespace ernie5::cpu
