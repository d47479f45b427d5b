// Moving tokens to their experts and back. A stable counting sort gives every (token, choice) slot its row, so that the
// same routing gives the same rows; the moves read each token once. T is float, fp16 or bf16.
#pragma once
#include <type_traits>

#include "common/cuda.cuh"

namespace ernie5::cuda {

constexpr int kSortWarps = 8, kSortTurns = 4;
constexpr int kSortChunk = kSortWarps * kSortTurns * kWarp;  // slots of a block
constexpr int kSortMaxExperts = 1024;

inline int64_t sort_chunks(int64_t slots) { return slots ? ceil_div<int64_t>(slots, kSortChunk) : 1; }

// The rank of each of a warp's slots among those of its expert, counted from what the warp has met before.
// counts: this warp's, int [experts]. Lanes without a slot have expert -1.
__device__ __forceinline__ int rank_in_warp(int expert, int* counts) {
  const int lane = threadIdx.x % kWarp;
  const unsigned same = __match_any_sync(kAllLanes, expert);
  const unsigned before = same & ((1u << lane) - 1);
  const int rank = expert < 0 ? 0 : counts[expert] + __popc(before);
  __syncwarp();
  if (expert >= 0 && before == 0) counts[expert] += __popc(same);
  __syncwarp();
  return rank;
}

// chunk_counts int [chunks, experts]: how many slots of each chunk go to each expert.
static __global__ void __launch_bounds__(kSortWarps* kWarp)
    count_experts_kernel(const int64_t* topk_ids, int64_t slots, int experts, int* chunk_counts) {
  __shared__ int counts[kSortMaxExperts];
  for (int expert = threadIdx.x; expert < experts; expert += blockDim.x) counts[expert] = 0;
  __syncthreads();
  const int64_t start = static_cast<int64_t>(blockIdx.x) * kSortChunk;
  for (int64_t slot = start + threadIdx.x; slot < start + kSortChunk && slot < slots; slot += blockDim.x)
    atomicAdd(&counts[topk_ids[slot]], 1);
  __syncthreads();
  for (int expert = threadIdx.x; expert < experts; expert += blockDim.x)
    chunk_counts[static_cast<int64_t>(blockIdx.x) * experts + expert] = counts[expert];
}

// One block of 1024 threads, a thread an expert. chunk_counts becomes the slots of the expert in the chunks before;
// offsets int64 [experts + 1]: the first row of each expert, a multiple of `alignment`.
static __global__ void __launch_bounds__(1024)
    scan_experts_kernel(int* chunk_counts, int64_t chunks, int experts, int alignment, int64_t* tokens_per_expert,
                        int64_t* offsets) {
  __shared__ int64_t sums[1024];
  const int expert = threadIdx.x;
  int total = 0;
  if (expert < experts)
#pragma unroll 4
    for (int64_t chunk = 0; chunk < chunks; ++chunk) {
      const int count = chunk_counts[chunk * experts + expert];
      chunk_counts[chunk * experts + expert] = total;
      total += count;
    }
  const int64_t room = ceil_div(static_cast<int64_t>(total), static_cast<int64_t>(alignment)) * alignment;
  sums[expert] = room;
  __syncthreads();
  for (int distance = 1; distance < 1024; distance *= 2) {
    const int64_t other = expert >= distance ? sums[expert - distance] : 0;
    __syncthreads();
    sums[expert] += other;
    __syncthreads();
  }
  if (expert >= experts) return;
  tokens_per_expert[expert] = total;
  offsets[expert] = sums[expert] - room;
  if (expert == experts - 1) offsets[experts] = sums[expert];
}

// Shared: int [kSortWarps, experts].
static __global__ void __launch_bounds__(kSortWarps* kWarp)
    place_slots_kernel(const int64_t* topk_ids, int64_t slots, int top_k, int experts, const int* chunk_counts,
                       const int64_t* offsets, int64_t* row_ids, int64_t* slot_ids, int64_t* token_ids) {
  int* const counts = reinterpret_cast<int*>(shared_memory());
  for (int i = threadIdx.x; i < kSortWarps * experts; i += blockDim.x) counts[i] = 0;
  __syncthreads();
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp;
  const int64_t start = static_cast<int64_t>(blockIdx.x) * kSortChunk + warp * kSortTurns * kWarp;
  int expert[kSortTurns], rank[kSortTurns];
#pragma unroll
  for (int turn = 0; turn < kSortTurns; ++turn) {
    const int64_t slot = start + turn * kWarp + lane;
    expert[turn] = slot < slots ? static_cast<int>(topk_ids[slot]) : -1;
    rank[turn] = rank_in_warp(expert[turn], counts + warp * experts);
  }
  __syncthreads();
  for (int one = threadIdx.x; one < experts; one += blockDim.x) {
    int before = chunk_counts[static_cast<int64_t>(blockIdx.x) * experts + one];
    for (int other = 0; other < kSortWarps; ++other) {
      const int count = counts[other * experts + one];
      counts[other * experts + one] = before;
      before += count;
    }
  }
  __syncthreads();
#pragma unroll
  for (int turn = 0; turn < kSortTurns; ++turn) {
    if (expert[turn] < 0) continue;
    const int64_t slot = start + turn * kWarp + lane;
    const int64_t row = offsets[expert[turn]] + counts[warp * experts + expert[turn]] + rank[turn];
    row_ids[slot] = row;
    slot_ids[row] = slot;
    token_ids[row] = slot / top_k;
  }
}

// topk_ids int64 [tokens, top_k] (slots = tokens * top_k) -> row_ids int64 [slots]: the row of each slot; slot_ids
// and token_ids int64 [rows]: the slot and the token of each row, -1 where only alignment made one; tokens_per_expert
// int64 [experts]; offsets int64 [experts + 1]. rows: at least slots + experts * (alignment - 1). workspace: int
// [sort_chunks(slots), experts]. That every id is one of the experts is the caller's to know: looking would wait.
inline cudaError_t sort_by_expert(const int64_t* topk_ids, int64_t slots, int64_t top_k, int64_t experts,
                                  int64_t alignment, int64_t rows, int64_t* row_ids, int64_t* slot_ids,
                                  int64_t* token_ids, int64_t* tokens_per_expert, int64_t* offsets, int* workspace,
                                  cudaStream_t stream) {
  if (top_k < 1 || experts < 1 || experts > kSortMaxExperts || alignment < 1) return cudaErrorInvalidValue;
  if (rows < slots + (alignment > 1 ? experts * (alignment - 1) : 0)) return cudaErrorInvalidValue;
  const auto chunks = static_cast<unsigned>(sort_chunks(slots));
  cudaError_t error = cudaSuccess;
  if (alignment > 1) error = cudaMemsetAsync(slot_ids, 0xff, rows * sizeof(int64_t), stream);
  if (alignment > 1 && error == cudaSuccess) error = cudaMemsetAsync(token_ids, 0xff, rows * sizeof(int64_t), stream);
  if (error == cudaSuccess)
    error = launch(count_experts_kernel, chunks, kSortWarps * kWarp, 0, stream, topk_ids, slots, experts, workspace);
  if (error == cudaSuccess)
    error = launch(scan_experts_kernel, 1, 1024, 0, stream, workspace, chunks, experts, alignment, tokens_per_expert,
                   offsets);
  if (error != cudaSuccess || slots == 0) return error;
  return launch(place_slots_kernel, chunks, kSortWarps * kWarp, kSortWarps * experts * sizeof(int), stream, topk_ids,
                slots, top_k, experts, workspace, offsets, row_ids, slot_ids, token_ids);
}

// A block's x is a token, its y a share of the columns: 128 packs. rows [.., hidden] at row_ids[token, choice] =
// x[token].
template <typename T, int N>
__global__ void __launch_bounds__(128)
    permute_kernel(const T* x, const int64_t* row_ids, int top_k, int64_t hidden, T* rows) {
  const int64_t token = blockIdx.x, place = (static_cast<int64_t>(blockIdx.y) * 128 + threadIdx.x) * N;
  if (place >= hidden) return;
  const auto pack = load<N>(x + token * hidden + place);
#pragma unroll 4
  for (int choice = 0; choice < top_k; ++choice)
    store<N>(rows + row_ids[token * top_k + choice] * hidden + place, pack);
}

// out[token] = sum over its choices of weight * rows[row], in the order of the choices; weights float [tokens, top_k]
// or null.
template <typename T, int N>
__global__ void __launch_bounds__(128)
    combine_kernel(const T* rows, const int64_t* row_ids, const float* weights, int top_k, int64_t hidden, T* out) {
  const int64_t token = blockIdx.x, place = (static_cast<int64_t>(blockIdx.y) * 128 + threadIdx.x) * N;
  if (place >= hidden) return;
  float total[N];
#pragma unroll
  for (int i = 0; i < N; ++i) total[i] = 0;
#pragma unroll 8
  for (int choice = 0; choice < top_k; ++choice) {
    const auto pack = load<N>(rows + row_ids[token * top_k + choice] * hidden + place);
    const float weight = weights ? weights[token * top_k + choice] : 1.0f;
#pragma unroll
    for (int i = 0; i < N; ++i) total[i] += weight * to_float(pack.at[i]);
  }
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; ++i) pack.at[i] = from_float<T>(total[i]);
  store<N>(out + token * hidden + place, pack);
}

