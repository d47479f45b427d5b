#include "fuzz/call.h"
#include "head_logits/kernel.h"

namespace {

template <typename T>
void run(ernie5::fuzz::Call& call) {
  const int64_t rows = call.size(0, 14), hidden = call.size(1, 70), vocab = call.size(1, 300);
  ernie5::cpu::head_logits<T>(call.input<T>(rows * hidden), call.input<T>(vocab * hidden), rows, hidden, vocab,
                              call.coin(), call.output<T>(rows * vocab));
}

const ernie5::fuzz::Registered kRegistered("head_logits", {run<float>, run<double>, run<ernie5::bfloat16>});

}  // namespace
