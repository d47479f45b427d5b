// capi.h's functions: the kernels, by dtype.
#include "capi.h"

#include "bitwise_cross_entropy/kernel_cuda.cuh"
#include "common/scale.cuh"
#include "cross_entropy/kernel_cuda.cuh"
#include "expert_ffn/kernel_cuda.cuh"
#include "flashmask_attention/kernel_cuda.cuh"
#include "moe_permute/kernel_cuda.cuh"
#include "rms_norm/kernel_cuda.cuh"
#include "router/kernel_cuda.cuh"
#include "swiglu/kernel_cuda.cuh"
#include "uni_rope/kernel_cuda.cuh"

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

AttentionShape attention_shape(const void* mask, int64_t mask_batch, int64_t columns, int64_t causal, int64_t batch,
                               int64_t queries, int64_t keys, int64_t heads, int64_t kv_heads, double scale) {
  return {batch,      queries, keys, heads, kv_heads, as<int>(mask), mask_batch, static_cast<int>(columns), causal != 0,
          static_cast<float>(scale)};
}

}  // namespace

int e5_abi_version() { return 2; }
const char* e5_error(int code) { return cudaGetErrorString(static_cast<cudaError_t>(code)); }

int e5_rms_norm_forward(int dtype, const void* x, const void* residual, const void* weight, int64_t rows,
                        int64_t hidden, double epsilon, void* sum, void* y, void* inverse, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return rms_norm_forward<T>(as<T>(x), as<T>(residual), as<T>(weight), rows, hidden, static_cast<float>(epsilon),
                               as<T>(sum), as<T>(y), as<float>(inverse), on(stream));
  });
}
int64_t e5_rms_norm_workspace(int64_t rows, int64_t hidden) {
  return rms_norm_teams(rows, hidden) * hidden * static_cast<int64_t>(sizeof(float));
}
int e5_rms_norm_backward(int dtype, const void* s, const void* weight, const void* inverse, const void* grad_y,
                         const void* grad_sum, int64_t rows, int64_t hidden, void* grad_s, void* grad_weight,
                         void* workspace, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return rms_norm_backward<T>(as<T>(s), as<T>(weight), as<float>(inverse), as<T>(grad_y), as<T>(grad_sum), rows,
                                hidden, as<T>(grad_s), as<T>(grad_weight), as<float>(workspace), on(stream));
  });
}

int e5_swiglu_forward(int dtype, const void* gate, const void* up, const void* row_weights, int64_t count, int64_t ffn,
                      int64_t stride, void* y, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return swiglu_forward<T>(as<T>(gate), as<T>(up), as<float>(row_weights), count, ffn, stride, as<T>(y), on(stream));
  });
}
int e5_swiglu_backward(int dtype, const void* gate, const void* up, const void* row_weights, const void* grad_y,
                       int64_t count, int64_t ffn, int64_t stride, void* grad_gate, void* grad_up, void* grad_weights,
                       void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return swiglu_backward<T>(as<T>(gate), as<T>(up), as<float>(row_weights), as<T>(grad_y), count, ffn, stride,
                              as<T>(grad_gate), as<T>(grad_up), as<float>(grad_weights), nullptr, on(stream));
  });
}

int e5_uni_rope_angles(const void* position_ids, const void* axes, const void* inverse_frequency, int64_t tokens,
                       int64_t pairs, void* cos, void* sin, void* stream) {
  return uni_rope_angles(as<float>(position_ids), as<int64_t>(axes), as<float>(inverse_frequency), tokens, pairs,
                         as<float>(cos), as<float>(sin), on(stream));
}
int e5_uni_rope(int dtype, const void* states, const void* cos, const void* sin, int64_t tokens, int64_t angles, int64_t heads,
                int64_t pairs, int64_t backward, void* out, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return uni_rope<T>(as<T>(states), as<float>(cos), as<float>(sin), tokens, angles, heads, pairs, backward ? -1.0f : 1.0f,
                       as<T>(out), on(stream));
  });
}

