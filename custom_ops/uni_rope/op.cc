#include "uni_rope/kernel.h"

#include "common/binding.h"

namespace ernie5 {
namespace {

constexpr char kOp[] = "uni_rope";

std::vector<Tensor> turn(const Tensor& states, const Tensor& cos, const Tensor& sin, bool back) {
  check_shape(states, {-1, -1, -1, -1}, kOp, "states");
  const Shape shape = states.shape();
  const int64_t tokens = shape[0] * shape[1], heads = shape[2], pairs = shape[3] / 2;
  PD_CHECK(shape[3] == 2 * pairs, kOp, ": states has shape ", to_string(shape),
           ", but its last dim is made of pairs and must be even");
  const bool is_shared = !cos.shape().empty() && cos.shape()[0] == 1;  // by the whole batch
  const int64_t batch = is_shared ? 1 : shape[0];
  check_shape(cos, {batch, shape[1], 1, pairs}, kOp, "cos");
  check_shape(sin, {batch, shape[1], 1, pairs}, kOp, "sin");
  check_dtype(cos, DataType::FLOAT32, kOp, "cos");
  check_dtype(sin, DataType::FLOAT32, kOp, "sin");
  check_place({&states, &cos, &sin}, kOp);
  auto out = paddle::empty(shape, states.dtype(), states.place());
  if constexpr (kHasCuda)
    if (is_gpu(states)) {
      check_launch(e5_uni_rope(gpu_dtype(states, kOp), data<void>(states), data<void>(cos), data<void>(sin), tokens,
                               batch * shape[1], heads, pairs, back, data<void>(out), stream_of(states)),
                   kOp);
      return {out};
    }
  dispatch_float(states.dtype(), kOp, [&](auto zero) {
    using T = decltype(zero);
    cpu::uni_rope<T>(data<T>(states), data<float>(cos), data<float>(sin), tokens, batch * shape[1], heads, pairs, back,
                     data<T>(out));
  });
  return {out};
}

std::vector<Tensor> forward(const Tensor& states, const Tensor& cos, const Tensor& sin) {
  return turn(states, cos, sin, false);
}
std::vector<Tensor> backward(const Tensor& cos, const Tensor& sin, const Tensor& grad) {
  return turn(grad, cos, sin, true);
}
std::vector<Shape> infer_shape(const Shape& states, const Shape&, const Shape&) { return {states}; }
std::vector<DataType> infer_dtype(const DataType& states, const DataType&, const DataType&) { return {states}; }
std::vector<Shape> grad_infer_shape(const Shape&, const Shape&, const Shape& grad) { return {grad}; }
std::vector<DataType> grad_infer_dtype(const DataType&, const DataType&, const DataType& grad) { return {grad}; }

}  // namespace
}  // namespace ernie5

using namespace ernie5;  // NOLINT: Paddle's macros want the global namespace

// The gradient of a turn is the turn back; the angles have none.
PD_BUILD_OP(ernie5_uni_rope)
    .Inputs({"States", "Cos", "Sin"})
    .Outputs({"Turned"})
    .SetKernelFn(PD_KERNEL(forward))
    .SetInferShapeFn(PD_INFER_SHAPE(infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(infer_dtype));
PD_BUILD_GRAD_OP(ernie5_uni_rope)
    .Inputs({"Cos", "Sin", paddle::Grad("Turned")})
    .Outputs({paddle::Grad("States")})
    .SetKernelFn(PD_KERNEL(backward))
    .SetInferShapeFn(PD_INFER_SHAPE(grad_infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(grad_infer_dtype));
