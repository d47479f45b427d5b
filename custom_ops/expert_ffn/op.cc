#include "expert_ffn/kernel.h"

#include "common/binding.h"
#include "moe_permute/kernel.h"

namespace ernie5 {
namespace {

constexpr char kOp[] = "expert_ffn", kMoeOp[] = "moe_ffn";

DataType weight_dtype(DataType dtype) { return dtype == DataType::FLOAT64 ? DataType::FLOAT64 : DataType::FLOAT32; }

// x [.., hidden] and the experts' matrices; returns the sizes, for one choice a row.
cpu::ExpertShape check_experts(const char* op, const Tensor& x, const Tensor& gate_up, const Tensor& down) {
  check_shape(x, {-1, -1}, op, "x");
  check_shape(down, {-1, -1, x.shape()[1]}, op, "down_proj");
  const int64_t experts = down.shape()[0], ffn = down.shape()[1];
  check_shape(gate_up, {experts, x.shape()[1], 2 * ffn}, op, "gate_up_proj");
  check_dtype(gate_up, x.dtype(), op, "gate_up_proj");
  check_dtype(down, x.dtype(), op, "down_proj");
  check_place({&x, &gate_up, &down}, op);
  return {x.shape()[0], 1, experts, x.shape()[1], ffn};
}

void check_counts(const Tensor& tokens_per_expert, const cpu::ExpertShape& shape) {
  check_shape(tokens_per_expert, {shape.experts}, kOp, "tokens_per_expert");
  check_dtype(tokens_per_expert, DataType::INT64, kOp, "tokens_per_expert");
  if constexpr (kHasCuda)
    if (is_gpu(tokens_per_expert)) return;  // looking at them would wait for all that is under way
  const auto* counts = data<int64_t>(tokens_per_expert);
  PD_CHECK(cpu::all_within(counts, shape.experts, 0, shape.slots() + 1), kOp,
           ": tokens_per_expert has a count outside of [0, ", shape.slots(), "]");
  int64_t sum = 0;
  for (int64_t expert = 0; expert < shape.experts; ++expert) sum += counts[expert];
  PD_CHECK(sum == shape.slots(), kOp, ": tokens_per_expert sums to ", sum, ", but there are ", shape.slots(), " rows");
}

Tensor forward(const char* op, const cpu::ExpertShape& shape, const Tensor& x, const Tensor& weights, const Tensor* slot_ids,
               const Tensor& tokens_per_expert, const Tensor& gate_up, const Tensor& down, bool keep_inner, Tensor& inner) {
  auto out = paddle::empty(x.shape(), x.dtype(), x.place());
  inner = paddle::empty({keep_inner ? shape.slots() : 0, 2 * shape.ffn}, x.dtype(), x.place());
  dispatch_float(x.dtype(), op, [&](auto zero) {
    using T = decltype(zero);
    cpu::expert_ffn_forward<T>(shape, data<T>(x), data<compute_t<T>>(weights), slot_ids ? data<int64_t>(*slot_ids) : nullptr,
                               data<int64_t>(tokens_per_expert), data<T>(gate_up), data<T>(down),
                               keep_inner ? data<T>(inner) : nullptr, data<T>(out));
  });
  return out;
}

void check_kept(const char* op, const cpu::ExpertShape& shape, const Tensor& inner) {
  PD_CHECK(inner.shape()[0] == shape.slots(), op, ": no gradient, as keep_inner was false");
}

std::vector<Tensor> backward(const char* op, const cpu::ExpertShape& shape, const Tensor& x, const Tensor& weights,
                             const Tensor* slot_ids, const Tensor& tokens_per_expert, const Tensor& gate_up,
                             const Tensor& down, const Tensor& inner, const Tensor& grad_out) {
  auto like = [](const Tensor& tensor) { return paddle::empty(tensor.shape(), tensor.dtype(), tensor.place()); };
  auto grad_x = like(x), grad_weights = like(weights), grad_gate_up = like(gate_up), grad_down = like(down);
  dispatch_float(x.dtype(), op, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    cpu::expert_ffn_backward<T>(shape, data<T>(x), data<C>(weights), slot_ids ? data<int64_t>(*slot_ids) : nullptr,
                                data<int64_t>(tokens_per_expert), data<T>(gate_up), data<T>(down), data<T>(inner),
                                data<T>(grad_out), data<T>(grad_x), data<C>(grad_weights), data<T>(grad_gate_up),
                                data<T>(grad_down));
  });
  return {grad_x, grad_weights, grad_gate_up, grad_down};
}

// The first row of each expert, on the device.
Tensor gpu_offsets(const Tensor& tokens_per_expert) { return api::cumsum(tokens_per_expert, 0, false, true); }

Tensor gpu_forward(const cpu::ExpertShape& shape, const Tensor& rows, const Tensor& weights,
                   const Tensor& tokens_per_expert, const Tensor& gate_up, const Tensor& down, bool keep_inner,
                   Tensor& inner) {  // NOLINT
  check_dtype(rows, DataType::BFLOAT16, kOp, "rows");
  PD_CHECK(shape.hidden % 8 == 0 && shape.ffn % 8 == 0, kOp, ": hidden ", shape.hidden, " and ffn ", shape.ffn,
           " must be multiples of 8 for the kernel for GPUs");
  const auto offsets = gpu_offsets(tokens_per_expert);
  auto out = paddle::empty(rows.shape(), rows.dtype(), rows.place());
  inner = paddle::empty({keep_inner ? shape.slots() : 0, 2 * shape.ffn}, rows.dtype(), rows.place());
  auto activations = paddle::empty({shape.slots(), shape.ffn}, rows.dtype(), rows.place());
  check_launch(e5_expert_ffn_forward(data<void>(rows), data<void>(weights), data<void>(tokens_per_expert),
                                     data<void>(offsets), data<void>(gate_up), data<void>(down), shape.slots(),
                                     shape.experts, shape.hidden, shape.ffn, keep_inner ? data<void>(inner) : nullptr,
                                     data<void>(activations), data<void>(out), stream_of(rows)),
               kOp);
  return out;
}

std::vector<Tensor> gpu_backward(const cpu::ExpertShape& shape, const Tensor& rows, const Tensor& weights,
                                 const Tensor& tokens_per_expert, const Tensor& gate_up, const Tensor& down,
                                 const Tensor& inner, const Tensor& grad_out) {
  auto like = [](const Tensor& tensor) { return paddle::empty(tensor.shape(), tensor.dtype(), tensor.place()); };
  auto grad_rows = like(rows), grad_weights = like(weights), grad_gate_up = like(gate_up), grad_down = like(down);
  const auto offsets = gpu_offsets(tokens_per_expert);
  auto activations = paddle::empty({shape.slots(), shape.ffn}, rows.dtype(), rows.place());
  auto grad_activations = like(activations), grad_inner = like(inner);
  check_launch(e5_expert_ffn_backward(data<void>(rows), data<void>(weights), data<void>(tokens_per_expert),
                                      data<void>(offsets), data<void>(gate_up), data<void>(down), data<void>(grad_out),
                                      shape.slots(), shape.experts, shape.hidden, shape.ffn, data<void>(inner),
                                      data<void>(activations), data<void>(grad_activations), data<void>(grad_inner),
                                      data<void>(grad_rows), data<void>(grad_weights), data<void>(grad_gate_up),
                                      data<void>(grad_down), stream_of(rows)),
               kOp);
  return {grad_rows, grad_weights, grad_gate_up, grad_down};
}

std::vector<Tensor> expert_ffn(const Tensor& rows, const Tensor& row_weights, const Tensor& tokens_per_expert,
                               const Tensor& gate_up, const Tensor& down, bool keep_inner) {
  const auto shape = check_experts(kOp, rows, gate_up, down);
  check_shape(row_weights, {shape.slots()}, kOp, "row_weights");
  check_dtype(row_weights, weight_dtype(rows.dtype()), kOp, "row_weights");
  check_counts(tokens_per_expert, shape);
  check_place({&rows, &row_weights, &tokens_per_expert}, kOp);
  Tensor inner;
  if constexpr (kHasCuda)
    if (is_gpu(rows)) {
      auto out = gpu_forward(shape, rows, row_weights, tokens_per_expert, gate_up, down, keep_inner, inner);
      return {out, inner};
    }
  auto out = forward(kOp, shape, rows, row_weights, nullptr, tokens_per_expert, gate_up, down, keep_inner, inner);
  return {out, inner};
}
std::vector<Tensor> expert_ffn_grad(const Tensor& rows, const Tensor& row_weights, const Tensor& tokens_per_expert,
                                    const Tensor& gate_up, const Tensor& down, const Tensor& inner,
                                    const Tensor& grad_out) {
  const auto shape = check_experts(kOp, rows, gate_up, down);
  check_kept(kOp, shape, inner);
  if constexpr (kHasCuda)
    if (is_gpu(rows))
      return gpu_backward(shape, rows, row_weights, tokens_per_expert, gate_up, down, inner, grad_out);
  return backward(kOp, shape, rows, row_weights, nullptr, tokens_per_expert, gate_up, down, inner, grad_out);
}
std::vector<Shape> infer_shape(const Shape& rows, const Shape&, const Shape&, const Shape& gate_up, const Shape&,
                               bool keep_inner) {
  return {rows, {keep_inner ? rows[0] : 0, gate_up[2]}};
}
std::vector<DataType> infer_dtype(const DataType& rows, const DataType&, const DataType&, const DataType&,
                                  const DataType&) {
  return {rows, rows};
}
std::vector<Shape> grad_shape(const Shape& rows, const Shape& row_weights, const Shape&, const Shape& gate_up,
                              const Shape& down, const Shape&, const Shape&) {
  return {rows, row_weights, gate_up, down};
}
std::vector<DataType> grad_dtype(const DataType& rows, const DataType& row_weights, const DataType&,
                                 const DataType& gate_up, const DataType& down, const DataType&, const DataType&) {
  return {rows, row_weights, gate_up, down};
}

std::vector<Tensor> moe_ffn(const Tensor& hidden_states, const Tensor& topk_ids, const Tensor& topk_weights,
                            const Tensor& gate_up, const Tensor& down, bool keep_inner) {
  auto shape = check_experts(kMoeOp, hidden_states, gate_up, down);
  check_cpu(hidden_states, kMoeOp, "hidden_states");  // on a GPU the parts are operators of their own
  check_shape(topk_ids, {shape.tokens, -1}, kMoeOp, "topk_ids");
  check_dtype(topk_ids, DataType::INT64, kMoeOp, "topk_ids");
  check_shape(topk_weights, topk_ids.shape(), kMoeOp, "topk_weights");
  check_dtype(topk_weights, weight_dtype(hidden_states.dtype()), kMoeOp, "topk_weights");
  shape.top_k = topk_ids.shape()[1];
  const auto place = hidden_states.place();
  auto slot_ids = paddle::empty({shape.slots()}, DataType::INT64, place);
  auto tokens_per_expert = paddle::empty({shape.experts}, DataType::INT64, place);
  auto row_ids = paddle::empty({shape.slots()}, DataType::INT64, place);
  PD_CHECK(cpu::sort_by_expert(data<int64_t>(topk_ids), shape.slots(), shape.top_k, shape.experts, 1, nullptr,
                               data<int64_t>(slot_ids), data<int64_t>(row_ids), data<int64_t>(tokens_per_expert)),
           kMoeOp, ": topk_ids has an id outside of [0, ", shape.experts, ")");
  Tensor inner;
  auto out = forward(kMoeOp, shape, hidden_states, topk_weights, &slot_ids, tokens_per_expert, gate_up, down, keep_inner,
                     inner);
  return {out, inner, slot_ids, tokens_per_expert};
}
std::vector<Tensor> moe_ffn_grad(const Tensor& hidden_states, const Tensor& topk_weights, const Tensor& gate_up,
                                 const Tensor& down, const Tensor& inner, const Tensor& slot_ids,
                                 const Tensor& tokens_per_expert, const Tensor& grad_out) {
  auto shape = check_experts(kMoeOp, hidden_states, gate_up, down);
  shape.top_k = topk_weights.shape()[1];
  check_kept(kMoeOp, shape, inner);
  return backward(kMoeOp, shape, hidden_states, topk_weights, &slot_ids, tokens_per_expert, gate_up, down, inner, grad_out);
}
std::vector<Shape> moe_infer_shape(const Shape& hidden_states, const Shape& topk_ids, const Shape&, const Shape& gate_up,
                                   const Shape&, bool keep_inner) {
  const int64_t slots = topk_ids[0] < 0 || topk_ids[1] < 0 ? -1 : topk_ids[0] * topk_ids[1];
  return {hidden_states, {keep_inner ? slots : 0, gate_up[2]}, {slots}, {gate_up[0]}};
}
std::vector<DataType> moe_infer_dtype(const DataType& hidden_states, const DataType&, const DataType&, const DataType&,
                                      const DataType&) {
  return {hidden_states, hidden_states, DataType::INT64, DataType::INT64};
}
std::vector<Shape> moe_grad_shape(const Shape& hidden_states, const Shape& topk_weights, const Shape& gate_up,
                                  const Shape& down, const Shape&, const Shape&, const Shape&, const Shape&) {
  return {hidden_states, topk_weights, gate_up, down};
}
std::vector<DataType> moe_grad_dtype(const DataType& hidden_states, const DataType& topk_weights, const DataType& gate_up,
                                     const DataType& down, const DataType&, const DataType&, const DataType&,
                                     const DataType&) {
  return {hidden_states, topk_weights, gate_up, down};
}

}  // namespace
}  // namespace ernie5

