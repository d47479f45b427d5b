// The CUDA kernels behind a C interface, for programs without Paddle: see CUDA.md. Pointers are to device memory,
// contiguous and row-major; stream is a cudaStream_t; the result is a cudaError_t (0: the kernels are under way).
// Nothing is allocated: workspaces come from the caller. dtype: 0 float32, 1 float16, 2 bfloat16. Shapes are in the
// kernels' headers.
#include "bitwise_cross_entropy/kernel_cuda.cuh"
#include "cross_entropy/kernel_cuda.cuh"
#include "expert_ffn/kernel_cuda.cuh"
#include "flashmask_attention/kernel_cuda.cuh"
#include "moe_permute/kernel_cuda.cuh"
#include "rms_norm/kernel_cuda.cuh"
#include "router/kernel_cuda.cuh"
#include "swiglu/kernel_cuda.cuh"
#include "uni_rope/kernel_cuda.cuh"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace {

using namespace ernie5::cuda;

template <typename Run>
int by_dtype(int dtype, const Run& run) {
  switch (dtype) {
    case 0: return run(float());
    case 1: return run(fp16());
    case 2: return run(bf16());
    default: return cudaErrorInvalidValue;
  }
}

template <typename T>
const T* as(const void* pointer) {
  return static_cast<const T*>(pointer);
}
template <typename T>
T* as(void* pointer) {
  return static_cast<T*>(pointer);
}
cudaStream_t on(void* stream) { return static_cast<cudaStream_t>(stream); }

AttentionShape attention_shape(int64_t batch, int64_t queries, int64_t keys, int64_t heads, int64_t kv_heads,
                               const void* mask_rows, int64_t columns, double scale) {
  return {
      batch, queries, keys, heads, kv_heads, as<int>(mask_rows), static_cast<int>(columns), static_cast<float>(scale)};
}

}  // namespace

EXPORT int e5_abi_version() { return 1; }

// inverse float [rows]; residual and sum are null together.
EXPORT int e5_rms_norm_forward(int dtype, const void* x, const void* residual, const void* weight, int64_t rows,
                               int64_t hidden, double epsilon, void* sum, void* y, void* inverse, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return rms_norm_forward<T>(as<T>(x), as<T>(residual), as<T>(weight), rows, hidden, static_cast<float>(epsilon),
                               as<T>(sum), as<T>(y), as<float>(inverse), on(stream));
  });
}
// Bytes of rms_norm_backward's workspace.
EXPORT int64_t e5_rms_norm_workspace(int64_t rows, int64_t hidden) {
  return rms_norm_teams(rows, hidden) * hidden * static_cast<int64_t>(sizeof(float));
}
EXPORT int e5_rms_norm_backward(int dtype, const void* s, const void* weight, const void* inverse, const void* grad_y,
                                const void* grad_sum, int64_t rows, int64_t hidden, void* grad_s, void* grad_weight,
                                void* workspace, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return rms_norm_backward<T>(as<T>(s), as<T>(weight), as<float>(inverse), as<T>(grad_y), as<T>(grad_sum), rows,
                                hidden, as<T>(grad_s), as<T>(grad_weight), as<float>(workspace), on(stream));
  });
}

EXPORT int e5_swiglu_forward(int dtype, const void* rows, const void* row_weights, int64_t count, int64_t ffn, void* y,
                             void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return swiglu_forward<T>(as<T>(rows), as<float>(row_weights), count, ffn, as<T>(y), on(stream));
  });
}
EXPORT int e5_swiglu_backward(int dtype, const void* rows, const void* row_weights, const void* grad_y, int64_t count,
                              int64_t ffn, void* grad_rows, void* grad_weights, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return swiglu_backward<T>(as<T>(rows), as<float>(row_weights), as<T>(grad_y), count, ffn, as<T>(grad_rows),
                              as<float>(grad_weights), nullptr, on(stream));
  });
}

