#include "expert_ffn/kernel.h"
#include "fuzz/call.h"
#include "moe_permute/kernel.h"

namespace {

template <typename T>
void run(ernie5::fuzz::Call& call) {
  using C = ernie5::compute_t<T>;
  const ernie5::cpu::ExpertShape shape{call.size(0, 50), call.size(1, 4), call.size(1, 8), call.size(1, 40),
                                       call.size(1, 40)};
  const int64_t slots = shape.slots(), used = call.between(0, shape.experts - 1);
  const bool moves = call.coin();
  int64_t *const slot_ids = call.integers<int64_t>(slots), *const loads = call.integers<int64_t>(shape.experts);
  ernie5::cpu::sort_by_expert(call.integers<int64_t>(slots, 0, used), slots, shape.top_k, shape.experts, 1, nullptr,
                              slot_ids, call.integers<int64_t>(slots), loads);
  const int64_t count = (moves ? shape.tokens : slots) * shape.hidden,
                matrices = shape.experts * shape.hidden * shape.ffn;
  const int64_t* const ids = moves ? slot_ids : nullptr;
  const T *const x = call.input<T>(count), *const gate_up = call.input<T>(2 * matrices, 0.1);
  const T* const down = call.input<T>(matrices, 0.1);
  const C* const weights = call.input<C>(slots);
  T* const inner = call.output<T>(slots * 2 * shape.ffn);
  ernie5::cpu::expert_ffn_forward<T>(shape, x, weights, ids, loads, gate_up, down, inner, call.output<T>(count));
  ernie5::cpu::expert_ffn_forward<T>(shape, x, weights, ids, loads, gate_up, down, nullptr, call.output<T>(count));
  ernie5::cpu::expert_ffn_backward<T>(shape, x, weights, ids, loads, gate_up, down, inner, call.input<T>(count),
                                      call.output<T>(count), call.output<C>(slots), call.output<T>(2 * matrices),
                                      call.output<T>(matrices));
}

const ernie5::fuzz::Registered kRegistered("expert_ffn", {run<float>, run<double>, run<ernie5::bfloat16>});

}  // namespace
