#include "expert_ffn/kernel.h"

#include <cstring>
#include <vector>

#include "common/elementary.h"
#include "common/few_rows.h"
#include "common/gemm.h"
#include "common/parallel.h"
#include "common/scratch.h"

namespace ernie5::cpu {
namespace {

constexpr int64_t kBlockRows = 192;     // rows of an expert at once: they and its matrices stay in the second-level cache
constexpr int64_t kFewRows = 12;        // up to here products read the matrices as they lie, without a copy
constexpr int64_t kPanelRows = 2048;    // the longest sum of a product whose matrix is copied into panels
constexpr int64_t kMaxAccumulators = 16;  // threads that sum tokens' rows, each into [tokens, hidden] of its own

// The matrix in the compute type: itself, or a copy in `room`.
template <typename C, typename T>
const C* matrix(const T* weights, int64_t count, Scratch<C>& room) {
  if constexpr (std::is_same_v<T, C>) {
    return weights;
  } else {
    C* const copy = room.reserve(count);
    convert(weights, count, copy);
    return copy;
  }
}

// c [m, n] = a [m, k] b [k, n]. Many rows take b in panels of two lines' width, copied so that a panel stays in the first
// cache. Written here and not left to gemm, as a row's bits must not depend on its neighbours.
template <typename C>
void product(const C* a, const C* b, int64_t m, int64_t n, int64_t k, C* c) {
  constexpr int64_t kWidth = 2 * kCacheLine / sizeof(C);
  if (m <= kFewRows) return columns_product(a, k, b, n, m, n, k, c, n);
  if (std::is_same_v<C, float> && bf16_products()) return mixed_gemm<C>(false, false, m, n, k, a, k, b, n, false, c, n);
  alignas(kCacheLine) thread_local static C panel[kPanelRows * kWidth];
  const int64_t end = k <= kPanelRows ? n / kWidth * kWidth : 0;
  for (int64_t column = 0; column < end; column += kWidth) {
    for (int64_t inner = 0; inner < k; ++inner) std::memcpy(panel + inner * kWidth, b + inner * n + column, 2 * kCacheLine);
    int64_t row = 0;
    for (; row + 14 <= m; row += 14) tile_product<14, 2, false>(a + row * k, k, panel, kWidth, k, c + row * n + column, n);
    for (; row + 7 <= m; row += 7) tile_product<7, 2, false>(a + row * k, k, panel, kWidth, k, c + row * n + column, n);
    for (; row + 3 <= m; row += 3) tile_product<3, 2, false>(a + row * k, k, panel, kWidth, k, c + row * n + column, n);
    for (; row < m; ++row) tile_product<1, 2, false>(a + row * k, k, panel, kWidth, k, c + row * n + column, n);
  }
  if (end < n) columns_product(a, k, b + end, n, m, n - end, k, c + end, n);
}

// The matrix of an expert [k, n]: few rows read it as it is stored, more of them in the compute type.
template <typename T>
class ExpertMatrix {
 public:
  using C = compute_t<T>;
  ExpertMatrix(const T* stored, int64_t k, int64_t n, bool few_rows, Scratch<C>& room)
      : stored_(stored), wide_(few_rows ? nullptr : matrix(stored, k * n, room)), k_(k), n_(n) {}

  // c [m, n] = a [m, k] matrix.
  void multiply(const C* a, int64_t m, C* c) const {
    if (wide_) product(a, wide_, m, n_, k_, c);
    else columns_product(a, k_, stored_, n_, m, n_, k_, c, n_);
  }

 private:
  const T* stored_;
  const C* wide_;
  int64_t k_, n_;
};

// activated = weight * silu(gate) * up of one row.
template <typename C>
void swiglu_row(const C* gate_up, C weight, int64_t ffn, C* activated) {
  const C *gate = gate_up, *up = gate_up + ffn;
#pragma omp simd
  for (int64_t i = 0; i < ffn; ++i) activated[i] = weight * gate[i] * up[i] / (C(1) + vector_exp(-gate[i]));
}

// Given the gradient of activated: that of gate and up, and (returned) of the weight; activated is computed again.
template <typename C>
C swiglu_row_backward(const C* gate_up, C weight, const C* grad, int64_t ffn, C* grad_gate_up, C* activated) {
  const C *gate = gate_up, *up = gate_up + ffn;
  C *grad_gate = grad_gate_up, *grad_up = grad_gate_up + ffn;
  C grad_weight = 0;
#pragma omp simd reduction(+ : grad_weight)
  for (int64_t i = 0; i < ffn; ++i) {
    const C sigmoid = C(1) / (C(1) + vector_exp(-gate[i])), silu = gate[i] * sigmoid, value = silu * up[i];
    const C weighted = weight * grad[i];
    grad_weight += grad[i] * value;
    activated[i] = weight * value;
    grad_up[i] = weighted * silu;
    grad_gate[i] = weighted * up[i] * (sigmoid + silu * (C(1) - sigmoid));
  }
  return grad_weight;
}

// The rows in expert order, cut into equal parts, one a thread, wherever the experts begin.
struct Plan {
  Plan(const ExpertShape& shape, const int64_t* tokens_per_expert, bool sums_tokens)
      : slots(shape.slots()), offsets(shape.experts + 1) {
    for (int64_t expert = 0; expert < shape.experts; ++expert)
      offsets[expert + 1] = offsets[expert] + tokens_per_expert[expert];
    work = slots * shape.hidden * shape.ffn / 8;  // a few slots are read sooner than a thread wakes
    parts = std::max<int64_t>(1, std::min<int64_t>(num_threads(work), slots));
    if (sums_tokens) parts = std::min(parts, kMaxAccumulators);
  }

