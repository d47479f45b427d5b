// AdamW over many tensors at once, and the sum of their squares.
#pragma once
#include <cstdint>
#include <vector>

#include "common/bfloat16.h"

namespace ernie5::cpu {

// One parameter of T with its state; C is compute_t<T>. T bfloat16 has a master copy, which is what is updated.
template <typename T>
struct AdamWTensor {
  using C = compute_t<T>;
  T* parameter;
  const T* gradient;
  C *master, *moment1, *moment2;  // master: null where T is C
  C *beta1_power, *beta2_power;   // beta^step, of the step that comes; one each
  int64_t count;
};

struct AdamWSettings {
  float learning_rate, beta1, beta2, epsilon, weight_decay;
};

// One step of every tensor, in the order of operations of Paddle's own kernel: decay, moments, update, powers.
template <typename T>
void adamw(const std::vector<AdamWTensor<T>>& tensors, const AdamWSettings& settings);

// The sum of squares of each array in double, cut in fixed parts: the same bits on any number of threads.
template <typename T>
std::vector<double> sums_of_squares(const std::vector<const T*>& arrays, const std::vector<int64_t>& counts);

// Every array times `factor`, in place.
template <typename T>
void scale(const std::vector<T*>& arrays, const std::vector<int64_t>& counts, compute_t<T> factor);

}  // namespace ernie5::cpu
