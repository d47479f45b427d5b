#include "moe_permute/kernel.h"

#if defined(__AVX512F__)
#include <immintrin.h>
#endif

#include <atomic>
#include <cstring>
#include <vector>

#include "common/parallel.h"

namespace ernie5::cpu {
namespace {

// Above so many bytes the rows will not stay in cache until they are used: they are written past it, which saves reading
// the lines before they are overwritten.
constexpr int64_t kStreamedBytes = 4 << 20;

bool is_streamed(const void* rows, int64_t num_rows, int64_t bytes) {
  return num_rows * bytes > kStreamedBytes && bytes % 64 == 0 && reinterpret_cast<uintptr_t>(rows) % 64 == 0;
}

void copy_row(char* to, const char* from, int64_t bytes, [[maybe_unused]] bool streamed) {
#if defined(__AVX512F__)
  if (streamed) {
    for (int64_t i = 0; i < bytes; i += 64)
      _mm512_stream_si512(reinterpret_cast<__m512i*>(to + i), _mm512_loadu_si512(from + i));
    return;
  }
#endif
  std::memcpy(to, from, static_cast<size_t>(bytes));
}

void finish_streams() {
#if defined(__AVX512F__)
  _mm_sfence();
#endif
}

// out = (before or 0) + sum of N weighted rows; the last sum of a token goes to its row, earlier ones to `sum`.
template <int N, typename T, typename C>
void add_rows(const T* const* rows, const C* weights, const C* before, int64_t hidden, C* sum, T* out) {
  C weight[N];
  for (int i = 0; i < N; ++i) weight[i] = weights ? weights[i] : C(1);
  const auto total = [&](int64_t place) {
    C value = before ? before[place] : C(0);
    for (int i = 0; i < N; ++i) value += weight[i] * C(rows[i][place]);
    return value;
  };
  if (out) {
#pragma omp simd
    for (int64_t place = 0; place < hidden; ++place) out[place] = T(total(place));
  } else {
#pragma omp simd
    for (int64_t place = 0; place < hidden; ++place) sum[place] = total(place);
  }
}

}  // namespace

bool all_within(const int64_t* ids, int64_t count, int64_t lowest, int64_t end) {
  bool within = true;
#pragma omp simd reduction(&& : within)
  for (int64_t i = 0; i < count; ++i) within = within && ids[i] >= lowest && ids[i] < end;
  return within;
}

bool sort_by_expert(const int64_t* topk_ids, int64_t slots, int64_t top_k, int64_t experts, int64_t alignment,
                    int64_t* token_ids, int64_t* slot_ids, int64_t* row_ids, int64_t* tokens_per_expert) {
  if (!all_within(topk_ids, slots, 0, experts)) return false;
  const int threads = omp_get_max_threads();
  std::vector<int64_t> places(static_cast<size_t>(threads * experts));  // of each thread's slots: counts, then next rows
  parallel_ranges(slots, slots, [&](int64_t begin, int64_t end, int thread) {
    int64_t* const counts = places.data() + thread * experts;
    for (int64_t slot = begin; slot < end; ++slot) ++counts[topk_ids[slot]];
  });
  if (alignment > 1) {
    const int64_t rows = sorted_rows(slots, experts, alignment);
    std::fill(slot_ids, slot_ids + rows, int64_t{-1});
    if (token_ids) std::fill(token_ids, token_ids + rows, int64_t{-1});
  }
  int64_t row = 0;
  for (int64_t expert = 0; expert < experts; ++expert) {
    const int64_t first = row;
    for (int thread = 0; thread < threads; ++thread) {
      const int64_t count = places[thread * experts + expert];
      places[thread * experts + expert] = row;
      row += count;
    }
    tokens_per_expert[expert] = row - first;
    row = (row + alignment - 1) / alignment * alignment;
  }
  parallel_ranges(slots, slots, [&](int64_t begin, int64_t end, int thread) {
    int64_t* const next = places.data() + thread * experts;
    for (int64_t slot = begin; slot < end; ++slot) {
      const int64_t place = next[topk_ids[slot]]++;
      row_ids[slot] = place;
      slot_ids[place] = slot;
      if (token_ids) token_ids[place] = slot / top_k;
    }
  });
  return true;
}

template <typename T>
void moe_permute(const T* x, const int64_t* token_ids, int64_t num_rows, int64_t hidden, T* rows) {
  const int64_t bytes = hidden * static_cast<int64_t>(sizeof(T));
  const bool streamed = is_streamed(rows, num_rows, bytes);
  const char* const source = reinterpret_cast<const char*>(x);
  parallel_ranges(num_rows, num_rows * hidden, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      char* const to = reinterpret_cast<char*>(rows) + row * bytes;
      if (token_ids[row] < 0)
        std::memset(to, 0, static_cast<size_t>(bytes));
      else
        copy_row(to, source + token_ids[row] * bytes, bytes, streamed);
    }
    if (streamed) finish_streams();
  });
}

