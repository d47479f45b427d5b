// The experts' SwiGLU feed-forward over ragged groups of rows (ernie5/ops/moe.py), in bf16 on the tensor cores of sm_80
// and later: grouped products whose tiles one persistent kernel takes in turn, so that neither the host nor a padded
// copy has to know how many rows an expert got.
#pragma once
#include <type_traits>

#include "common/cuda.cuh"
#include "swiglu/kernel_cuda.cuh"

namespace ernie5::cuda {

constexpr int kTileRows = 128, kTileColumns = 256, kTileDepth = 64, kTileStages = 3;
constexpr int kProductThreads = 256;  // 2 x 4 warps, each 64 x 64 of the tile
constexpr int kProductMaxExperts = 1024;
constexpr int kSwath = 8;  // tiles of rows that share their columns in turn

// What is ragged: the rows of a and c (each expert its b), or the depth (each expert its c).
enum class Product { kRows, kRowsTransposed, kDepth };

// kRows: c = a b; kRowsTransposed: c = a b^T; kDepth: c = a^T b. Row-major.
//   kRows            a [rows, depth], b [experts, depth, columns], c [rows, columns]
//   kRowsTransposed  a [rows, depth], b [experts, columns, depth], c [rows, columns]
//   kDepth           a [rows, height], b [rows, columns], c [experts, height, columns]
// Expert e has the rows [offsets[e], offsets[e] + tokens_per_expert[e]).
struct GroupedShape {
  const int64_t *tokens_per_expert, *offsets;
  int experts, height, depth, columns;  // height only for kDepth, depth only for the others
};

struct TilePlace {
  int row, column;  // of a tile, counted in tiles
};

// The local-th tile of a product of row_tiles x column_tiles: down the rows of a swath first, then to the next column,
// so that blocks that run at the same time read the same parts of both operands.
__host__ __device__ __forceinline__ TilePlace tile_place(int local, int row_tiles, int column_tiles) {
  const int swath = local / (kSwath * column_tiles), first = swath * kSwath;
  const int height = row_tiles - first < kSwath ? row_tiles - first : kSwath;
  const int within = local - swath * kSwath * column_tiles;
  return {first + within % height, within / height};
}

// The group whose tiles [starts[group], starts[group + 1]) hold this one.
__host__ __device__ __forceinline__ int group_of(int tile, const int* starts, int groups) {
  int low = 0, high = groups;
  while (high - low > 1) {
    const int middle = (low + high) / 2;
    if (starts[middle] <= tile)
      low = middle;
    else
      high = middle;
  }
  return low;
}

constexpr size_t product_bytes() { return kTileStages * (kTileRows + kTileColumns) * kTileDepth * sizeof(bf16); }

// starts [experts + 1] in shared memory, by the first warp.
__device__ __forceinline__ void count_tiles(const GroupedShape& shape, bool ragged_rows, int column_tiles,
                                            int* starts) {
  const int lane = threadIdx.x % kWarp;
  if (threadIdx.x < kWarp) {
    int before = 0;
    for (int base = 0; base < shape.experts; base += kWarp) {
      const int expert = base + lane;
      const int rows =
          ragged_rows ? (expert < shape.experts ? static_cast<int>(shape.tokens_per_expert[expert]) : 0) : shape.height;
      int total = expert < shape.experts ? ceil_div(rows, kTileRows) * column_tiles : 0;
      const int own = total;
#pragma unroll
      for (int distance = 1; distance < kWarp; distance *= 2) {
        const int other = __shfl_up_sync(kAllLanes, total, distance);
        if (lane >= distance) total += other;
      }
      if (expert < shape.experts) starts[expert] = before + total - own;
      before += __shfl_sync(kAllLanes, total, kWarp - 1);
    }
    if (lane == 0) starts[shape.experts] = before;
  }
  __syncthreads();
}

struct alignas(16) Words {
  uint32_t at[4];
};

// Words [lane][tile] of four lanes become [tile][lane]: each lane gets the eight columns of one tile, 16 bytes in a
// row.
__device__ __forceinline__ void transpose_quad(uint32_t (&words)[4]) {
  const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
#pragma unroll
  for (int i = 0; i < 4; i += 2) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, odd ? words[i] : words[i + 1], 1);
    (odd ? words[i] : words[i + 1]) = other;
  }
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t other = __shfl_xor_sync(kAllLanes, high ? words[i] : words[i + 2], 2);
    (high ? words[i] : words[i + 2]) = other;
  }
}

