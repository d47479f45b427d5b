// Grouped-query attention under a FlashMask (arXiv:2410.01359), forward and backward, on the tensor cores of sm_80 and
// later.
//
// query, out [batch, queries, heads, head_dim]; key, value [batch, keys, kv_heads, head_dim], all bf16, head_dim 64 or
// 128. Scores never leave the registers (online softmax, arXiv:2307.08691). Blocks of keys that a block of queries
// cannot see are not loaded: the lowest and highest value of each column over a block of 64 keys say so. Backward is
// two kernels that each sum in registers, without atomics: one walks keys for the gradient of the queries, one queries
// for those of the keys. A query that sees no key has output 0.
#pragma once
#include <climits>
#include <type_traits>

#include "common/cuda.cuh"

namespace ernie5::cuda {

constexpr int kKeyBlock = 64;  // keys of a tile, and of a line of bounds
constexpr int kGradQueryBlock = 64;
constexpr int kAttentionThreads = 128;
constexpr int kBoundsWords = 8;  // lowest first_start, first_end, second_start, second_end, then the highest of each

struct AttentionShape {
  int64_t batch, queries, keys, heads, kv_heads;
  // int [mask_batch (1 or batch), keys, columns]: the queries that a key is hidden from. 1: from lower_start on. 2:
  // [lower_start, lower_end) if causal, else from lower_start on and before upper_end. 4: [lower_start, lower_end) and
  // [upper_start, upper_end), not causal. 0: none. Causal hides the keys behind a query too, the last query standing
  // beside the last key.
  const int* mask;
  int64_t mask_batch;
  int columns;
  bool causal;
  float scale;
};

// Queries from which a key is hidden: [x, y) and [z, w).
__host__ __device__ __forceinline__ int4 hidden_queries(const AttentionShape& shape, int64_t batch, int key) {
  const int64_t line = (shape.mask_batch == 1 ? 0 : batch) * shape.keys + key;
  const int* const own = shape.columns ? shape.mask + line * shape.columns : nullptr;
  const int behind = shape.causal ? key - static_cast<int>(shape.keys - shape.queries) : 0;
  switch (shape.columns) {
    case 0: return make_int4(0, 0, 0, behind);
    case 1: return make_int4(own[0], INT_MAX, 0, behind);
    case 2: return shape.causal ? make_int4(own[0], own[1], 0, behind) : make_int4(own[0], INT_MAX, 0, own[1]);
    default: return make_int4(own[0], own[1], own[2], own[3]);
  }
}

__host__ __device__ __forceinline__ bool is_hidden(int query, int4 from) {
  return (query >= from.x && query < from.y) || (query >= from.z && query < from.w);
}

// Whether no query of [first, last] sees any key of the block; true only where that is certain.
__host__ __device__ __forceinline__ bool block_is_hidden(const int* bounds, int first, int last) {
  return (first >= bounds[4] && last < bounds[1]) || (first >= bounds[6] && last < bounds[3]);
}

// Whether each of them sees every key; true only where that is certain.
__host__ __device__ __forceinline__ bool block_is_visible(const int* bounds, int first, int last) {
  return (last < bounds[0] || first >= bounds[5]) && (last < bounds[2] || first >= bounds[7]);
}

// A warp a block of keys; bounds int [batch, key blocks, kBoundsWords].
static __global__ void __launch_bounds__(kWarp) key_bounds_kernel(AttentionShape shape, int* bounds) {
  int low[4] = {INT_MAX, INT_MAX, INT_MAX, INT_MAX}, high[4] = {INT_MIN, INT_MIN, INT_MIN, INT_MIN};
  for (int one = threadIdx.x; one < kKeyBlock; one += kWarp) {
    const int key = blockIdx.x * kKeyBlock + one;
    if (key >= shape.keys) break;
    const int4 from = hidden_queries(shape, blockIdx.y, key);
    const int values[4] = {from.x, from.y, from.z, from.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      low[i] = min(low[i], values[i]);
      high[i] = max(high[i], values[i]);
    }
  }
#pragma unroll
  for (int distance = kWarp / 2; distance > 0; distance /= 2)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      low[i] = min(low[i], __shfl_xor_sync(kAllLanes, low[i], distance));
      high[i] = max(high[i], __shfl_xor_sync(kAllLanes, high[i], distance));
    }
  int* const line = bounds + (static_cast<int64_t>(blockIdx.y) * gridDim.x + blockIdx.x) * kBoundsWords;
  if (threadIdx.x == 0)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      line[i] = low[i];
      line[4 + i] = high[i];
    }
}

