#include "swiglu/kernel.h"

#include "common/binding.h"

namespace ernie5 {
namespace {

constexpr char kOp[] = "swiglu", kPackedOp[] = "swiglu_packed";

std::vector<Tensor> swiglu(const Tensor& gate, const Tensor& up) {
  check_shape(gate, {-1, -1}, kOp, "gate");
  check_shape(up, gate.shape(), kOp, "up");
  check_dtype(up, gate.dtype(), kOp, "up");
  check_cpu(gate, kOp, "gate");
  const int64_t rows = gate.shape()[0], width = gate.shape()[1];
  auto y = paddle::empty(gate.shape(), gate.dtype(), gate.place());
  dispatch_float(gate.dtype(), kOp, [&](auto zero) {
    using T = decltype(zero);
    cpu::swiglu_forward<T>(data<T>(gate), data<T>(up), rows, width, width, data<T>(y));
  });
  return {y};
}
std::vector<Tensor> swiglu_grad(const Tensor& gate, const Tensor& up, const Tensor& grad_y) {
  const int64_t rows = gate.shape()[0], width = gate.shape()[1];
  auto grad_gate = paddle::empty(gate.shape(), gate.dtype(), gate.place());
  auto grad_up = paddle::empty(gate.shape(), gate.dtype(), gate.place());
  dispatch_float(gate.dtype(), kOp, [&](auto zero) {
    using T = decltype(zero);
    cpu::swiglu_backward<T>(data<T>(gate), data<T>(up), data<T>(grad_y), rows, width, width, data<T>(grad_gate),
                            data<T>(grad_up));
  });
  return {grad_gate, grad_up};
}
std::vector<Shape> infer_shape(const Shape& gate, const Shape&) { return {gate}; }
std::vector<DataType> infer_dtype(const DataType& gate, const DataType&) { return {gate}; }

std::vector<Tensor> swiglu_packed(const Tensor& x) {
  check_shape(x, {-1, -1}, kPackedOp, "x");
  const int64_t rows = x.shape()[0], width = x.shape()[1] / 2;
  PD_CHECK(x.shape()[1] == 2 * width, kPackedOp, ": x has shape ", to_string(x.shape()),
           ", but its last dim holds gate and up and must be even");
  check_cpu(x, kPackedOp, "x");
  auto y = paddle::empty({rows, width}, x.dtype(), x.place());
  dispatch_float(x.dtype(), kPackedOp, [&](auto zero) {
    using T = decltype(zero);
    cpu::swiglu_forward<T>(data<T>(x), data<T>(x) + width, rows, width, 2 * width, data<T>(y));
  });
  return {y};
}
std::vector<Tensor> swiglu_packed_grad(const Tensor& x, const Tensor& grad_y) {
  const int64_t rows = x.shape()[0], width = x.shape()[1] / 2;
  auto grad_x = paddle::empty(x.shape(), x.dtype(), x.place());
  dispatch_float(x.dtype(), kPackedOp, [&](auto zero) {
    using T = decltype(zero);
    cpu::swiglu_backward<T>(data<T>(x), data<T>(x) + width, data<T>(grad_y), rows, width, 2 * width, data<T>(grad_x),
                            data<T>(grad_x) + width);
  });
  return {grad_x};
}
std::vector<Shape> packed_infer_shape(const Shape& x) { return {{x[0], x[1] < 0 ? -1 : x[1] / 2}}; }
std::vector<DataType> packed_infer_dtype(const DataType& x) { return {x}; }

}  // namespace
}  // namespace ernie5

using namespace ernie5;  // NOLINT: Paddle's macros want the global namespace

PD_BUILD_OP(ernie5_swiglu)
    .Inputs({"Gate", "Up"})
    .Outputs({"Y"})
    .SetKernelFn(PD_KERNEL(swiglu))
    .SetInferShapeFn(PD_INFER_SHAPE(infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(infer_dtype));
PD_BUILD_GRAD_OP(ernie5_swiglu)
    .Inputs({"Gate", "Up", paddle::Grad("Y")})
    .Outputs({paddle::Grad("Gate"), paddle::Grad("Up")})
    .SetKernelFn(PD_KERNEL(swiglu_grad));

PD_BUILD_OP(ernie5_swiglu_packed)
    .Inputs({"X"})
    .Outputs({"Y"})
    .SetKernelFn(PD_KERNEL(swiglu_packed))
    .SetInferShapeFn(PD_INFER_SHAPE(packed_infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(packed_infer_dtype));
PD_BUILD_GRAD_OP(ernie5_swiglu_packed)
    .Inputs({"X", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X")})
    .SetKernelFn(PD_KERNEL(swiglu_packed_grad));
