#include "decoder_layers/kernel.h"
#include "fuzz/call.h"

namespace {

template <typename T>
void run(ernie5::fuzz::Call& call) {
  using namespace ernie5::cpu;
  DecoderLayerShape shape{};
  shape.batch = call.size(1, 3), shape.tokens = call.size(1, 5), shape.past = call.size(0, 40);
  shape.capacity = shape.past + shape.tokens + call.size(0, 9), shape.hidden = call.size(1, 40);
  shape.kv_heads = call.size(1, 2), shape.heads = shape.kv_heads * call.size(1, 3),
  shape.head_dim = 2 * call.size(1, 17);
  shape.mlp_width = call.coin() ? call.size(1, 40) : 0,
  shape.experts = call.coin() || !shape.mlp_width ? call.size(1, 9) : 0;
  shape.top_k = call.between(1, std::max<int64_t>(shape.experts, 1)), shape.expert_width = call.size(1, 40);
  shape.angles = shape.tokens * (call.coin() ? shape.batch : 1), shape.mask_batch = call.coin() ? shape.batch : 1;
  shape.mask_columns = call.pick({0, 2, 4}), shape.score = call.coin() ? Score::kSoftmax : Score::kSigmoid;
  shape.scaling = 1.5, shape.epsilon = 1e-5f;
  const int64_t hidden = shape.hidden, width = shape.heads * shape.head_dim, kv_width = shape.kv_heads * shape.head_dim;
  const int64_t mlp = hidden * shape.mlp_width, ffn = shape.experts * hidden * shape.expert_width;
  const auto matrix = [&](int64_t count) { return call.input<T>(count, 0.1); };
  const DecoderLayerWeights<T> weights{matrix(hidden),
                                       matrix(hidden * width),
                                       matrix(hidden * kv_width),
                                       matrix(hidden * kv_width),
                                       matrix(width * hidden),
                                       matrix(hidden),
                                       matrix(mlp),
                                       matrix(mlp),
                                       matrix(mlp),
                                       call.input<float>(hidden * shape.experts),
                                       call.input<float>(shape.experts),
                                       call.input<float>(shape.experts, 0),
                                       matrix(2 * ffn),
                                       matrix(ffn)};
  const int64_t count = shape.batch * shape.tokens * hidden, seen = shape.past + shape.tokens;
  const int64_t angles = shape.angles * shape.head_dim / 2, cached = shape.batch * shape.capacity * kv_width;
  const auto* const mask =
      call.integers<int32_t>(shape.mask_batch * seen * shape.mask_columns, 0, static_cast<int32_t>(shape.tokens));
  decoder_layer<T>(shape, weights, call.input<T>(count), call.input<float>(angles), call.input<float>(angles), mask,
                   matrix(cached), matrix(cached), call.output<T>(count), call.integers<int64_t>(shape.experts));
}

const ernie5::fuzz::Registered kRegistered("decoder_layers", {run<float>, run<double>, run<ernie5::bfloat16>});

}  // namespace
