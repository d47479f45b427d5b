#include "moe_permute/kernel.h"

#include "common/binding.h"

namespace ernie5 {
namespace {

constexpr char kSort[] = "sort_by_expert", kPermute[] = "moe_permute", kUnpermute[] = "moe_unpermute",
               kWeighted[] = "moe_unpermute_weighted";

DataType weight_dtype(DataType dtype) { return dtype == DataType::FLOAT64 ? DataType::FLOAT64 : DataType::FLOAT32; }

// Not on a GPU, where looking at them would wait for all that is under way.
void check_ids(const Tensor& ids, int64_t lowest, int64_t end, const char* op, const char* name) {
  if constexpr (kHasCuda)
    if (is_gpu(ids)) return;
  PD_CHECK(cpu::all_within(data<int64_t>(ids), ids.numel(), lowest, end), op, ": ", name, " has an id outside of [",
           lowest, ", ", end, ")");
}

// topk_ids [tokens, top_k] -> token_ids, slot_ids [rows], row_ids [tokens, top_k], tokens_per_expert [experts].
std::vector<Tensor> sort_by_expert(const Tensor& topk_ids, int64_t num_experts, int64_t alignment) {
  check_shape(topk_ids, {-1, -1}, kSort, "topk_ids");
  check_dtype(topk_ids, DataType::INT64, kSort, "topk_ids");
  check_place({&topk_ids}, kSort);
  PD_CHECK(num_experts >= 1 && alignment >= 1, kSort, ": num_experts is ", num_experts, " and alignment ", alignment,
           ", expected at least 1");
  const int64_t tokens = topk_ids.shape()[0], top_k = topk_ids.shape()[1];
  const int64_t rows = cpu::sorted_rows(tokens * top_k, num_experts, alignment);
  const auto place = topk_ids.place();
  auto token_ids = paddle::empty({rows}, DataType::INT64, place), slot_ids = paddle::empty({rows}, DataType::INT64, place);
  auto row_ids = paddle::empty({tokens, top_k}, DataType::INT64, place);
  auto tokens_per_expert = paddle::empty({num_experts}, DataType::INT64, place);
  if constexpr (kHasCuda)
    if (is_gpu(topk_ids)) {
      auto offsets = paddle::empty({num_experts + 1}, DataType::INT64, place);
      auto workspace = paddle::empty({e5_sort_workspace(tokens * top_k, num_experts)}, DataType::UINT8, place);
      check_launch(e5_sort_by_expert(data<void>(topk_ids), tokens * top_k, top_k, num_experts, alignment, rows,
                                     data<void>(row_ids), data<void>(slot_ids), data<void>(token_ids),
                                     data<void>(tokens_per_expert), data<void>(offsets), data<void>(workspace),
                                     stream_of(topk_ids)),
                   kSort);
      return {token_ids, slot_ids, row_ids, tokens_per_expert};
    }
  PD_CHECK(cpu::sort_by_expert(data<int64_t>(topk_ids), tokens * top_k, top_k, num_experts, alignment,
                               data<int64_t>(token_ids), data<int64_t>(slot_ids), data<int64_t>(row_ids),
                               data<int64_t>(tokens_per_expert)),
           kSort, ": topk_ids has an id outside of [0, ", num_experts, ")");
  return {token_ids, slot_ids, row_ids, tokens_per_expert};
}
std::vector<Shape> sort_shapes(const Shape& ids, int64_t num_experts, int64_t alignment) {
  const bool fixed = ids[0] >= 0 && ids[1] >= 0;
  const int64_t rows = fixed ? cpu::sorted_rows(ids[0] * ids[1], num_experts, alignment) : -1;
  return {{rows}, {rows}, ids, {num_experts}};
}
std::vector<DataType> sort_dtypes(const DataType&) {
  return {DataType::INT64, DataType::INT64, DataType::INT64, DataType::INT64};
}

Tensor gathered(const Tensor& x, const Tensor& token_ids, [[maybe_unused]] const Tensor& row_ids) {
  const Shape shape{token_ids.shape()[0], x.shape()[1]};
  if constexpr (kHasCuda)
    if (is_gpu(x)) {  // a token is read once and written to all its rows; with an alignment there are others
      auto rows = shape[0] == row_ids.numel() ? paddle::empty(shape, x.dtype(), x.place())
                                              : paddle::full(shape, 0, x.dtype(), x.place());
      check_launch(e5_moe_permute(gpu_dtype(x, kPermute), data<void>(x), data<void>(row_ids), row_ids.shape()[0],
                                  row_ids.shape()[1], shape[1], data<void>(rows), stream_of(x)),
                   kPermute);
      return rows;
    }
  auto rows = paddle::empty(shape, x.dtype(), x.place());
  dispatch_float(x.dtype(), kPermute, [&](auto zero) {
    using T = decltype(zero);
    cpu::moe_permute<T>(data<T>(x), data<int64_t>(token_ids), token_ids.shape()[0], x.shape()[1], data<T>(rows));
  });
  return rows;
}

Tensor summed(const char* op, const Tensor& rows, const Tensor& row_ids, const Tensor* weights) {
  const int64_t tokens = row_ids.shape()[0], top_k = row_ids.shape()[1], hidden = rows.shape()[1];
  auto out = paddle::empty({tokens, hidden}, rows.dtype(), rows.place());
  if constexpr (kHasCuda)
    if (is_gpu(rows)) {
      check_launch(e5_moe_combine(gpu_dtype(rows, op), data<void>(rows), data<void>(row_ids),
                                  weights ? data<void>(*weights) : nullptr, tokens, top_k, hidden, data<void>(out),
                                  stream_of(rows)),
                   op);
      return out;
    }
  dispatch_float(rows.dtype(), op, [&](auto zero) {
    using T = decltype(zero);
    cpu::moe_unpermute<T>(data<T>(rows), data<int64_t>(row_ids), weights ? data<compute_t<T>>(*weights) : nullptr, tokens,
                          top_k, hidden, data<T>(out));
  });
  return out;
}

std::vector<Tensor> permute(const Tensor& x, const Tensor& token_ids, const Tensor& row_ids) {
  check_shape(x, {-1, -1}, kPermute, "x");
  check_shape(token_ids, {-1}, kPermute, "token_ids");
  check_shape(row_ids, {x.shape()[0], -1}, kPermute, "row_ids");
  check_dtype(token_ids, DataType::INT64, kPermute, "token_ids");
  check_dtype(row_ids, DataType::INT64, kPermute, "row_ids");
  check_place({&x, &token_ids, &row_ids}, kPermute);
  check_ids(token_ids, -1, x.shape()[0], kPermute, "token_ids");
  check_ids(row_ids, 0, token_ids.shape()[0], kPermute, "row_ids");
  return {gathered(x, token_ids, row_ids)};
}
std::vector<Tensor> permute_grad(const Tensor& row_ids, const Tensor& grad_rows) {
  return {summed(kPermute, grad_rows, row_ids, nullptr)};
}
std::vector<Shape> permute_shape(const Shape& x, const Shape& token_ids, const Shape&) { return {{token_ids[0], x[1]}}; }
std::vector<DataType> permute_dtype(const DataType& x, const DataType&, const DataType&) { return {x}; }
std::vector<Shape> permute_grad_shape(const Shape& row_ids, const Shape& grad) { return {{row_ids[0], grad[1]}}; }
std::vector<DataType> permute_grad_dtype(const DataType&, const DataType& grad) { return {grad}; }

void check_unpermute(const char* op, const Tensor& rows, const Tensor& token_ids, const Tensor& row_ids) {
  check_shape(rows, {-1, -1}, op, "rows");
  check_shape(token_ids, {rows.shape()[0]}, op, "token_ids");
  check_shape(row_ids, {-1, -1}, op, "row_ids");
  check_dtype(token_ids, DataType::INT64, op, "token_ids");
  check_dtype(row_ids, DataType::INT64, op, "row_ids");
  check_place({&rows, &token_ids, &row_ids}, op);
  check_ids(token_ids, -1, row_ids.shape()[0], op, "token_ids");
  check_ids(row_ids, 0, rows.shape()[0], op, "row_ids");
}

std::vector<Tensor> unpermute(const Tensor& rows, const Tensor& token_ids, const Tensor& row_ids) {
  check_unpermute(kUnpermute, rows, token_ids, row_ids);
  return {summed(kUnpermute, rows, row_ids, nullptr)};
}
std::vector<Tensor> unpermute_grad(const Tensor& token_ids, const Tensor& row_ids, const Tensor& grad_out) {
  return {gathered(grad_out, token_ids, row_ids)};
}
std::vector<Shape> unpermute_shape(const Shape& rows, const Shape&, const Shape& row_ids) {
  return {{row_ids[0], rows[1]}};
}
std::vector<DataType> unpermute_dtype(const DataType& rows, const DataType&, const DataType&) { return {rows}; }
std::vector<Shape> unpermute_grad_shape(const Shape& token_ids, const Shape&, const Shape& grad) {
  return {{token_ids[0], grad[1]}};
}
std::vector<DataType> unpermute_grad_dtype(const DataType&, const DataType&, const DataType& grad) { return {grad}; }

std::vector<Tensor> weighted(const Tensor& rows, const Tensor& token_ids, const Tensor& row_ids, const Tensor& weights) {
  check_unpermute(kWeighted, rows, token_ids, row_ids);
  check_shape(weights, row_ids.shape(), kWeighted, "weights");
  check_dtype(weights, weight_dtype(rows.dtype()), kWeighted, "weights");
  check_place({&rows, &weights}, kWeighted);
  return {summed(kWeighted, rows, row_ids, &weights)};
}
std::vector<Tensor> weighted_grad(const Tensor& rows, const Tensor& row_ids, const Tensor& weights,
                                  const Tensor& grad_out) {
  const int64_t tokens = row_ids.shape()[0], top_k = row_ids.shape()[1], hidden = rows.shape()[1];
  const bool aligned = rows.shape()[0] > tokens * top_k;  // then some rows belong to no slot
  auto grad_rows = aligned ? paddle::full(rows.shape(), 0, rows.dtype(), rows.place())
                           : paddle::empty(rows.shape(), rows.dtype(), rows.place());
  auto grad_weights = paddle::empty(weights.shape(), weights.dtype(), rows.place());
  if constexpr (kHasCuda)
    if (is_gpu(rows)) {
      check_launch(e5_moe_combine_backward(gpu_dtype(rows, kWeighted), data<void>(grad_out), data<void>(rows),
                                           data<void>(row_ids), data<void>(weights), tokens, top_k, hidden,
                                           data<void>(grad_rows), data<void>(grad_weights), stream_of(rows)),
                   kWeighted);
      return {grad_rows, grad_weights};
    }
  dispatch_float(rows.dtype(), kWeighted, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    cpu::moe_unpermute_backward<T>(data<T>(rows), data<int64_t>(row_ids), data<C>(weights), data<T>(grad_out), tokens,
                                   top_k, hidden, data<T>(grad_rows), data<C>(grad_weights));
  });
  return {grad_rows, grad_weights};
}
std::vector<Shape> weighted_shape(const Shape& rows, const Shape&, const Shape& row_ids, const Shape&) {
  return {{row_ids[0], rows[1]}};
}
std::vector<DataType> weighted_dtype(const DataType& rows, const DataType&, const DataType&, const DataType&) {
  return {rows};
}

}  // namespace
}  // namespace ernie5

