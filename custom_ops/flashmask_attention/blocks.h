// Which blocks of keys a run of queries sees.
#pragma once
#include <algorithm>
#include <climits>
#include <cstdint>
#include <limits>
#include <vector>

#include "flashmask_attention/kernel.h"

namespace ernie5::cpu {

constexpr int64_t kKeyBlock = 64;  // keys of a block: they and their values stay in the first cache

inline int64_t blocks_of(int64_t count, int64_t block) { return (count + block - 1) / block; }

// What the columns of a key say: it is hidden from the queries [first_start, first_end) and [second_start, second_end).
struct HiddenQueries {
  int32_t first_start = INT_MAX, first_end = INT_MAX, second_start = 0, second_end = 0;
  bool has(int64_t query) const {
    return (query >= first_start && query < first_end) || (query >= second_start && query < second_end);
  }
};

inline int64_t page_of(const KeyPages& pages, int64_t key) { return pages.numbers[key / pages.keys]; }

inline HiddenQueries hidden_queries(const AttentionShape& shape, int64_t row, int64_t key) {
  if (const KeyPages& pages = shape.pages; pages.numbers) {
    const int32_t* const seen = pages.seen + 2 * (page_of(pages, key) * pages.keys + key % pages.keys);
    const int64_t from = seen[0] - pages.number, until = seen[1] - pages.number;
    return {static_cast<int32_t>(std::max<int64_t>(until, 0)), INT_MAX, 0, static_cast<int32_t>(std::max<int64_t>(from, 0))};
  }
  const int32_t* const columns = shape.mask + (row * shape.keys + key) * shape.columns;
  switch (shape.columns) {
    case 1: return {columns[0], INT_MAX, 0, 0};
    case 2: return shape.causal ? HiddenQueries{columns[0], columns[1], 0, 0} : HiddenQueries{columns[0], INT_MAX, 0, columns[1]};
    case 4: return {columns[0], columns[1], columns[2], columns[3]};
    default: return {};
  }
}

// The queries from which each key is hidden, [first_start, first_end) and [second_start, second_end), whatever form the
// mask has, and the lowest and highest of each in a block of keys.
class KeyBlocks {
 public:
  explicit KeyBlocks(const AttentionShape& shape) : keys_(shape.keys), blocks_(blocks_of(shape.keys, kKeyBlock)) {
    batch_ = shape.columns ? shape.mask_batch : 1;
    const int64_t room = blocks_ * kKeyBlock;
    hidden_.resize(batch_ * 4 * room);
    bounds_.resize(batch_ * blocks_);
    for (int64_t row = 0; row < batch_; ++row)
      for (int64_t key = 0; key < room; ++key) {
        HiddenQueries queries{INT_MIN, INT_MAX, 0, 0};  // behind the last key: hidden from all
        if (key < shape.keys) queries = hidden_queries(shape, row, key);
        if (key < shape.keys && shape.causal)
          queries.second_end = static_cast<int32_t>(std::max<int64_t>(key - (shape.keys - shape.queries), 0));
        const int32_t from[4] = {queries.first_start, queries.first_end, queries.second_start, queries.second_end};
        for (int i = 0; i < 4; ++i) hidden_[(row * 4 + i) * room + key] = from[i];
        add_bounds(bounds_[row * blocks_ + key / kKeyBlock], from, key < shape.keys);
      }
  }

  int64_t count() const { return blocks_; }
  int64_t size(int64_t block) const { return std::min(kKeyBlock, keys_ - block * kKeyBlock); }

  // Whether none of the queries [first, last] sees a key of the block; true only where that is certain.
  bool hidden(int64_t batch, int64_t block, int64_t first, int64_t last) const {
    const Bounds& b = bounds_[row(batch) * blocks_ + block];
    return (first >= b.high[0] && last < b.low[1]) || (first >= b.high[2] && last < b.low[3]);
  }

  // Whether each of them sees all its keys; true only where that is certain.
  bool visible(int64_t batch, int64_t block, int64_t first, int64_t last) const {
    const Bounds& b = bounds_[row(batch) * blocks_ + block];
    return b.full && (last < b.low[0] || first >= b.high[1]) && (last < b.low[2] || first >= b.high[3]);
  }

  // scores [kKeyBlock] of one query: -infinity for the keys that it does not see.
  template <typename C>
  void hide(int64_t batch, int64_t block, int64_t query, C* scores) const {
    const int64_t room = blocks_ * kKeyBlock;
    const int32_t* const from = hidden_.data() + row(batch) * 4 * room + block * kKeyBlock;
    const int32_t q = static_cast<int32_t>(query);
#pragma omp simd
    for (int64_t j = 0; j < kKeyBlock; ++j) {
      const bool first = (q >= from[j]) & (q < from[room + j]);
      const bool second = (q >= from[2 * room + j]) & (q < from[3 * room + j]);
      scores[j] = first | second ? -std::numeric_limits<C>::infinity() : scores[j];
    }
  }

 private:
  struct Bounds {  // of the block's real keys
    int32_t low[4] = {INT_MAX, INT_MAX, INT_MAX, INT_MAX}, high[4] = {INT_MIN, INT_MIN, INT_MIN, INT_MIN};
    bool full = true;
  };

  static void add_bounds(Bounds& bounds, const int32_t* from, bool is_key) {
    bounds.full &= is_key;
    if (!is_key) return;
    for (int i = 0; i < 4; ++i) {
      bounds.low[i] = std::min(bounds.low[i], from[i]);
      bounds.high[i] = std::max(bounds.high[i], from[i]);
    }
  }

  int64_t row(int64_t batch) const { return batch_ == 1 ? 0 : batch; }

  int64_t keys_, blocks_, batch_;
  std::vector<int32_t> hidden_;  // [batch, 4, blocks * kKeyBlock]
  std::vector<Bounds> bounds_;   // [batch, blocks]
};

}  // namespace ernie5::cpu
