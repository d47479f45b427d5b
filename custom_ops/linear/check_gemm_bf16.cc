// gemm_bf16 against sums in double of the rounded factors; test_gemm_bf16.py compiles it, with AMX emulated too.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "common/bfloat16.h"
#include "common/gemm_bf16.h"

namespace {

constexpr int64_t kSpare = 3;  // numbers between the rows of a matrix, which must stay as they are
// m, n, k: below a tile, a whole one, one more, an odd k, more k than is summed at once, many tiles.
constexpr int64_t kShapes[][3] = {{1, 1, 1},    {3, 5, 7},      {16, 16, 32},   {14, 32, 64},  {15, 33, 65},
                                  {30, 70, 513}, {29, 31, 1100}, {2, 100, 3},    {32, 32, 32},  {64, 96, 1024},
                                  {33, 64, 31},  {100, 40, 600}, {17, 129, 2}};

std::vector<float> numbers(int64_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> made(static_cast<size_t>(count));
  for (float& one : made) one = normal(random);
  return made;
}

}  // namespace

int main() {
  std::mt19937 random(0);
  double worst = 0;
  for (const auto& [m, n, k] : kShapes)
    for (int kind = 0; kind < 8; ++kind) {
      const bool transpose_a = kind & 1, transpose_b = kind & 2, add = kind & 4;
      const int64_t lda = (transpose_a ? m : k) + kSpare, ldb = (transpose_b ? k : n) + kSpare, ldc = n + kSpare;
      const auto a = numbers((transpose_a ? k : m) * lda - kSpare, random);
      const auto b = numbers((transpose_b ? n : k) * ldb - kSpare, random);
      auto c = numbers(m * ldc - kSpare, random);
      const auto before = c;
      ernie5::cpu::gemm_bf16(transpose_a, transpose_b, m, n, k, a.data(), lda, b.data(), ldb, add, c.data(), ldc);
      for (int64_t at = 0; at < static_cast<int64_t>(c.size()); ++at) {
        const int64_t row = at / ldc, column = at % ldc;
        double expected = before[at], scale = 1;
        if (column < n) {
          expected = add ? expected : 0;
          for (int64_t i = 0; i < k; ++i)
            expected += double(float(ernie5::bfloat16(transpose_a ? a[i * lda + row] : a[row * lda + i]))) *
                        double(float(ernie5::bfloat16(transpose_b ? b[column * ldb + i] : b[i * ldb + column])));
          scale = std::sqrt(double(k));
        }
        const double error = std::fabs(expected - c[at]) / scale;
        if (!(error < (column < n ? 1e-5 : 1e-30))) {
          std::printf("%ld x %ld x %ld, transposed %d %d, add %d: [%ld, %ld] is %g, expected %g\n", m, n, k, transpose_a,
                      transpose_b, add, row, column, double(c[at]), expected);
          return 1;
        }
        worst = std::max(worst, error);
      }
    }
  std::printf("largest error %g\n", worst);
}
