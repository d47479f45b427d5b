#include "adamw/kernel.h"

#include "common/binding.h"

namespace ernie5 {
namespace {

constexpr char kOp[] = "adamw", kSquares[] = "sums_of_squares", kScale[] = "scale_all";
using Tensors = std::vector<Tensor>;

DataType state_dtype(DataType dtype) { return dtype == DataType::FLOAT64 ? DataType::FLOAT64 : DataType::FLOAT32; }

void check_list(const Tensors& tensors, const Tensors& like, DataType dtype, const char* op, const char* name) {
  PD_CHECK(tensors.size() == like.size(), op, ": ", tensors.size(), " ", name, " for ", like.size(), " parameters");
  for (size_t index = 0; index < tensors.size(); ++index) {
    check_shape(tensors[index], like[index].shape(), op, name);
    check_dtype(tensors[index], dtype, op, name);
    check_cpu(tensors[index], op, name);
  }
}

void check_powers(const Tensors& powers, size_t count, DataType dtype, const char* name) {
  PD_CHECK(powers.size() == count, kOp, ": ", powers.size(), " ", name, " for ", count, " parameters");
  for (const Tensor& power : powers) {
    check_shape(power, {1}, kOp, name);
    check_dtype(power, dtype, kOp, name);
    check_cpu(power, kOp, name);
  }
}

// A state tensor's memory, to be written.
template <typename C>
C* state_of(const Tensor& tensor) {
  return const_cast<C*>(data<C>(tensor));
}

void adamw_step(Tensors& parameters, const Tensors& gradients, const Tensors& masters, const Tensors& moments1,
                const Tensors& moments2, const Tensors& beta1_powers, const Tensors& beta2_powers, float learning_rate,
                float beta1, float beta2, float epsilon, float weight_decay) {
  if (parameters.empty()) return;
  const DataType dtype = parameters[0].dtype(), state = state_dtype(dtype);
  check_list(parameters, parameters, dtype, kOp, "parameters");
  check_list(gradients, parameters, dtype, kOp, "gradients");
  check_list(masters, parameters, state, kOp, "masters");
  check_list(moments1, parameters, state, kOp, "moments1");
  check_list(moments2, parameters, state, kOp, "moments2");
  check_powers(beta1_powers, parameters.size(), state, "beta1_powers");
  check_powers(beta2_powers, parameters.size(), state, "beta2_powers");
  dispatch_float(dtype, kOp, [&](auto zero) {
    using T = decltype(zero);
    using C = compute_t<T>;
    std::vector<cpu::AdamWTensor<T>> tensors;
    for (size_t i = 0; i < parameters.size(); ++i)
      tensors.push_back({data<T>(parameters[i]), data<T>(gradients[i]), state_of<C>(masters[i]), state_of<C>(moments1[i]),
                         state_of<C>(moments2[i]), state_of<C>(beta1_powers[i]), state_of<C>(beta2_powers[i]),
                         parameters[i].numel()});
    cpu::adamw<T>(tensors, {learning_rate, beta1, beta2, epsilon, weight_decay});
  });
}

std::vector<int64_t> counts_of(const Tensors& tensors) {
  std::vector<int64_t> counts;
  for (const Tensor& tensor : tensors) counts.push_back(tensor.numel());
  return counts;
}

std::vector<Tensor> sums_of_squares(const Tensors& tensors) {
  PD_CHECK(!tensors.empty(), kSquares, ": no tensors");
  for (const Tensor& tensor : tensors) {
    check_dtype(tensor, tensors[0].dtype(), kSquares, "tensors");
    check_cpu(tensor, kSquares, "tensors");
  }
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
  check_list(tensors, tensors, tensors[0].dtype(), kScale, "tensors");
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

// Writes where it reads: parameters, masters (the parameters again where they need none), moments and powers. Only the
// parameters, which the autograd engine watches, are declared so: for all lists Paddle's own bookkeeping would take 15 ms at
// 800 parameters, a third of the step.
PD_BUILD_OP(ernie5_adamw)
    .Inputs({Vec("Parameters"), Vec("Gradients"), Vec("Masters"), Vec("Moments1"), Vec("Moments2"), Vec("Beta1Powers"),
             Vec("Beta2Powers")})
    .Outputs({Vec("ParametersOut")})
    .Attrs({"learning_rate: float", "beta1: float", "beta2: float", "epsilon: float", "weight_decay: float"})
    .SetInplaceMap({{Vec("Parameters"), Vec("ParametersOut")}})
    .SetKernelFn(PD_KERNEL(adamw_step));

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