// The first block of keys from `from` on that queries [first, last] may see, or `blocks`; the same in all lanes.
__device__ __forceinline__ int next_key_block(const int* bounds, int from, int blocks, int first, int last) {
  for (int start = from; start < blocks; start += kWarp) {
    const int block = start + threadIdx.x % kWarp;
    const bool seen = block < blocks && !block_is_hidden(bounds + block * kBoundsWords, first, last);
    const unsigned found = __ballot_sync(kAllLanes, seen);
    if (found) return start + __ffs(found) - 1;
  }
  return blocks;
}

// The first block of queries from `from` on that may see the block of keys whose bounds these are.
__device__ __forceinline__ int next_query_block(const int* bounds, int from, int blocks, int queries) {
  for (int start = from; start < blocks; start += kWarp) {
    const int block = start + threadIdx.x % kWarp, first = block * kGradQueryBlock;
    const bool seen = block < blocks && !block_is_hidden(bounds, first, min(first + kGradQueryBlock, queries) - 1);
    const unsigned found = __ballot_sync(kAllLanes, seen);
    if (found) return start + __ffs(found) - 1;
  }
  return blocks;
}

// kRows rows of kHeadDim values into a swizzled tile; rows from `rows` on become zeros. step: elements between rows.
template <int kRows, int kHeadDim>
__device__ __forceinline__ void load_tile(bf16* tile, const bf16* from, int step, int rows) {
  constexpr int kChunks = kHeadDim / 8;
#pragma unroll 4
  for (int index = threadIdx.x; index < kRows * kChunks; index += kAttentionThreads) {
    const int row = index / kChunks, chunk = index % kChunks;
    copy_async(tile + swizzled<kChunks>(row, chunk) * 8, from + (row < rows ? row * step : 0) + chunk * 8, row < rows);
  }
}

// Rows [row, row + 16) and columns [16 * part, +16) of a tile as the left operand of a product.
template <int kHeadDim>
__device__ __forceinline__ void left_fragment(uint32_t (&fragment)[4], const bf16* tile, int row, int part) {
  const int lane = threadIdx.x % kWarp;
  load_matrices<false>(fragment, tile + swizzled<kHeadDim / 8>(row + lane % 16, part * 2 + lane / 16) * 8);
}

// The right operand tile^T: 16 of its rows are 16 columns of the product; fragments 0, 1 and 2, 3 serve 8 columns each.
template <int kHeadDim>
__device__ __forceinline__ void right_fragment_transposed(uint32_t (&fragment)[4], const bf16* tile, int row,
                                                          int part) {
  const int lane = threadIdx.x % kWarp;
  load_matrices<false>(fragment,
                       tile + swizzled<kHeadDim / 8>(row + lane / 16 * 8 + lane % 8, part * 2 + lane / 8 % 2) * 8);
}

// The right operand tile: 16 of its rows are the inner dim, its columns [16 * part, +16) those of the product.
template <int kHeadDim>
__device__ __forceinline__ void right_fragment(uint32_t (&fragment)[4], const bf16* tile, int row, int part) {
  const int lane = threadIdx.x % kWarp;
  load_matrices<true>(fragment, tile + swizzled<kHeadDim / 8>(row + lane % 16, part * 2 + lane / 16) * 8);
}

// Sixteen columns of a product's sums, tiles 2i and 2i + 1, as a left operand.
__device__ __forceinline__ void as_left_fragment(uint32_t (&fragment)[4], const float (&even)[4],
                                                 const float (&odd)[4]) {
  fragment[0] = pack_bf16(even[0], even[1]);
  fragment[1] = pack_bf16(even[2], even[3]);
  fragment[2] = pack_bf16(odd[0], odd[1]);
  fragment[3] = pack_bf16(odd[2], odd[3]);
}

// products[i] += rows [16] of `left` times rows [8i, +8) of `right`, over kHeadDim.
template <int kHeadDim, int kTiles>
__device__ __forceinline__ void multiply_rows(float (&products)[kTiles][4], const bf16* left, int left_row,
                                              const bf16* right) {
#pragma unroll 4
  for (int part = 0; part < kHeadDim / 16; ++part) {
    uint32_t a[4], b[4];
    left_fragment<kHeadDim>(a, left, left_row, part);
#pragma unroll
    for (int pair = 0; pair < kTiles / 2; ++pair) {
      right_fragment_transposed<kHeadDim>(b, right, pair * 16, part);
      multiply(products[2 * pair], a, b[0], b[1]);
      multiply(products[2 * pair + 1], a, b[2], b[3]);
    }
  }
}

