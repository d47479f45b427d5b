// Root-mean-square normalisation of rows, and of the sum of two: see kernel.h. T is float, fp16 or bf16; sums in float.
//
// A team of threads holds its row in registers, so that it is read once; small rows take a warp each. The gradient of
// the weight has two stages without atomics: each team sums over its rows, then columns are summed over teams in fixed
// order.
#pragma once
#include <type_traits>

#include "common/cuda.cuh"

namespace ernie5::cuda {

constexpr int kNormCached = 4;  // packs of a row that a thread holds
constexpr int kNormHeld = 2;    // of these, how many the backward pass holds of two tensors beside its sums
constexpr int kNormBlock = 512;

// Teams that share out the rows in the backward pass: rows of its workspace, float [teams, hidden]. Few where a team is
// a block, as each writes a row of partial sums.
inline int64_t rms_norm_teams(int64_t rows, int64_t hidden) {
  const int64_t most = hidden > 1024 ? 264 : 2112;
  return rows < 1 ? 1 : rows < most ? rows : most;
}

// kTeam threads to a row, 32 or the whole block; N values to a pack.
template <typename T, int N, int kTeam, int kBlock>
__global__ void __launch_bounds__(kBlock)
    rms_norm_forward_kernel(const T* x, const T* residual, const T* weight, int64_t rows, int hidden, float epsilon,
                            T* sum, T* y, float* inverse) {
  constexpr int kTeams = kBlock / kTeam;
  const int lane = threadIdx.x % kTeam, packs = hidden / N;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kTeams + threadIdx.x / kTeam;
  const bool real = row < rows;  // a warp without a row still takes part in the reductions
  const int64_t start = real ? row * hidden : 0;
  const int count = real ? packs : 0;

  const auto value = [&](int pack) {
    auto in = load<N>(x + start + pack * N);
    if (residual) {
      const auto other = load<N>(residual + start + pack * N);
#pragma unroll
      for (int i = 0; i < N; ++i) in.at[i] = from_float<T>(to_float(in.at[i]) + to_float(other.at[i]));
      store<N>(sum + start + pack * N, in);
    }
    return in;
  };
  Pack<T, N> cached[kNormCached];
  float squares = 0;
  const auto add_squares = [&](const Pack<T, N>& in) {
#pragma unroll
    for (int i = 0; i < N; ++i) squares += to_float(in.at[i]) * to_float(in.at[i]);
  };
#pragma unroll
  for (int slot = 0; slot < kNormCached; ++slot) {
    const int pack = slot * kTeam + lane;
    if (pack < count) {
      cached[slot] = value(pack);
      add_squares(cached[slot]);
    }
  }
  for (int pack = kNormCached * kTeam + lane; pack < count; pack += kTeam) add_squares(value(pack));

  squares = block_reduce<kTeam>(squares, Sum());
  const float scale = rsqrtf(squares / hidden + epsilon);
  if (real && lane == 0) inverse[row] = scale;
  const auto write = [&](int pack, Pack<T, N> in) {
    const auto factor = load<N>(weight + pack * N);
#pragma unroll
    for (int i = 0; i < N; ++i) in.at[i] = from_float<T>(to_float(in.at[i]) * scale * to_float(factor.at[i]));
    store<N>(y + start + pack * N, in);
  };
#pragma unroll
  for (int slot = 0; slot < kNormCached; ++slot) {
    const int pack = slot * kTeam + lane;
    if (pack < count) write(pack, cached[slot]);
  }
  const T* const again = residual ? sum : x;
  for (int pack = kNormCached * kTeam + lane; pack < count; pack += kTeam)
    write(pack, load<N>(again + start + pack * N));
}

// Each team takes every teams-th row; partial [teams, hidden] takes its sums of grad_y * s * inverse.
template <typename T, int N, int kTeam, int kBlock>
__global__ void __launch_bounds__(kBlock)
    rms_norm_backward_kernel(const T* s, const T* weight, const float* inverse, const T* grad_y, const T* grad_sum,
                             int64_t rows, int hidden, int64_t teams, T* grad_s, float* partial) {
  constexpr int kTeams = kBlock / kTeam;
  const int lane = threadIdx.x % kTeam, packs = hidden / N;
  const int64_t team = static_cast<int64_t>(blockIdx.x) * kTeams + threadIdx.x / kTeam;
  const int64_t first = team < teams ? team : rows;  // no rows for a warp that is no team
  float sums[kNormCached][N];
#pragma unroll
  for (int slot = 0; slot < kNormCached; ++slot)
#pragma unroll
    for (int i = 0; i < N; ++i) sums[slot][i] = 0;

  for (int64_t row = first; row < rows; row += teams) {
    const int64_t start = row * hidden;
    const float scale = inverse[row];
    Pack<T, N> states[kNormHeld], grads[kNormHeld];
    float product = 0;
    const auto add_product = [&](int pack, const Pack<T, N>& state, const Pack<T, N>& grad) {
      const auto factor = load<N>(weight + pack * N);
#pragma unroll
      for (int i = 0; i < N; ++i) product += to_float(grad.at[i]) * to_float(factor.at[i]) * to_float(state.at[i]);
    };
#pragma unroll
    for (int slot = 0; slot < kNormCached; ++slot) {
      const int pack = slot * kTeam + lane;
      if (pack < packs && slot < kNormHeld) {
        states[slot % kNormHeld] = load<N>(s + start + pack * N);
        grads[slot % kNormHeld] = load<N>(grad_y + start + pack * N);
        add_product(pack, states[slot % kNormHeld], grads[slot % kNormHeld]);
      }
    }
    for (int pack = kNormHeld * kTeam + lane; pack < packs; pack += kTeam)
      add_product(pack, load<N>(s + start + pack * N), load<N>(grad_y + start + pack * N));

    const float mean = block_reduce<kTeam>(product, Sum()) * scale / hidden;  // of g * n
    const auto write = [&](int pack, const Pack<T, N>& state, const Pack<T, N>& grad, float* into) {
      const auto factor = load<N>(weight + pack * N);
      Pack<T, N> out, more;
      if (grad_sum) more = load<N>(grad_sum + start + pack * N);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        const float normalized = to_float(state.at[i]) * scale;
        into[i] += to_float(grad.at[i]) * normalized;
        float total = scale * (to_float(grad.at[i]) * to_float(factor.at[i]) - normalized * mean);
        if (grad_sum) total += to_float(more.at[i]);
        out.at[i] = from_float<T>(total);
      }
      store<N>(grad_s + start + pack * N, out);
    };
#pragma unroll
    for (int slot = 0; slot < kNormCached; ++slot) {
      const int pack = slot * kTeam + lane;
      if (pack >= packs) continue;
      if (slot < kNormHeld)
        write(pack, states[slot % kNormHeld], grads[slot % kNormHeld], sums[slot]);
      else
        write(pack, load<N>(s + start + pack * N), load<N>(grad_y + start + pack * N), sums[slot]);
    }
    for (int pack = kNormCached * kTeam + lane; pack < packs; pack += kTeam) {
      float* const into = partial + team * hidden + pack * N;  // more columns than registers: this thread's alone
      if (row == first)
        for (int i = 0; i < N; ++i) into[i] = 0;
      write(pack, load<N>(s + start + pack * N), load<N>(grad_y + start + pack * N), into);
    }
  }
  if (first >= rows) return;
#pragma unroll
  for (int slot = 0; slot < kNormCached; ++slot) {
    const int pack = slot * kTeam + lane;
    if (pack < packs)
#pragma unroll
      for (int i = 0; i < N; ++i) partial[team * hidden + pack * N + i] = sums[slot][i];
  }
}

