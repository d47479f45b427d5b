#include "adamw/kernel.h"

#include "common/binding.h"

namespace ernie5 {
namespace {

constexpr char kOp[] = "adamw", kSquares[] = "sums_of_squares", kScale[] = "scale_all";
using Tensors = std::vector<Tensor>;

// The tensors come as addresses, since making a list of Paddle's tensors takes 2 microseconds each: seven lists of 800 would
// take half as long as the step itself.
enum Row { kParameter, kGradient, kMaster, kMoment1, kMoment2, kBeta1Power, kBeta2Power, kCount, kRows };

template <typename T>
void adamw_step(const Tensor& table, const cpu::AdamWSettings& settings) {
  using C = compute_t<T>;
  const int64_t count = table.shape()[1];
  const int64_t* const cells = data<int64_t>(table);
  const auto cell = [&](Row row, int64_t tensor) { return cells[row * count + tensor]; };
  std::vector<cpu::AdamWTensor<T>> tensors;
  for (int64_t i = 0; i < count; ++i) {
    const auto state = [&](Row row) { return reinterpret_cast<C*>(cell(row, i)); };
    tensors.push_back({reinterpret_cast<T*>(cell(kParameter, i)), reinterpret_cast<const T*>(cell(kGradient, i)),
                       state(kMaster), state(kMoment1), state(kMoment2), state(kBeta1Power), state(kBeta2Power),
                       cell(kCount, i)});
  }
  cpu::adamw<T>(tensors, settings);
}

std::vector<Tensor> adamw(const Tensor& table, bool is_bfloat16, float learning_rate, float beta1, float beta2,
                          float epsilon, float weight_decay) {
  check_shape(table, {kRows, -1}, kOp, "table");
  check_dtype(table, DataType::INT64, kOp, "table");
  check_cpu(table, kOp, "table");
  const cpu::AdamWSettings settings{learning_rate, beta1, beta2, epsilon, weight_decay};
  if (is_bfloat16) adamw_step<bfloat16>(table, settings);
  else adamw_step<float>(table, settings);
  return {paddle::full({1}, table.shape()[1], DataType::INT64)};
}
std::vector<Shape> adamw_shape(const Shape&, bool, float, float, float, float, float) { return {{1}}; }
std::vector<DataType> adamw_dtype(const DataType&) { return {DataType::INT64}; }

void check_alike(const Tensors& tensors, const char* op) {
  for (const Tensor& tensor : tensors) {
    check_dtype(tensor, tensors[0].dtype(), op, "tensors");
    check_cpu(tensor, op, "tensors");
  }
}

std::vector<int64_t> counts_of(const Tensors& tensors) {
  std::vector<int64_t> counts;
  for (const Tensor& tensor : tensors) counts.push_back(tensor.numel());
  return counts;
}

std::vector<Tensor> sums_of_squares(const Tensors& tensors) {
  PD_CHECK(!tensors.empty(), kSquares, ": no tensors");
  check_alike(tensors, kSquares);
  auto sums = paddle::empty({static_cast<int64_t>(tensors.size())}, DataType::FLOAT64, tensors[0].place());
  dispatch_float(tensors[0].dtype(), kSquares, [&](auto zero) {
    using T = decltype(zero);
    std::vector<const T*> arrays;
    for (const Tensor& tensor : tensors) arrays.push_back(data<T>(tensor));
    const auto found = cpu::sums_of_squares<T>(arrays, counts_of(tensors));
    std::copy(found.begin(), found.end(), data<double>(sums));
  });
  return {sums};
}
std::vector<Shape> squares_shape(const std::vector<Shape>& tensors) { return {{static_cast<int64_t>(tensors.size())}}; }
std::vector<DataType> squares_dtype(const std::vector<DataType>&) { return {DataType::FLOAT64}; }

void scale_all(Tensors& tensors, float factor) {
  if (tensors.empty()) return;
  check_alike(tensors, kScale);
  dispatch_float(tensors[0].dtype(), kScale, [&](auto zero) {
    using T = decltype(zero);
    std::vector<T*> arrays;
    for (Tensor& tensor : tensors) arrays.push_back(data<T>(tensor));
    cpu::scale<T>(arrays, counts_of(tensors), factor);
  });
}

}  // namespace
}  // namespace ernie5

using namespace ernie5;  // NOLINT: Paddle's macros want the global namespace
using paddle::Vec;

// table int64 [8, tensors]: addresses of parameter, gradient, master weight (bfloat16 only), moments and powers of the betas,
// all on the CPU, and the number of elements; what they point to is written.
PD_BUILD_OP(ernie5_adamw)
    .Inputs({"Table"})
    .Outputs({"Updated"})
    .Attrs({"is_bfloat16: bool", "learning_rate: float", "beta1: float", "beta2: float", "epsilon: float",
            "weight_decay: float"})
    .SetKernelFn(PD_KERNEL(adamw))
    .SetInferShapeFn(PD_INFER_SHAPE(adamw_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(adamw_dtype));

PD_BUILD_OP(ernie5_sums_of_squares)
    .Inputs({Vec("Tensors")})
    .Outputs({"Sums"})
    .SetKernelFn(PD_KERNEL(sums_of_squares))
    .SetInferShapeFn(PD_INFER_SHAPE(squares_shape))
    .SetInferDtypeFn(PD_INFER_DTYPE(squares_dtype));

PD_BUILD_OP(ernie5_scale_all)
    .Inputs({Vec("Tensors")})
    .Outputs({Vec("TensorsOut")})
    .Attrs({"factor: float"})
    .SetInplaceMap({{Vec("Tensors"), Vec("TensorsOut")}})
    .SetKernelFn(PD_KERNEL(scale_all));
