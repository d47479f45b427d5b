#include "flashmask_attention/kernel.h"

#include <cmath>

#include "common/elementary.h"
#include "common/few_rows.h"
#include "common/parallel.h"
#include "common/scratch.h"
#include "flashmask_attention/rows.h"

namespace ernie5::cpu {
namespace {

constexpr int64_t kQueryRows = 16 * kRowTile;  // rows (query, head of its group) that share a walk over the keys
constexpr int64_t kTogether = 4;              // tiles of rows in a product in bfloat16, whose factors are packed each time
constexpr int64_t kFewRows = 12;               // of queries: up to here keys are read as they lie
constexpr int64_t kDecodedKeys = 512;          // keys of a run that a thread decodes

// The softmax of rows as far as it has got, one key block after the other (arXiv:2205.14135).
template <typename C>
struct RunningSoftmax {
  C top[kRowTile], total[kRowTile];

  // scores [kRowTile, kKeyBlock] become weights against the new top; `sums` [kRowTile, width] are brought to it.
  void take(C* scores, C* sums, int64_t width) {
    for (int64_t r = 0; r < kRowTile; ++r) {
      C* const row = scores + r * kKeyBlock;
      C highest = top[r];
#pragma omp simd reduction(max : highest)
      for (int64_t j = 0; j < kKeyBlock; ++j) highest = row[j] > highest ? row[j] : highest;
      const C against = highest == kNone<C> ? C(0) : highest;  // a row that has seen nothing yet
      C weights = 0;
#pragma omp simd reduction(+ : weights)
      for (int64_t j = 0; j < kKeyBlock; ++j) {
        row[j] = vector_exp(row[j] - against);
        weights += row[j];
      }
      if (highest != top[r]) {
        const C factor = vector_exp(top[r] - against);
        total[r] *= factor;
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) sums[r * width + i] *= factor;
        top[r] = highest;
      }
      total[r] += weights;
    }
  }

  C lse(int64_t r) const { return total[r] > 0 ? top[r] + std::log(total[r]) : kNone<C>; }
};

// Keys as columns and values as rows, block by block, for all heads.
template <typename T>
class LoadedKeys {
 public:
  using C = compute_t<T>;
  LoadedKeys(const Places& at, const T* key, const T* value, int64_t blocks)
      : blocks_(blocks), head_dim_(at.shape.head_dim), width_(padded<C>(at.shape.head_dim)), kv_heads_(at.shape.kv_heads) {
    const auto& shape = at.shape;
    const int64_t count = shape.batch * kv_heads_ * blocks;
    memory_.reserve(count * kKeyBlock * (head_dim_ + width_));
    parallel_ranges(count, shape.batch * shape.keys * kv_heads_ * head_dim_, [&](int64_t begin, int64_t end, int) {
      for (int64_t item = begin; item < end; ++item) {
        const int64_t batch = item / blocks / kv_heads_, head = item / blocks % kv_heads_, first = item % blocks * kKeyBlock;
        const int64_t size = std::min(kKeyBlock, shape.keys - first);
        C* const own = memory_.get() + item * kKeyBlock * (head_dim_ + width_);
        load_columns(key + at.key(shape.key_strides, batch, head, first), shape.key_strides.token, size, head_dim_, own);
        load_rows(value + at.key(shape.value_strides, batch, head, first), shape.value_strides.token, size, head_dim_, width_,
                  own + kKeyBlock * head_dim_);
      }
    });
  }

  const C* columns(int64_t batch, int64_t head, int64_t block) const {
    return memory_.get() + ((batch * kv_heads_ + head) * blocks_ + block) * kKeyBlock * (head_dim_ + width_);
  }
  const C* values(int64_t batch, int64_t head, int64_t block) const {
    return columns(batch, head, block) + kKeyBlock * head_dim_;
  }