// sums [16, kHeadDim] += factors [16, 8 * kTiles] tile [8 * kTiles, kHeadDim].
template <int kHeadDim, int kTiles>
__device__ __forceinline__ void add_product(float (&sums)[kHeadDim / 8][4], const float (&factors)[kTiles][4],
                                            const bf16* tile) {
#pragma unroll
  for (int step = 0; step < kTiles / 2; ++step) {
    uint32_t a[4], b[4];
    as_left_fragment(a, factors[2 * step], factors[2 * step + 1]);
#pragma unroll
    for (int part = 0; part < kHeadDim / 16; ++part) {
      right_fragment<kHeadDim>(b, tile, step * 16, part);
      multiply(sums[2 * part], a, b[0], b[1]);
      multiply(sums[2 * part + 1], a, b[2], b[3]);
    }
  }
}

// Row `row` of 16 x kHeadDim sums (row % 8 = lane / 4; low half of the rows first), scaled, to device memory.
template <int kHeadDim>
__device__ __forceinline__ void store_row(bf16* to, const float (&sums)[kHeadDim / 8][4], int half, float scale) {
#pragma unroll
  for (int tile = 0; tile < kHeadDim / 8; ++tile)
    *reinterpret_cast<uint32_t*>(to + tile * 8 + threadIdx.x % 4 * 2) =
        pack_bf16(sums[tile][2 * half] * scale, sums[tile][2 * half + 1] * scale);
}

template <int kCount>
__device__ __forceinline__ void clear(float (&sums)[kCount][4]) {
#pragma unroll
  for (int tile = 0; tile < kCount; ++tile)
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[tile][i] = 0;
}

template <int kHeadDim, int kRowTiles>
constexpr size_t attention_forward_bytes() {
  return (64 * kRowTiles + 4 * kKeyBlock) * kHeadDim * sizeof(bf16);
}