  int64_t begin(int64_t part) const { return slots * part / parts; }

  // run(part) for every part, side by side.
  template <typename Run>
  void run(const Run& run_part) const {
    parallel_ranges(parts, work, [&](int64_t first, int64_t last, int) {
      for (int64_t part = first; part < last; ++part) run_part(part);
    });
  }

  // run(expert, first row, end) for the experts that have rows in a part.
  template <typename Run>
  void experts_of(int64_t part, const Run& run_expert) const {
    const int64_t first = begin(part), end = begin(part + 1);
    int64_t expert = std::upper_bound(offsets.begin(), offsets.end(), first) - offsets.begin() - 1;
    for (; first < end && offsets[expert] < end; ++expert)
      if (offsets[expert] < offsets[expert + 1])
        run_expert(expert, std::max(first, offsets[expert]), std::min(end, offsets[expert + 1]));
  }

  int64_t slots, work, parts;
  std::vector<int64_t> offsets;
};

// run(first row, number of rows) for blocks of about equal size.
template <typename Run>
void in_blocks(int64_t first, int64_t end, const Run& run) {
  const int64_t rows = end - first, blocks = (rows + kBlockRows - 1) / kBlockRows;
  for (int64_t block = 0; block < blocks; ++block) {
    const int64_t begin = first + rows * block / blocks;
    run(begin, first + rows * (block + 1) / blocks - begin);
  }
}

// Where the rows in expert order come from and go to.
template <typename T>
struct Moves {
  using C = compute_t<T>;
  const ExpertShape& shape;
  const int64_t* slot_ids;

  int64_t slot(int64_t row) const { return slot_ids ? slot_ids[row] : row; }
  int64_t token(int64_t row) const { return slot_ids ? slot_ids[row] / shape.top_k : row; }

  // `count` rows from `first` on, one after the other: where they are already, else copied to `room`.
  const C* gather(const T* x, int64_t first, int64_t count, C* room) const {
    if constexpr (std::is_same_v<T, C>) {
      if (!slot_ids) return x + first * shape.hidden;
    }
    for (int64_t i = 0; i < count; ++i) convert(x + token(first + i) * shape.hidden, shape.hidden, room + i * shape.hidden);
    return room;
  }

  // c [rows, hidden] = a b for these rows: written to `out` row by row, or added to `sums` of their tokens.
  template <typename Product>
  void deliver(int64_t first, int64_t count, C* room, T* out, C* sums, const Product& product_into) const {
    const int64_t hidden = shape.hidden;
    if (slot_ids) {
      product_into(room);
      for (int64_t i = 0; i < count; ++i) add(room + i * hidden, hidden, sums + token(first + i) * hidden);
    } else if constexpr (std::is_same_v<T, C>) {
      product_into(out + first * hidden);
    } else {
      product_into(room);
      convert(room, count * hidden, out + first * hidden);
    }
  }
};

// The sums of tokens' rows: a part of the plan adds to its own, and they are added up in the order of the parts.
template <typename T>
class TokenSums {
 public:
  using C = compute_t<T>;
  TokenSums(const ExpertShape& shape, int64_t parts, T* out) : count_(shape.tokens * shape.hidden), parts_(parts), out_(out) {
    room_.reserve(count_ * (in_place() ? parts - 1 : parts));
  }

  C* start(int64_t part) {
    C* const sums = of(part);
    std::fill(sums, sums + count_, C(0));
    return sums;
  }

  void finish() {
    if (in_place() && parts_ == 1) return;
    parallel_ranges(count_, count_ * parts_, [&](int64_t begin, int64_t end, int) {
      C* const first = of(0);
      for (int64_t part = 1; part < parts_; ++part) add(of(part) + begin, end - begin, first + begin);
      if constexpr (!std::is_same_v<T, C>) convert(first + begin, end - begin, out_ + begin);
    });
  }

