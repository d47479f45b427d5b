#include "paged_decoder_layers/kernel.h"

#include <algorithm>
#include <cmath>

#include "common/few_rows.h"
#include "common/gemm.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "expert_ffn/kernel.h"
#include "flashmask_attention/kernel.h"
#include "moe_permute/kernel.h"
#include "rms_norm/kernel.h"
#include "swiglu/kernel.h"
#include "uni_rope/kernel.h"

namespace ernie5::cpu {
namespace {

constexpr int64_t kFewRows = 12;      // up to here a product is as fast as its matrix can be read
constexpr int64_t kColumnPart = 256;  // columns of such a product that a thread takes at once
constexpr int64_t kSharedSize = 16;   // how much larger than other work it must be: a thread wakes as long as it reads 256 KiB

// c [m, n] = a [m, k] b [k, n], sums in C; b as it is stored. The router's are exact: a score decides who is asked.
template <bool kExact, typename C, typename B>
void product(const C* a, const B* b, int64_t m, int64_t n, int64_t k, C* c) {
  if (m <= kFewRows) {
    const int64_t parts = (n + kColumnPart - 1) / kColumnPart;
    parallel_ranges(parts, n * k / kSharedSize, [&](int64_t first, int64_t last, int) {
      const int64_t begin = first * kColumnPart, end = std::min(last * kColumnPart, n);
      columns_product(a, k, b + begin, n, m, end - begin, k, c + begin, n);
    });
  } else if constexpr (std::is_same_v<B, C>) {
    if constexpr (kExact)
      gemm<C>(false, false, m, n, k, C(1), a, k, b, n, C(0), c, n);
    else
      mixed_gemm<C>(false, false, m, n, k, a, k, b, n, false, c, n);
  } else {
    Scratch<C> wide(k * n);
    convert(b, k * n, wide.get());
    mixed_gemm<C>(false, false, m, n, k, a, k, wide.get(), n, false, c, n);
  }
}

// y [rows, out] = x [rows, in] weight [in, out].
template <typename T>
void linear(const T* x, const T* weight, int64_t rows, int64_t in, int64_t out, T* y) {
  using C = compute_t<T>;
  if constexpr (std::is_same_v<T, C>) {
    product<false>(x, weight, rows, out, in, y);
  } else {
    Scratch<C> room(rows * (in + out));
    C *const wide = room.get(), *const sums = wide + rows * in;
    convert(x, rows * in, wide);
    product<false>(wide, weight, rows, out, in, sums);
    convert(sums, rows * out, y);
  }
}

// The activations of one call, side by side in one piece of memory.
template <typename T>
class Activations {
 public:
  explicit Activations(int64_t count) : memory_(count) {}
  T* take(int64_t count) {
    T* const taken = memory_.get() + used_;
    used_ += count;
    return taken;
  }