// A block: 64 * kRowTiles queries of one head; a warp: 16 * kRowTiles of them. log_sums float [batch, heads, queries]:
// the natural log of the sum of exp(scale * score), -inf where nothing is seen.
template <int kHeadDim, int kRowTiles>
__global__ void __launch_bounds__(kAttentionThreads)
    attention_forward_kernel(const bf16* query, const bf16* key, const bf16* value, AttentionShape shape,
                             const int* bounds, bf16* out, float* log_sums) {
  constexpr int kQueryBlock = 64 * kRowTiles, kTileSize = kKeyBlock * kHeadDim;
  constexpr int kAtOnce = kHeadDim * kRowTiles > 128 ? 32 : 64,
                kTiles = kAtOnce / 8;  // keys whose scores fit registers
  bf16* const queries = reinterpret_cast<bf16*>(shared_memory());
  bf16* const keys = queries + kQueryBlock * kHeadDim;  // two tiles, then two of values
  bf16* const values = keys + 2 * kTileSize;
  const int num_queries = static_cast<int>(shape.queries), num_keys = static_cast<int>(shape.keys);
  // Under a causal mask the last queries see most: they go first.
  const int first = (gridDim.x - 1 - blockIdx.x) * kQueryBlock, last = min(first + kQueryBlock, num_queries) - 1;
  const int64_t head = blockIdx.y, batch = blockIdx.z, kv_head = head / (shape.heads / shape.kv_heads);
  const int query_step = static_cast<int>(shape.heads) * kHeadDim,
            key_step = static_cast<int>(shape.kv_heads) * kHeadDim;
  const int64_t query_start = (batch * num_queries * shape.heads + head) * kHeadDim;
  const int64_t key_start = (batch * num_keys * shape.kv_heads + kv_head) * kHeadDim;
  const int blocks = ceil_div(num_keys, kKeyBlock);
  bounds += batch * blocks * kBoundsWords;
  key += key_start;
  value += key_start;
  const int lane = threadIdx.x % kWarp, warp_row = threadIdx.x / kWarp * 16 * kRowTiles;

  const auto load_keys = [&](int block, int stage) {
    const int64_t start = static_cast<int64_t>(block) * kKeyBlock * key_step;
    load_tile<kKeyBlock, kHeadDim>(keys + stage * kTileSize, key + start, key_step, num_keys - block * kKeyBlock);
    load_tile<kKeyBlock, kHeadDim>(values + stage * kTileSize, value + start, key_step, num_keys - block * kKeyBlock);
  };
  load_tile<kQueryBlock, kHeadDim>(queries, query + query_start + static_cast<int64_t>(first) * query_step, query_step,
                                   num_queries - first);
  int block = next_key_block(bounds, 0, blocks, first, last), stage = 0;
  if (block < blocks) load_keys(block, 0);
  commit_copies();

  float sums[kRowTiles][kHeadDim / 8][4], highest[kRowTiles][2], totals[kRowTiles][2];
#pragma unroll
  for (int tile = 0; tile < kRowTiles; ++tile) {
    clear(sums[tile]);
    highest[tile][0] = highest[tile][1] = -INFINITY;
    totals[tile][0] = totals[tile][1] = 0;
  }
  const float scale = shape.scale * kLog2e;

  while (block < blocks) {
    const int next = next_key_block(bounds, block + 1, blocks, first, last);
    if (next < blocks) load_keys(next, stage ^ 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    const bool whole = (block + 1) * kKeyBlock <= num_keys;
    const bool visible = whole && block_is_visible(bounds + block * kBoundsWords, first, last);
#pragma unroll 1
    for (int begin = 0; begin < kKeyBlock; begin += kAtOnce) {
      const bf16* const key_tile = keys + stage * kTileSize + begin * kHeadDim;
      const bf16* const value_tile = values + stage * kTileSize + begin * kHeadDim;
      float scores[kRowTiles][kTiles][4];
#pragma unroll
      for (int tile = 0; tile < kRowTiles; ++tile) clear(scores[tile]);
#pragma unroll 4
      for (int part = 0; part < kHeadDim / 16; ++part) {
        uint32_t a[kRowTiles][4], b[4];
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile)
          left_fragment<kHeadDim>(a[tile], queries, warp_row + tile * 16, part);
#pragma unroll
        for (int pair = 0; pair < kTiles / 2; ++pair) {
          right_fragment_transposed<kHeadDim>(b, key_tile, pair * 16, part);
#pragma unroll
          for (int tile = 0; tile < kRowTiles; ++tile) {
            multiply(scores[tile][2 * pair], a[tile], b[0], b[1]);
            multiply(scores[tile][2 * pair + 1], a[tile], b[2], b[3]);
          }
        }
      }

      if (!visible) {
#pragma unroll
        for (int column = 0; column < kTiles * 2; ++column) {
          compiler_barrier();  // one column's values at a time: sixteen would not fit into the registers
          const int place = block * kKeyBlock + begin + column / 2 * 8 + lane % 4 * 2 + column % 2;
          const int4 from = place < num_keys ? hidden_queries(shape, batch, place) : make_int4(0, INT_MAX, 0, 0);
#pragma unroll
          for (int row = 0; row < kRowTiles * 2; ++row)
            if (is_hidden(first + warp_row + row * 8 + lane / 4, from))
              scores[row / 2][column / 2][row % 2 * 2 + column % 2] = -INFINITY;
        }
      }

#pragma unroll
      for (int row = 0; row < kRowTiles * 2; ++row) {
        const int tile = row / 2, half = row % 2;
        float top = highest[tile][half];
#pragma unroll
        for (int i = 0; i < kTiles; ++i)
          top = fmaxf(top, fmaxf(scores[tile][i][2 * half], scores[tile][i][2 * half + 1]));
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 1));
        top = fmaxf(top, __shfl_xor_sync(kAllLanes, top, 2));
        const float reference = top == -INFINITY ? 0.0f : top * scale;  // nothing seen yet: all factors become 0
        const float fade = exp2_fast(highest[tile][half] * scale - reference);
        highest[tile][half] = top;
        totals[tile][half] *= fade;
        if (__ballot_sync(kAllLanes, fade != 1.0f))
#pragma unroll
          for (int i = 0; i < kHeadDim / 8; ++i) {
            sums[tile][i][2 * half] *= fade;
            sums[tile][i][2 * half + 1] *= fade;
          }
#pragma unroll
        for (int i = 0; i < kTiles; ++i)
#pragma unroll
          for (int j = 2 * half; j < 2 * half + 2; ++j) {
            scores[tile][i][j] = exp2_fast(scores[tile][i][j] * scale - reference);
            totals[tile][half] += scores[tile][i][j];
          }
      }

#pragma unroll
      for (int step = 0; step < kTiles / 2; ++step) {
        uint32_t a[kRowTiles][4], b[4];
#pragma unroll
        for (int tile = 0; tile < kRowTiles; ++tile)
          as_left_fragment(a[tile], scores[tile][2 * step], scores[tile][2 * step + 1]);
#pragma unroll
        for (int part = 0; part < kHeadDim / 16; ++part) {
          right_fragment<kHeadDim>(b, value_tile, step * 16, part);
#pragma unroll
          for (int tile = 0; tile < kRowTiles; ++tile) {
            multiply(sums[tile][2 * part], a[tile], b[0], b[1]);
            multiply(sums[tile][2 * part + 1], a[tile], b[2], b[3]);
          }
        }
      }
    }
    __syncthreads();  // the next turn overwrites this stage
    block = next;
    stage ^= 1;
  }
  wait_copies<0>();

