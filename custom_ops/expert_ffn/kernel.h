// The experts' SwiGLU over ragged groups of rows: gate, up, weight and down, with the move to the experts and back or without.
#pragma once
#include <cstdint>

#include "common/bfloat16.h"

namespace ernie5::cpu {

struct ExpertShape {
  int64_t tokens, top_k, experts, hidden, ffn;
  int64_t slots() const { return tokens * top_k; }
};

// out = weight * down(silu(gate(x)) * up(x)) of each slot's expert. gate_up [experts, hidden, 2 * ffn] (gate first), down
// [experts, ffn, hidden], tokens_per_expert [experts] (sums to slots), inner [slots, 2 * ffn] in expert order: what the
// gradient needs of gate(x) and up(x), or null.
//   slot_ids null: x and out [slots, hidden] are in expert order, and so are the weights [slots].
//   slot_ids [slots]: the slot of each row in expert order; x [tokens, hidden], weights [tokens, top_k], and out
//   [tokens, hidden] is the sum over the choices of each token. Rows in expert order exist a block at a time only.
template <typename T>
void expert_ffn_forward(const ExpertShape& shape, const T* x, const compute_t<T>* weights, const int64_t* slot_ids,
                        const int64_t* tokens_per_expert, const T* gate_up, const T* down, T* inner, T* out);

// The gradients of all four inputs, by that of out. The matrices of an expert without tokens get zeros.
template <typename T>
void expert_ffn_backward(const ExpertShape& shape, const T* x, const compute_t<T>* weights, const int64_t* slot_ids,
                         const int64_t* tokens_per_expert, const T* gate_up, const T* down, const T* inner,
                         const T* grad_out, T* grad_x, compute_t<T>* grad_weights, T* grad_gate_up, T* grad_down);

}  // namespace ernie5::cpu
