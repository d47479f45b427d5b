#include "cross_entropy/kernel.h"
#include "fuzz/call.h"

namespace {

template <typename T>
void run(ernie5::fuzz::Call& call) {
  using C = ernie5::compute_t<T>;
  const int64_t rows = call.coin() ? call.size(0, 40) : call.pick({255, 257, 513});  // around a chunk
  const ernie5::cpu::HeadShape shape{rows, call.size(1, 20), call.size(1, 60), call.coin()};
  const bool trains_x = call.coin(), trains_weight = call.coin();
  const int64_t count = rows * shape.hidden, weights = shape.vocab * shape.hidden;
  const int64_t lowest = call.coin() ? 0 : -2;  // some ignored
  T* const grad_x = trains_x ? call.output<T>(count) : nullptr;
  T* const grad_weight = trains_weight ? call.output<T>(weights) : nullptr;
  const C loss = ernie5::cpu::linear_cross_entropy<T>(call.input<T>(count), call.input<T>(weights),
                                                      call.integers<int64_t>(rows, lowest, shape.vocab - 1),
                                                      call.input<float>(rows), shape, grad_x, grad_weight);
  if (!std::isfinite(static_cast<double>(loss))) call.fail("the loss is not finite", 0);
  if (trains_x) ernie5::cpu::scale_gradient<T>(grad_x, C(0.5), count, call.output<T>(count));
}

const ernie5::fuzz::Registered kRegistered("cross_entropy", {run<float>, run<double>, run<ernie5::bfloat16>});

}  // namespace