#pragma unroll
  for (int row = 0; row < kRowTiles * 2; ++row) {
    const int tile = row / 2, half = row % 2, place = first + warp_row + row * 8 + lane / 4;
    float total = totals[tile][half];
    total += __shfl_xor_sync(kAllLanes, total, 1);
    total += __shfl_xor_sync(kAllLanes, total, 2);
    if (place >= num_queries) continue;
    store_row<kHeadDim>(out + query_start + static_cast<int64_t>(place) * query_step, sums[tile], half,
                        total > 0 ? 1.0f / total : 0.0f);
    if (lane % 4 == 0)
      log_sums[(batch * shape.heads + head) * num_queries + place] =
          total > 0 ? highest[tile][half] * shape.scale + logf(total) : -INFINITY;
  }
}

// products float [batch, heads, queries] = grad_out . out, a warp a row.
template <int kHeadDim>
__global__ void __launch_bounds__(256) attention_products_kernel(const bf16* out, const bf16* grad_out, int64_t rows,
                                                                 int queries, int heads, float* products) {
  constexpr int kOwn = kHeadDim / kWarp;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * 8 + threadIdx.x / kWarp;  // of [batch, queries, heads]
  if (row >= rows) return;
  const int64_t start = row * kHeadDim + threadIdx.x % kWarp * kOwn;
  const auto one = load<kOwn>(out + start), other = load<kOwn>(grad_out + start);
  float product = 0;
#pragma unroll
  for (int i = 0; i < kOwn; ++i) product += to_float(one.at[i]) * to_float(other.at[i]);
  product = warp_reduce(product, Sum());
  const int64_t head = row % heads, query = row / heads % queries, batch = row / heads / queries;
  if (threadIdx.x % kWarp == 0) products[(batch * heads + head) * queries + query] = product;
}

template <int kHeadDim>
constexpr size_t attention_grad_bytes() {
  return 6 * kKeyBlock * kHeadDim * sizeof(bf16) + 4 * kGradQueryBlock * sizeof(float);
}

