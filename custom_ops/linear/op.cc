// A linear map whose products may be in bfloat16: gemm.h does the work, so there is no kernel of its own.
#include "common/binding.h"
#include "common/gemm.h"

namespace ernie5 {
namespace {

constexpr char kOp[] = "linear";

// run(T{}) in float or double.
template <typename Run>
void dispatch(DataType dtype, const Run& run) {
  if (dtype == DataType::FLOAT32) return run(float{});
  if (dtype == DataType::FLOAT64) return run(double{});
  PD_THROW(kOp, ": dtype ", phi::DataTypeToString(dtype), " has no kernel: use float32 or float64");
}

void check(const Tensor& x, const Tensor& weight) {
  check_cpu(x, kOp, "x");
  check_shape(x, {-1, -1}, kOp, "x");
  check_shape(weight, {x.shape()[1], -1}, kOp, "weight");
  check_dtype(weight, x.dtype(), kOp, "weight");
}

std::vector<Tensor> linear(const Tensor& x, const Tensor& weight) {
  check(x, weight);
  const int64_t rows = x.shape()[0], in = x.shape()[1], out = weight.shape()[1];
  auto y = paddle::empty({rows, out}, x.dtype(), x.place());
  dispatch(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    cpu::mixed_gemm<T>(false, false, rows, out, in, data<T>(x), in, data<T>(weight), out, false, data<T>(y), out);
  });
  return {y};
}

// grad_x = grad_y weight^T, grad_weight = x^T grad_y.
std::vector<Tensor> linear_grad(const Tensor& x, const Tensor& weight, const Tensor& grad_y) {
  const int64_t rows = x.shape()[0], in = x.shape()[1], out = weight.shape()[1];
  auto grad_x = paddle::empty(x.shape(), x.dtype(), x.place());
  auto grad_weight = paddle::empty(weight.shape(), x.dtype(), x.place());
  dispatch(x.dtype(), [&](auto zero) {
    using T = decltype(zero);
    cpu::mixed_gemm<T>(false, true, rows, in, out, data<T>(grad_y), out, data<T>(weight), out, false, data<T>(grad_x), in);
    cpu::mixed_gemm<T>(true, false, in, out, rows, data<T>(x), in, data<T>(grad_y), out, false, data<T>(grad_weight), out);
  });
  return {grad_x, grad_weight};
}

std::vector<Shape> infer_shape(const Shape& x, const Shape& weight) { return {{x[0], weight[1]}}; }
std::vector<DataType> infer_dtype(const DataType& x, const DataType&) { return {x}; }

}  // namespace
}  // namespace ernie5

using namespace ernie5;  // NOLINT: Paddle's macros want the global namespace

PD_BUILD_OP(ernie5_linear)
    .Inputs({"X", "Weight"})
    .Outputs({"Y"})
    .SetKernelFn(PD_KERNEL(linear))
    .SetInferShapeFn(PD_INFER_SHAPE(infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(infer_dtype));
PD_BUILD_GRAD_OP(ernie5_linear)
    .Inputs({"X", "Weight", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Weight")})
    .SetKernelFn(PD_KERNEL(linear_grad));