// A warp a slot: grad_rows[row] = weight * grad[token], grad_weights[slot] = grad[token] . rows[row]. A block's warps
// take the choices of one token, so that its gradient is read from memory once.
template <typename T, int N>
__global__ void __launch_bounds__(256)
    combine_backward_kernel(const T* grad, const T* rows, const int64_t* row_ids, const float* weights, int top_k,
                            int64_t hidden, T* grad_rows, float* grad_weights) {
  const int64_t token = blockIdx.x;
  const int lane = threadIdx.x % kWarp;
  for (int choice = threadIdx.x / kWarp; choice < top_k; choice += 256 / kWarp) {
    const int64_t slot = token * top_k + choice, row = row_ids[slot];
    const float weight = weights[slot];
    float product = 0;
#pragma unroll 4
    for (int64_t place = lane * N; place < hidden; place += kWarp * N) {
      auto in = load<N>(grad + token * hidden + place);
      const auto state = load<N>(rows + row * hidden + place);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        product += to_float(in.at[i]) * to_float(state.at[i]);
        in.at[i] = from_float<T>(to_float(in.at[i]) * weight);
      }
      store<N>(grad_rows + row * hidden + place, in);
    }
    product = warp_reduce(product, Sum());
    if (lane == 0) grad_weights[slot] = product;
  }
}

