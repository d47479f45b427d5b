#include "flashmask_attention/kernel.h"
#include "fuzz/call.h"

namespace {

template <typename T>
void run(ernie5::fuzz::Call& call) {
  using namespace ernie5::cpu;
  using C = ernie5::compute_t<T>;
  AttentionShape shape{};
  shape.batch = call.size(0, 2), shape.kv_heads = call.size(1, 2), shape.heads = shape.kv_heads * call.size(1, 3);
  shape.queries = call.coin() ? call.size(1, 150) : 1, shape.keys = call.between(0, 9) == 0 ? 0 : shape.queries + call.size(0, 70);
  shape.head_dim = call.size(1, 40), shape.causal = call.coin(), shape.scale = 0.3;
  shape.columns = shape.causal ? call.between(0, 2) : call.pick({0, 1, 2, 4});
  shape.mask_batch = call.coin() ? shape.batch : 1;
  const int queries = static_cast<int>(shape.queries);
  shape.mask = call.integers<int32_t>(shape.mask_batch * shape.keys * shape.columns, 0, queries);
  shape.key_strides = shape.value_strides = dense_strides(shape.keys, shape.kv_heads, shape.head_dim);
  const int64_t count = shape.batch * shape.queries * shape.heads * shape.head_dim;
  const int64_t kv_count = shape.batch * shape.keys * shape.kv_heads * shape.head_dim;
  const T *const query = call.input<T>(count), *const key = call.input<T>(kv_count),
                 *const value = call.input<T>(kv_count);
  T* const out = call.output<T>(count);
  C* const lse = call.input<C>(shape.batch * shape.heads * shape.queries);  // -infinity where nothing is seen
  attention_forward<T>(shape, query, key, value, out, lse);
  attention_forward<T>(shape, query, key, value, call.output<T>(count), nullptr);
  attention_backward<T>(shape, query, key, value, out, lse, call.input<T>(count), call.output<T>(count),
                        call.output<T>(kv_count), call.output<T>(kv_count));
}

const ernie5::fuzz::Registered kRegistered("flashmask_attention", {run<float>, run<double>, run<ernie5::bfloat16>});

}  // namespace