// With kSwiglu, b has gate and up beside each other, 2 * columns wide, c is silu(a gate) * (a up) * row_weights [rows],
// and `inner` [rows, 2 * columns], if not null, takes the products themselves.
template <Product kKind, bool kSwiglu>
__global__ void __launch_bounds__(kProductThreads, 1)
    grouped_product_kernel(const bf16* a, const bf16* b, bf16* c, GroupedShape shape, const float* row_weights,
                           bf16* inner) {
  constexpr bool kRaggedRows = kKind != Product::kDepth, kTransposedB = kKind == Product::kRowsTransposed;
  constexpr int kATile = kTileRows * kTileDepth, kBTile = kTileColumns * kTileDepth;
  constexpr int kColumns = kSwiglu ? kTileColumns / 2 : kTileColumns;  // of c in a tile
  __shared__ int starts[kProductMaxExperts + 1];
  bf16* const a_tiles = reinterpret_cast<bf16*>(shared_memory());
  bf16* const b_tiles = a_tiles + kTileStages * kATile;
  const int column_tiles = ceil_div(shape.columns, kColumns);
  const int lane = threadIdx.x % kWarp, warp_row = threadIdx.x / kWarp / 4 * 64,
            warp_column = threadIdx.x / kWarp % 4 * 64;
  count_tiles(shape, kRaggedRows, column_tiles, starts);
  const int64_t b_width = kSwiglu ? 2 * shape.columns : shape.columns;

  for (int tile = blockIdx.x; tile < starts[shape.experts]; tile += gridDim.x) {
    const int expert = group_of(tile, starts, shape.experts);
    const int64_t start = shape.offsets[expert];
    const int count = static_cast<int>(shape.tokens_per_expert[expert]);
    const int rows = kRaggedRows ? count : shape.height, depth = kRaggedRows ? shape.depth : count;
    const TilePlace place = tile_place(tile - starts[expert], ceil_div(rows, kTileRows), column_tiles);
    const int first_row = place.row * kTileRows, first_column = place.column * kColumns;
    const bf16* const a_group = a + start * (kRaggedRows ? shape.depth : shape.height);
    const bf16* const b_group =
        b + (kRaggedRows ? static_cast<int64_t>(expert) * shape.depth * b_width : start * shape.columns);

    const auto load_step = [&](int step) {
      bf16* const a_tile = a_tiles + step % kTileStages * kATile;
      bf16* const b_tile = b_tiles + step % kTileStages * kBTile;
      const int first_depth = step * kTileDepth;
#pragma unroll
      for (int index = threadIdx.x; index < kATile / 8; index += kProductThreads) {
        if constexpr (kRaggedRows) {  // [rows][depth]
          const int row = index / 8, chunk = index % 8;
          const bool valid = first_row + row < rows && first_depth + chunk * 8 < depth;
          const int64_t from = static_cast<int64_t>(first_row + row) * shape.depth + first_depth + chunk * 8;
          copy_async(a_tile + swizzled<8>(row, chunk) * 8, a_group + (valid ? from : 0), valid);
        } else {  // [depth][rows]
          const int line = index / 16, chunk = index % 16;
          const bool valid = first_depth + line < depth && first_row + chunk * 8 < rows;
          const int64_t from = static_cast<int64_t>(first_depth + line) * shape.height + first_row + chunk * 8;
          copy_async(a_tile + swizzled<16>(line, chunk) * 8, a_group + (valid ? from : 0), valid);
        }
      }
#pragma unroll
      for (int index = threadIdx.x; index < kBTile / 8; index += kProductThreads) {
        if constexpr (kTransposedB) {  // [columns][depth]
          const int column = index / 8, chunk = index % 8;
          const bool valid = first_column + column < shape.columns && first_depth + chunk * 8 < depth;
          const int64_t from = static_cast<int64_t>(first_column + column) * shape.depth + first_depth + chunk * 8;
          copy_async(b_tile + swizzled<8>(column, chunk) * 8, b_group + (valid ? from : 0), valid);
        } else {  // [depth][columns]; eight columns of gate, then the same eight of up
          const int line = index / 32, chunk = index % 32;
          const int column = first_column + (kSwiglu ? chunk / 2 : chunk) * 8;
          const bool valid = first_depth + line < depth && column < shape.columns;
          const int64_t from = (first_depth + line) * b_width + column + (kSwiglu && chunk % 2 ? shape.columns : 0);
          copy_async(b_tile + swizzled<32>(line, chunk) * 8, b_group + (valid ? from : 0), valid);
        }
      }
    };

    float sums[4][8][4];
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
      for (int j = 0; j < 8; ++j)
#pragma unroll
        for (int k = 0; k < 4; ++k) sums[i][j][k] = 0;
    // One stage of the tile, all of it, or `live` tiles of 16 rows of this warp and `parts` times 16 of the depth.
    const auto multiply_step = [&](auto whole, const bf16* a_tile, const bf16* b_tile, int live, int parts) {
      constexpr bool kWhole = decltype(whole)::value;
#pragma unroll
      for (int part = 0; part < kTileDepth / 16; ++part) {
        if (!kWhole && part >= parts) break;
        uint32_t left[4][4], right[4][4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int row = warp_row + i * 16;
          if constexpr (kRaggedRows)
            load_matrices<false>(left[i], a_tile + swizzled<8>(row + lane % 16, part * 2 + lane / 16) * 8);
          else
            load_matrices<true>(
                left[i], a_tile + swizzled<16>(part * 16 + lane / 16 * 8 + lane % 8, row / 8 + lane / 8 % 2) * 8);
        }
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int column = warp_column + j * 16;
          if constexpr (kTransposedB)
            load_matrices<false>(right[j],
                                 b_tile + swizzled<8>(column + lane / 16 * 8 + lane % 8, part * 2 + lane / 8 % 2) * 8);
          else
            load_matrices<true>(right[j], b_tile + swizzled<32>(part * 16 + lane % 16, column / 8 + lane / 16) * 8);
        }
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if (!kWhole && i >= live) break;
#pragma unroll
          for (int j = 0; j < 8; ++j)
            multiply(sums[i][j], left[i], right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
        }
      }
    };
    const int live = max(0, min(4, ceil_div(rows - first_row - warp_row, 16)));
    const int steps = ceil_div(depth, kTileDepth);
#pragma unroll
    for (int step = 0; step < kTileStages - 1; ++step) {
      if (step < steps) load_step(step);
      commit_copies();
    }
    for (int step = 0; step < steps; ++step) {
      wait_copies<kTileStages - 2>();
      __syncthreads();  // this step has landed, and all have done with the stage that is loaded next
      if (step + kTileStages - 1 < steps) load_step(step + kTileStages - 1);
      commit_copies();
      const bf16* const a_tile = a_tiles + step % kTileStages * kATile;
      const bf16* const b_tile = b_tiles + step % kTileStages * kBTile;
      // Most groups end in a tile that is nearly empty: what lies beyond the rows or the depth is not multiplied.
      const int parts = min(ceil_div(depth - step * kTileDepth, 16), kTileDepth / 16);
      if (live == 4 && parts == kTileDepth / 16)
        multiply_step(std::true_type(), a_tile, b_tile, live, parts);
      else
        multiply_step(std::false_type(), a_tile, b_tile, live, parts);
    }
    wait_copies<0>();
    __syncthreads();  // before the next tile's first stages are loaded

    bf16* const c_group = c + (kRaggedRows ? start : static_cast<int64_t>(expert) * shape.height) * shape.columns;
#pragma unroll
    for (int i = 0; i < 8; ++i) {  // rows of sums: i / 2-th tile, half i % 2
      const int half = i % 2 * 2, row = first_row + warp_row + i * 8 + lane / 4;
      const bool real = row < rows;
      const auto write = [&](uint32_t (&words)[4], bf16* line, int column) {  // tiles of 8 columns from `column` on
        transpose_quad(words);
        const int place = column + lane % 4 * 8;
        if (real && place < shape.columns)
          *reinterpret_cast<Words*>(line + place) = {{words[0], words[1], words[2], words[3]}};
      };
      bf16* const line = c_group + static_cast<int64_t>(row) * shape.columns;
      if constexpr (kSwiglu) {
        const int column = first_column + warp_column / 2;
        const float weight = real ? row_weights[start + row] : 0.0f;
        uint32_t gates[4], ups[4], products[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const float (&gate)[4] = sums[i / 2][2 * j], (&up)[4] = sums[i / 2][2 * j + 1];
          gates[j] = pack_bf16(gate[half], gate[half + 1]);
          ups[j] = pack_bf16(up[half], up[half + 1]);
          products[j] = pack_bf16(swiglu(gate[half], up[half]) * weight, swiglu(gate[half + 1], up[half + 1]) * weight);
        }
        write(products, line, column);
        if (inner) {
          write(gates, inner + (start + row) * b_width, column);
          write(ups, inner + (start + row) * b_width + shape.columns, column);
        }
      } else {
#pragma unroll
        for (int group = 0; group < 2; ++group) {
          uint32_t words[4];
#pragma unroll
          for (int j = 0; j < 4; ++j)
            words[j] = pack_bf16(sums[i / 2][group * 4 + j][half], sums[i / 2][group * 4 + j][half + 1]);
          write(words, line, first_column + warp_column + group * 32);
        }
      }
    }
  }
}

