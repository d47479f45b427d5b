// Cross-entropy of a linear head over a large vocabulary, whose logits are made a chunk of rows at a time and not kept.
#pragma once
#include <cstdint>

#include "common/bfloat16.h"

namespace ernie5::cpu {

struct HeadShape {
  int64_t rows, hidden, vocab;
  bool hidden_first;  // weight is [hidden, vocab], as of a linear layer; else [vocab, hidden], as of an embedding
};

// The sum over rows of row_weights * (log(sum of exp(logits)) - logits[label]), logits = x weight^T, and, where they are
// not null, its gradients. x, grad_x [rows, hidden]; weight, grad_weight as `shape` says; row_weights [rows]. Rows whose
// label is not in [0, vocab) cost nothing and are not worked on; their gradient is 0.
template <typename T>
compute_t<T> linear_cross_entropy(const T* x, const T* weight, const int64_t* labels, const float* row_weights,
                                  const HeadShape& shape, T* grad_x, T* grad_weight);

// out = grad * scale, `count` of them.
template <typename T>
void scale_gradient(const T* grad, compute_t<T> scale, int64_t count, T* out);

}  // namespace ernie5::cpu
