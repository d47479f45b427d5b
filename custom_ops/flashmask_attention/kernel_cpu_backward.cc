#include <cmath>

#include "common/elementary.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "flashmask_attention/rows.h"

namespace ernie5::cpu {
namespace {

constexpr int64_t kWalkRows = 4 * kRowTile;  // rows (query, head of its group) that share a walk over the keys

// With p = exp(score - lse) and delta = rowsum(out * grad_out): grad_value = p^T grad_out, grad_score = p * (grad_out value^T
// - delta), grad_query = scale * grad_score key, grad_key = scale * grad_score^T query (arXiv:2307.08691 §3.1).
template <typename T>
class Backward {
 public:
  using C = compute_t<T>;

  Backward(const AttentionShape& shape, const T* query, const T* key, const T* value, const T* out, const C* lse,
           const T* grad_out, T* grad_query, T* grad_key, T* grad_value)
      : shape_(shape), at_(shape), blocks_(shape), query_(query), key_(key), value_(value), out_(out), lse_(lse),
        grad_out_(grad_out), grad_query_(grad_query), grad_key_(grad_key), grad_value_(grad_value),
        dim_(shape.head_dim), width_(padded<C>(shape.head_dim)), rows_(at_.rows()), sums_(round_up(rows_, kWalkRows) * width_) {}

  // A key-value head is one thread's; where there are more threads than that, each takes every n-th block of its keys.
  void run() {
    const int64_t heads = shape_.batch * shape_.kv_heads, work = heads * rows_ * shape_.keys * dim_;
    if (heads == 0) return;
    splits_ = std::clamp<int64_t>(num_threads(work) / heads, 1, std::max<int64_t>(blocks_.count(), 1));
    Scratch<C> all_sums(splits_ > 1 ? heads * splits_ * sums_ : 0);
    parallel_items(heads * splits_, work, [&](int64_t item, int) {
      Scratch<C> own_sums(splits_ > 1 ? 0 : sums_);
      C* const sums = splits_ > 1 ? all_sums.get() + item * sums_ : own_sums.get();
      one_head(item / splits_ / shape_.kv_heads, item / splits_ % shape_.kv_heads, item % splits_, sums);
      if (splits_ == 1) store_queries(item, sums);
    });
    if (splits_ == 1) return;
    parallel_ranges(heads, heads * splits_ * sums_, [&](int64_t begin, int64_t end, int) {
      for (int64_t head = begin; head < end; ++head) {
        C* const sums = all_sums.get() + head * splits_ * sums_;
        for (int64_t split = 1; split < splits_; ++split)
#pragma omp simd
          for (int64_t i = 0; i < sums_; ++i) sums[i] += sums[split * sums_ + i];
        store_queries(head, sums);
      }
    });
  }

 private:
  // A block of keys: as columns, values as columns, keys as rows, and the two gradients.
  struct Block {
    C *keys_as_columns, *values_as_columns, *keys, *grad_keys, *grad_values;
  };
  // Rows of the walk and what is said of each.
  struct Walk {
    C *queries, *grads;  // [kWalkRows, width], queries times scale
    C lse[kWalkRows], delta[kWalkRows];
    C *weights, *grad_scores;  // [kWalkRows, kKeyBlock]
  };

  // In bfloat16 a product packs its factors each time, so it takes the whole walk.
  static int64_t rows_together() { return std::is_same_v<C, float> && bf16_products() ? kWalkRows : kRowTile; }

  int64_t block_size() const { return kKeyBlock * (2 * dim_ + 3 * width_); }
  Block block_at(C* memory) const {
    C *const values = memory + kKeyBlock * dim_, *const keys = values + kKeyBlock * dim_;
    return {memory, values, keys, keys + kKeyBlock * width_, keys + 2 * kKeyBlock * width_};
  }

  void one_head(int64_t batch, int64_t head, int64_t split, C* sums) const {
    const int64_t own = std::max<int64_t>(blocks_of(blocks_.count() - split, splits_), 0);
    Scratch<C> memory(own * block_size()), walk_memory(2 * kWalkRows * (width_ + kKeyBlock));
    for (int64_t i = 0; i < own; ++i) load(batch, head, split + i * splits_, block_at(memory.get() + i * block_size()));
    Walk walk;
    walk.queries = walk_memory.get(), walk.grads = walk.queries + kWalkRows * width_;
    walk.weights = walk.grads + kWalkRows * width_, walk.grad_scores = walk.weights + kWalkRows * kKeyBlock;
    std::fill_n(sums, sums_, C(0));
    for (int64_t first = 0; first < rows_; first += kWalkRows) {
      const int64_t end = std::min(first + kWalkRows, rows_);
      load(batch, head, first, end, walk);
      for (int64_t i = 0; i < own; ++i)
        if (!blocks_.hidden(batch, split + i * splits_, first / at_.group, (end - 1) / at_.group))
          visit(batch, split + i * splits_, first, end, walk, block_at(memory.get() + i * block_size()), sums + first * width_);
    }
    for (int64_t i = 0; i < own; ++i) store(batch, head, split + i * splits_, block_at(memory.get() + i * block_size()));
  }

  void load(int64_t batch, int64_t head, int64_t block, const Block& to) const {
    const int64_t first = block * kKeyBlock, size = blocks_.size(block);
    const T* const keys = key_ + at_.key(shape_.key_strides, batch, head, first);
    const T* const values = value_ + at_.key(shape_.value_strides, batch, head, first);
    load_columns(keys, shape_.key_strides.token, size, dim_, to.keys_as_columns);
    load_columns(values, shape_.value_strides.token, size, dim_, to.values_as_columns);
    load_rows(keys, shape_.key_strides.token, size, dim_, width_, to.keys);
    std::fill_n(to.grad_keys, 2 * kKeyBlock * width_, C(0));
  }

