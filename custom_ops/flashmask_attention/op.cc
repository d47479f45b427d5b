#include "flashmask_attention/kernel.h"

#include <cmath>

#include "common/binding.h"

namespace ernie5 {
namespace {

constexpr char kOp[] = "flashmask_attention";

DataType lse_dtype(DataType dtype) { return dtype == DataType::FLOAT64 ? DataType::FLOAT64 : DataType::FLOAT32; }

cpu::AttentionShape check(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask, bool causal) {
  check_place({&query, &key, &value, &mask}, kOp);
  check_shape(query, {-1, -1, -1, -1}, kOp, "query");
  cpu::AttentionShape shape{};
  shape.batch = query.shape()[0], shape.queries = query.shape()[1], shape.heads = query.shape()[2];
  shape.head_dim = query.shape()[3];
  check_shape(key, {shape.batch, -1, -1, shape.head_dim}, kOp, "key");
  shape.keys = key.shape()[1], shape.kv_heads = key.shape()[2];
  check_shape(value, key.shape(), kOp, "value");
  check_dtype(key, query.dtype(), kOp, "key");
  check_dtype(value, query.dtype(), kOp, "value");
  PD_CHECK(shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0, kOp, ": ", shape.heads,
           " heads of queries are no multiple of ", shape.kv_heads, " heads of keys");
  check_shape(mask, {-1, -1, -1}, kOp, "mask");
  if (mask.shape()[2] > 0) check_shape(mask, {-1, shape.keys, -1}, kOp, "mask");  // without columns it is of any keys
  check_dtype(mask, DataType::INT32, kOp, "mask");
  shape.mask_batch = mask.shape()[0], shape.columns = mask.shape()[2];
  PD_CHECK(shape.mask_batch == 1 || shape.mask_batch == shape.batch, kOp, ": mask has ", shape.mask_batch,
           " rows, expected 1 or ", shape.batch);
  PD_CHECK(shape.columns == 0 || shape.columns == 1 || shape.columns == 2 || (shape.columns == 4 && !causal), kOp,
           ": mask has ", shape.columns, " columns, expected 0, 1 or 2, or 4 if it is not causal");
  PD_CHECK(shape.queries < INT32_MAX && shape.keys < INT32_MAX, kOp, ": more than 2^31 tokens");
  shape.mask = data<int32_t>(mask), shape.causal = causal, shape.scale = 1 / std::sqrt(static_cast<double>(shape.head_dim));
  shape.key_strides = shape.value_strides = cpu::dense_strides(shape.keys, shape.kv_heads, shape.head_dim);
  return shape;
}

// bfloat16 alone, and what the mask hides in blocks of keys: the first of what both directions ask capi.h for.
Tensor gpu_bounds(const cpu::AttentionShape& shape, const Tensor& query) {
  check_dtype(query, DataType::BFLOAT16, kOp, "query");
  PD_CHECK(shape.head_dim == 64 || shape.head_dim == 128, kOp, ": head_dim is ", shape.head_dim,
           ", the kernel for GPUs takes 64 and 128");
  auto bounds = paddle::empty({e5_attention_bounds_size(shape.batch, shape.keys)}, DataType::UINT8, query.place());
  check_launch(e5_attention_bounds(shape.mask, shape.mask_batch, shape.columns, shape.causal, shape.batch, shape.queries,
                                   shape.keys, data<void>(bounds), stream_of(query)),
               kOp);
  return bounds;
}

std::vector<Tensor> flashmask_attention(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& mask,
                                        bool causal) {
  const auto shape = check(query, key, value, mask, causal);
  auto out = paddle::empty({shape.batch, shape.queries, shape.heads * shape.head_dim}, query.dtype(), query.place());
  auto lse = paddle::empty({shape.batch, shape.heads, shape.queries}, lse_dtype(query.dtype()), query.place());
  if constexpr (kHasCuda)
    if (is_gpu(query)) {
      const auto bounds = gpu_bounds(shape, query);
      check_launch(e5_attention_forward(data<void>(query), data<void>(key), data<void>(value), shape.mask,
                                        shape.mask_batch, shape.columns, shape.causal, data<void>(bounds), shape.batch,
                                        shape.queries, shape.keys, shape.heads, shape.kv_heads, shape.head_dim,
                                        shape.scale, data<void>(out), data<void>(lse), stream_of(query)),
                   kOp);
      return {out, lse};
    }
  dispatch_float(query.dtype(), kOp, [&](auto zero) {
    using T = decltype(zero);
    cpu::attention_forward<T>(shape, data<T>(query), data<T>(key), data<T>(value), data<T>(out),
                              data<compute_t<T>>(lse));
  });
  return {out, lse};
}

std::vector<Tensor> flashmask_attention_grad(const Tensor& query, const Tensor& key, const Tensor& value,
                                             const Tensor& mask, const Tensor& out, const Tensor& lse,
                                             const Tensor& grad_out, bool causal) {
  const auto shape = check(query, key, value, mask, causal);
  auto grad_query = paddle::empty(query.shape(), query.dtype(), query.place());
  auto grad_key = paddle::empty(key.shape(), key.dtype(), key.place());
  auto grad_value = paddle::empty(value.shape(), value.dtype(), value.place());
  if constexpr (kHasCuda)
    if (is_gpu(query)) {
      const auto bounds = gpu_bounds(shape, query);
      auto products = paddle::empty(lse.shape(), DataType::FLOAT32, query.place());
      check_launch(e5_attention_backward(data<void>(query), data<void>(key), data<void>(value), data<void>(out),
                                         data<void>(grad_out), data<void>(lse), shape.mask, shape.mask_batch,
                                         shape.columns, shape.causal, data<void>(bounds), shape.batch, shape.queries,
                                         shape.keys, shape.heads, shape.kv_heads, shape.head_dim, shape.scale,
                                         data<void>(products), data<void>(grad_query), data<void>(grad_key),
                                         data<void>(grad_value), stream_of(query)),
                   kOp);
      return {grad_query, grad_key, grad_value};
    }
  dispatch_float(query.dtype(), kOp, [&](auto zero) {
    using T = decltype(zero);
    cpu::attention_backward<T>(shape, data<T>(query), data<T>(key), data<T>(value), data<T>(out),
                               data<compute_t<T>>(lse), data<T>(grad_out), data<T>(grad_query), data<T>(grad_key),
                               data<T>(grad_value));
  });
  return {grad_query, grad_key, grad_value};
}

std::vector<Shape> infer_shape(const Shape& query, const Shape&, const Shape&, const Shape&, bool) {
  const int64_t width = query[2] < 0 || query[3] < 0 ? -1 : query[2] * query[3];
  return {{query[0], query[1], width}, {query[0], query[2], query[1]}};
}
std::vector<DataType> infer_dtype(const DataType& query, const DataType&, const DataType&, const DataType&) {
  return {query, lse_dtype(query)};
}

}  // namespace
}  // namespace ernie5

using namespace ernie5;  // NOLINT: Paddle's macros want the global namespace

PD_BUILD_OP(ernie5_flashmask_attention)
    .Inputs({"Query", "Key", "Value", "Mask"})
    .Outputs({"Out", "Lse"})
    .Attrs({"causal: bool"})
    .SetKernelFn(PD_KERNEL(flashmask_attention))
    .SetInferShapeFn(PD_INFER_SHAPE(infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(infer_dtype));
PD_BUILD_GRAD_OP(ernie5_flashmask_attention)
    .Inputs({"Query", "Key", "Value", "Mask", "Out", "Lse", paddle::Grad("Out")})
    .Outputs({paddle::Grad("Query"), paddle::Grad("Key"), paddle::Grad("Value")})
    .Attrs({"causal: bool"})
    .SetKernelFn(PD_KERNEL(flashmask_attention_grad));
