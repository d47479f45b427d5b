#include "fuzz/call.h"
#include "uni_rope/kernel.h"

namespace {

template <typename T>
void run(ernie5::fuzz::Call& call) {
  const int64_t angles = call.size(1, 20), tokens = angles * call.size(0, 3), heads = call.size(1, 5);
  const int64_t pairs = call.size(1, 70), count = tokens * heads * 2 * pairs;
  ernie5::cpu::uni_rope<T>(call.input<T>(count), call.input<float>(angles * pairs), call.input<float>(angles * pairs),
                           tokens, angles, heads, pairs, call.coin(), call.output<T>(count));
}

const ernie5::fuzz::Registered kRegistered("uni_rope", {run<float>, run<double>, run<ernie5::bfloat16>});

}  // namespace