using namespace ernie5;  // NOLINT: Paddle's macros want the global namespace

PD_BUILD_OP(ernie5_expert_ffn)
    .Inputs({"Rows", "RowWeights", "TokensPerExpert", "GateUp", "Down"})
    .Outputs({"Out", "Inner"})
    .Attrs({"keep_inner: bool"})
    .SetKernelFn(PD_KERNEL(expert_ffn))
    .SetInferShapeFn(PD_INFER_SHAPE(infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(infer_dtype));
PD_BUILD_GRAD_OP(ernie5_expert_ffn)
    .Inputs({"Rows", "RowWeights", "TokensPerExpert", "GateUp", "Down", "Inner", paddle::Grad("Out")})
    .Outputs({paddle::Grad("Rows"), paddle::Grad("RowWeights"), paddle::Grad("GateUp"), paddle::Grad("Down")})
    .SetKernelFn(PD_KERNEL(expert_ffn_grad))
    .SetInferShapeFn(PD_INFER_SHAPE(grad_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(grad_dtype));

PD_BUILD_OP(ernie5_moe_ffn)
    .Inputs({"Hidden", "TopkIds", "TopkWeights", "GateUp", "Down"})
    .Outputs({"Out", "Inner", "SlotIds", "TokensPerExpert"})
    .Attrs({"keep_inner: bool"})
    .SetKernelFn(PD_KERNEL(moe_ffn))
    .SetInferShapeFn(PD_INFER_SHAPE(moe_infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(moe_infer_dtype));
PD_BUILD_GRAD_OP(ernie5_moe_ffn)
    .Inputs({"Hidden", "TopkWeights", "GateUp", "Down", "Inner", "SlotIds", "TokensPerExpert", paddle::Grad("Out")})
    .Outputs({paddle::Grad("Hidden"), paddle::Grad("TopkWeights"), paddle::Grad("GateUp"), paddle::Grad("Down")})
    .SetKernelFn(PD_KERNEL(moe_ffn_grad))
    .SetInferShapeFn(PD_INFER_SHAPE(moe_grad_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(moe_grad_dtype));
