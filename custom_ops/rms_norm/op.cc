#include "rms_norm/kernel.h"

#include "common/binding.h"

namespace ernie5 {
namespace {

constexpr char kOp[] = "rms_norm", kAddOp[] = "add_rms_norm";

DataType inverse_dtype(DataType dtype) { return dtype == DataType::FLOAT64 ? DataType::FLOAT64 : DataType::FLOAT32; }

std::vector<Tensor> forward(const char* op, const Tensor& x, const Tensor* residual, const Tensor& weight, float epsilon) {
  check_shape(x, {-1, -1}, op, "x");
  const int64_t rows = x.shape()[0], hidden = x.shape()[1];
  check_shape(weight, {hidden}, op, "weight");
  check_dtype(weight, x.dtype(), op, "weight");
  check_place({&x, &weight}, op);
  auto y = paddle::empty({rows, hidden}, x.dtype(), x.place());
  auto inverse = paddle::empty({rows}, inverse_dtype(x.dtype()), x.place());
  std::vector<Tensor> outputs{y, inverse};
  if (residual) {
    check_shape(*residual, x.shape(), op, "residual");
    check_dtype(*residual, x.dtype(), op, "residual");
    check_place({&x, residual}, op);
    outputs.push_back(paddle::empty({rows, hidden}, x.dtype(), x.place()));
  }
  if constexpr (kHasCuda)
    if (is_gpu(x)) {
      const void* const other = residual ? data<void>(*residual) : nullptr;
      void* const sum = residual ? data<void>(outputs[2]) : nullptr;
      check_launch(e5_rms_norm_forward(gpu_dtype(x, op), data<void>(x), other, data<void>(weight), rows, hidden, epsilon,
                                       sum, data<void>(y), data<void>(inverse), stream_of(x)),
                   op);
      return outputs;
    }
  dispatch_float(x.dtype(), op, [&](auto zero) {
    using T = decltype(zero);
    cpu::rms_norm_forward<T>(data<T>(x), residual ? data<T>(*residual) : nullptr, data<T>(weight), rows, hidden, epsilon,
                             residual ? data<T>(outputs[2]) : nullptr, data<T>(y), data<compute_t<T>>(inverse));
  });
  return outputs;
}

std::vector<Tensor> backward(const char* op, const Tensor& s, const Tensor& weight, const Tensor& inverse,
                             const Tensor& grad_y, const Tensor* grad_sum) {
  const int64_t rows = s.shape()[0], hidden = s.shape()[1];
  auto grad_s = paddle::empty(s.shape(), s.dtype(), s.place());
  auto grad_weight = paddle::empty(weight.shape(), weight.dtype(), s.place());
  if constexpr (kHasCuda)
    if (is_gpu(s)) {
      auto workspace = paddle::empty({e5_rms_norm_workspace(rows, hidden)}, DataType::UINT8, s.place());
      check_launch(e5_rms_norm_backward(gpu_dtype(s, op), data<void>(s), data<void>(weight), data<void>(inverse),
                                        data<void>(grad_y), grad_sum ? data<void>(*grad_sum) : nullptr, rows, hidden,
                                        data<void>(grad_s), data<void>(grad_weight), data<void>(workspace), stream_of(s)),
                   op);
      return {grad_s, grad_weight};
    }
  dispatch_float(s.dtype(), op, [&](auto zero) {
    using T = decltype(zero);
    cpu::rms_norm_backward<T>(data<T>(s), data<T>(weight), data<compute_t<T>>(inverse), data<T>(grad_y),
                              grad_sum ? data<T>(*grad_sum) : nullptr, rows, hidden, data<T>(grad_s),
                              data<T>(grad_weight));
  });
  return {grad_s, grad_weight};
}

std::vector<Tensor> rms_norm(const Tensor& x, const Tensor& weight, float epsilon) {
  return forward(kOp, x, nullptr, weight, epsilon);
}
std::vector<Tensor> rms_norm_grad(const Tensor& x, const Tensor& weight, const Tensor& inverse, const Tensor& grad_y) {
  return backward(kOp, x, weight, inverse, grad_y, nullptr);
}
std::vector<Shape> infer_shape(const Shape& x, const Shape&, float) { return {x, {x[0]}}; }
std::vector<DataType> infer_dtype(const DataType& x, const DataType&) { return {x, inverse_dtype(x)}; }

std::vector<Tensor> add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight, float epsilon) {
  return forward(kAddOp, x, &residual, weight, epsilon);
}
std::vector<Tensor> add_rms_norm_grad(const Tensor& sum, const Tensor& weight, const Tensor& inverse,
                                      const Tensor& grad_y, const Tensor& grad_sum) {
  auto grads = backward(kAddOp, sum, weight, inverse, grad_y, &grad_sum);
  return {grads[0], grads[0], grads[1]};  // x and residual have one gradient
}
std::vector<Shape> add_infer_shape(const Shape& x, const Shape&, const Shape&, float) { return {x, {x[0]}, x}; }
std::vector<DataType> add_infer_dtype(const DataType& x, const DataType&, const DataType&) {
  return {x, inverse_dtype(x), x};
}

// Without X and Residual among the gradient's inputs, a traced program has to be told the shapes.
std::vector<Shape> add_grad_infer_shape(const Shape& sum, const Shape& weight, const Shape&, const Shape&, const Shape&) {
  return {sum, sum, weight};
}
std::vector<DataType> add_grad_infer_dtype(const DataType& sum, const DataType& weight, const DataType&,
                                           const DataType&, const DataType&) {
  return {sum, sum, weight};
}

}  // namespace
}  // namespace ernie5

using namespace ernie5;  // NOLINT: Paddle's macros want the global namespace

PD_BUILD_OP(ernie5_rms_norm)
    .Inputs({"X", "Weight"})
    .Outputs({"Y", "Inverse"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(rms_norm))
    .SetInferShapeFn(PD_INFER_SHAPE(infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(infer_dtype));
PD_BUILD_GRAD_OP(ernie5_rms_norm)
    .Inputs({"X", "Weight", "Inverse", paddle::Grad("Y")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Weight")})
    .SetKernelFn(PD_KERNEL(rms_norm_grad));

PD_BUILD_OP(ernie5_add_rms_norm)
    .Inputs({"X", "Residual", "Weight"})
    .Outputs({"Y", "Inverse", "Sum"})
    .Attrs({"epsilon: float"})
    .SetKernelFn(PD_KERNEL(add_rms_norm))
    .SetInferShapeFn(PD_INFER_SHAPE(add_infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(add_infer_dtype));
PD_BUILD_GRAD_OP(ernie5_add_rms_norm)
    .Inputs({"Sum", "Weight", "Inverse", paddle::Grad("Y"), paddle::Grad("Sum")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Residual"), paddle::Grad("Weight")})
    .SetKernelFn(PD_KERNEL(add_rms_norm_grad))
    .SetInferShapeFn(PD_INFER_SHAPE(add_grad_infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(add_grad_infer_dtype));
