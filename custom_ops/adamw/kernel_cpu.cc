#include "adamw/kernel.h"

#include <algorithm>
#include <cmath>

#include "common/parallel.h"

namespace ernie5::cpu {
namespace {

constexpr int64_t kPiece = 1 << 16;  // numbers that one thread works on before it takes the next

struct Piece {
  int64_t tensor, begin, end;
};

std::vector<Piece> cut(const std::vector<int64_t>& counts) {
  std::vector<Piece> pieces;
  for (size_t tensor = 0; tensor < counts.size(); ++tensor)
    for (int64_t begin = 0; begin < counts[tensor]; begin += kPiece)
      pieces.push_back({static_cast<int64_t>(tensor), begin, std::min(begin + kPiece, counts[tensor])});
  return pieces;
}

// run(piece, its number) for every piece of every tensor, by whichever thread is free.
template <typename Run>
void for_pieces(const std::vector<Piece>& pieces, const Run& run) {
  int64_t work = 0;
  for (const Piece& piece : pieces) work += piece.end - piece.begin;
  parallel_items(static_cast<int64_t>(pieces.size()), work,
                 [&](int64_t index, int) { run(pieces[index], index); });
}

// a * b + c rounded once, as Paddle's kernel does; std::fma is one instruction only where the processor has it.
template <typename C>
inline C multiply_add(C a, C b, C c) {
#ifdef __FMA__
  return std::fma(a, b, c);
#else
  return a * b + c;
#endif
}

}  // namespace

template <typename T>
void adamw(const std::vector<AdamWTensor<T>>& tensors, const AdamWSettings& settings) {
  using C = compute_t<T>;
  const C rate = settings.learning_rate, beta1 = settings.beta1, beta2 = settings.beta2;
  const C rest1 = 1 - beta1, rest2 = 1 - beta2, decay = rate * C(settings.weight_decay);
  std::vector<int64_t> counts;
  for (const auto& tensor : tensors) counts.push_back(tensor.count);
  for_pieces(cut(counts), [&](const Piece& piece, int64_t) {
    const auto& tensor = tensors[piece.tensor];
    const C root = std::sqrt(1 - *tensor.beta2_power);
    const C step = -(rate * (root / (1 - *tensor.beta1_power))), epsilon = C(settings.epsilon) * root;
    C* const moment1 = tensor.moment1;
    C* const moment2 = tensor.moment2;
    const T* const gradient = tensor.gradient;
    T* const parameter = tensor.parameter;
    C* values;
    if constexpr (std::is_same_v<T, C>) values = tensor.parameter;
    else values = tensor.master;
#pragma omp simd
    for (int64_t i = piece.begin; i < piece.end; ++i) {
      const C g = gradient[i];
      const C first = multiply_add(beta1, moment1[i], rest1 * g);
      const C second = multiply_add(beta2, moment2[i], rest2 * (g * g));
      moment1[i] = first;
      moment2[i] = second;
      const C decayed = multiply_add(-decay, values[i], values[i]);
      values[i] = multiply_add(first / (std::sqrt(second) + epsilon), step, decayed);
      if constexpr (!std::is_same_v<T, C>) parameter[i] = T(values[i]);
    }
  });
  for (const auto& tensor : tensors) {
    *tensor.beta1_power *= beta1;
    *tensor.beta2_power *= beta2;
  }
}

template <typename T>
std::vector<double> sums_of_squares(const std::vector<const T*>& arrays, const std::vector<int64_t>& counts) {
  using C = compute_t<T>;
  constexpr int64_t kRun = 1024;  // summed in C; the runs' sums in double
  const auto pieces = cut(counts);
  std::vector<double> parts(pieces.size()), sums(arrays.size());
  for_pieces(pieces, [&](const Piece& piece, int64_t index) {
    const T* const array = arrays[piece.tensor];
    double sum = 0;
    for (int64_t begin = piece.begin; begin < piece.end; begin += kRun) {
      const int64_t end = std::min(begin + kRun, piece.end);
      C squares = 0;
#pragma omp simd reduction(+ : squares)
      for (int64_t i = begin; i < end; ++i) squares += C(array[i]) * C(array[i]);
      sum += squares;
    }
    parts[index] = sum;
  });
  for (size_t index = 0; index < pieces.size(); ++index) sums[pieces[index].tensor] += parts[index];
  return sums;
}

template <typename T>
void scale(const std::vector<T*>& arrays, const std::vector<int64_t>& counts, compute_t<T> factor) {
  using C = compute_t<T>;
  for_pieces(cut(counts), [&](const Piece& piece, int64_t) {
    T* const array = arrays[piece.tensor];
#pragma omp simd
    for (int64_t i = piece.begin; i < piece.end; ++i) array[i] = T(C(array[i]) * factor);
  });
}

#define INSTANTIATE(T)                                                                                          \
  template void adamw<T>(const std::vector<AdamWTensor<T>>&, const AdamWSettings&);                             \
  template std::vector<double> sums_of_squares<T>(const std::vector<const T*>&, const std::vector<int64_t>&);   \
  template void scale<T>(const std::vector<T*>&, const std::vector<int64_t>&, compute_t<T>);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)

}  // namespace ernie5::cpu