template <Product kKind, bool kSwiglu = false>
cudaError_t grouped_product(const bf16* a, const bf16* b, bf16* c, const GroupedShape& shape, cudaStream_t stream,
                            const float* row_weights = nullptr, bf16* inner = nullptr) {
  const int64_t inner_size = kKind == Product::kDepth ? shape.height : shape.depth;
  if (shape.experts < 1 || shape.experts > kProductMaxExperts || inner_size % 8 || shape.columns % 8)
    return cudaErrorInvalidValue;
  if (!is_aligned(a) || !is_aligned(b) || !is_aligned(c) || !is_aligned(inner)) return cudaErrorInvalidValue;
  if (shape.columns == 0 || (kKind == Product::kDepth && shape.height == 0)) return cudaSuccess;
  return launch(grouped_product_kernel<kKind, kSwiglu>, static_cast<unsigned>(num_multiprocessors()), kProductThreads,
                product_bytes(), stream, a, b, c, shape, row_weights, inner);
}

// rows [slots, hidden] in expert order, row_weights float [slots], gate_up_proj [experts, hidden, 2 * ffn], down_proj
// [experts, ffn, hidden] -> out [slots, hidden]. activations [slots, ffn]; inner [slots, 2 * ffn] is for backward, or
// null. hidden and ffn are multiples of 8.
struct ExpertShape {
  const int64_t *tokens_per_expert, *offsets;
  int64_t slots, experts, hidden, ffn;

