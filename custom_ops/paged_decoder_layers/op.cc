#include "paged_decoder_layers/kernel.h"

#include "common/binding.h"

namespace ernie5 {
namespace {

constexpr char kOp[] = "paged_decoder_layers";
constexpr int64_t kPageMultiple = 64;  // keys that attention takes at once
constexpr int kHasMlp = 1, kHasExperts = 2;  // bits of a layer's kind

// The weights of a layer as they come in the list of all: 6 of attention and norms, 3 of a gated MLP, 5 of routed experts.
struct Weights {
  const Tensor *input_norm, *q_proj, *k_proj, *v_proj, *o_proj, *post_attention_norm;
  const Tensor *mlp_gate = nullptr, *mlp_up = nullptr, *mlp_down = nullptr;
  const Tensor *router = nullptr, *expert_bias = nullptr, *expert_mask = nullptr, *gate_up = nullptr, *down = nullptr;

  static size_t count(int kind) { return 6 + (kind & kHasMlp ? 3 : 0) + (kind & kHasExperts ? 5 : 0); }

  Weights(const Tensor* next, int kind) {
    for (const Tensor** one : {&input_norm, &q_proj, &k_proj, &v_proj, &o_proj, &post_attention_norm}) *one = next++;
    if (kind & kHasMlp)
      for (const Tensor** one : {&mlp_gate, &mlp_up, &mlp_down}) *one = next++;
    if (kind & kHasExperts)
      for (const Tensor** one : {&router, &expert_bias, &expert_mask, &gate_up, &down}) *one = next++;
  }
};

void check_weight(const Tensor& weight, const Shape& shape, DataType dtype, const char* name) {
  check_shape(weight, shape, kOp, name);
  check_dtype(weight, dtype, kOp, name);
}

// Of x, the caches and the angles, whose shapes are known: hidden, kv_heads and head_dim are set, the others come from the weights.
void check_weights(const Tensor& x, const Weights& weights, int64_t top_k, cpu::DecoderLayerShape& shape) {
  const int64_t hidden = shape.hidden, kv_width = shape.kv_heads * shape.head_dim;
  check_weight(*weights.input_norm, {hidden}, x.dtype(), "input_norm");
  check_weight(*weights.q_proj, {hidden, -1}, x.dtype(), "q_proj");
  const int64_t width = weights.q_proj->shape()[1];
  PD_CHECK(kv_width > 0 && width % kv_width == 0, kOp, ": q_proj gives ", width, " numbers, expected a multiple of ", kv_width);
  shape.heads = width / shape.head_dim;
  check_weight(*weights.k_proj, {hidden, kv_width}, x.dtype(), "k_proj");
  check_weight(*weights.v_proj, {hidden, kv_width}, x.dtype(), "v_proj");
  check_weight(*weights.o_proj, {width, hidden}, x.dtype(), "o_proj");
  check_weight(*weights.post_attention_norm, {hidden}, x.dtype(), "post_attention_norm");
  if (weights.mlp_gate) {
    check_weight(*weights.mlp_gate, {hidden, -1}, x.dtype(), "mlp_gate");
    shape.mlp_width = weights.mlp_gate->shape()[1];
    check_weight(*weights.mlp_up, {hidden, shape.mlp_width}, x.dtype(), "mlp_up");
    check_weight(*weights.mlp_down, {shape.mlp_width, hidden}, x.dtype(), "mlp_down");
  }
  if (weights.router) {
    check_weight(*weights.router, {hidden, -1}, DataType::FLOAT32, "router");
    shape.experts = weights.router->shape()[1], shape.top_k = top_k;
    PD_CHECK(top_k >= 1 && top_k <= shape.experts, kOp, ": top_k is ", top_k, " of ", shape.experts, " experts");
    check_weight(*weights.expert_bias, {shape.experts}, DataType::FLOAT32, "expert_bias");
    check_weight(*weights.expert_mask, {shape.experts}, DataType::FLOAT32, "expert_mask");
    check_weight(*weights.down, {shape.experts, -1, hidden}, x.dtype(), "down");
    shape.expert_width = weights.down->shape()[1];
    check_weight(*weights.gate_up, {shape.experts, hidden, 2 * shape.expert_width}, x.dtype(), "gate_up");
  }
}

template <typename T>
const T* maybe(const Tensor* tensor) {
  return tensor ? data<T>(*tensor) : nullptr;
}

void check_lists(const std::vector<int>& kinds, size_t keys, size_t values, size_t weights) {
  size_t expected = 0;
  for (const int kind : kinds) expected += Weights::count(kind);
  PD_CHECK(!kinds.empty() && keys == kinds.size() && values == kinds.size(), kOp, ": ", keys, " caches of keys and ",
           values, " of values for ", kinds.size(), " layers");
  PD_CHECK(weights == expected, kOp, ": ", weights, " weights, expected ", expected);
}

// One layer after the other over `x`, whose shapes have been checked -> the states behind the last, and the loads.
std::vector<Tensor> run_layers(const Tensor& x, const float* cos, const float* sin,
                                      std::vector<Tensor>& key_caches, std::vector<Tensor>& value_caches,  // NOLINT
                                      const std::vector<Weights>& layers,
                                      const std::vector<cpu::DecoderLayerShape>& shapes) {
  int64_t routing = 0, experts = 0;
  for (const auto& shape : shapes) {
    PD_CHECK(routing == 0 || !shape.experts || shape.experts == experts, kOp, ": layers of ", experts, " and of ",
             shape.experts, " experts");
    if (shape.experts) ++routing, experts = shape.experts;
  }
  auto out = paddle::empty(x.shape(), x.dtype(), x.place()), other = paddle::empty(x.shape(), x.dtype(), x.place());
  auto tokens_per_expert = paddle::empty({routing, experts}, DataType::INT64, x.place());
  dispatch_float(x.dtype(), kOp, [&](auto zero) {
    using T = decltype(zero);
    // Layers write to out and to other by turns, the last one to out.
    T* turns[] = {data<T>(out), data<T>(other)};
    const T* states = data<T>(x);
    int64_t* load = data<int64_t>(tokens_per_expert);
    for (size_t layer = 0; layer < layers.size(); ++layer) {
      const Weights& weights = layers[layer];
      const cpu::DecoderLayerWeights<T> pointers{
          data<T>(*weights.input_norm),        data<T>(*weights.q_proj),           data<T>(*weights.k_proj),
          data<T>(*weights.v_proj),            data<T>(*weights.o_proj),           data<T>(*weights.post_attention_norm),
          maybe<T>(weights.mlp_gate),          maybe<T>(weights.mlp_up),           maybe<T>(weights.mlp_down),
          maybe<float>(weights.router),        maybe<float>(weights.expert_bias),  maybe<float>(weights.expert_mask),
          maybe<T>(weights.gate_up),           maybe<T>(weights.down)};
      T* const to = turns[(layers.size() - 1 - layer) % 2];
      cpu::decoder_layer<T>(shapes[layer], pointers, states, cos, sin,
                            data<T>(key_caches[layer]), data<T>(value_caches[layer]), to, load);
      if (shapes[layer].experts) load += experts;
      states = to;
    }
  });
  return {out, tokens_per_expert};
}

// [routing layers, experts] of the loads.
Shape loads_shape(const std::vector<Shape>& weights, const std::vector<int>& kinds) {
  int64_t routing = 0, experts = 0;
  size_t next = 0;
  for (const int kind : kinds) {
    next += Weights::count(kind);
    if (kind & kHasExperts) ++routing, experts = weights[next - 1][0];
  }
  return {routing, experts};
}


// Tokens of several sequences, one sequence behind the other. rows int64 [sequences, 3]: how many each has, how many
// keys it has kept, and the number of the first in it.
std::vector<cpu::DecoderRow> check_rows(const Tensor& x, const Tensor& rows, const Tensor& tables, int64_t page_keys,
                                        int64_t num_pages) {
  check_shape(rows, {-1, 3}, kOp, "rows");
  check_dtype(rows, DataType::INT64, kOp, "rows");
  const int64_t count = rows.shape()[0];
  check_shape(tables, {count, -1}, kOp, "tables");
  check_dtype(tables, DataType::INT32, kOp, "tables");
  const int64_t room = tables.shape()[1];
  std::vector<cpu::DecoderRow> found;
  int64_t first = 0;
  for (int64_t row = 0; row < count; ++row) {
    const int64_t* const given = data<int64_t>(rows) + 3 * row;
    const int64_t tokens = given[0], past = given[1], number = given[2];
    PD_CHECK(tokens >= 0 && past >= 0 && number >= past, kOp, ": row ", row, " has ", tokens, " tokens behind ", past, ", the first is number ", number);
    const int64_t pages = (past + tokens + page_keys - 1) / page_keys;
    PD_CHECK(pages <= room, kOp, ": row ", row, " needs ", pages, " pages and has ", room);
    const int32_t* const own = data<int32_t>(tables) + row * room;
    for (int64_t i = 0; i < pages; ++i)
      PD_CHECK(own[i] >= 0 && own[i] < num_pages, kOp, ": row ", row, " has page ", own[i], " of ", num_pages);
    found.push_back({first, tokens, past, number, own});
    first += tokens;
  }
  PD_CHECK(first == x.shape()[1], kOp, ": the rows have ", first, " tokens, x has ", x.shape()[1]);
  return found;
}

cpu::DecoderLayerShape check(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& seen,
                             const Tensor& key_cache, const Tensor& value_cache, const Weights& weights, int64_t top_k) {
  cpu::DecoderLayerShape shape{};
  check_cpu(x, kOp, "x");
  check_shape(x, {1, -1, -1}, kOp, "x");
  shape.tokens = x.shape()[1], shape.hidden = x.shape()[2];
  check_shape(seen, {-1, -1, 2}, kOp, "seen");
  check_dtype(seen, DataType::INT32, kOp, "seen");
  shape.page_keys = seen.shape()[1], shape.seen = data<int32_t>(seen);
  PD_CHECK(shape.page_keys > 0 && shape.page_keys % kPageMultiple == 0, kOp, ": a page has ", shape.page_keys,
           " keys, expected a multiple of ", kPageMultiple);
  check_shape(key_cache, {seen.shape()[0], shape.page_keys, -1, -1}, kOp, "key_cache");
  check_shape(value_cache, key_cache.shape(), kOp, "value_cache");
  check_dtype(key_cache, x.dtype(), kOp, "key_cache");
  check_dtype(value_cache, x.dtype(), kOp, "value_cache");
  shape.kv_heads = key_cache.shape()[2], shape.head_dim = key_cache.shape()[3];
  PD_CHECK(shape.head_dim % 2 == 0, kOp, ": head_dim is ", shape.head_dim, ", expected an even number");
  check_shape(cos, {1, shape.tokens, 1, shape.head_dim / 2}, kOp, "cos");
  check_shape(sin, cos.shape(), kOp, "sin");
  check_dtype(cos, DataType::FLOAT32, kOp, "cos");
  check_dtype(sin, DataType::FLOAT32, kOp, "sin");
  check_weights(x, weights, top_k, shape);
  return shape;
}

// The caches are written in place; they come back so that a program knows.
std::vector<Tensor> paged_decoder_layers(const Tensor& x, const Tensor& cos, const Tensor& sin, const Tensor& rows,
                                         const Tensor& tables, const Tensor& seen,
                                         std::vector<Tensor>& key_caches,    // NOLINT
                                         std::vector<Tensor>& value_caches,  // NOLINT
                                         const std::vector<Tensor>& list, const std::vector<int>& kinds, int64_t top_k,
                                         bool sigmoid, float scaling, float epsilon) {
  check_lists(kinds, key_caches.size(), value_caches.size(), list.size());
  std::vector<Weights> layers;
  std::vector<cpu::DecoderLayerShape> shapes;
  std::vector<cpu::DecoderRow> found;
  for (size_t layer = 0, next = 0; layer < kinds.size(); next += Weights::count(kinds[layer++])) {
    layers.emplace_back(list.data() + next, kinds[layer]);
    auto shape = check(x, cos, sin, seen, key_caches[layer], value_caches[layer], layers[layer], top_k);
    if (layer == 0) found = check_rows(x, rows, tables, shape.page_keys, seen.shape()[0]);
    shape.rows = found.data(), shape.num_rows = static_cast<int64_t>(found.size());
    shape.score = sigmoid ? cpu::Score::kSigmoid : cpu::Score::kSoftmax;
    shape.scaling = scaling, shape.epsilon = epsilon;
    shapes.push_back(shape);
  }
  return run_layers(x, data<float>(cos), data<float>(sin), key_caches, value_caches, layers, shapes);
}

std::vector<Shape> infer_shape(const Shape& x, const Shape&, const Shape&, const Shape&, const Shape&, const Shape&,
                               const std::vector<Shape>&, const std::vector<Shape>&, const std::vector<Shape>& weights,
                               const std::vector<int>& kinds, int64_t, bool, float, float) {
  return {x, loads_shape(weights, kinds)};
}
std::vector<DataType> infer_dtype(const DataType& x, const DataType&, const DataType&, const DataType&, const DataType&,
                                  const DataType&, const std::vector<DataType>&, const std::vector<DataType>&,
                                  const std::vector<DataType>&) {
  return {x, DataType::INT64};
}

}  // namespace
}  // namespace ernie5

using namespace ernie5;  // NOLINT: Paddle's macros want the global namespace

PD_BUILD_OP(ernie5_paged_decoder_layers)
    .Inputs({"X", "Cos", "Sin", "Rows", "Tables", "Seen", paddle::Vec("KeyCaches"), paddle::Vec("ValueCaches"),
             paddle::Vec("Weights")})
    .Outputs({"Out", "TokensPerExpert", paddle::Vec("KeyCachesOut"), paddle::Vec("ValueCachesOut")})
    .SetInplaceMap({{paddle::Vec("KeyCaches"), paddle::Vec("KeyCachesOut")},
                    {paddle::Vec("ValueCaches"), paddle::Vec("ValueCachesOut")}})
    .Attrs({"kinds: std::vector<int>", "top_k: int64_t", "sigmoid: bool", "scaling: float", "epsilon: float"})
    .SetKernelFn(PD_KERNEL(paged_decoder_layers))
    .SetInferShapeFn(PD_INFER_SHAPE(infer_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(infer_dtype));