int e5_router_forward(const void* logits, const void* bias, const void* mask, int64_t tokens, int64_t experts,
                      int64_t top_k, int64_t softmax, double scaling, void* topk_ids, void* topk_weights,
                      void* totals, void* tokens_per_expert, void* stream) {
  return router_forward(as<float>(logits), as<float>(bias), as<float>(mask), tokens, experts, top_k, softmax != 0,
                        static_cast<float>(scaling), as<int64_t>(topk_ids), as<float>(topk_weights),
                        as<float>(totals), as<int64_t>(tokens_per_expert), on(stream));
}
int e5_router_backward(const void* logits, const void* mask, const void* topk_ids, const void* grad_weights,
                       int64_t tokens, int64_t experts, int64_t top_k, int64_t softmax, double scaling,
                       void* grad_logits, void* stream) {
  return router_backward(as<float>(logits), as<float>(mask), as<int64_t>(topk_ids), as<float>(grad_weights), tokens,
                         experts, top_k, softmax != 0, static_cast<float>(scaling), as<float>(grad_logits), on(stream));
}

int64_t e5_sort_workspace(int64_t slots, int64_t experts) {
  return sort_chunks(slots) * experts * static_cast<int64_t>(sizeof(int));
}
int e5_sort_by_expert(const void* topk_ids, int64_t slots, int64_t top_k, int64_t experts, int64_t alignment,
                      int64_t rows, void* row_ids, void* slot_ids, void* token_ids, void* tokens_per_expert,
                      void* offsets, void* workspace, void* stream) {
  return sort_by_expert(as<int64_t>(topk_ids), slots, top_k, experts, alignment, rows, as<int64_t>(row_ids),
                        as<int64_t>(slot_ids), as<int64_t>(token_ids), as<int64_t>(tokens_per_expert),
                        as<int64_t>(offsets), as<int>(workspace), on(stream));
}
int e5_moe_permute(int dtype, const void* x, const void* row_ids, int64_t tokens, int64_t top_k, int64_t hidden,
                   void* rows, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return permute<T>(as<T>(x), as<int64_t>(row_ids), tokens, top_k, hidden, as<T>(rows), on(stream));
  });
}
int e5_moe_combine(int dtype, const void* rows, const void* row_ids, const void* weights, int64_t tokens,
                   int64_t top_k, int64_t hidden, void* out, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return combine<T>(as<T>(rows), as<int64_t>(row_ids), as<float>(weights), tokens, top_k, hidden, as<T>(out),
                      on(stream));
  });
}
int e5_moe_combine_backward(int dtype, const void* grad, const void* rows, const void* row_ids,
                            const void* weights, int64_t tokens, int64_t top_k, int64_t hidden, void* grad_rows,
                            void* grad_weights, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return combine_backward<T>(as<T>(grad), as<T>(rows), as<int64_t>(row_ids), as<float>(weights), tokens, top_k,
                               hidden, as<T>(grad_rows), as<float>(grad_weights), on(stream));
  });
}

int e5_cross_entropy_chunk(int dtype, const void* logits, const void* labels, int64_t rows, int64_t first_column,
                           int64_t columns, int64_t is_first, void* highest, void* total, void* chosen,
                           void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return cross_entropy_chunk<T>(as<T>(logits), as<int64_t>(labels), rows, first_column, columns, is_first != 0,
                                  {as<float>(highest), as<float>(total), as<float>(chosen)}, on(stream));
  });
}
int e5_cross_entropy_finish(const void* labels, int64_t ignore_index, int64_t rows, void* highest, void* total,
                            void* chosen, void* loss, void* lse, void* stream) {
  return cross_entropy_finish(as<int64_t>(labels), ignore_index, rows,
                              {as<float>(highest), as<float>(total), as<float>(chosen)}, as<float>(loss),
                              as<float>(lse), on(stream));
}
int e5_cross_entropy_backward(int dtype, void* logits, const void* labels, const void* lse,
                              const void* grad_loss, int64_t rows, int64_t first_column, int64_t columns,
                              int64_t ignore_index, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return cross_entropy_backward<T>(as<T>(logits), as<int64_t>(labels), as<float>(lse), as<float>(grad_loss), rows,
                                     first_column, columns, ignore_index, on(stream));
  });
}