  void load(int64_t batch, int64_t head, int64_t first, int64_t end, Walk& walk) const {
    std::fill_n(walk.queries, 2 * kWalkRows * width_, C(0));
    for (int64_t r = 0; r < kWalkRows; ++r) {
      // Rows without a key, and those behind the last: a weight of 0 for whatever score.
      walk.lse[r] = std::numeric_limits<C>::infinity(), walk.delta[r] = 0;
      if (first + r >= end) continue;
      const int64_t from = at_.query_row(batch, head, first + r);
      C *const query = walk.queries + r * width_, *const grad = walk.grads + r * width_;
      widen(query_ + from, dim_, C(shape_.scale), width_, query);
      widen(grad_out_ + from, dim_, C(1), width_, grad);
      C delta = 0;
#pragma omp simd reduction(+ : delta)
      for (int64_t i = 0; i < dim_; ++i) delta += C(out_[from + i]) * grad[i];
      walk.delta[r] = delta;
      const C lse = lse_[at_.lse(batch, head, first + r)];
      if (lse != kNone<C>) walk.lse[r] = lse;
    }
  }

  // Rows [first, end) and one block of keys; grad_queries [kWalkRows, width].
  void visit(int64_t batch, int64_t block, int64_t first, int64_t end, Walk& walk, const Block& keys, C* grad_queries) const {
    const int64_t tiles = blocks_of(end - first, kRowTile), together = rows_together() / kRowTile;
    for (int64_t tile = 0; tile < tiles; tile += together) {
      const int64_t row = tile * kRowTile, rows = std::min(together, tiles - tile) * kRowTile;
      const int64_t begin = first + row, last = std::min(begin + rows, end) - 1;
      C *const weights = walk.weights + row * kKeyBlock, *const grad_scores = walk.grad_scores + row * kKeyBlock;
      if (blocks_.hidden(batch, block, begin / at_.group, last / at_.group)) {
        std::fill_n(weights, rows * kKeyBlock, C(0));
        std::fill_n(grad_scores, rows * kKeyBlock, C(0));
        continue;
      }
      rows_product<false>(walk.queries + row * width_, width_, rows, keys.keys_as_columns, kKeyBlock, dim_, kKeyBlock, weights,
                          kKeyBlock);
      rows_product<false>(walk.grads + row * width_, width_, rows, keys.values_as_columns, kKeyBlock, dim_, kKeyBlock,
                          grad_scores, kKeyBlock);
      if (!blocks_.visible(batch, block, begin / at_.group, last / at_.group))
        for (int64_t r = begin; r <= last; ++r) blocks_.hide(batch, block, r / at_.group, weights + (r - begin) * kKeyBlock);
      for (int64_t r = 0; r < rows; ++r) {
        const C lse = walk.lse[row + r], delta = walk.delta[row + r];
        C *const weight = weights + r * kKeyBlock, *const grad = grad_scores + r * kKeyBlock;
#pragma omp simd
        for (int64_t j = 0; j < kKeyBlock; ++j) {
          weight[j] = vector_exp(weight[j] - lse);
          grad[j] = weight[j] * (grad[j] - delta);
        }
      }
      rows_product<true>(grad_scores, kKeyBlock, rows, keys.keys, width_, blocks_.size(block), width_,
                         grad_queries + row * width_, width_);
    }
    keys_product<kKeyBlock>(walk.weights, walk.grads, width_, tiles * kRowTile, width_, keys.grad_values, width_);
    keys_product<kKeyBlock>(walk.grad_scores, walk.queries, width_, tiles * kRowTile, width_, keys.grad_keys, width_);
  }

  void store(int64_t batch, int64_t head, int64_t block, const Block& from) const {
    for (int64_t j = 0; j < blocks_.size(block); ++j) {
      const int64_t to = ((batch * shape_.keys + block * kKeyBlock + j) * shape_.kv_heads + head) * dim_;
      narrow(from.grad_keys + j * width_, dim_, C(1), grad_key_ + to);
      narrow(from.grad_values + j * width_, dim_, C(1), grad_value_ + to);
    }
  }

  void store_queries(int64_t head, const C* sums) const {
    for (int64_t r = 0; r < rows_; ++r)
      narrow(sums + r * width_, dim_, C(shape_.scale),
             grad_query_ + at_.query_row(head / shape_.kv_heads, head % shape_.kv_heads, r));
  }

  const AttentionShape& shape_;
  const Places at_;
  const KeyBlocks blocks_;
  const T *query_, *key_, *value_, *out_;
  const C* lse_;
  const T* grad_out_;
  T *grad_query_, *grad_key_, *grad_value_;
  const int64_t dim_, width_, rows_, sums_;  // sums_: numbers of grad_query of one head, rows in whole walks
  int64_t splits_ = 1;
};

}  // namespace

template <typename T>
void attention_backward(const AttentionShape& shape, const T* query, const T* key, const T* value, const T* out,
                        const compute_t<T>* lse, const T* grad_out, T* grad_query, T* grad_key, T* grad_value) {
  Backward<T>(shape, query, key, value, out, lse, grad_out, grad_query, grad_key, grad_value).run();
}

#define INSTANTIATE(T)                                                                                                      \
  template void attention_backward<T>(const AttentionShape&, const T*, const T*, const T*, const T*, const compute_t<T>*,   \
                                      const T*, T*, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)

}  // namespace ernie5::cpu
