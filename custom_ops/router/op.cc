#include "router/kernel.h"

#include "common/binding.h"

namespace ernie5 {
namespace {

constexpr char kOp[] = "router";

cpu::Score score_of(const std::string& name) {
  PD_CHECK(name == "softmax" || name == "sigmoid", kOp, ": score is ", name, ", expected softmax or sigmoid");
  return name == "softmax" ? cpu::Score::kSoftmax : cpu::Score::kSigmoid;
}

// run(T{}) in float or double: the router's scores are never narrower.
template <typename Run>
void dispatch(DataType dtype, const Run& run) {
  if (dtype == DataType::FLOAT32) return run(float{});
  if (dtype == DataType::FLOAT64) return run(double{});
  PD_THROW(kOp, ": dtype ", phi::DataTypeToString(dtype), " has no kernel: use float32 or float64");
}

std::vector<Tensor> router(const Tensor& logits, const Tensor& bias, const Tensor& mask, int64_t top_k,
                           const std::string& score, float scaling) {
  check_shape(logits, {-1, -1}, kOp, "logits");
  const int64_t tokens = logits.shape()[0], experts = logits.shape()[1];
  check_shape(bias, {experts}, kOp, "bias");
  check_shape(mask, {experts}, kOp, "mask");
  check_dtype(bias, logits.dtype(), kOp, "bias");
  check_dtype(mask, logits.dtype(), kOp, "mask");
  check_place({&logits, &bias, &mask}, kOp);
  PD_CHECK(top_k >= 1 && top_k <= experts, kOp, ": top_k is ", top_k, " of ", experts, " experts");
  auto ids = paddle::empty({tokens, top_k}, DataType::INT64, logits.place());
  auto weights = paddle::empty({tokens, top_k}, logits.dtype(), logits.place());
  auto totals = paddle::empty({tokens}, logits.dtype(), logits.place());
  auto tokens_per_expert = paddle::empty({experts}, DataType::INT64, logits.place());
  if constexpr (kHasCuda)
    if (is_gpu(logits)) {
      check_dtype(logits, DataType::FLOAT32, kOp, "logits");
      check_launch(e5_router_forward(data<void>(logits), data<void>(bias), data<void>(mask), tokens, experts, top_k,
                                     score_of(score) == cpu::Score::kSoftmax, scaling, data<void>(ids),
                                     data<void>(weights), data<void>(totals), data<void>(tokens_per_expert),
                                     stream_of(logits)),
                   kOp);
      return {ids, weights, totals, tokens_per_expert};
    }
  dispatch(logits.dtype(), [&](auto zero) {
    using T = decltype(zero);
    cpu::router_forward<T>(data<T>(logits), data<T>(bias), data<T>(mask), tokens, experts, top_k, score_of(score),
                           scaling, data<int64_t>(ids), data<T>(weights), data<T>(totals),
                           data<int64_t>(tokens_per_expert));
  });
  return {ids, weights, totals, tokens_per_expert};
}

std::vector<Tensor> router_grad(const Tensor& logits, const Tensor& mask, const Tensor& ids, const Tensor& weights,
                                const Tensor& totals, const Tensor& grad_weights, int64_t top_k,
                                const std::string& score, float scaling) {
  auto grad_logits = paddle::empty(logits.shape(), logits.dtype(), logits.place());
  if constexpr (kHasCuda)
    if (is_gpu(logits)) {
      check_launch(e5_router_backward(data<void>(logits), data<void>(mask), data<void>(ids), data<void>(grad_weights),
                                      logits.shape()[0], logits.shape()[1], top_k,
                                      score_of(score) == cpu::Score::kSoftmax, scaling, data<void>(grad_logits),
                                      stream_of(logits)),
                   kOp);
      return {grad_logits};
    }
  dispatch(logits.dtype(), [&](auto zero) {
    using T = decltype(zero);
    cpu::router_backward<T>(data<T>(logits), data<T>(mask), data<int64_t>(ids), data<T>(weights), data<T>(totals),
                            data<T>(grad_weights), logits.shape()[0], logits.shape()[1], top_k, score_of(score), scaling,
                            data<T>(grad_logits));
  });
  return {grad_logits};
}

std::vector<Shape> infer_shape(const Shape& logits, const Shape&, const Shape&, int64_t top_k, const std::string&, float) {
  return {{logits[0], top_k}, {logits[0], top_k}, {logits[0]}, {logits[1]}};
}
std::vector<DataType> infer_dtype(const DataType& logits, const DataType&, const DataType&) {
  return {DataType::INT64, logits, logits, DataType::INT64};
}

}  // namespace
}  // namespace ernie5

using namespace ernie5;  // NOLINT: Paddle's macros want the global namespace

PD_BUILD_OP(ernie5_router)
    .Inputs({"Logits", "Bias", "Mask"})
    .Outputs({"Ids", "Weights", "Totals", "TokensPerExpert"})
    .Attrs({"top_k: int64_t", "score: std::string", "scaling: float"})
    .SetKernelFn(PD_KERNEL(router))
    .SetInferShapeFn(PD_INFER_SHAPE(infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(infer_dtype));
PD_BUILD_GRAD_OP(ernie5_router)
    .Inputs({"Logits", "Mask", "Ids", "Weights", "Totals", paddle::Grad("Weights")})
    .Outputs({paddle::Grad("Logits")})
    .Attrs({"top_k: int64_t", "score: std::string", "scaling: float"})
    .SetKernelFn(PD_KERNEL(router_grad));
