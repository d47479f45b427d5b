// The CUDA kernels behind a C interface, for the Paddle bindings (op.cc) and for programs without Paddle: see CUDA.md.
// Pointers are to device memory, contiguous and row-major; stream is a cudaStream_t; the result is a cudaError_t (0: the
// kernels are under way). Nothing is allocated: workspaces come from the caller. dtype: 0 float32, 1 float16, 2
// bfloat16. Shapes are in the kernels' headers.
#pragma once
#include <cstdint>

#define E5_EXPORT extern "C" __attribute__((visibility("default")))

E5_EXPORT int e5_abi_version();
// A cudaError_t in words.
E5_EXPORT const char* e5_error(int code);

// inverse float [rows]; residual and sum are null together.
E5_EXPORT int e5_rms_norm_forward(int dtype, const void* x, const void* residual, const void* weight, int64_t rows,
                                  int64_t hidden, double epsilon, void* sum, void* y, void* inverse, void* stream);
// Bytes of rms_norm_backward's workspace.
E5_EXPORT int64_t e5_rms_norm_workspace(int64_t rows, int64_t hidden);
E5_EXPORT int e5_rms_norm_backward(int dtype, const void* s, const void* weight, const void* inverse,
                                   const void* grad_y, const void* grad_sum, int64_t rows, int64_t hidden, void* grad_s,
                                   void* grad_weight, void* workspace, void* stream);

// Rows of gate and up begin `stride` numbers apart; row_weights and grad_weights may be null together.
E5_EXPORT int e5_swiglu_forward(int dtype, const void* gate, const void* up, const void* row_weights, int64_t count,
                                int64_t ffn, int64_t stride, void* y, void* stream);
E5_EXPORT int e5_swiglu_backward(int dtype, const void* gate, const void* up, const void* row_weights,
                                 const void* grad_y, int64_t count, int64_t ffn, int64_t stride, void* grad_gate,
                                 void* grad_up, void* grad_weights, void* stream);

E5_EXPORT int e5_uni_rope_angles(const void* position_ids, const void* axes, const void* inverse_frequency,
                                 int64_t tokens, int64_t pairs, void* cos, void* sin, void* stream);
// backward: 1 turns back.
E5_EXPORT int e5_uni_rope(int dtype, const void* states, const void* cos, const void* sin, int64_t tokens,
                          int64_t angles, int64_t heads, int64_t pairs, int64_t backward, void* out, void* stream);

E5_EXPORT int e5_router_forward(const void* logits, const void* bias, const void* mask, int64_t tokens, int64_t experts,
                                int64_t top_k, int64_t softmax, double scaling, void* topk_ids, void* topk_weights,
                                void* totals, void* tokens_per_expert, void* stream);
E5_EXPORT int e5_router_backward(const void* logits, const void* mask, const void* topk_ids, const void* grad_weights,
                                 int64_t tokens, int64_t experts, int64_t top_k, int64_t softmax, double scaling,
                                 void* grad_logits, void* stream);

// Bytes of sort_by_expert's workspace.
E5_EXPORT int64_t e5_sort_workspace(int64_t slots, int64_t experts);
E5_EXPORT int e5_sort_by_expert(const void* topk_ids, int64_t slots, int64_t top_k, int64_t experts, int64_t alignment,
                                int64_t rows, void* row_ids, void* slot_ids, void* token_ids, void* tokens_per_expert,
                                void* offsets, void* workspace, void* stream);
E5_EXPORT int e5_moe_permute(int dtype, const void* x, const void* row_ids, int64_t tokens, int64_t top_k,
                             int64_t hidden, void* rows, void* stream);
// weights may be null: a plain sum, which is also the gradient of moe_permute.
E5_EXPORT int e5_moe_combine(int dtype, const void* rows, const void* row_ids, const void* weights, int64_t tokens,
                             int64_t top_k, int64_t hidden, void* out, void* stream);
E5_EXPORT int e5_moe_combine_backward(int dtype, const void* grad, const void* rows, const void* row_ids,
                                      const void* weights, int64_t tokens, int64_t top_k, int64_t hidden,
                                      void* grad_rows, void* grad_weights, void* stream);

