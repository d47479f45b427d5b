#include "head_logits/kernel.h"

#include "common/binding.h"

namespace ernie5 {
namespace {

constexpr char kOp[] = "head_logits";

std::vector<Tensor> head_logits(const Tensor& x, const Tensor& weight, bool hidden_first) {
  check_cpu(x, kOp, "x");
  check_shape(x, {-1, -1}, kOp, "x");
  const int64_t rows = x.shape()[0], hidden = x.shape()[1];
  check_shape(weight, hidden_first ? Shape{hidden, -1} : Shape{-1, hidden}, kOp, "weight");
  check_dtype(weight, x.dtype(), kOp, "weight");
  const int64_t vocab = weight.shape()[hidden_first ? 1 : 0];
  auto logits = paddle::empty({rows, vocab}, x.dtype(), x.place());
  dispatch_float(x.dtype(), kOp, [&](auto zero) {
    using T = decltype(zero);
    cpu::head_logits<T>(data<T>(x), data<T>(weight), rows, hidden, vocab, hidden_first, data<T>(logits));
  });
  return {logits};
}

std::vector<Shape> infer_shape(const Shape& x, const Shape& weight, bool hidden_first) {
  return {{x[0], weight[hidden_first ? 1 : 0]}};
}
std::vector<DataType> infer_dtype(const DataType& x, const DataType&) { return {x}; }

}  // namespace
}  // namespace ernie5

using namespace ernie5;  // NOLINT: Paddle's macros want the global namespace

PD_BUILD_OP(ernie5_head_logits)
    .Inputs({"X", "Weight"})
    .Outputs({"Logits"})
    .Attrs({"hidden_first: bool"})
    .SetKernelFn(PD_KERNEL(head_logits))
    .SetInferShapeFn(PD_INFER_SHAPE(infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(infer_dtype));
