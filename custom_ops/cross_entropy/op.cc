#include "cross_entropy/kernel.h"

#include <algorithm>

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

// The logits that exist at once on a GPU: 256 MB in bfloat16. Emulated, few, so that small tests see several chunks.
#ifdef ERNIE5_CUDA_EMULATION
constexpr int64_t kLogitsAtOnce = 1 << 10;
#else
constexpr int64_t kLogitsAtOnce = 1 << 27;
#endif

// Rows [first, first + count) of a tensor as its own memory.
Tensor view_of(const Tensor& tensor, int64_t first, int64_t count) {
  const int64_t width = tensor.shape()[1] * static_cast<int64_t>(phi::SizeOf(tensor.dtype()));
  return paddle::from_blob(const_cast<char*>(data<char>(tensor)) + first * width, {count, tensor.shape()[1]},
                           tensor.dtype(), tensor.layout(), tensor.place());
}

// The products are Paddle's; a chunk's logits become their gradient in place.
std::vector<Tensor> gpu_forward(const Tensor& x, const Tensor& weight, const Tensor& labels, const Tensor& row_weights,
                                bool hidden_first, bool with_grad_x, bool with_grad_weight, int64_t ignore_index) {
  const int64_t rows = x.shape()[0], vocab = weight.shape()[hidden_first];
  const int64_t step = std::max<int64_t>(1, kLogitsAtOnce / std::max<int64_t>(1, vocab));
  const int dtype = gpu_dtype(x, kOp);
  void* const stream = stream_of(x);
  auto losses = paddle::empty({rows}, DataType::FLOAT32, x.place());
  std::vector<Tensor> grads_x;
  Tensor grad_weight;
  for (int64_t first = 0; first < rows; first += step) {
    const int64_t count = std::min(step, rows - first);
    const auto part = view_of(x, first, count);
    auto logits = api::matmul(part, weight, false, !hidden_first);
    auto state = paddle::empty({4, count}, DataType::FLOAT32, x.place());
    float* const highest = data<float>(state);
    float *const total = highest + count, *const chosen = total + count, *const lse = chosen + count;
    const auto* const ids = data<int64_t>(labels) + first;
    check_launch(e5_cross_entropy_chunk(dtype, data<void>(logits), ids, count, 0, vocab, 1, highest, total, chosen, stream),
                 kOp);
    check_launch(e5_cross_entropy_finish(ids, ignore_index, count, highest, total, chosen, data<float>(losses) + first,
                                         lse, stream),
                 kOp);
    if (!with_grad_x && !with_grad_weight) continue;
    check_launch(e5_cross_entropy_backward(dtype, data<void>(logits), ids, lse, data<float>(row_weights) + first, count, 0,
                                           vocab, ignore_index, stream),
                 kOp);
    if (with_grad_x) grads_x.push_back(api::matmul(logits, weight, false, hidden_first));
    if (!with_grad_weight) continue;
    auto share = hidden_first ? api::matmul(part, logits, true) : api::matmul(logits, part, true);
    if (step >= rows)
      grad_weight = share;
    else if (first == 0)
      grad_weight = api::cast(share, DataType::FLOAT32);
    else
      api::add_(grad_weight, api::cast(share, DataType::FLOAT32));
  }
  const auto none = [&](const Shape& shape) { return paddle::full(shape, 0, x.dtype(), x.place()); };
  auto grad_x = !with_grad_x ? none({0}) : rows == 0 ? none(x.shape()) : api::concat(grads_x, 0);
  if (!with_grad_weight) grad_weight = none({0});
  else if (rows == 0) grad_weight = none(weight.shape());
  return {api::sum(api::multiply(losses, row_weights)), grad_x, api::cast(grad_weight, x.dtype())};
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
  check_place({&x, &weight, &labels, &row_weights}, kOp);
  if constexpr (kHasCuda)
    if (is_gpu(x))
      return gpu_forward(x, weight, labels, row_weights, hidden_first, with_grad_x, with_grad_weight, ignore_index);
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
  if constexpr (kHasCuda)
    if (is_gpu(x)) {
      const Tensor* const saved[] = {&grad_x, &grad_weight};
      for (int one = 0; one < 2; ++one)
        check_launch(e5_scale(gpu_dtype(x, kOp), data<void>(*saved[one]), data<void>(grad_loss), scaled[one].numel(),
                              data<void>(scaled[one]), stream_of(x)),
                     kOp);
      return scaled;
    }
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