// out [columns] = sum over the rows of partial [rows, columns], in the same order always. Blocks of 32 columns x 8
// rows.
template <typename T>
__global__ void __launch_bounds__(256) sum_columns_kernel(const float* partial, int64_t rows, int columns, T* out) {
  __shared__ float parts[8][kWarp];
  const int lane = threadIdx.x % kWarp, line = threadIdx.x / kWarp, column = blockIdx.x * kWarp + lane;
  float total = 0;
  if (column < columns)
    for (int64_t row = line; row < rows; row += 8) total += partial[row * columns + column];
  parts[line][lane] = total;
  __syncthreads();
  if (line || column >= columns) return;
  for (int other = 1; other < 8; ++other) total += parts[other][lane];
  out[column] = from_float<T>(total);
}

// run(N, team, block) as constants, by what divides a row and how long it is.
template <typename T, typename Run>
cudaError_t with_norm_shape(int64_t hidden, bool aligned, const Run& run) {
  constexpr int N = kVector<T>;
  using std::integral_constant;
  if (!aligned || hidden % N) return run(integral_constant<int, 1>(), integral_constant<int, kNormBlock>());
  if (hidden / N <= kNormCached * kWarp) return run(integral_constant<int, N>(), integral_constant<int, kWarp>());
  return run(integral_constant<int, N>(), integral_constant<int, kNormBlock>());
}

