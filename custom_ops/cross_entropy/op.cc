#include "cross_entropy/kernel.h"

#include "common/binding.h"

namespace ernie5 {
namespace {

constexpr char kOp[] = "linear_cross_entropy";

DataType loss_dtype(DataType dtype) { return dtype == DataType::FLOAT64 ? DataType::FLOAT64 : DataType::FLOAT32; }

void check_labels(const Tensor& labels, int64_t vocab, int64_t ignore_index) {
  const int64_t* const ids = data<int64_t>(labels);
  for (int64_t row = 0; row < labels.numel(); ++row)
    PD_CHECK((ids[row] >= 0 && ids[row] < vocab) || ids[row] == ignore_index, kOp, ": labels[", row, "] is ", ids[row],
             ", neither an id below ", vocab, " nor ", ignore_index);
}

// The gradients are made beside the loss, while a chunk's logits are at hand; the backward pass scales them.
std::vector<Tensor> forward(const Tensor& x, const Tensor& weight, const Tensor& labels, const Tensor& row_weights,
                            bool hidden_first, bool with_grad_x, bool with_grad_weight, int64_t ignore_index) {
  check_shape(x, {-1, -1}, kOp, "x");
  const int64_t rows = x.shape()[0], hidden = x.shape()[1];
  check_shape(weight, hidden_first ? Shape{hidden, -1} : Shape{-1, hidden}, kOp, "weight");
  const int64_t vocab = weight.shape()[hidden_first];
  check_shape(labels, {rows}, kOp, "labels");
  check_shape(row_weights, {rows}, kOp, "row_weights");
  check_dtype(weight, x.dtype(), kOp, "weight");
  check_dtype(labels, DataType::INT64, kOp, "labels");
  check_dtype(row_weights, DataType::FLOAT32, kOp, "row_weights");
  check_cpu(x, kOp, "x");
  check_labels(labels, vocab, ignore_index);
  auto loss = paddle::empty({}, loss_dtype(x.dtype()), x.place());
  auto grad_x = paddle::empty(with_grad_x ? x.shape() : Shape{0}, x.dtype(), x.place());
  auto grad_weight = paddle::empty(with_grad_weight ? weight.shape() : Shape{0}, x.dtype(), x.place());
  dispatch_float(x.dtype(), kOp, [&](auto zero) {
    using T = decltype(zero);
    *data<compute_t<T>>(loss) = cpu::linear_cross_entropy<T>(
        data<T>(x), data<T>(weight), data<int64_t>(labels), data<float>(row_weights), {rows, hidden, vocab, hidden_first},
        with_grad_x ? data<T>(grad_x) : nullptr, with_grad_weight ? data<T>(grad_weight) : nullptr);
  });
  return {loss, grad_x, grad_weight};
}

std::vector<Tensor> backward(const Tensor& x, const Tensor& weight, const Tensor& grad_x, const Tensor& grad_weight,
                             const Tensor& grad_loss, bool, bool with_grad_x, bool with_grad_weight, int64_t) {
  std::vector<Tensor> scaled{paddle::empty(with_grad_x ? x.shape() : Shape{0}, x.dtype(), x.place()),
                             paddle::empty(with_grad_weight ? weight.shape() : Shape{0}, x.dtype(), x.place())};
  dispatch_float(x.dtype(), kOp, [&](auto zero) {
    using T = decltype(zero);
    const auto scale = *data<compute_t<T>>(grad_loss);
    cpu::scale_gradient<T>(data<T>(grad_x), scale, scaled[0].numel(), data<T>(scaled[0]));
    cpu::scale_gradient<T>(data<T>(grad_weight), scale, scaled[1].numel(), data<T>(scaled[1]));
  });
  return scaled;
}

std::vector<Shape> infer_shape(const Shape& x, const Shape& weight, const Shape&, const Shape&, bool, bool with_grad_x,
                               bool with_grad_weight, int64_t) {
  return {{}, with_grad_x ? x : Shape{0}, with_grad_weight ? weight : Shape{0}};
}
std::vector<DataType> infer_dtype(const DataType& x, const DataType&, const DataType&, const DataType&) {
  return {loss_dtype(x), x, x};
}

}  // namespace
}  // namespace ernie5

using namespace ernie5;  // NOLINT: Paddle's macros want the global namespace

PD_BUILD_OP(ernie5_linear_cross_entropy)
    .Inputs({"X", "Weight", "Labels", "RowWeights"})
    .Outputs({"Loss", "SavedGradX", "SavedGradWeight"})
    .Attrs({"hidden_first: bool", "with_grad_x: bool", "with_grad_weight: bool", "ignore_index: int64_t"})
    .SetKernelFn(PD_KERNEL(forward))
    .SetInferShapeFn(PD_INFER_SHAPE(infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(infer_dtype));
PD_BUILD_GRAD_OP(ernie5_linear_cross_entropy)
    .Inputs({"X", "Weight", "SavedGradX", "SavedGradWeight", paddle::Grad("Loss")})
    .Outputs({paddle::Grad("X"), paddle::Grad("Weight")})
    .Attrs({"hidden_first: bool", "with_grad_x: bool", "with_grad_weight: bool", "ignore_index: int64_t"})
    .SetKernelFn(PD_KERNEL(backward));
