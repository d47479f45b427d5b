// What every op.cc needs: Paddle's extension header, checks that end in one sentence, the choice by dtype and by place.
#pragma once
#include <initializer_list>
#include <string>
#include <type_traits>
#include <vector>

#include "capi.h"
#include "common/bfloat16.h"
#include "paddle/extension.h"

namespace ernie5 {

namespace api = paddle::experimental;  // Paddle's own operators

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

// Whether capi.h's kernels are linked in. Emulated (test_cuda_binding.py), they work on the CPU's tensors.
#if defined(PADDLE_WITH_CUDA) || defined(ERNIE5_CUDA_EMULATION)
constexpr bool kHasCuda = true;
#else
constexpr bool kHasCuda = false;
#endif

// Whether they are to work on this one.
inline bool is_gpu(const Tensor& tensor) {
#ifdef ERNIE5_CUDA_EMULATION
  return tensor.is_cpu();
#else
  return tensor.is_gpu();
#endif
}

// What Paddle has under way on the tensor's device, and what follows it there.
inline void* stream_of([[maybe_unused]] const Tensor& tensor) {
#ifdef PADDLE_WITH_CUDA
  return tensor.stream();
#else
  return nullptr;
#endif
}

inline void check_cpu(const Tensor& tensor, const char* op, const char* name) {
  PD_CHECK(tensor.is_cpu(), op, ": ", name, " is not on the CPU, and there is no kernel for its place");
}

// The tensors lie together, on the CPU or on a GPU that this build has kernels for.
inline void check_place(std::initializer_list<const Tensor*> tensors, const char* op) {
  for (const Tensor* tensor : tensors) {
    PD_CHECK(tensor->is_cpu() || (kHasCuda && is_gpu(*tensor)), op, ": a tensor on ", tensor->place().DebugString(),
             ", which this build of ernie5_ops has no kernels for");
    PD_CHECK(tensor->place() == (*tensors.begin())->place(), op, ": tensors on ",
             (*tensors.begin())->place().DebugString(), " and on ", tensor->place().DebugString());
  }
}

// capi.h's number of a dtype.
inline int gpu_dtype(const Tensor& tensor, const char* op) {
  switch (tensor.dtype()) {
    case DataType::FLOAT32: return 0;
    case DataType::FLOAT16: return 1;
    case DataType::BFLOAT16: return 2;
    default:
      PD_THROW(op, ": dtype ", phi::DataTypeToString(tensor.dtype()),
               " has no kernel for GPUs: use bfloat16, float16 or float32");
  }
}

// Takes what capi.h's functions return.
inline void check_launch(int code, const char* op) {
  if constexpr (kHasCuda) PD_CHECK(code == 0, op, ": the kernel for GPUs was not started: ", e5_error(code));
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