// residual and sum are null together.
template <typename T>
cudaError_t rms_norm_forward(const T* x, const T* residual, const T* weight, int64_t rows, int64_t hidden,
                             float epsilon, T* sum, T* y, float* inverse, cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const bool aligned = is_aligned(x) && is_aligned(residual) && is_aligned(weight) && is_aligned(sum) && is_aligned(y);
  return with_norm_shape<T>(hidden, aligned, [&](auto pack, auto team) {
    constexpr int kTeam = decltype(team)::value, kBlock = kTeam == kWarp ? 128 : kTeam;
    const auto blocks = static_cast<unsigned>(ceil_div<int64_t>(rows, kBlock / kTeam));
    return launch(rms_norm_forward_kernel<T, decltype(pack)::value, kTeam, kBlock>, blocks, kBlock, 0, stream, x,
                  residual, weight, rows, hidden, epsilon, sum, y, inverse);
  });
}

// grad_sum may be null; workspace: float [rms_norm_teams(rows, hidden), hidden].
template <typename T>
cudaError_t rms_norm_backward(const T* s, const T* weight, const float* inverse, const T* grad_y, const T* grad_sum,
                              int64_t rows, int64_t hidden, T* grad_s, T* grad_weight, float* workspace,
                              cudaStream_t stream) {
  if (rows == 0) return cudaMemsetAsync(grad_weight, 0, hidden * sizeof(T), stream);
  const bool aligned =
      is_aligned(s) && is_aligned(weight) && is_aligned(grad_y) && is_aligned(grad_sum) && is_aligned(grad_s);
  const int64_t teams = rms_norm_teams(rows, hidden);
  const cudaError_t error = with_norm_shape<T>(hidden, aligned, [&](auto pack, auto team) {
    constexpr int kTeam = decltype(team)::value, kBlock = kTeam == kWarp ? 128 : kTeam;
    const auto blocks = static_cast<unsigned>(ceil_div<int64_t>(teams, kBlock / kTeam));
    return launch(rms_norm_backward_kernel<T, decltype(pack)::value, kTeam, kBlock>, blocks, kBlock, 0, stream, s,
                  weight, inverse, grad_y, grad_sum, rows, hidden, teams, grad_s, workspace);
  });
  if (error != cudaSuccess) return error;
  const auto blocks = static_cast<unsigned>(ceil_div<int64_t>(hidden, kWarp));
  return launch(sum_columns_kernel<T>, blocks, 256, 0, stream, workspace, teams, hidden, grad_weight);
}

}  // namespace ernie5::cuda