template <typename T, typename Run>
cudaError_t with_row_packs(int64_t hidden, bool aligned, const Run& run) {
  if (aligned && hidden % kVector<T> == 0) return run(std::integral_constant<int, kVector<T>>());
  return run(std::integral_constant<int, 1>());
}

inline dim3 token_grid(int64_t tokens, int64_t hidden, int pack) {
  return dim3(static_cast<unsigned>(tokens), static_cast<unsigned>(ceil_div<int64_t>(hidden, 128 * pack)));
}

// x [tokens, hidden] -> rows [.., hidden]; also the gradient of combine without weights. Rows that only alignment made
// are left as they are.
template <typename T>
cudaError_t permute(const T* x, const int64_t* row_ids, int64_t tokens, int64_t top_k, int64_t hidden, T* rows,
                    cudaStream_t stream) {
  if (tokens * top_k * hidden == 0) return cudaSuccess;
  return with_row_packs<T>(hidden, is_aligned(x) && is_aligned(rows), [&](auto pack) {
    constexpr int N = decltype(pack)::value;
    return launch(permute_kernel<T, N>, token_grid(tokens, hidden, N), 128, 0, stream, x, row_ids, top_k, hidden, rows);
  });
}

// rows -> out [tokens, hidden]; without weights (null) also the gradient of permute.
template <typename T>
cudaError_t combine(const T* rows, const int64_t* row_ids, const float* weights, int64_t tokens, int64_t top_k,
                    int64_t hidden, T* out, cudaStream_t stream) {
  if (tokens * hidden == 0) return cudaSuccess;
  return with_row_packs<T>(hidden, is_aligned(rows) && is_aligned(out), [&](auto pack) {
    constexpr int N = decltype(pack)::value;
    return launch(combine_kernel<T, N>, token_grid(tokens, hidden, N), 128, 0, stream, rows, row_ids, weights, top_k,
                  hidden, out);
  });
}

template <typename T>
cudaError_t combine_backward(const T* grad, const T* rows, const int64_t* row_ids, const float* weights, int64_t tokens,
                             int64_t top_k, int64_t hidden, T* grad_rows, float* grad_weights, cudaStream_t stream) {
  if (tokens * top_k == 0) return cudaSuccess;
  return with_row_packs<T>(hidden, is_aligned(grad) && is_aligned(rows) && is_aligned(grad_rows), [&](auto pack) {
    return launch(combine_backward_kernel<T, decltype(pack)::value>, static_cast<unsigned>(tokens), 256, 0, stream,
                  grad, rows, row_ids, weights, top_k, hidden, grad_rows, grad_weights);
  });
}

}  // namespace ernie5::cuda
