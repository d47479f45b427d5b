// Moving tokens to their experts and back. A slot is a (token, choice): slot = token * top_k + choice.
#pragma once
#include <cstdint>

#include "common/bfloat16.h"

namespace ernie5::cpu {

// Rows that the slots take in expert order: alignment > 1 leaves room for every group to begin at a multiple of it.
inline int64_t sorted_rows(int64_t slots, int64_t experts, int64_t alignment) {
  return slots + experts * (alignment - 1);
}

// A stable counting sort. topk_ids [slots] -> row_ids [slots]: the row of each slot; slot_ids and token_ids [rows]: the
// slot and the token of each row, -1 where alignment left one free; tokens_per_expert [experts]. token_ids may be null.
// Returns whether every id is one of the experts; if not, the outputs are not written.
bool sort_by_expert(const int64_t* topk_ids, int64_t slots, int64_t top_k, int64_t experts, int64_t alignment,
                    int64_t* token_ids, int64_t* slot_ids, int64_t* row_ids, int64_t* tokens_per_expert);

// Whether all of ids [count] are in [lowest, end).
bool all_within(const int64_t* ids, int64_t count, int64_t lowest, int64_t end);

// rows[row] = x[token_ids[row]], zeros where that is -1. x [tokens, hidden], rows [num_rows, hidden].
template <typename T>
void moe_permute(const T* x, const int64_t* token_ids, int64_t num_rows, int64_t hidden, T* rows);

// out[token] = sum over its choices of weight * rows[row], in the order of the choices. rows [num_rows, hidden], row_ids and
// weights [tokens, top_k], out [tokens, hidden]; weights null: 1.
template <typename T>
void moe_unpermute(const T* rows, const int64_t* row_ids, const compute_t<T>* weights, int64_t tokens, int64_t top_k,
                   int64_t hidden, T* out);

// Gradients of the weighted sum: grad_rows[row] = weight * grad_out[token], grad_weights = grad_out[token] . rows[row].
// Rows that no slot has are zeroed by the caller.
template <typename T>
void moe_unpermute_backward(const T* rows, const int64_t* row_ids, const compute_t<T>* weights, const T* grad_out,
                            int64_t tokens, int64_t top_k, int64_t hidden, T* grad_rows, compute_t<T>* grad_weights);

}  // namespace ernie5::cpu
