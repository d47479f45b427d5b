#include "fuzz/call.h"
#include "router/kernel.h"

namespace {

template <typename T>
void run(ernie5::fuzz::Call& call) {
  using ernie5::cpu::Score;
  const int64_t tokens = call.size(0, 40), experts = call.size(1, 130),
                top_k = call.size(1, std::min<int64_t>(experts, 9));
  const Score score = call.coin() ? Score::kSoftmax : Score::kSigmoid;
  const int64_t slots = tokens * top_k;
  const T *const logits = call.input<T>(tokens * experts, call.coin() ? 3 : 0), *const bias =
                                                                                    call.input<T>(experts, 0.1);
  T* const mask = call.input<T>(experts, 0);
  for (int64_t gone = call.between(0, experts - top_k); gone > 0; --gone)
    mask[gone] = -std::numeric_limits<T>::infinity();
  int64_t* const ids = call.integers<int64_t>(slots, -1, -1);
  T *const weights = call.output<T>(slots), *const totals = call.output<T>(tokens);
  int64_t* const loads = call.integers<int64_t>(experts, -1, -1);
  ernie5::cpu::router_forward<T>(logits, bias, mask, tokens, experts, top_k, score, 1.5, ids, weights, totals, loads);
  for (int64_t slot = 0; slot < slots; ++slot)
    if (ids[slot] < 0 || ids[slot] >= experts) call.fail("no such expert", ids[slot]);
  for (int64_t expert = 0; expert < experts; ++expert)
    if (loads[expert] < 0 || loads[expert] > tokens) call.fail("no such load", loads[expert]);
  ernie5::cpu::router_backward<T>(logits, mask, ids, weights, totals, call.input<T>(slots), tokens, experts, top_k,
                                  score, 1.5, call.output<T>(tokens * experts));
}

const ernie5::fuzz::Registered kRegistered("router", {run<float>, run<double>});

}  // namespace
