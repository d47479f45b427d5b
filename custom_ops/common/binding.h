// What every op.cc needs: Paddle's extension header, checks that end in one sentence, and the choice by dtype.
#pragma once
#include <string>
#include <type_traits>
#include <vector>

#include "common/bfloat16.h"
#include "paddle/extension.h"

namespace ernie5 {

using paddle::DataType;
using paddle::Tensor;
using Shape = std::vector<int64_t>;

inline std::string to_string(const Shape& shape) {
  std::string text = "[";
  for (size_t dim = 0; dim < shape.size(); ++dim) text += (dim ? ", " : "") + std::to_string(shape[dim]);
  return text + "]";
}

// The tensor has this shape; -1 stands for any size. Paddle shows the sentence as an OSError.
inline void check_shape(const Tensor& tensor, const Shape& expected, const char* op, const char* name) {
  bool fits = tensor.shape().size() == expected.size();
  for (size_t dim = 0; fits && dim < expected.size(); ++dim)
    fits = expected[dim] < 0 || expected[dim] == tensor.shape()[dim];
  PD_CHECK(fits, op, ": ", name, " has shape ", to_string(tensor.shape()), ", expected ", to_string(expected),
           " (-1: any)");
}

inline void check_dtype(const Tensor& tensor, DataType expected, const char* op, const char* name) {
  PD_CHECK(tensor.dtype() == expected, op, ": ", name, " has dtype ", phi::DataTypeToString(tensor.dtype()),
           ", expected ", phi::DataTypeToString(expected));
}

inline void check_cpu(const Tensor& tensor, const char* op, const char* name) {
  PD_CHECK(tensor.is_cpu(), op, ": ", name, " is not on the CPU, and this build has no kernel for its place");
}

// A tensor's memory as the kernels' type: bfloat16 is ours, everything else is Paddle's.
template <typename T>
const T* data(const Tensor& tensor) {
  return static_cast<const T*>(tensor.data());
}
template <typename T>
T* data(Tensor& tensor) {  // NOLINT: written to
  return static_cast<T*>(const_cast<void*>(static_cast<const Tensor&>(tensor).data()));
}

// run(T{}) with the type of the dtype: float, double or bfloat16.
template <typename Run>
void dispatch_float(DataType dtype, const char* op, const Run& run) {
  switch (dtype) {
    case DataType::FLOAT32: return run(float{});
    case DataType::FLOAT64: return run(double{});
    case DataType::BFLOAT16: return run(bfloat16{});
    default:
      PD_THROW(op, ": dtype ", phi::DataTypeToString(dtype),
               " has no kernel: use float32, bfloat16 or float64");
  }
}

}  // namespace ernie5
