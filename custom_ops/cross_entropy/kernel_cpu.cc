#include "cross_entropy/kernel.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "common/elementary.h"
#include "common/gemm.h"
#include "common/parallel.h"

namespace ernie5::cpu {
namespace {

// Rows of a chunk. More make the product that sums the weight's gradient read and write that sum less often.
constexpr int64_t kMostRows = 512, kFewestRows = 256;
constexpr int64_t kChunkLogits = 1 << 22;  // 16 MiB of float

template <typename C>
using Buffer = std::unique_ptr<C[]>;  // not initialised

template <typename C>
Buffer<C> allocate(int64_t count) {
  return Buffer<C>(new C[static_cast<size_t>(count)]);
}

template <typename From, typename To>
void convert_shared(const From* from, int64_t count, To* to) {
  parallel_ranges(count, count, [&](int64_t begin, int64_t end, int) { convert(from + begin, end - begin, to + begin); });
}

// The numbers in the type of the products: the same ones, or a copy that `buffer` owns.
template <typename C, typename T>
const C* as_compute(const T* numbers, int64_t count, Buffer<C>& buffer) {
  if constexpr (std::is_same_v<T, C>) {
    return numbers;
  } else {
    buffer = allocate<C>(count);
    convert_shared(numbers, count, buffer.get());
    return buffer.get();
  }
}

// One row of logits: returns the loss, and turns the logits into its gradient if that is wanted.
template <typename C>
C loss_of_row(C* logits, int64_t vocab, int64_t label, C weight, bool with_gradient) {
  C highest = logits[0];
#pragma omp simd reduction(max : highest)
  for (int64_t i = 0; i < vocab; ++i) highest = logits[i] > highest ? logits[i] : highest;
  const C chosen = logits[label] - highest;
  C total = 0;
  if (!with_gradient) {
#pragma omp simd reduction(+ : total)
    for (int64_t i = 0; i < vocab; ++i) total += vector_exp(logits[i] - highest);
    return weight * (std::log(total) - chosen);
  }
#pragma omp simd reduction(+ : total)
  for (int64_t i = 0; i < vocab; ++i) {
    logits[i] = vector_exp(logits[i] - highest);
    total += logits[i];
  }
  const C share = weight / total;
#pragma omp simd
  for (int64_t i = 0; i < vocab; ++i) logits[i] *= share;
  logits[label] -= weight;
  return weight * (std::log(total) - chosen);
}

}  // namespace

template <typename T>
compute_t<T> linear_cross_entropy(const T* x, const T* weight, const int64_t* labels, const float* row_weights,
                                  const HeadShape& shape, T* grad_x, T* grad_weight) {
  using C = compute_t<T>;
  const auto [rows, hidden, vocab, hidden_first] = shape;
  std::vector<int64_t> kept;
  for (int64_t row = 0; row < rows; ++row)
    if (labels[row] >= 0 && labels[row] < vocab) kept.push_back(row);
  if (grad_x) std::fill_n(grad_x, rows * hidden, T(C(0)));
  const int64_t count = static_cast<int64_t>(kept.size());
  if (count == 0) {
    if (grad_weight) std::fill_n(grad_weight, vocab * hidden, T(C(0)));
    return 0;
  }
  const int64_t chunk = std::min(count, std::clamp(kChunkLogits / vocab, kFewestRows, kMostRows));
  const auto logits = allocate<C>(chunk * vocab), inputs = allocate<C>(chunk * hidden), grads = allocate<C>(chunk * hidden);
  Buffer<C> copied, summed;
  const C* const matrix = as_compute<C>(weight, vocab * hidden, copied);
  C* sum = nullptr;  // the weight's gradient
  if constexpr (std::is_same_v<T, C>) {
    sum = grad_weight;
  } else if (grad_weight) {
    summed = allocate<C>(vocab * hidden);
    sum = summed.get();
  }
  const int64_t stride = hidden_first ? vocab : hidden;
  std::vector<C> losses(static_cast<size_t>(count));
  for (int64_t first = 0; first < count; first += chunk) {
    const int64_t size = std::min(chunk, count - first);
    const int64_t* const places = kept.data() + first;
    parallel_ranges(size, size * hidden, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t j = 0; j < hidden; ++j) inputs[i * hidden + j] = C(x[places[i] * hidden + j]);
    });
    mixed_gemm<C>(false, !hidden_first, size, vocab, hidden, inputs.get(), hidden, matrix, stride, false, logits.get(), vocab);
    parallel_ranges(size, size * vocab, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        losses[first + i] = loss_of_row(logits.get() + i * vocab, vocab, labels[places[i]], C(row_weights[places[i]]),
                                        grad_x || grad_weight);
    });
    const bool add = first > 0;  // the first product sets the sum, the others add to it
    if (sum && hidden_first)
      mixed_gemm<C>(true, false, hidden, vocab, size, inputs.get(), hidden, logits.get(), vocab, add, sum, vocab);
    else if (sum)
      mixed_gemm<C>(true, false, vocab, hidden, size, logits.get(), vocab, inputs.get(), hidden, add, sum, hidden);
    if (!grad_x) continue;
    mixed_gemm<C>(false, hidden_first, size, hidden, vocab, logits.get(), vocab, matrix, stride, false, grads.get(), hidden);
    parallel_ranges(size, size * hidden, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        for (int64_t j = 0; j < hidden; ++j) grad_x[places[i] * hidden + j] = T(grads[i * hidden + j]);
    });
  }
  if constexpr (!std::is_same_v<T, C>)
    if (grad_weight) convert_shared(sum, vocab * hidden, grad_weight);
  double total = 0;
  for (const C loss : losses) total += loss;
  return C(total);
}

template <typename T>
void scale_gradient(const T* grad, compute_t<T> scale, int64_t count, T* out) {
  using C = compute_t<T>;
  parallel_ranges(count, count, [&](int64_t begin, int64_t end, int) {
#pragma omp simd
    for (int64_t i = begin; i < end; ++i) out[i] = T(C(grad[i]) * scale);
  });
}

#define INSTANTIATE(T)                                                                                              \
  template compute_t<T> linear_cross_entropy<T>(const T*, const T*, const int64_t*, const float*, const HeadShape&, \
                                                T*, T*);                                                            \
  template void scale_gradient<T>(const T*, compute_t<T>, int64_t, T*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)

}  // namespace ernie5::cpu