  GroupedShape product(int64_t height, int64_t depth, int64_t columns) const {
    return {tokens_per_expert,         offsets,
            static_cast<int>(experts), static_cast<int>(height),
            static_cast<int>(depth),   static_cast<int>(columns)};
  }
};

inline cudaError_t expert_ffn_forward(const bf16* rows, const float* row_weights, const bf16* gate_up_proj,
                                      const bf16* down_proj, const ExpertShape& shape, bf16* inner, bf16* activations,
                                      bf16* out, cudaStream_t stream) {
  if (shape.slots == 0) return cudaSuccess;
  const cudaError_t error = grouped_product<Product::kRows, true>(
      rows, gate_up_proj, activations, shape.product(0, shape.hidden, shape.ffn), stream, row_weights, inner);
  if (error != cudaSuccess) return error;
  return grouped_product<Product::kRows>(activations, down_proj, out, shape.product(0, shape.ffn, shape.hidden),
                                         stream);
}

// inner: of forward. Workspaces: activations and grad_activations [slots, ffn], grad_inner [slots, 2 * ffn], which may
// be inner. grad_rows may be null; so may the gradients of the weights, together.
inline cudaError_t expert_ffn_backward(const bf16* rows, const float* row_weights, const bf16* gate_up_proj,
                                       const bf16* down_proj, const bf16* grad_out, const ExpertShape& shape,
                                       const bf16* inner, bf16* activations, bf16* grad_activations, bf16* grad_inner,
                                       bf16* grad_rows, float* grad_row_weights, bf16* grad_gate_up, bf16* grad_down,
                                       cudaStream_t stream) {
  cudaError_t error = cudaSuccess;
  if (shape.slots) {
    error = grouped_product<Product::kRowsTransposed>(grad_out, down_proj, grad_activations,
                                                      shape.product(0, shape.hidden, shape.ffn), stream);
    if (error == cudaSuccess)
      error = swiglu_backward<bf16>(inner, inner + shape.ffn, row_weights, grad_activations, shape.slots, shape.ffn,
                                    2 * shape.ffn, grad_inner, grad_inner + shape.ffn, grad_row_weights, activations,
                                    stream);
    if (error == cudaSuccess && grad_rows)
      error = grouped_product<Product::kRowsTransposed>(grad_inner, gate_up_proj, grad_rows,
                                                        shape.product(0, 2 * shape.ffn, shape.hidden), stream);
  }
  if (error != cudaSuccess || !grad_down) return error;
  error = grouped_product<Product::kDepth>(activations, grad_out, grad_down, shape.product(shape.ffn, 0, shape.hidden),
                                           stream);
  if (error != cudaSuccess) return error;
  return grouped_product<Product::kDepth>(rows, grad_inner, grad_gate_up, shape.product(shape.hidden, 0, 2 * shape.ffn),
                                          stream);
}

}  // namespace ernie5::cuda