 private:
  int64_t blocks_, head_dim_, width_, kv_heads_;
  Scratch<C> memory_;
};

template <typename T>
void forward_in_blocks(const AttentionShape& shape, const T* query, const T* key, const T* value, T* out,
                       compute_t<T>* lse) {
  using C = compute_t<T>;
  const Places at(shape);
  const KeyBlocks blocks(shape);
  const LoadedKeys<T> loaded(at, key, value, blocks.count());
  const int64_t head_dim = shape.head_dim, width = padded<C>(head_dim), rows = at.rows(), parts = blocks_of(rows, kQueryRows);
  const int64_t work = shape.batch * shape.heads * shape.queries * shape.keys * head_dim;
  const int64_t together = std::is_same_v<C, float> && bf16_products() ? kTogether : 1;
  parallel_items(shape.batch * shape.kv_heads * parts, work, [&](int64_t item, int) {
    const int64_t batch = item / parts / shape.kv_heads, head = item / parts % shape.kv_heads;
    const int64_t first = item % parts * kQueryRows, count = std::min(kQueryRows, rows - first), tiles = blocks_of(count, kRowTile);
    Scratch<C> room(kQueryRows * (head_dim + width) + together * kRowTile * kKeyBlock);
    C *const queries = room.get(), *const sums = queries + kQueryRows * head_dim, *const scores = sums + kQueryRows * width;
    RunningSoftmax<C> softmax[kQueryRows / kRowTile];
    for (int64_t r = 0; r < tiles * kRowTile; ++r) {
      if (r < count) widen(query + at.query_row(batch, head, first + r), head_dim, C(shape.scale), head_dim, queries + r * head_dim);
      else std::fill_n(queries + r * head_dim, head_dim, C(0));
      softmax[r / kRowTile].top[r % kRowTile] = kNone<C>;
      softmax[r / kRowTile].total[r % kRowTile] = 0;
    }
    std::fill_n(sums, tiles * kRowTile * width, C(0));
    for (int64_t block = 0; block < blocks.count(); ++block) {
      if (blocks.hidden(batch, block, first / at.group, (first + count - 1) / at.group)) continue;
      const C *const columns = loaded.columns(batch, head, block), *const values = loaded.values(batch, head, block);
      for (int64_t tile = 0; tile < tiles; tile += together) {
        const int64_t some = std::min(together, tiles - tile), begin = first + tile * kRowTile;
        const int64_t end = std::min(begin + some * kRowTile, first + count);
        const int64_t first_query = begin / at.group, last_query = (end - 1) / at.group;
        if (blocks.hidden(batch, block, first_query, last_query)) continue;
        rows_product<false>(queries + tile * kRowTile * head_dim, head_dim, some * kRowTile, columns, kKeyBlock, head_dim,
                            kKeyBlock, scores, kKeyBlock);
        if (!blocks.visible(batch, block, first_query, last_query))
          for (int64_t r = begin; r < end; ++r) blocks.hide(batch, block, r / at.group, scores + (r - begin) * kKeyBlock);
        for (int64_t i = 0; i < some; ++i)
          softmax[tile + i].take(scores + i * kRowTile * kKeyBlock, sums + (tile + i) * kRowTile * width, width);
        rows_product<true>(scores, kKeyBlock, some * kRowTile, values, width, blocks.size(block), width,
                           sums + tile * kRowTile * width, width);
      }
    }
    for (int64_t r = 0; r < count; ++r) {
      const auto& own = softmax[r / kRowTile];
      const C total = own.total[r % kRowTile];
      narrow(sums + r * width, head_dim, total > 0 ? C(1) / total : C(0), out + at.query_row(batch, head, first + r));
      if (lse) lse[at.lse(batch, head, first + r)] = own.lse(r % kRowTile);
    }
  });
}

// scores [count] of one query and the keys from `first` on: -infinity for those that it does not see.
template <typename C>
void hide_keys(const AttentionShape& shape, int64_t batch, int64_t query, int64_t first, int64_t count, C* scores) {
  if (shape.causal)
    for (int64_t j = std::max<int64_t>(query + shape.keys - shape.queries + 1 - first, 0); j < count; ++j) scores[j] = kNone<C>;
  if (shape.columns == 0 && !shape.pages.numbers) return;
  for (int64_t j = 0; j < count; ++j)
    if (hidden_queries(shape, shape.mask_batch == 1 ? 0 : batch, first + j).has(query)) scores[j] = kNone<C>;
}

// Few queries: a pass over the keys as they lie. Runs of keys are decoded side by side and then put together.
template <typename T>
void forward_of_few(const AttentionShape& shape, const T* query, const T* key, const T* value, T* out, compute_t<T>* lse) {
  using C = compute_t<T>;
  const Places at(shape);
  const int64_t head_dim = shape.head_dim, width = padded<C>(head_dim), rows = at.rows(), heads = shape.batch * shape.kv_heads;
  const int64_t runs = std::max<int64_t>(1, blocks_of(shape.keys, kDecodedKeys));
  Scratch<C> partial(heads * runs * rows * (width + 2));  // the sums of a run, its top and its total, row by row
  parallel_items(heads * runs, heads * rows * shape.keys * head_dim, [&](int64_t item, int) {
    const int64_t batch = item / runs / shape.kv_heads, head = item / runs % shape.kv_heads;
    const int64_t first = item % runs * kDecodedKeys, count = std::min(kDecodedKeys, shape.keys - first);
    Scratch<C> room(rows * head_dim + rows * kDecodedKeys);
    C *const queries = room.get(), *const scores = queries + rows * head_dim;
    for (int64_t r = 0; r < rows; ++r)
      widen(query + at.query_row(batch, head, r), head_dim, C(shape.scale), head_dim, queries + r * head_dim);
    at.for_each_run(first, count, [&](int64_t from, int64_t some) {
      transposed_product(queries, head_dim, key + at.key(shape.key_strides, batch, head, from), shape.key_strides.token, rows,
                         some, head_dim, scores + from - first, kDecodedKeys);
    });
    C* const own = partial.get() + item * rows * (width + 2);
    if (count == 0) std::fill_n(own, rows * width, C(0));  // no run below writes it
    for (int64_t r = 0; r < rows; ++r) {
      C* const row = scores + r * kDecodedKeys;
      hide_keys(shape, batch, r / at.group, first, count, row);
      C top = kNone<C>, total = 0;
#pragma omp simd reduction(max : top)
      for (int64_t j = 0; j < count; ++j) top = row[j] > top ? row[j] : top;
      const C against = top == kNone<C> ? C(0) : top;
#pragma omp simd reduction(+ : total)
      for (int64_t j = 0; j < count; ++j) {
        row[j] = vector_exp(row[j] - against);
        total += row[j];
      }
      own[rows * width + 2 * r] = top, own[rows * width + 2 * r + 1] = total;
    }
    at.for_each_run(first, count, [&](int64_t from, int64_t some) {
      C* const sums = from == first ? own : queries;  // which are no longer needed, and are as wide
      columns_product(scores + from - first, kDecodedKeys, value + at.key(shape.value_strides, batch, head, from),
                      shape.value_strides.token, rows, head_dim, some, sums, sums == own ? width : head_dim);
      if (sums == own) return;
      for (int64_t r = 0; r < rows; ++r)
#pragma omp simd
        for (int64_t i = 0; i < head_dim; ++i) own[r * width + i] += sums[r * head_dim + i];
    });
  });
  for (int64_t item = 0; item < heads; ++item)
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t batch = item / shape.kv_heads, head = item % shape.kv_heads;
      const auto run = [&](int64_t index) { return partial.get() + (item * runs + index) * rows * (width + 2); };
      C top = kNone<C>, total = 0;
      for (int64_t index = 0; index < runs; ++index) top = std::max(top, run(index)[rows * width + 2 * r]);
      const C against = top == kNone<C> ? C(0) : top;
      for (int64_t index = 0; index < runs; ++index) {
        C *const sums = run(index) + r * width, *const first = run(0) + r * width;
        const C* const about = run(index) + rows * width + 2 * r;
        const C factor = vector_exp(about[0] - against);
        total += about[1] * factor;
#pragma omp simd
        for (int64_t i = 0; i < head_dim; ++i) first[i] = (index ? first[i] : C(0)) + sums[i] * factor;
      }
      narrow(run(0) + r * width, head_dim, total > 0 ? C(1) / total : C(0), out + at.query_row(batch, head, r));
      if (lse) lse[at.lse(batch, head, r)] = total > 0 ? top + std::log(total) : kNone<C>;
    }
}

}  // namespace

template <typename T>
void attention_forward(const AttentionShape& shape, const T* query, const T* key, const T* value, T* out,
                       compute_t<T>* lse) {
  if (shape.queries * (shape.heads / shape.kv_heads) <= kFewRows)
    forward_of_few(shape, query, key, value, out, lse);
  else
    forward_in_blocks(shape, query, key, value, out, lse);
}

#define INSTANTIATE(T) \
  template void attention_forward<T>(const AttentionShape&, const T*, const T*, const T*, T*, compute_t<T>*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)

}  // namespace ernie5::cpu
