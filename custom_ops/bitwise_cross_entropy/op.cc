#include "bitwise_cross_entropy/kernel.h"

#include "common/binding.h"

namespace ernie5 {
namespace {

constexpr char kOp[] = "bitwise_cross_entropy";

DataType loss_dtype(DataType dtype) { return dtype == DataType::FLOAT64 ? DataType::FLOAT64 : DataType::FLOAT32; }

// The gradient is made beside the loss, from the same numbers; the backward pass scales it.
std::vector<Tensor> forward(const Tensor& logits, const Tensor& targets, const Tensor& row_weights, bool with_gradient) {
  check_shape(logits, {-1, -1}, kOp, "logits");
  const int64_t rows = logits.shape()[0], stride = logits.shape()[1];
  check_shape(targets, {rows, -1}, kOp, "targets");
  const int64_t bits = targets.shape()[1];
  PD_CHECK(0 < bits && bits <= stride, kOp, ": targets of ", bits, " bits for logits of ", stride);
  check_shape(row_weights, {rows}, kOp, "row_weights");
  check_dtype(targets, loss_dtype(logits.dtype()), kOp, "targets");
  check_dtype(row_weights, DataType::FLOAT32, kOp, "row_weights");
  check_place({&logits, &targets, &row_weights}, kOp);
  auto grad = paddle::empty(with_gradient ? logits.shape() : Shape{0}, logits.dtype(), logits.place());
  if constexpr (kHasCuda)
    if (is_gpu(logits)) {
      auto losses = paddle::empty({rows}, DataType::FLOAT32, logits.place());
      check_launch(e5_bitwise_cross_entropy(gpu_dtype(logits, kOp), data<void>(logits), data<void>(targets),
                                            data<void>(row_weights), rows, bits, stride, data<void>(losses),
                                            with_gradient ? data<void>(grad) : nullptr, stream_of(logits)),
                   kOp);
      return {api::sum(losses), grad};
    }
  auto loss = paddle::empty({}, loss_dtype(logits.dtype()), logits.place());
  dispatch_float(logits.dtype(), kOp, [&](auto zero) {
    using T = decltype(zero);
    *data<compute_t<T>>(loss) =
        cpu::bitwise_cross_entropy<T>(data<T>(logits), data<compute_t<T>>(targets), data<float>(row_weights), rows, bits,
                                      stride, with_gradient ? data<T>(grad) : nullptr);
  });
  return {loss, grad};
}

std::vector<Tensor> backward(const Tensor& grad, const Tensor& grad_loss) {
  auto scaled = paddle::empty(grad.shape(), grad.dtype(), grad.place());
  if constexpr (kHasCuda)
    if (is_gpu(grad)) {
      check_launch(e5_scale(gpu_dtype(grad, kOp), data<void>(grad), data<void>(grad_loss), grad.numel(), data<void>(scaled),
                            stream_of(grad)),
                   kOp);
      return {scaled};
    }
  dispatch_float(grad.dtype(), kOp, [&](auto zero) {
    using T = decltype(zero);
    cpu::scale_bits<T>(data<T>(grad), *data<compute_t<T>>(grad_loss), grad.numel(), data<T>(scaled));
  });
  return {scaled};
}

std::vector<Shape> infer_shape(const Shape& logits, const Shape&, const Shape&, bool with_gradient) {
  return {{}, with_gradient ? logits : Shape{0}};
}
std::vector<DataType> infer_dtype(const DataType& logits, const DataType&, const DataType&) {
  return {loss_dtype(logits), logits};
}
std::vector<Shape> grad_infer_shape(const Shape& grad, const Shape&) { return {grad}; }
std::vector<DataType> grad_infer_dtype(const DataType& grad, const DataType&) { return {grad}; }

}  // namespace
}  // namespace ernie5

using namespace ernie5;  // NOLINT: Paddle's macros want the global namespace

PD_BUILD_OP(ernie5_bitwise_cross_entropy)
    .Inputs({"Logits", "Targets", "RowWeights"})
    .Outputs({"Loss", "SavedGrad"})
    .Attrs({"with_gradient: bool"})
    .SetKernelFn(PD_KERNEL(forward))
    .SetInferShapeFn(PD_INFER_SHAPE(infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(infer_dtype));
PD_BUILD_GRAD_OP(ernie5_bitwise_cross_entropy)
    .Inputs({"SavedGrad", paddle::Grad("Loss")})
    .Outputs({paddle::Grad("Logits")})
    .SetKernelFn(PD_KERNEL(backward))
    .SetInferShapeFn(PD_INFER_SHAPE(grad_infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(grad_infer_dtype));
