#include "common/gemm_bf16.h"

#include "fuzz/call.h"

namespace {

void run(ernie5::fuzz::Call& call) {
  if (!ernie5::cpu::has_bf16_products()) return;
  const int64_t m = call.size(1, 80), n = call.size(1, 80), k = call.size(1, 80);
  const bool transpose_a = call.coin(), transpose_b = call.coin(), adds = call.coin();
  float* const c = adds ? call.input<float>(m * n) : call.output<float>(m * n);
  ernie5::cpu::gemm_bf16(transpose_a, transpose_b, m, n, k, call.input<float>(m * k), transpose_a ? m : k,
                         call.input<float>(k * n), transpose_b ? k : n, adds, c, n);
}

const ernie5::fuzz::Registered kRegistered("gemm_bf16", {run});

}  // namespace