 private:
  Scratch<T> memory_;
  int64_t used_ = 0;
};

// Writes keys, turned, and values of a row's tokens to their places in the pages.
template <typename T>
void keep(const DecoderLayerShape& shape, const DecoderRow& row, const T* key, const T* value, const float* cos,
          const float* sin, T* keys, T* values) {
  const int64_t pairs = shape.head_dim / 2, kv_width = shape.kv_heads * shape.head_dim;
  for (int64_t done = 0, some; done < row.tokens; done += some) {
    const int64_t place = row.past + done, slot = place % shape.page_keys, first = row.first + done;
    some = std::min(shape.page_keys - slot, row.tokens - done);
    const int64_t to = (row.pages[place / shape.page_keys] * shape.page_keys + slot) * kv_width;
    uni_rope(key + first * kv_width, cos + first * pairs, sin + first * pairs, some, some, shape.kv_heads, pairs, false,
             keys + to);
    std::copy_n(value + first * kv_width, some * kv_width, values + to);
  }
}

// out = o_proj(attention(normed)) over the pages, to which the new keys and values are added.
template <typename T>
void attend(const DecoderLayerShape& shape, const DecoderLayerWeights<T>& weights, const T* normed, const float* cos,
            const float* sin, T* keys, T* values, T* out) {
  const int64_t tokens = shape.tokens, pairs = shape.head_dim / 2;
  const int64_t width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
  Activations<T> room(tokens * (2 * width + 2 * kv_width));
  T *const query = room.take(tokens * width), *const key = room.take(tokens * kv_width);
  T *const value = room.take(tokens * kv_width), *const turned = room.take(tokens * width);
  linear(normed, weights.q_proj, tokens, shape.hidden, width, query);
  linear(normed, weights.k_proj, tokens, shape.hidden, kv_width, key);
  linear(normed, weights.v_proj, tokens, shape.hidden, kv_width, value);
  uni_rope(query, cos, sin, tokens, tokens, shape.heads, pairs, false, turned);
  AttentionShape attention{};
  attention.batch = attention.mask_batch = 1;
  attention.heads = shape.heads, attention.kv_heads = shape.kv_heads, attention.head_dim = shape.head_dim;
  attention.key_strides = attention.value_strides = dense_strides(shape.page_keys, shape.kv_heads, shape.head_dim);
  attention.scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  for (const DecoderRow* row = shape.rows; row != shape.rows + shape.num_rows; ++row) {
    if (row->tokens == 0) continue;
    keep(shape, *row, key, value, cos, sin, keys, values);
    attention.queries = row->tokens, attention.keys = row->past + row->tokens;
    attention.pages = {row->pages, shape.page_keys, shape.seen, row->number};
    const int64_t at = row->first * width;
    attention_forward<T>(attention, turned + at, keys, values, query + at, nullptr);
  }
  linear(query, weights.o_proj, tokens, width, shape.hidden, out);
}

// out = down(silu(gate(normed)) * up(normed)).
template <typename T>
void gated_mlp(const DecoderLayerShape& shape, const DecoderLayerWeights<T>& weights, const T* normed, T* out) {
  const int64_t rows = shape.tokens, width = shape.mlp_width;
  Activations<T> room(3 * rows * width);
  T *const gate = room.take(rows * width), *const up = room.take(rows * width), *const inner = room.take(rows * width);
  linear(normed, weights.mlp_gate, rows, shape.hidden, width, gate);
  linear(normed, weights.mlp_up, rows, shape.hidden, width, up);
  swiglu_forward(gate, up, rows, width, width, inner);
  linear(inner, weights.mlp_down, rows, width, shape.hidden, out);
}

// out = the weighted sum of the chosen experts.
template <typename T>
void routed_experts(const DecoderLayerShape& shape, const DecoderLayerWeights<T>& weights, const T* normed, T* out,
                    int64_t* tokens_per_expert) {
  const int64_t rows = shape.tokens, slots = rows * shape.top_k;
  Scratch<float> floats(rows * (shape.hidden + shape.experts + shape.top_k + 1));
  float *const wide = floats.get(), *const logits = wide + rows * shape.hidden;
  float *const topk_weights = logits + rows * shape.experts, *const totals = topk_weights + slots;
  Scratch<int64_t> integers(3 * slots);
  int64_t *const topk_ids = integers.get(), *const slot_ids = topk_ids + slots, *const row_ids = slot_ids + slots;
  convert(normed, rows * shape.hidden, wide);
  product<true>(wide, weights.router, rows, shape.experts, shape.hidden, logits);
  router_forward(logits, weights.expert_bias, weights.expert_mask, rows, shape.experts, shape.top_k, shape.score,
                 shape.scaling, topk_ids, topk_weights, totals, tokens_per_expert);
  sort_by_expert(topk_ids, slots, shape.top_k, shape.experts, 1, nullptr, slot_ids, row_ids, tokens_per_expert);
  using C = compute_t<T>;
  Scratch<C> expert_weights(slots);
  convert(topk_weights, slots, expert_weights.get());
  const ExpertShape experts{rows, shape.top_k, shape.experts, shape.hidden, shape.expert_width};
  expert_ffn_forward<T>(experts, normed, expert_weights.get(), slot_ids, tokens_per_expert, weights.gate_up, weights.down,
                        nullptr, out);
}

}  // namespace

template <typename T>
void decoder_layer(const DecoderLayerShape& shape, const DecoderLayerWeights<T>& weights, const T* x, const float* cos,
                   const float* sin, T* keys, T* values, T* out, int64_t* tokens_per_expert) {
  const int64_t rows = shape.tokens, count = rows * shape.hidden;
  Activations<T> room(2 * count);
  T *const normed = room.take(count), *const added = room.take(count);
  Scratch<compute_t<T>> inverse(rows);
  rms_norm_forward<T>(x, nullptr, weights.input_norm, rows, shape.hidden, shape.epsilon, nullptr, normed, inverse.get());
  attend(shape, weights, normed, cos, sin, keys, values, added);
  rms_norm_forward<T>(x, added, weights.post_attention_norm, rows, shape.hidden, shape.epsilon, out, normed, inverse.get());
  if (shape.experts) {
    routed_experts(shape, weights, normed, added, tokens_per_expert);
    add(added, count, out);
  }
  if (shape.mlp_width) {
    gated_mlp(shape, weights, normed, added);
    add(added, count, out);
  }
}

#define INSTANTIATE(T)                                                                                              \
  template void decoder_layer<T>(const DecoderLayerShape&, const DecoderLayerWeights<T>&, const T*, const float*,    \
                                 const float*, T*, T*, T*, int64_t*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)

}  // namespace ernie5::cpu