EXPORT int e5_uni_rope_angles(const void* position_ids, const void* axes, const void* inverse_frequency, int64_t tokens,
                              int64_t pairs, void* cos, void* sin, void* stream) {
  return uni_rope_angles(as<float>(position_ids), as<int64_t>(axes), as<float>(inverse_frequency), tokens, pairs,
                         as<float>(cos), as<float>(sin), on(stream));
}
// backward: 1 turns back.
EXPORT int e5_uni_rope(int dtype, const void* states, const void* cos, const void* sin, int64_t tokens, int64_t heads,
                       int64_t pairs, int64_t backward, void* out, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return uni_rope<T>(as<T>(states), as<float>(cos), as<float>(sin), tokens, heads, pairs, backward ? -1.0f : 1.0f,
                       as<T>(out), on(stream));
  });
}

EXPORT int e5_router_forward(const void* logits, const void* bias, const void* mask, int64_t tokens, int64_t experts,
                             int64_t top_k, int64_t softmax, double scaling, void* topk_ids, void* topk_weights,
                             void* tokens_per_expert, void* stream) {
  return router_forward(as<float>(logits), as<float>(bias), as<float>(mask), tokens, experts, top_k, softmax != 0,
                        static_cast<float>(scaling), as<int64_t>(topk_ids), as<float>(topk_weights),
                        as<int64_t>(tokens_per_expert), on(stream));
}
EXPORT int e5_router_backward(const void* logits, const void* mask, const void* topk_ids, const void* grad_weights,
                              int64_t tokens, int64_t experts, int64_t top_k, int64_t softmax, double scaling,
                              void* grad_logits, void* stream) {
  return router_backward(as<float>(logits), as<float>(mask), as<int64_t>(topk_ids), as<float>(grad_weights), tokens,
                         experts, top_k, softmax != 0, static_cast<float>(scaling), as<float>(grad_logits), on(stream));
}

// Bytes of sort_by_expert's workspace.
EXPORT int64_t e5_sort_workspace(int64_t slots, int64_t experts) {
  return sort_chunks(slots) * experts * static_cast<int64_t>(sizeof(int));
}
EXPORT int e5_sort_by_expert(const void* topk_ids, int64_t slots, int64_t experts, int64_t alignment, int64_t rows,
                             void* row_ids, void* slot_ids, void* tokens_per_expert, void* offsets, void* workspace,
                             void* stream) {
  return sort_by_expert(as<int64_t>(topk_ids), slots, experts, alignment, rows, as<int64_t>(row_ids),
                        as<int64_t>(slot_ids), as<int64_t>(tokens_per_expert), as<int64_t>(offsets), as<int>(workspace),
                        on(stream));
}
EXPORT int e5_moe_permute(int dtype, const void* x, const void* row_ids, int64_t tokens, int64_t top_k, int64_t hidden,
                          void* rows, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return permute<T>(as<T>(x), as<int64_t>(row_ids), tokens, top_k, hidden, as<T>(rows), on(stream));
  });
}
// weights may be null: a plain sum, which is also the gradient of moe_permute.
EXPORT int e5_moe_combine(int dtype, const void* rows, const void* row_ids, const void* weights, int64_t tokens,
                          int64_t top_k, int64_t hidden, void* out, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return combine<T>(as<T>(rows), as<int64_t>(row_ids), as<float>(weights), tokens, top_k, hidden, as<T>(out),
                      on(stream));
  });
}
EXPORT int e5_moe_combine_backward(int dtype, const void* grad, const void* rows, const void* row_ids,
                                   const void* weights, int64_t tokens, int64_t top_k, int64_t hidden, void* grad_rows,
                                   void* grad_weights, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return combine_backward<T>(as<T>(grad), as<T>(rows), as<int64_t>(row_ids), as<float>(weights), tokens, top_k,
                               hidden, as<T>(grad_rows), as<float>(grad_weights), on(stream));
  });
}

