#include "bitwise_cross_entropy/kernel.h"
#include "fuzz/call.h"

namespace {

template <typename T>
void run(ernie5::fuzz::Call& call) {
  using C = ernie5::compute_t<T>;
  const int64_t rows = call.size(0, 60), bits = call.size(1, 70), stride = bits + call.size(0, 9);
  const bool trains = call.coin();
  T* const grad = trains ? call.output<T>(rows * stride) : nullptr;
  const C loss = ernie5::cpu::bitwise_cross_entropy<T>(call.input<T>(rows * stride, 20), call.input<C>(rows * bits),
                                                       call.input<float>(rows), rows, bits, stride, grad);
  if (!std::isfinite(static_cast<double>(loss))) call.fail("the loss is not finite", 0);
  if (trains) ernie5::cpu::scale_bits<T>(grad, C(0.5), rows * stride, call.output<T>(rows * stride));
}

const ernie5::fuzz::Registered kRegistered("bitwise_cross_entropy", {run<float>, run<double>, run<ernie5::bfloat16>});

}  // namespace
