#include "swiglu/kernel.h"

#include "common/binding.h"

namespace ernie5 {
namespace {

constexpr char kOp[] = "swiglu", kPackedOp[] = "swiglu_packed";

// gate and up of `rows` rows, `width` wide, that begin `stride` apart, in memory like that of `x`.
void run_forward(const char* op, const Tensor& x, const void* gate, const void* up, int64_t rows, int64_t width,
                 int64_t stride, Tensor& y) {  // NOLINT
  if constexpr (kHasCuda)
    if (is_gpu(x)) {
      check_launch(e5_swiglu_forward(gpu_dtype(x, op), gate, up, nullptr, rows, width, stride, data<void>(y), stream_of(x)),
                   op);
      return;
    }
  dispatch_float(x.dtype(), op, [&](auto zero) {
    using T = decltype(zero);
    cpu::swiglu_forward<T>(static_cast<const T*>(gate), static_cast<const T*>(up), rows, width, stride, data<T>(y));
  });
}
void run_backward(const char* op, const void* gate, const void* up, const Tensor& grad_y, int64_t rows, int64_t width,
                  int64_t stride, void* grad_gate, void* grad_up) {
  if constexpr (kHasCuda)
    if (is_gpu(grad_y)) {
      check_launch(e5_swiglu_backward(gpu_dtype(grad_y, op), gate, up, nullptr, data<void>(grad_y), rows, width, stride,
                                      grad_gate, grad_up, nullptr, stream_of(grad_y)),
                   op);
      return;
    }
  dispatch_float(grad_y.dtype(), op, [&](auto zero) {
    using T = decltype(zero);
    cpu::swiglu_backward<T>(static_cast<const T*>(gate), static_cast<const T*>(up), data<T>(grad_y), rows, width, stride,
                            static_cast<T*>(grad_gate), static_cast<T*>(grad_up));
  });
}

std::vector<Tensor> swiglu(const Tensor& gate, const Tensor& up) {
  check_shape(gate, {-1, -1}, kOp, "gate");
  check_shape(up, gate.shape(), kOp, "up");
  check_dtype(up, gate.dtype(), kOp, "up");
  check_place({&gate, &up}, kOp);
  const int64_t rows = gate.shape()[0], width = gate.shape()[1];
  auto y = paddle::empty(gate.shape(), gate.dtype(), gate.place());
  run_forward(kOp, gate, data<void>(gate), data<void>(up), rows, width, width, y);
  return {y};
}
std::vector<Tensor> swiglu_grad(const Tensor& gate, const Tensor& up, const Tensor& grad_y) {
  const int64_t rows = gate.shape()[0], width = gate.shape()[1];
  auto grad_gate = paddle::empty(gate.shape(), gate.dtype(), gate.place());
  auto grad_up = paddle::empty(gate.shape(), gate.dtype(), gate.place());
  run_backward(kOp, data<void>(gate), data<void>(up), grad_y, rows, width, width, data<void>(grad_gate),
               data<void>(grad_up));
  return {grad_gate, grad_up};
}
std::vector<Shape> infer_shape(const Shape& gate, const Shape&) { return {gate}; }
std::vector<DataType> infer_dtype(const DataType& gate, const DataType&) { return {gate}; }

// Where the second half of a row of x begins.
const void* second_half(const Tensor& x) {
  return data<char>(x) + x.shape()[1] / 2 * static_cast<int64_t>(phi::SizeOf(x.dtype()));
}
std::vector<Tensor> swiglu_packed(const Tensor& x) {
  check_shape(x, {-1, -1}, kPackedOp, "x");
  const int64_t rows = x.shape()[0], width = x.shape()[1] / 2;
  PD_CHECK(x.shape()[1] == 2 * width, kPackedOp, ": x has shape ", to_string(x.shape()),
           ", but its last dim holds gate and up and must be even");
  check_place({&x}, kPackedOp);
  auto y = paddle::empty({rows, width}, x.dtype(), x.place());
  run_forward(kPackedOp, x, data<void>(x), second_half(x), rows, width, 2 * width, y);
  return {y};
}
std::vector<Tensor> swiglu_packed_grad(const Tensor& x, const Tensor& grad_y) {
  const int64_t rows = x.shape()[0], width = x.shape()[1] / 2;
  auto grad_x = paddle::empty(x.shape(), x.dtype(), x.place());
  run_backward(kPackedOp, data<void>(x), second_half(x), grad_y, rows, width, 2 * width, data<void>(grad_x),
               const_cast<void*>(second_half(grad_x)));
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