EXPORT int e5_cross_entropy_chunk(int dtype, const void* logits, const void* labels, int64_t rows, int64_t first_column,
                                  int64_t columns, int64_t is_first, void* highest, void* total, void* chosen,
                                  void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return cross_entropy_chunk<T>(as<T>(logits), as<int64_t>(labels), rows, first_column, columns, is_first != 0,
                                  {as<float>(highest), as<float>(total), as<float>(chosen)}, on(stream));
  });
}
EXPORT int e5_cross_entropy_finish(const void* labels, int64_t ignore_index, int64_t rows, void* highest, void* total,
                                   void* chosen, void* loss, void* lse, void* stream) {
  return cross_entropy_finish(as<int64_t>(labels), ignore_index, rows,
                              {as<float>(highest), as<float>(total), as<float>(chosen)}, as<float>(loss),
                              as<float>(lse), on(stream));
}
EXPORT int e5_cross_entropy_backward(int dtype, void* logits, const void* labels, const void* lse,
                                     const void* grad_loss, int64_t rows, int64_t first_column, int64_t columns,
                                     int64_t ignore_index, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return cross_entropy_backward<T>(as<T>(logits), as<int64_t>(labels), as<float>(lse), as<float>(grad_loss), rows,
                                     first_column, columns, ignore_index, on(stream));
  });
}

EXPORT int e5_bitwise_cross_entropy_forward(int dtype, const void* logits, const void* targets, int64_t rows,
                                            int64_t bits, void* loss, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return bitwise_cross_entropy_forward<T>(as<T>(logits), as<T>(targets), rows, bits, as<float>(loss), on(stream));
  });
}
EXPORT int e5_bitwise_cross_entropy_backward(int dtype, const void* logits, const void* targets, const void* grad_loss,
                                             int64_t rows, int64_t bits, void* grad_logits, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return bitwise_cross_entropy_backward<T>(as<T>(logits), as<T>(targets), as<float>(grad_loss), rows, bits,
                                             as<T>(grad_logits), on(stream));
  });
}

// Bytes of `bounds`, which attention_bounds fills once for a mask and every layer reads.
EXPORT int64_t e5_attention_bounds_size(int64_t batch, int64_t keys) {
  return attention_bounds_size(batch, keys) * static_cast<int64_t>(sizeof(int));
}
EXPORT int e5_attention_bounds(const void* mask_rows, int64_t columns, int64_t batch, int64_t queries, int64_t keys,
                               void* bounds, void* stream) {
  return attention_bounds(attention_shape(batch, queries, keys, 1, 1, mask_rows, columns, 1.0), as<int>(bounds),
                          on(stream));
}
// bfloat16 alone, head_dim 64 or 128.
EXPORT int e5_attention_forward(const void* query, const void* key, const void* value, const void* mask_rows,
                                int64_t columns, const void* bounds, int64_t batch, int64_t queries, int64_t keys,
                                int64_t heads, int64_t kv_heads, int64_t head_dim, double scale, void* out,
                                void* log_sums, void* stream) {
  const auto shape = attention_shape(batch, queries, keys, heads, kv_heads, mask_rows, columns, scale);
  const auto run = head_dim == 64 ? attention_forward<64> : attention_forward<128>;
  if (head_dim != 64 && head_dim != 128) return cudaErrorInvalidValue;
  return run(as<bf16>(query), as<bf16>(key), as<bf16>(value), shape, as<int>(bounds), as<bf16>(out),
             as<float>(log_sums), on(stream));
}
// products: workspace, float [batch, heads, queries].
EXPORT int e5_attention_backward(const void* query, const void* key, const void* value, const void* out,
                                 const void* grad_out, const void* log_sums, const void* mask_rows, int64_t columns,
                                 const void* bounds, int64_t batch, int64_t queries, int64_t keys, int64_t heads,
                                 int64_t kv_heads, int64_t head_dim, double scale, void* products, void* grad_query,
                                 void* grad_key, void* grad_value, void* stream) {
  const auto shape = attention_shape(batch, queries, keys, heads, kv_heads, mask_rows, columns, scale);
  const auto run = head_dim == 64 ? attention_backward<64> : attention_backward<128>;
  if (head_dim != 64 && head_dim != 128) return cudaErrorInvalidValue;
  return run(as<bf16>(query), as<bf16>(key), as<bf16>(value), as<bf16>(out), as<bf16>(grad_out), as<float>(log_sums),
             shape, as<int>(bounds), as<float>(products), as<bf16>(grad_query), as<bf16>(grad_key),
             as<bf16>(grad_value), on(stream));
}