// A block: 64 queries of one head; a warp: 16 of them.
template <int kHeadDim>
__global__ void __launch_bounds__(kAttentionThreads)
    attention_grad_query_kernel(const bf16* query, const bf16* key, const bf16* value, const bf16* grad_out,
                                const float* log_sums, const float* products, AttentionShape shape, const int* bounds,
                                bf16* grad_query) {
  constexpr int kTiles = kKeyBlock / 8, kTileSize = kKeyBlock * kHeadDim;
  bf16* const queries = reinterpret_cast<bf16*>(shared_memory());
  bf16* const grads = queries + kTileSize;
  bf16* const keys = grads + kTileSize;  // two tiles, then two of values
  bf16* const values = keys + 2 * kTileSize;
  const int num_queries = static_cast<int>(shape.queries), num_keys = static_cast<int>(shape.keys);
  const int first = (gridDim.x - 1 - blockIdx.x) * kGradQueryBlock,
            last = min(first + kGradQueryBlock, num_queries) - 1;
  const int64_t head = blockIdx.y, batch = blockIdx.z, kv_head = head / (shape.heads / shape.kv_heads);
  const int query_step = static_cast<int>(shape.heads) * kHeadDim,
            key_step = static_cast<int>(shape.kv_heads) * kHeadDim;
  const int64_t query_start = (batch * num_queries * shape.heads + head) * kHeadDim;
  const int64_t key_start = (batch * num_keys * shape.kv_heads + kv_head) * kHeadDim;
  const int blocks = ceil_div(num_keys, kKeyBlock);
  bounds += batch * blocks * kBoundsWords;
  key += key_start;
  value += key_start;
  const int lane = threadIdx.x % kWarp, warp_row = threadIdx.x / kWarp * 16;

  const auto load_keys = [&](int block, int stage) {
    const int64_t start = static_cast<int64_t>(block) * kKeyBlock * key_step;
    load_tile<kKeyBlock, kHeadDim>(keys + stage * kTileSize, key + start, key_step, num_keys - block * kKeyBlock);
    load_tile<kKeyBlock, kHeadDim>(values + stage * kTileSize, value + start, key_step, num_keys - block * kKeyBlock);
  };
  load_tile<kGradQueryBlock, kHeadDim>(queries, query + query_start + static_cast<int64_t>(first) * query_step,
                                       query_step, num_queries - first);
  load_tile<kGradQueryBlock, kHeadDim>(grads, grad_out + query_start + static_cast<int64_t>(first) * query_step,
                                       query_step, num_queries - first);
  int block = next_key_block(bounds, 0, blocks, first, last), stage = 0;
  if (block < blocks) load_keys(block, 0);
  commit_copies();

  float log_sum[2], product[2];  // of this lane's two queries
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int place = first + warp_row + half * 8 + lane / 4;
    const int64_t index = (batch * shape.heads + head) * num_queries + place;
    const float found = place < num_queries ? log_sums[index] : -INFINITY;
    log_sum[half] = found == -INFINITY ? INFINITY : found * kLog2e;  // INFINITY: no share in anything
    product[half] = place < num_queries ? products[index] : 0.0f;
  }
  float sums[kHeadDim / 8][4];
  clear(sums);
  const float scale = shape.scale * kLog2e;

  while (block < blocks) {
    const int next = next_key_block(bounds, block + 1, blocks, first, last);
    if (next < blocks) load_keys(next, stage ^ 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
    const bf16 *key_tile = keys + stage * kTileSize, *value_tile = values + stage * kTileSize;
    float shares[kTiles][4], grad_shares[kTiles][4];
    clear(shares);
    clear(grad_shares);
    multiply_rows<kHeadDim>(shares, queries, warp_row, key_tile);
    multiply_rows<kHeadDim>(grad_shares, grads, warp_row, value_tile);
    const bool whole = (block + 1) * kKeyBlock <= num_keys;
    const bool visible = whole && block_is_visible(bounds + block * kBoundsWords, first, last);
#pragma unroll
    for (int column = 0; column < kTiles * 2; ++column) {
      int4 from = make_int4(0, 0, 0, 0);
      if (!visible) {
        const int place = block * kKeyBlock + column / 2 * 8 + lane % 4 * 2 + column % 2;
        from = place < num_keys ? hidden_queries(shape, batch, place) : make_int4(0, INT_MAX, 0, 0);
      }
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& share = shares[column / 2][half * 2 + column % 2];
        const float probability = exp2_fast(share * scale - log_sum[half]);
        const bool hidden = is_hidden(first + warp_row + half * 8 + lane / 4, from);
        share = hidden ? 0.0f : probability * (grad_shares[column / 2][half * 2 + column % 2] - product[half]);
      }
    }
    add_product<kHeadDim>(sums, shares, key_tile);
    __syncthreads();
    block = next;
    stage ^= 1;
  }
  wait_copies<0>();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int place = first + warp_row + half * 8 + lane / 4;
    if (place < num_queries)
      store_row<kHeadDim>(grad_query + query_start + static_cast<int64_t>(place) * query_step, sums, half, shape.scale);
  }
}

