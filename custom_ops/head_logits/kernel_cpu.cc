#include "head_logits/kernel.h"

#include "common/few_rows.h"
#include "common/parallel.h"
#include "common/scratch.h"

namespace ernie5::cpu {
namespace {

constexpr int64_t kPart = 256;  // columns that a thread takes at once

template <typename C, typename T>
void product(const C* x, const T* weight, int64_t rows, int64_t hidden, int64_t vocab, bool hidden_first, C* logits) {
  const int64_t parts = (vocab + kPart - 1) / kPart;
  parallel_ranges(parts, vocab * hidden, [&](int64_t first, int64_t last, int) {
    const int64_t begin = first * kPart, count = std::min(last * kPart, vocab) - begin;
    if (hidden_first)
      columns_product(x, hidden, weight + begin, vocab, rows, count, hidden, logits + begin, vocab);
    else
      transposed_product(x, hidden, weight + begin * hidden, hidden, rows, count, hidden, logits + begin, vocab);
  });
}

}  // namespace

template <typename T>
void head_logits(const T* x, const T* weight, int64_t rows, int64_t hidden, int64_t vocab, bool hidden_first, T* logits) {
  using C = compute_t<T>;
  if constexpr (std::is_same_v<T, C>) {
    product(x, weight, rows, hidden, vocab, hidden_first, logits);
  } else {
    Scratch<C> room(rows * (hidden + vocab));
    C* const wide = room.get() + rows * hidden;
    convert(x, rows * hidden, room.get());
    product(room.get(), weight, rows, hidden, vocab, hidden_first, wide);
    convert(wide, rows * vocab, logits);
  }
}

template void head_logits<float>(const float*, const float*, int64_t, int64_t, int64_t, bool, float*);
template void head_logits<double>(const double*, const double*, int64_t, int64_t, int64_t, bool, double*);
template void head_logits<bfloat16>(const bfloat16*, const bfloat16*, int64_t, int64_t, int64_t, bool, bfloat16*);

}  // namespace ernie5::cpu
