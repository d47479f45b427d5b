// The router of a mixture of experts: scores, the choice of experts, their weights and their load.
#pragma once
#include <cstdint>

namespace ernie5::cpu {

enum class Score { kSoftmax, kSigmoid };

// Below this sum the chosen scores are not renormalised.
constexpr double kSmallestSum = 1e-12;

// scores = score(logits + mask); ids: the top_k experts of each token by scores + bias + mask, highest first, of equal ones
// the lowest id first; weights = chosen scores / max(totals, kSmallestSum) * scaling, totals: the sum of the chosen scores.
// logits [tokens, experts]; bias, mask [experts]; ids, weights [tokens, top_k]; totals [tokens]; tokens_per_expert [experts].
template <typename T>
void router_forward(const T* logits, const T* bias, const T* mask, int64_t tokens, int64_t experts, int64_t top_k,
                    Score score, double scaling, int64_t* ids, T* weights, T* totals, int64_t* tokens_per_expert);

// The gradient of the logits, by that of the weights; the choice takes none, nor do bias and mask.
template <typename T>
void router_backward(const T* logits, const T* mask, const int64_t* ids, const T* weights, const T* totals,
                     const T* grad_weights, int64_t tokens, int64_t experts, int64_t top_k, Score score, double scaling,
                     T* grad_logits);

}  // namespace ernie5::cpu