template <typename T>
void moe_unpermute(const T* rows, const int64_t* row_ids, const compute_t<T>* weights, int64_t tokens, int64_t top_k,
                   int64_t hidden, T* out) {
  using C = compute_t<T>;
  parallel_ranges(tokens, tokens * top_k * hidden, [&](int64_t begin, int64_t end, int) {
    std::vector<C> sum(hidden);
    for (int64_t token = begin; token < end; ++token) {
      const C* before = nullptr;
      for (int64_t choice = 0; choice < top_k; choice += 4) {
        const int64_t count = std::min<int64_t>(top_k - choice, 4);
        const T* parts[4];
        for (int64_t i = 0; i < count; ++i) parts[i] = rows + row_ids[token * top_k + choice + i] * hidden;
        const C* const weight = weights ? weights + token * top_k + choice : nullptr;
        T* const last = choice + count == top_k ? out + token * hidden : nullptr;
        switch (count) {
          case 1: add_rows<1>(parts, weight, before, hidden, sum.data(), last); break;
          case 2: add_rows<2>(parts, weight, before, hidden, sum.data(), last); break;
          case 3: add_rows<3>(parts, weight, before, hidden, sum.data(), last); break;
          default: add_rows<4>(parts, weight, before, hidden, sum.data(), last);
        }
        before = sum.data();
      }
    }
  });
}

template <typename T>
void moe_unpermute_backward(const T* rows, const int64_t* row_ids, const compute_t<T>* weights, const T* grad_out,
                            int64_t tokens, int64_t top_k, int64_t hidden, T* grad_rows, compute_t<T>* grad_weights) {
  using C = compute_t<T>;
  const int64_t bytes = hidden * static_cast<int64_t>(sizeof(T));
  const bool streamed = is_streamed(grad_rows, tokens * top_k, bytes);
  parallel_ranges(tokens, tokens * top_k * hidden, [&](int64_t begin, int64_t end, int) {
    std::vector<T> room(streamed ? hidden : 0);  // a row in cache, before it is written past it
    for (int64_t slot = begin * top_k; slot < end * top_k; ++slot) {
      const T *grad = grad_out + slot / top_k * hidden, *row = rows + row_ids[slot] * hidden;
      T* const target = grad_rows + row_ids[slot] * hidden;
      T* const into = streamed ? room.data() : target;
      const C weight = weights[slot];
      C product = 0;
#pragma omp simd reduction(+ : product)
      for (int64_t i = 0; i < hidden; ++i) {
        product += C(grad[i]) * C(row[i]);
        into[i] = T(weight * C(grad[i]));
      }
      if (streamed) copy_row(reinterpret_cast<char*>(target), reinterpret_cast<const char*>(into), bytes, true);
      grad_weights[slot] = product;
    }
    if (streamed) finish_streams();
  });
}

#define INSTANTIATE(T)                                                                                                \
  template void moe_permute<T>(const T*, const int64_t*, int64_t, int64_t, T*);                                       \
  template void moe_unpermute<T>(const T*, const int64_t*, const compute_t<T>*, int64_t, int64_t, int64_t, T*);       \
  template void moe_unpermute_backward<T>(const T*, const int64_t*, const compute_t<T>*, const T*, int64_t, int64_t,  \
                                          int64_t, T*, compute_t<T>*);
INSTANTIATE(float)
INSTANTIATE(double)
INSTANTIATE(bfloat16)

}  // namespace ernie5::cpu