// kind: 0 a b, 1 a b^T (rows ragged), 2 a^T b (depth ragged); bfloat16. height serves kind 2, depth the others.
EXPORT int e5_grouped_product(int64_t kind, const void* a, const void* b, const void* tokens_per_expert,
                              const void* offsets, int64_t experts, int64_t height, int64_t depth, int64_t columns,
                              void* c, void* stream) {
  const GroupedShape shape = {as<int64_t>(tokens_per_expert), as<int64_t>(offsets),    static_cast<int>(experts),
                              static_cast<int>(height),       static_cast<int>(depth), static_cast<int>(columns)};
  switch (kind) {
    case 0: return grouped_product<Product::kRows>(as<bf16>(a), as<bf16>(b), as<bf16>(c), shape, on(stream));
    case 1: return grouped_product<Product::kRowsTransposed>(as<bf16>(a), as<bf16>(b), as<bf16>(c), shape, on(stream));
    case 2: return grouped_product<Product::kDepth>(as<bf16>(a), as<bf16>(b), as<bf16>(c), shape, on(stream));
    default: return cudaErrorInvalidValue;
  }
}
// bfloat16; inner may be null where no gradient is wanted.
EXPORT int e5_expert_ffn_forward(const void* rows, const void* row_weights, const void* tokens_per_expert,
                                 const void* offsets, const void* gate_up_proj, const void* down_proj, int64_t slots,
                                 int64_t experts, int64_t hidden, int64_t ffn, void* inner, void* activations,
                                 void* out, void* stream) {
  return expert_ffn_forward(as<bf16>(rows), as<float>(row_weights), as<bf16>(gate_up_proj), as<bf16>(down_proj),
                            {as<int64_t>(tokens_per_expert), as<int64_t>(offsets), slots, experts, hidden, ffn},
                            as<bf16>(inner), as<bf16>(activations), as<bf16>(out), on(stream));
}
// inner: of forward. activations and grad_activations [slots, ffn], grad_inner [slots, 2 * ffn] (or inner): workspaces.
EXPORT int e5_expert_ffn_backward(const void* rows, const void* row_weights, const void* tokens_per_expert,
                                  const void* offsets, const void* gate_up_proj, const void* down_proj,
                                  const void* grad_out, int64_t slots, int64_t experts, int64_t hidden, int64_t ffn,
                                  const void* inner, void* activations, void* grad_activations, void* grad_inner,
                                  void* grad_rows, void* grad_row_weights, void* grad_gate_up, void* grad_down,
                                  void* stream) {
  return expert_ffn_backward(
      as<bf16>(rows), as<float>(row_weights), as<bf16>(gate_up_proj), as<bf16>(down_proj), as<bf16>(grad_out),
      {as<int64_t>(tokens_per_expert), as<int64_t>(offsets), slots, experts, hidden, ffn}, as<bf16>(inner),
      as<bf16>(activations), as<bf16>(grad_activations), as<bf16>(grad_inner), as<bf16>(grad_rows),
      as<float>(grad_row_weights), as<bf16>(grad_gate_up), as<bf16>(grad_down), on(stream));
}
