// Grouped-query attention under a FlashMask (arXiv:2410.01359), forward and backward.
#pragma once
#include <cstdint>

#include "common/bfloat16.h"

namespace ernie5::cpu {

// From one row of a batch to the next, and from one token to the next, in elements; heads lie one after the other.
struct AttentionStrides {
  int64_t batch, token;
};

// Keys and values in pages, of one row: key k is key k % keys of page `numbers[k / keys]`, and the strides are from page to
// page and from key to key. Beside each key lies who sees it: query q of the row, the token with that number + q of its
// sequence, if seen[0] <= number + q < seen[1].
struct KeyPages {
  const int32_t* numbers;  // null: keys are not in pages
  int64_t keys;            // of a page; a multiple of 64, or all keys are in one
  const int32_t* seen;     // [pages, keys, 2]
  int64_t number;            // of the first query
};

struct AttentionShape {
  int64_t batch, queries, keys, heads, kv_heads, head_dim;
  AttentionStrides key_strides, value_strides;  // of a cache with room to spare, for one; query and out are dense
  KeyPages pages;                               // then batch is 1 and there is no other mask; forward only
  // int [mask_batch (1 or batch), keys, columns]: the queries that a key is hidden from. 1: from lower_start on. 2:
  // [lower_start, lower_end) if causal, else from lower_start on and before upper_end. 4: [lower_start, lower_end) and
  // [upper_start, upper_end), not causal. 0: none. Causal hides the keys behind a query too, the last query standing beside
  // the last key.
  const int32_t* mask;
  int64_t mask_batch, columns;
  bool causal;
  double scale;
};

// Strides of keys or values that fill their memory.
inline AttentionStrides dense_strides(int64_t tokens, int64_t heads, int64_t head_dim) {
  return {tokens * heads * head_dim, heads * head_dim};
}

// out = softmax(scale * query key^T + mask) value. query, out [batch, queries, heads, head_dim]; key, value [batch, keys,
// kv_heads, head_dim]; lse [batch, heads, queries] the logarithm of each softmax's sum, or null. A query that sees no key
// gives 0 and -infinity. Head h reads the keys of head h / (heads / kv_heads). Sums are in compute_t<T>.
template <typename T>
void attention_forward(const AttentionShape& shape, const T* query, const T* key, const T* value, T* out,
                       compute_t<T>* lse);

// The gradients of query, key and value, which are dense, by that of out. The same number of threads gives the same bits.
template <typename T>
void attention_backward(const AttentionShape& shape, const T* query, const T* key, const T* value, const T* out,
                        const compute_t<T>* lse, const T* grad_out, T* grad_query, T* grad_key, T* grad_value);

}  // namespace ernie5::cpu