 private:
  static constexpr bool in_place() { return std::is_same_v<T, C>; }
  C* of(int64_t part) {
    if constexpr (in_place()) {
      return part == 0 ? out_ : room_.get() + (part - 1) * count_;
    } else {
      return room_.get() + part * count_;
    }
  }
  int64_t count_, parts_;
  T* out_;
  Scratch<C> room_;
};

}  // namespace

template <typename T>
void expert_ffn_forward(const ExpertShape& shape, const T* x, const compute_t<T>* weights, const int64_t* slot_ids,
                        const int64_t* tokens_per_expert, const T* gate_up, const T* down, T* inner, T* out) {
  using C = compute_t<T>;
  const int64_t hidden = shape.hidden, ffn = shape.ffn;
  const Plan plan(shape, tokens_per_expert, slot_ids != nullptr);
  const Moves<T> moves{shape, slot_ids};
  TokenSums<T> sums(shape, slot_ids ? plan.parts : 1, out);
  plan.run([&](int64_t part) {
    C* const into = slot_ids ? sums.start(part) : nullptr;
    const int64_t rows = std::min(kBlockRows, plan.slots);
    Scratch<C> room(rows * (2 * hidden + 3 * ffn)), gate_up_copy, down_copy;
    C *const gathered = room.get(), *const delivered = gathered + rows * hidden, *const products = delivered + rows * hidden,
            *const activated = products + rows * 2 * ffn;
    plan.experts_of(part, [&](int64_t expert, int64_t begin, int64_t end) {
      const bool few_rows = end - begin <= kFewRows;
      const ExpertMatrix<T> first_matrix(gate_up + expert * hidden * 2 * ffn, hidden, 2 * ffn, few_rows, gate_up_copy);
      const ExpertMatrix<T> second_matrix(down + expert * ffn * hidden, ffn, hidden, few_rows, down_copy);
      in_blocks(begin, end, [&](int64_t first, int64_t count) {
        C* gate_up_rows = products;
        if constexpr (std::is_same_v<T, C>) gate_up_rows = inner ? inner + first * 2 * ffn : products;
        first_matrix.multiply(moves.gather(x, first, count, gathered), count, gate_up_rows);
        if constexpr (!std::is_same_v<T, C>) {
          if (inner) convert(gate_up_rows, count * 2 * ffn, inner + first * 2 * ffn);
        }
        for (int64_t i = 0; i < count; ++i)
          swiglu_row(gate_up_rows + i * 2 * ffn, weights[moves.slot(first + i)], ffn, activated + i * ffn);
        moves.deliver(first, count, delivered, out, into,
                      [&](C* rows_out) { second_matrix.multiply(activated, count, rows_out); });
      });
    });
  });
  if (slot_ids) sums.finish();
}

template <typename T>
void expert_ffn_backward(const ExpertShape& shape, const T* x, const compute_t<T>* weights, const int64_t* slot_ids,
                         const int64_t* tokens_per_expert, const T* gate_up, const T* down, const T* inner,
                         const T* grad_out, T* grad_x, compute_t<T>* grad_weights, T* grad_gate_up, T* grad_down) {
  using C = compute_t<T>;
  const int64_t hidden = shape.hidden, ffn = shape.ffn, gate_up_size = hidden * 2 * ffn, down_size = ffn * hidden;
  const Plan plan(shape, tokens_per_expert, slot_ids != nullptr);
  const Moves<T> moves{shape, slot_ids};
  TokenSums<T> sums(shape, slot_ids ? plan.parts : 1, grad_x);
  // The gradients of an expert whose rows two parts share: each part sums its own, and they are added up at the end. A part
  // shares its first and its last expert at most.
  struct Share {
    int64_t expert = -1;
    Scratch<C> sums;
  };
  std::vector<Share> shares(plan.parts * 2);
  plan.run([&](int64_t part) {
    C* const into = slot_ids ? sums.start(part) : nullptr;
    const int64_t rows = std::min(kBlockRows, plan.slots);
    Scratch<C> room(rows * (3 * hidden + 6 * ffn)), gate_up_copy, down_copy, grad_room;
    C *const gathered = room.get(), *const gathered_grad = gathered + rows * hidden,
            *const delivered = gathered_grad + rows * hidden, *const products = delivered + rows * hidden,
            *const grad_products = products + rows * 2 * ffn, *const activated = grad_products + rows * 2 * ffn,
            *const grad_activated = activated + rows * ffn;
    plan.experts_of(part, [&](int64_t expert, int64_t begin, int64_t end) {
      const C* const first_matrix = matrix(gate_up + expert * gate_up_size, gate_up_size, gate_up_copy);
      const C* const second_matrix = matrix(down + expert * down_size, down_size, down_copy);
      const bool shared = begin > plan.offsets[expert] || end < plan.offsets[expert + 1];
      C *grad_first, *grad_second;
      if (shared) {
        Share& share = shares[part * 2 + (shares[part * 2].expert >= 0)];
        share.expert = expert;
        grad_first = share.sums.reserve(gate_up_size + down_size);
        grad_second = grad_first + gate_up_size;
      } else if constexpr (std::is_same_v<T, C>) {
        grad_first = grad_gate_up + expert * gate_up_size;
        grad_second = grad_down + expert * down_size;
      } else {
        grad_first = grad_room.reserve(gate_up_size + down_size);
        grad_second = grad_first + gate_up_size;
      }
      in_blocks(begin, end, [&](int64_t first, int64_t count) {
        const C* const states = moves.gather(x, first, count, gathered);
        const C* const grads = moves.gather(grad_out, first, count, gathered_grad);
        const C* gate_up_rows = products;
        if constexpr (std::is_same_v<T, C>) {
          gate_up_rows = inner + first * 2 * ffn;
        } else {
          convert(inner + first * 2 * ffn, count * 2 * ffn, products);
        }
        mixed_gemm<C>(false, true, count, ffn, hidden, grads, hidden, second_matrix, hidden, false, grad_activated, ffn);
        for (int64_t i = 0; i < count; ++i) {
          const int64_t slot = moves.slot(first + i);
          grad_weights[slot] = swiglu_row_backward(gate_up_rows + i * 2 * ffn, weights[slot], grad_activated + i * ffn, ffn,
                                                   grad_products + i * 2 * ffn, activated + i * ffn);
        }
        const bool add = first > begin;
        mixed_gemm<C>(true, false, ffn, hidden, count, activated, ffn, grads, hidden, add, grad_second, hidden);
        mixed_gemm<C>(true, false, hidden, 2 * ffn, count, states, hidden, grad_products, 2 * ffn, add, grad_first, 2 * ffn);
        moves.deliver(first, count, delivered, grad_x, into, [&](C* rows_out) {
          mixed_gemm<C>(false, true, count, hidden, 2 * ffn, grad_products, 2 * ffn, first_matrix, 2 * ffn, false, rows_out, hidden);
        });
      });
      if constexpr (!std::is_same_v<T, C>) {
        if (!shared) {
          convert(grad_first, gate_up_size, grad_gate_up + expert * gate_up_size);
          convert(grad_second, down_size, grad_down + expert * down_size);
        }
      }
    });
  });
  if (slot_ids) sums.finish();
  for (size_t begin = 0, end; begin < shares.size(); begin = end) {
    const int64_t expert = shares[begin].expert;
    for (end = begin + 1; end < shares.size() && (shares[end].expert == expert || shares[end].expert < 0); ++end) {
    }
    if (expert < 0) continue;
    parallel_ranges(gate_up_size + down_size, (gate_up_size + down_size) * plan.parts, [&](int64_t first, int64_t last, int) {
      C* const total = shares[begin].sums.get();
      for (size_t other = begin + 1; other < end; ++other)
        if (shares[other].expert == expert) add(shares[other].sums.get() + first, last - first, total + first);
      const int64_t middle = std::clamp(gate_up_size, first, last);
      if (first < middle) convert(total + first, middle - first, grad_gate_up + expert * gate_up_size + first);
      if (last > middle) convert(total + middle, last - middle, grad_down + expert * down_size + (middle - gate_up_size));
    });
  }
  parallel_ranges(shape.experts, plan.work + gate_up_size, [&](int64_t begin, int64_t end, int) {
    for (int64_t expert = begin; expert < end; ++expert) {
      if (tokens_per_expert[expert]) continue;
      std::memset(static_cast<void*>(grad_gate_up + expert * gate_up_size), 0, gate_up_size * sizeof(T));
      std::memset(static_cast<void*>(grad_down + expert * down_size), 0, down_size * sizeof(T));
    }
  });
}

#define INSTANTIATE(T)                                                                                                     \
  template void expert_ffn_forward<T>(const ExpertShape&, const T*, const compute_t<T>*, const int64_t*, const int64_t*,   \
                                      const T*, const T*, T*, T*);                                                         \
  template void expert_ffn_backward<T>(const ExpertShape&, const T*, const compute_t<T>*, const int64_t*, const int64_t*,  \
                                       const T*, const T*, const T*, const T*, T*, compute_t<T>*, T*, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)

}  // namespace ernie5::cpu