E5_EXPORT int e5_cross_entropy_chunk(int dtype, const void* logits, const void* labels, int64_t rows,
                                     int64_t first_column, int64_t columns, int64_t is_first, void* highest,
                                     void* total, void* chosen, void* stream);
E5_EXPORT int e5_cross_entropy_finish(const void* labels, int64_t ignore_index, int64_t rows, void* highest,
                                      void* total, void* chosen, void* loss, void* lse, void* stream);
E5_EXPORT int e5_cross_entropy_backward(int dtype, void* logits, const void* labels, const void* lse,
                                        const void* grad_loss, int64_t rows, int64_t first_column, int64_t columns,
                                        int64_t ignore_index, void* stream);

// grad may be null.
E5_EXPORT int e5_bitwise_cross_entropy(int dtype, const void* logits, const void* targets, const void* row_weights,
                                       int64_t rows, int64_t bits, int64_t stride, void* losses, void* grad,
                                       void* stream);

// out = values * factor, factor float [1].
E5_EXPORT int e5_scale(int dtype, const void* values, const void* factor, int64_t count, void* out, void* stream);

// Bytes of `bounds`, which attention_bounds fills for a mask and both directions read.
E5_EXPORT int64_t e5_attention_bounds_size(int64_t batch, int64_t keys);
E5_EXPORT int e5_attention_bounds(const void* mask, int64_t mask_batch, int64_t columns, int64_t causal, int64_t batch,
                                  int64_t queries, int64_t keys, void* bounds, void* stream);
// bfloat16 alone, head_dim 64 or 128.
E5_EXPORT int e5_attention_forward(const void* query, const void* key, const void* value, const void* mask,
                                   int64_t mask_batch, int64_t columns, int64_t causal, const void* bounds,
                                   int64_t batch, int64_t queries, int64_t keys, int64_t heads, int64_t kv_heads,
                                   int64_t head_dim, double scale, void* out, void* log_sums, void* stream);
// products: workspace, float [batch, heads, queries].
E5_EXPORT int e5_attention_backward(const void* query, const void* key, const void* value, const void* out,
                                    const void* grad_out, const void* log_sums, const void* mask, int64_t mask_batch,
                                    int64_t columns, int64_t causal, const void* bounds, int64_t batch, int64_t queries,
                                    int64_t keys, int64_t heads, int64_t kv_heads, int64_t head_dim, double scale,
                                    void* products, void* grad_query, void* grad_key, void* grad_value, void* stream);

// kind: 0 a b, 1 a b^T (rows ragged), 2 a^T b (depth ragged); bfloat16. height serves kind 2, depth the others.
E5_EXPORT int e5_grouped_product(int64_t kind, const void* a, const void* b, const void* tokens_per_expert,
                                 const void* offsets, int64_t experts, int64_t height, int64_t depth, int64_t columns,
                                 void* c, void* stream);
// bfloat16; inner may be null where no gradient is wanted.
E5_EXPORT int e5_expert_ffn_forward(const void* rows, const void* row_weights, const void* tokens_per_expert,
                                    const void* offsets, const void* gate_up_proj, const void* down_proj, int64_t slots,
                                    int64_t experts, int64_t hidden, int64_t ffn, void* inner, void* activations,
                                    void* out, void* stream);
// inner: of forward. activations and grad_activations [slots, ffn], grad_inner [slots, 2 * ffn] (or inner): workspaces.
E5_EXPORT int e5_expert_ffn_backward(const void* rows, const void* row_weights, const void* tokens_per_expert,
                                     const void* offsets, const void* gate_up_proj, const void* down_proj,
                                     const void* grad_out, int64_t slots, int64_t experts, int64_t hidden, int64_t ffn,
                                     const void* inner, void* activations, void* grad_activations, void* grad_inner,
                                     void* grad_rows, void* grad_row_weights, void* grad_gate_up, void* grad_down,
                                     void* stream);
