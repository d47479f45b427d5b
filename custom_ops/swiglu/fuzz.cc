#include "fuzz/call.h"
#include "swiglu/kernel.h"

namespace {

template <typename T>
void run(ernie5::fuzz::Call& call) {
  const int64_t rows = call.size(0, 30), width = call.size(1, 100);
  const bool packed = call.coin();
  const int64_t stride = packed ? 2 * width : width, count = rows * stride;
  const T* const gate = call.input<T>(count, 10);
  const T* const up = packed ? (rows ? gate + width : nullptr) : call.input<T>(count);
  ernie5::cpu::swiglu_forward<T>(gate, up, rows, width, stride, call.output<T>(rows * width));
  T* const grad_gate = call.output<T>(count);
  T* const grad_up = packed ? (rows ? grad_gate + width : nullptr) : call.output<T>(count);
  ernie5::cpu::swiglu_backward<T>(gate, up, call.input<T>(rows * width), rows, width, stride, grad_gate, grad_up);
}

const ernie5::fuzz::Registered kRegistered("swiglu", {run<float>, run<double>, run<ernie5::bfloat16>});

}  // namespace
