#include "fuzz/call.h"
#include "rms_norm/kernel.h"

namespace {

template <typename T>
void run(ernie5::fuzz::Call& call) {
  using C = ernie5::compute_t<T>;
  const int64_t rows = call.size(0, 40), hidden = call.size(1, 140), count = rows * hidden;
  const bool adds = call.coin();
  const T *const x = call.input<T>(count), *const weight = call.input<T>(hidden);
  const T* const residual = adds ? call.input<T>(count) : nullptr;
  T* const sum = adds ? call.output<T>(count) : nullptr;
  C* const inverse = call.output<C>(rows);
  ernie5::cpu::rms_norm_forward<T>(x, residual, weight, rows, hidden, 1e-5f, sum, call.output<T>(count), inverse);
  ernie5::cpu::rms_norm_backward<T>(adds ? sum : x, weight, inverse, call.input<T>(count),
                                    adds ? call.input<T>(count) : nullptr, rows, hidden, call.output<T>(count),
                                    call.output<T>(hidden));
}

const ernie5::fuzz::Registered kRegistered("rms_norm", {run<float>, run<double>, run<ernie5::bfloat16>});

}  // namespace
