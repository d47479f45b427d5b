#include "paged_decoder_layers/kernel.h"
#include "fuzz/call.h"

#include <vector>

namespace {

template <typename T>
void run(ernie5::fuzz::Call& call) {
  using namespace ernie5::cpu;
  DecoderLayerShape shape{};
  shape.page_keys = 64 * call.size(1, 2), shape.num_rows = call.size(1, 3), shape.hidden = call.size(1, 40);
  const int64_t room = 2, pages = shape.num_rows * room;  // pages of a row
  std::vector<DecoderRow> rows;
  auto* const tables = call.integers<int32_t>(pages, 0, 0);
  for (int64_t page = 0; page < pages; ++page) tables[page] = static_cast<int32_t>(pages - 1 - page);
  for (int64_t row = 0; row < shape.num_rows; ++row) {
    const int64_t tokens = call.size(0, 5), past = call.size(0, room * shape.page_keys - tokens);
    rows.push_back({shape.tokens, tokens, past, past + call.size(0, 9), tables + row * room});
    shape.tokens += tokens;
  }
  shape.rows = rows.data();
  shape.kv_heads = call.size(1, 2), shape.heads = shape.kv_heads * call.size(1, 3),
  shape.head_dim = 2 * call.size(1, 17);
  shape.mlp_width = call.coin() ? call.size(1, 40) : 0,
  shape.experts = call.coin() || !shape.mlp_width ? call.size(1, 9) : 0;
  shape.top_k = call.between(1, std::max<int64_t>(shape.experts, 1)), shape.expert_width = call.size(1, 40);
  shape.score = call.coin() ? Score::kSoftmax : Score::kSigmoid;
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
  const int64_t count = shape.tokens * hidden, cached = pages * shape.page_keys * kv_width;
  const int64_t angles = shape.tokens * shape.head_dim / 2;
  shape.seen = call.integers<int32_t>(2 * pages * shape.page_keys, 0, static_cast<int32_t>(2 * room * shape.page_keys));
  decoder_layer<T>(shape, weights, call.input<T>(count), call.input<float>(angles), call.input<float>(angles),
                   matrix(cached), matrix(cached), call.output<T>(count), call.integers<int64_t>(shape.experts));
}

const ernie5::fuzz::Registered kRegistered("paged_decoder_layers", {run<float>, run<double>, run<ernie5::bfloat16>});

}  // namespace