// A block: 64 keys of one key-value head; a warp: 16 of them, against the queries of every head of the group. Scores
// are computed transposed, so that they are left operands as they stand.
template <int kHeadDim>
__global__ void __launch_bounds__(kAttentionThreads)
    attention_grad_key_kernel(const bf16* query, const bf16* key, const bf16* value, const bf16* grad_out,
                              const float* log_sums, const float* products, AttentionShape shape, const int* bounds,
                              bf16* grad_key, bf16* grad_value) {
  constexpr int kTileSize = kKeyBlock * kHeadDim;
  constexpr int kAtOnce = kHeadDim > 64 ? 32 : 64, kTiles = kAtOnce / 8;  // queries whose scores fit the registers
  bf16* const keys = reinterpret_cast<bf16*>(shared_memory());
  bf16* const values = keys + kTileSize;
  bf16* const queries = values + kTileSize;  // two tiles, then two of gradients
  bf16* const grads = queries + 2 * kTileSize;
  float* const query_sums = reinterpret_cast<float*>(grads + 2 * kTileSize);  // [2][64], then products
  float* const query_products = query_sums + 2 * kGradQueryBlock;
  const int num_queries = static_cast<int>(shape.queries), num_keys = static_cast<int>(shape.keys);
  const int group = static_cast<int>(shape.heads / shape.kv_heads), key_block = blockIdx.x,
            first_key = key_block * kKeyBlock;
  const int64_t kv_head = blockIdx.y, batch = blockIdx.z;
  const int query_step = static_cast<int>(shape.heads) * kHeadDim,
            key_step = static_cast<int>(shape.kv_heads) * kHeadDim;
  const int64_t key_start = ((batch * num_keys + first_key) * shape.kv_heads + kv_head) * kHeadDim;
  const int query_blocks = ceil_div(num_queries, kGradQueryBlock);
  const int lane = threadIdx.x % kWarp, warp_row = threadIdx.x / kWarp * 16;
  bounds += (batch * gridDim.x + key_block) * kBoundsWords;

  // A turn is a head of the group and a block of queries, turn = head * query_blocks + block.
  const auto next_turn = [&](int turn) {
    while (turn < group * query_blocks) {
      const int block = next_query_block(bounds, turn % query_blocks, query_blocks, num_queries);
      if (block < query_blocks) return turn / query_blocks * query_blocks + block;
      turn = (turn / query_blocks + 1) * query_blocks;
    }
    return group * query_blocks;
  };
  const auto load_queries = [&](int turn, int stage) {
    const int first = turn % query_blocks * kGradQueryBlock;
    const int64_t head = kv_head * group + turn / query_blocks;
    const int64_t start = ((batch * num_queries + first) * shape.heads + head) * kHeadDim;
    load_tile<kGradQueryBlock, kHeadDim>(queries + stage * kTileSize, query + start, query_step, num_queries - first);
    load_tile<kGradQueryBlock, kHeadDim>(grads + stage * kTileSize, grad_out + start, query_step, num_queries - first);
    if (threadIdx.x < kGradQueryBlock) {
      const int place = first + threadIdx.x;
      const int64_t index = (batch * shape.heads + head) * num_queries + place;
      const float found = place < num_queries ? log_sums[index] : -INFINITY;
      query_sums[stage * kGradQueryBlock + threadIdx.x] = found == -INFINITY ? INFINITY : found * kLog2e;
      query_products[stage * kGradQueryBlock + threadIdx.x] = place < num_queries ? products[index] : 0.0f;
    }
  };
  load_tile<kKeyBlock, kHeadDim>(keys, key + key_start, key_step, num_keys - first_key);
  load_tile<kKeyBlock, kHeadDim>(values, value + key_start, key_step, num_keys - first_key);
  int turn = next_turn(0), stage = 0;
  if (turn < group * query_blocks) load_queries(turn, 0);
  commit_copies();

  int4 from[2];  // what hides this lane's two keys
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int place = first_key + warp_row + half * 8 + lane / 4;
    from[half] = place < num_keys ? hidden_queries(shape, batch, place) : make_int4(0, INT_MAX, 0, 0);
  }
  float key_sums[kHeadDim / 8][4], value_sums[kHeadDim / 8][4];
  clear(key_sums);
  clear(value_sums);
  const float scale = shape.scale * kLog2e;

  while (turn < group * query_blocks) {
    const int next = next_turn(turn + 1);
    if (next < group * query_blocks) load_queries(next, stage ^ 1);
    commit_copies();
    wait_copies<1>();
    __syncthreads();
#pragma unroll 1
    for (int begin = 0; begin < kGradQueryBlock; begin += kAtOnce) {
      const bf16* const query_tile = queries + stage * kTileSize + begin * kHeadDim;
      const bf16* const grad_tile = grads + stage * kTileSize + begin * kHeadDim;
      const float* const sums = query_sums + stage * kGradQueryBlock + begin;
      const float* const dots = query_products + stage * kGradQueryBlock + begin;
      const int first = turn % query_blocks * kGradQueryBlock + begin;
      float shares[kTiles][4];
      clear(shares);
      multiply_rows<kHeadDim>(shares, keys, warp_row, query_tile);
#pragma unroll
      for (int column = 0; column < kTiles * 2; ++column) {
        const int place = column / 2 * 8 + lane % 4 * 2 + column % 2;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float& share = shares[column / 2][half * 2 + column % 2];
          share = exp2_fast(share * scale - sums[place]);
          if (is_hidden(first + place, from[half])) share = 0;
        }
      }
      add_product<kHeadDim>(value_sums, shares, grad_tile);
      float grad_shares[kTiles][4];
      clear(grad_shares);
      multiply_rows<kHeadDim>(grad_shares, values, warp_row, grad_tile);
#pragma unroll
      for (int column = 0; column < kTiles * 2; ++column) {
        const float dot = dots[column / 2 * 8 + lane % 4 * 2 + column % 2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          float& share = shares[column / 2][half * 2 + column % 2];
          share *= grad_shares[column / 2][half * 2 + column % 2] - dot;
        }
      }
      add_product<kHeadDim>(key_sums, shares, query_tile);
    }
    __syncthreads();
    turn = next;
    stage ^= 1;
  }
  wait_copies<0>();
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = warp_row + half * 8 + lane / 4;
    if (first_key + row >= num_keys) continue;
    store_row<kHeadDim>(grad_key + key_start + row * key_step, key_sums, half, shape.scale);
    store_row<kHeadDim>(grad_value + key_start + row * key_step, value_sums, half, 1.0f);
  }
}

