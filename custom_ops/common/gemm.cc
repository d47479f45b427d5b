#include "common/gemm.h"

#include <dlfcn.h>
#include <omp.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <string>
#include <type_traits>

#include "common/gemm_bf16.h"

namespace ernie5::cpu {
namespace {

constexpr char kLibrary[] = "libmklml_intel.so";
enum : int { kRowMajor = 101, kNoTranspose = 111, kTranspose = 112 };  // of the CBLAS interface

template <typename T>
using Cblas = void (*)(int, int, int, int, int, int, T, const T*, int, const T*, int, T, T*, int);

// Paddle loads it at its first product; before, it is found beside the OpenMP library that both use.
void* library() {
  static void* const handle = [] {
    if (void* const loaded = dlopen(kLibrary, RTLD_LAZY | RTLD_NOLOAD)) return loaded;
    Dl_info openmp;
    std::string path = kLibrary;
    if (dladdr(reinterpret_cast<void*>(omp_get_max_threads), &openmp) && openmp.dli_fname) {
      const std::string beside = openmp.dli_fname;
      path = beside.substr(0, beside.rfind('/') + 1) + kLibrary;
    }
    void* const loaded = dlopen(path.c_str(), RTLD_LAZY);
    return loaded ? loaded : dlopen(kLibrary, RTLD_LAZY);
  }();
  return handle;
}

template <typename T>
Cblas<T> find(const char* name) {
  void* const handle = library();
  return handle ? reinterpret_cast<Cblas<T>>(dlsym(handle, name)) : nullptr;
}

template <typename T>
Cblas<T> cblas();
template <>
Cblas<float> cblas<float>() {
  static const auto function = find<float>("cblas_sgemm");
  return function;
}
template <>
Cblas<double> cblas<double>() {
  static const auto function = find<double>("cblas_dgemm");
  return function;
}

}  // namespace

template <typename T>
void gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, T alpha, const T* a, int64_t lda,
          const T* b, int64_t ldb, T beta, T* c, int64_t ldc) {
  if (m == 0 || n == 0) return;
  if (const auto function = k ? cblas<T>() : nullptr) {  // which refuses rows without numbers
    function(kRowMajor, transpose_a ? kTranspose : kNoTranspose, transpose_b ? kTranspose : kNoTranspose,
             static_cast<int>(m), static_cast<int>(n), static_cast<int>(k), alpha, a, static_cast<int>(lda), b,
             static_cast<int>(ldb), beta, c, static_cast<int>(ldc));
    return;
  }
  for (int64_t row = 0; row < m; ++row) {
    T* const out = c + row * ldc;
    for (int64_t column = 0; column < n; ++column) out[column] = beta == T(0) ? T(0) : beta * out[column];
    for (int64_t inner = 0; inner < k; ++inner) {
      const T factor = alpha * (transpose_a ? a[inner * lda + row] : a[row * lda + inner]);
      const T* const other = transpose_b ? b + inner : b + inner * ldb;
      const int64_t stride = transpose_b ? ldb : 1;
      for (int64_t column = 0; column < n; ++column) out[column] += factor * other[column * stride];
    }
  }
}

namespace {

std::atomic<bool>& chosen() {
  static std::atomic<bool> choice = [] {
    const char* const said = std::getenv("ERNIE5_BF16_PRODUCTS");
    return has_bf16_products() && said && std::strcmp(said, "1") == 0;
  }();
  return choice;
}

}  // namespace

bool bf16_products() { return chosen().load(std::memory_order_relaxed); }

template <typename T>
void mixed_gemm(bool transpose_a, bool transpose_b, int64_t m, int64_t n, int64_t k, const T* a, int64_t lda, const T* b,
                int64_t ldb, bool add, T* c, int64_t ldc) {
  if constexpr (std::is_same_v<T, float>)
    if (bf16_products()) return gemm_bf16(transpose_a, transpose_b, m, n, k, a, lda, b, ldb, add, c, ldc);
  gemm<T>(transpose_a, transpose_b, m, n, k, T(1), a, lda, b, ldb, add ? T(1) : T(0), c, ldc);
}

template void mixed_gemm<float>(bool, bool, int64_t, int64_t, int64_t, const float*, int64_t, const float*, int64_t, bool,
                                float*, int64_t);
template void mixed_gemm<double>(bool, bool, int64_t, int64_t, int64_t, const double*, int64_t, const double*, int64_t, bool,
                                 double*, int64_t);
template void gemm<float>(bool, bool, int64_t, int64_t, int64_t, float, const float*, int64_t, const float*, int64_t,
                          float, float*, int64_t);
template void gemm<double>(bool, bool, int64_t, int64_t, int64_t, double, const double*, int64_t, const double*, int64_t,
                           double, double*, int64_t);

}  // namespace ernie5::cpu

// For whoever loads the library: chooses, and says whether that can be.
extern "C" __attribute__((visibility("default"))) int ernie5_set_bf16_products(int on) {
  if (on && !ernie5::cpu::has_bf16_products()) return 0;
  ernie5::cpu::chosen().store(on != 0);
  return 1;
}