using namespace ernie5;  // NOLINT: Paddle's macros want the global namespace

PD_BUILD_OP(ernie5_sort_by_expert)
    .Inputs({"TopkIds"})
    .Outputs({"TokenIds", "SlotIds", "RowIds", "TokensPerExpert"})
    .Attrs({"num_experts: int64_t", "alignment: int64_t"})
    .SetKernelFn(PD_KERNEL(sort_by_expert))
    .SetInferShapeFn(PD_INFER_SHAPE(sort_shapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(sort_dtypes));

PD_BUILD_OP(ernie5_moe_permute)
    .Inputs({"X", "TokenIds", "RowIds"})
    .Outputs({"Rows"})
    .SetKernelFn(PD_KERNEL(permute))
    .SetInferShapeFn(PD_INFER_SHAPE(permute_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(permute_dtype));
PD_BUILD_GRAD_OP(ernie5_moe_permute)
    .Inputs({"RowIds", paddle::Grad("Rows")})
    .Outputs({paddle::Grad("X")})
    .SetKernelFn(PD_KERNEL(permute_grad))
    .SetInferShapeFn(PD_INFER_SHAPE(permute_grad_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(permute_grad_dtype));

PD_BUILD_OP(ernie5_moe_unpermute)
    .Inputs({"Rows", "TokenIds", "RowIds"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(unpermute))
    .SetInferShapeFn(PD_INFER_SHAPE(unpermute_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(unpermute_dtype));
PD_BUILD_GRAD_OP(ernie5_moe_unpermute)
    .Inputs({"TokenIds", "RowIds", paddle::Grad("Out")})
    .Outputs({paddle::Grad("Rows")})
    .SetKernelFn(PD_KERNEL(unpermute_grad))
    .SetInferShapeFn(PD_INFER_SHAPE(unpermute_grad_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(unpermute_grad_dtype));

PD_BUILD_OP(ernie5_moe_unpermute_weighted)
    .Inputs({"Rows", "TokenIds", "RowIds", "Weights"})
    .Outputs({"Out"})
    .SetKernelFn(PD_KERNEL(weighted))
    .SetInferShapeFn(PD_INFER_SHAPE(weighted_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(weighted_dtype));
PD_BUILD_GRAD_OP(ernie5_moe_unpermute_weighted)
    .Inputs({"Rows", "RowIds", "Weights", paddle::Grad("Out")})
    .Outputs({paddle::Grad("Rows"), paddle::Grad("Weights")})
    .SetKernelFn(PD_KERNEL(weighted_grad));
