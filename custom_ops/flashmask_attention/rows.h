// Where rows of queries and blocks of keys lie, and their copies in the compute type.
#pragma once
#include <algorithm>
#include <cstdint>
#include <limits>

#include "flashmask_attention/blocks.h"
#include "flashmask_attention/tiles.h"

namespace ernie5::cpu {

template <typename C>
constexpr C kNone = -std::numeric_limits<C>::infinity();

inline int64_t round_up(int64_t count, int64_t to) { return blocks_of(count, to) * to; }

template <typename C>
int64_t padded(int64_t head_dim) {
  return round_up(head_dim, kLane<C>);
}

// from [head_dim] of any type to a line of `width`, zeros behind, times `factor`.
template <typename T, typename C>
void widen(const T* from, int64_t head_dim, C factor, int64_t width, C* to) {
#pragma omp simd
  for (int64_t i = 0; i < head_dim; ++i) to[i] = C(from[i]) * factor;
  std::fill(to + head_dim, to + width, C(0));
}

template <typename T, typename C>
void narrow(const C* from, int64_t count, C factor, T* to) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = T(from[i] * factor);
}

template <typename C>
C dot(const C* a, const C* b, int64_t count) {
  C sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < count; ++i) sum += a[i] * b[i];
  return sum;
}

// Where things are in tensors [batch, tokens, heads, head_dim].
struct Places {
  explicit Places(const AttentionShape& shape) : shape(shape), group(shape.heads / shape.kv_heads) {}

  // Row (query, head of the group) of a key-value head, in a dense tensor of queries.
  int64_t query_row(int64_t batch, int64_t kv_head, int64_t row) const {
    const int64_t query = row / group, head = kv_head * group + row % group;
    return ((batch * shape.queries + query) * shape.heads + head) * shape.head_dim;
  }
  int64_t lse(int64_t batch, int64_t kv_head, int64_t row) const {
    return (batch * shape.heads + kv_head * group + row % group) * shape.queries + row / group;
  }
  int64_t key(const AttentionStrides& strides, int64_t batch, int64_t kv_head, int64_t key) const {
    const KeyPages& pages = shape.pages;
    if (pages.numbers) batch = page_of(pages, key), key %= pages.keys;
    return batch * strides.batch + key * strides.token + kv_head * shape.head_dim;
  }
  int64_t rows() const { return shape.queries * group; }

  // (from, some): the runs of the keys [first, first + count) that lie one behind the other.
  template <typename Function>
  void for_each_run(int64_t first, int64_t count, Function&& function) const {
    const int64_t keys = shape.pages.numbers ? shape.pages.keys : shape.keys;
    for (int64_t end = first + count, some; first < end; first += some) {
      some = std::min(keys - first % keys, end - first);
      function(first, some);
    }
  }

  const AttentionShape& shape;
  int64_t group;
};

// A block of keys or values of one head, with zeros behind the last: rows [kKeyBlock, width], or columns [head_dim,
// kKeyBlock].
template <typename T, typename C>
void load_rows(const T* from, int64_t step, int64_t count, int64_t head_dim, int64_t width, C* to) {
  for (int64_t j = 0; j < count; ++j) widen(from + j * step, head_dim, C(1), width, to + j * width);
  std::fill(to + count * width, to + kKeyBlock * width, C(0));
}
template <typename T, typename C>
void load_columns(const T* from, int64_t step, int64_t count, int64_t head_dim, C* to) {
  if (count < kKeyBlock) std::fill(to, to + head_dim * kKeyBlock, C(0));
  for (int64_t j = 0; j < count; ++j)
    for (int64_t i = 0; i < head_dim; ++i) to[i * kKeyBlock + j] = C(from[j * step + i]);
}

}  // namespace ernie5::cpu