inline bool is_supported(const AttentionShape& shape) {
  const bool columns = shape.columns == 0 || shape.columns == 1 || shape.columns == 2 ||
                       (shape.columns == 4 && !shape.causal);
  const bool batches = shape.mask_batch == 1 || shape.mask_batch == shape.batch;
  return columns && batches && (shape.columns == 0 || shape.mask) && shape.kv_heads > 0 && shape.heads % shape.kv_heads == 0 &&
         shape.queries < INT_MAX / 2 && shape.keys < INT_MAX / 2;
}

// int [batch, ceil(keys / 64), 8]: what may be kept for all layers and for backward.
inline int64_t attention_bounds_size(int64_t batch, int64_t keys) {
  return batch * ceil_div<int64_t>(keys, kKeyBlock) * kBoundsWords;
}

inline cudaError_t attention_bounds(const AttentionShape& shape, int* bounds, cudaStream_t stream) {
  if (!is_supported(shape)) return cudaErrorInvalidValue;
  if (shape.batch * shape.keys == 0) return cudaSuccess;
  const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(shape.keys, kKeyBlock)), static_cast<unsigned>(shape.batch));
  return launch(key_bounds_kernel, grid, kWarp, 0, stream, shape, bounds);
}

// bounds: of attention_bounds.
template <int kHeadDim>
cudaError_t attention_forward(const bf16* query, const bf16* key, const bf16* value, const AttentionShape& shape,
                              const int* bounds, bf16* out, float* log_sums, cudaStream_t stream) {
  if (!is_supported(shape)) return cudaErrorInvalidValue;
  if (shape.batch * shape.queries * shape.heads == 0) return cudaSuccess;
  const auto run = [&](auto tiles) {
    constexpr int kRowTiles = decltype(tiles)::value;
    const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(shape.queries, 64 * kRowTiles)),
                    static_cast<unsigned>(shape.heads), static_cast<unsigned>(shape.batch));
    return launch(attention_forward_kernel<kHeadDim, kRowTiles>, grid, kAttentionThreads,
                  attention_forward_bytes<kHeadDim, kRowTiles>(), stream, query, key, value, shape, bounds, out,
                  log_sums);
  };
  if (shape.queries > 64) return run(std::integral_constant<int, 2>());
  return run(std::integral_constant<int, 1>());
}

// products: workspace, float [batch, heads, queries].
template <int kHeadDim>
cudaError_t attention_backward(const bf16* query, const bf16* key, const bf16* value, const bf16* out,
                               const bf16* grad_out, const float* log_sums, const AttentionShape& shape,
                               const int* bounds, float* products, bf16* grad_query, bf16* grad_key, bf16* grad_value,
                               cudaStream_t stream) {
  if (!is_supported(shape)) return cudaErrorInvalidValue;
  const int64_t rows = shape.batch * shape.queries * shape.heads;
  const auto batch = static_cast<unsigned>(shape.batch);
  cudaError_t error = cudaSuccess;
  if (rows) {
    error = launch(attention_products_kernel<kHeadDim>, static_cast<unsigned>(ceil_div<int64_t>(rows, 8)), 256, 0,
                   stream, out, grad_out, rows, shape.queries, shape.heads, products);
    const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(shape.queries, kGradQueryBlock)),
                    static_cast<unsigned>(shape.heads), batch);
    if (error == cudaSuccess)
      error = launch(attention_grad_query_kernel<kHeadDim>, grid, kAttentionThreads, attention_grad_bytes<kHeadDim>(),
                     stream, query, key, value, grad_out, log_sums, products, shape, bounds, grad_query);
  }
  if (error != cudaSuccess || shape.batch * shape.keys == 0) return error;
  const dim3 grid(static_cast<unsigned>(ceil_div<int64_t>(shape.keys, kKeyBlock)),
                  static_cast<unsigned>(shape.kv_heads), batch);
  return launch(attention_grad_key_kernel<kHeadDim>, grid, kAttentionThreads, attention_grad_bytes<kHeadDim>(), stream,
                query, key, value, grad_out, log_sums, products, shape, bounds, grad_key, grad_value);
}

}  // namespace ernie5::cuda
