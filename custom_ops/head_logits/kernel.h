// Logits of a head over a large vocabulary for the few rows of a decoding step.
#pragma once
#include <cstdint>

#include "common/bfloat16.h"

namespace ernie5::cpu {

// logits [rows, vocab] = x [rows, hidden] weight^T, weight [vocab, hidden] as an embedding's, or [hidden, vocab] where
// `hidden_first`. The weight is read once, as it lies; sums are in compute_t<T>.
template <typename T>
void head_logits(const T* x, const T* weight, int64_t rows, int64_t hidden, int64_t vocab, bool hidden_first, T* logits);

}  // namespace ernie5::cpu