int e5_bitwise_cross_entropy(int dtype, const void* logits, const void* targets, const void* row_weights, int64_t rows,
                             int64_t bits, int64_t stride, void* losses, void* grad, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return bitwise_cross_entropy<T>(as<T>(logits), as<float>(targets), as<float>(row_weights), rows, bits, stride,
                                    as<float>(losses), as<T>(grad), on(stream));
  });
}

int e5_scale(int dtype, const void* values, const void* factor, int64_t count, void* out, void* stream) {
  return by_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    return scale<T>(as<T>(values), as<float>(factor), count, as<T>(out), on(stream));
  });
}

int64_t e5_attention_bounds_size(int64_t batch, int64_t keys) {
  return attention_bounds_size(batch, keys) * static_cast<int64_t>(sizeof(int));
}
int e5_attention_bounds(const void* mask, int64_t mask_batch, int64_t columns, int64_t causal, int64_t batch,
                        int64_t queries, int64_t keys, void* bounds, void* stream) {
  const auto shape = attention_shape(mask, mask_batch, columns, causal, batch, queries, keys, 1, 1, 1.0);
  return attention_bounds(shape, as<int>(bounds), on(stream));
}
int e5_attention_forward(const void* query, const void* key, const void* value, const void* mask, int64_t mask_batch,
                         int64_t columns, int64_t causal, const void* bounds, int64_t batch, int64_t queries,
                         int64_t keys, int64_t heads, int64_t kv_heads, int64_t head_dim, double scale, void* out,
                         void* log_sums, void* stream) {
  const auto shape =
      attention_shape(mask, mask_batch, columns, causal, batch, queries, keys, heads, kv_heads, scale);
  const auto run = head_dim == 64 ? attention_forward<64> : attention_forward<128>;
  if (head_dim != 64 && head_dim != 128) return cudaErrorInvalidValue;
  return run(as<bf16>(query), as<bf16>(key), as<bf16>(value), shape, as<int>(bounds), as<bf16>(out),
             as<float>(log_sums), on(stream));
}
int e5_attention_backward(const void* query, const void* key, const void* value, const void* out, const void* grad_out,
                          const void* log_sums, const void* mask, int64_t mask_batch, int64_t columns, int64_t causal,
                          const void* bounds, int64_t batch, int64_t queries, int64_t keys, int64_t heads,
                          int64_t kv_heads, int64_t head_dim, double scale, void* products, void* grad_query,
                          void* grad_key, void* grad_value, void* stream) {
  const auto shape =
      attention_shape(mask, mask_batch, columns, causal, batch, queries, keys, heads, kv_heads, scale);
  const auto run = head_dim == 64 ? attention_backward<64> : attention_backward<128>;
  if (head_dim != 64 && head_dim != 128) return cudaErrorInvalidValue;
  return run(as<bf16>(query), as<bf16>(key), as<bf16>(value), as<bf16>(out), as<bf16>(grad_out), as<float>(log_sums),
             shape, as<int>(bounds), as<float>(products), as<bf16>(grad_query), as<bf16>(grad_key),
             as<bf16>(grad_value), on(stream));
}

int e5_grouped_product(int64_t kind, const void* a, const void* b, const void* tokens_per_expert,
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
int e5_expert_ffn_forward(const void* rows, const void* row_weights, const void* tokens_per_expert,
                          const void* offsets, const void* gate_up_proj, const void* down_proj, int64_t slots,
                          int64_t experts, int64_t hidden, int64_t ffn, void* inner, void* activations,
                          void* out, void* stream) {
  return expert_ffn_forward(as<bf16>(rows), as<float>(row_weights), as<bf16>(gate_up_proj), as<bf16>(down_proj),
                            {as<int64_t>(tokens_per_expert), as<int64_t>(offsets), slots, experts, hidden, ffn},
                            as<bf16>(inner), as<bf16>(activations), as<bf16>(out), on(stream));
}
int e5_expert_ffn_backward(const void* rows, const void* row_weights, const void* tokens_per_expert,
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
