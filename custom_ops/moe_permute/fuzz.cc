#include "fuzz/call.h"
#include "moe_permute/kernel.h"

namespace {

template <typename T>
void run(ernie5::fuzz::Call& call) {
  using namespace ernie5::cpu;
  using C = ernie5::compute_t<T>;
  const int64_t tokens = call.size(0, 60), top_k = call.size(1, 6), experts = call.size(1, 20),
                hidden = call.size(1, 70);
  const int64_t alignment = call.pick({1, 1, 4, 16}), slots = tokens * top_k,
                rows = sorted_rows(slots, experts, alignment);
  const int64_t used = call.between(0, experts - 1);  // the experts above have no tokens
  int64_t* const ids = call.integers<int64_t>(slots, 0, used);
  int64_t *const token_ids = call.integers<int64_t>(rows), *const slot_ids = call.integers<int64_t>(rows);
  int64_t *const row_ids = call.integers<int64_t>(slots), *const loads = call.integers<int64_t>(experts);
  if (!sort_by_expert(ids, slots, top_k, experts, alignment, token_ids, slot_ids, row_ids, loads))
    call.fail("not sorted", 0);
  if (!all_within(token_ids, rows, -1, tokens) || !all_within(row_ids, slots, 0, rows))
    call.fail("ids out of range", 0);
  moe_permute<T>(call.input<T>(tokens * hidden), token_ids, rows, hidden, call.output<T>(rows * hidden));
  const T* const moved = call.input<T>(rows * hidden);
  const C* const weights = call.input<C>(slots);
  moe_unpermute<T>(moved, row_ids, call.coin() ? weights : nullptr, tokens, top_k, hidden,
                   call.output<T>(tokens * hidden));
  moe_unpermute_backward<T>(moved, row_ids, weights, call.input<T>(tokens * hidden), tokens, top_k, hidden,
                            call.input<T>(rows * hidden), call.output<C>(slots));
  if (slots == 0) return;
  ids[call.between(0, slots - 1)] = experts;
  if (sort_by_expert(ids, slots, top_k, experts, alignment, token_ids, slot_ids, row_ids, loads))
    call.fail("no such expert", 0);
}

const ernie5::fuzz::Registered kRegistered("moe_permute", {run<float>, run<double>, run<ernie5::bfloat16>});

}  // namespace
