#include "router/kernel.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "common/elementary.h"
#include "common/parallel.h"

namespace ernie5::cpu {
namespace {

// score(logits + mask) of one token into scores [experts].
template <typename T>
void score_token(const T* logits, const T* mask, int64_t experts, Score score, T* scores) {
  if (score == Score::kSigmoid) {
#pragma omp simd
    for (int64_t i = 0; i < experts; ++i) scores[i] = T(1) / (T(1) + vector_exp(-(logits[i] + mask[i])));
    return;
  }
  T highest = -std::numeric_limits<T>::infinity(), sum = 0;
#pragma omp simd reduction(max : highest)
  for (int64_t i = 0; i < experts; ++i) {
    scores[i] = logits[i] + mask[i];
    highest = scores[i] > highest ? scores[i] : highest;
  }
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < experts; ++i) {
    scores[i] = vector_exp(scores[i] - highest);
    sum += scores[i];
  }
  const T inverse = T(1) / sum;
#pragma omp simd
  for (int64_t i = 0; i < experts; ++i) scores[i] *= inverse;
}

// The top_k highest of values, highest first, of equal ones the lowest id first; NaN ranks highest, as in an argsort. What is
// chosen becomes NaN, which no comparison finds.
template <typename T>
void choose(T* values, int64_t experts, int64_t top_k, int64_t* ids) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const int32_t count = static_cast<int32_t>(experts);
#pragma omp simd
  for (int32_t i = 0; i < count; ++i) values[i] = values[i] == values[i] ? values[i] : kInfinity;
  for (int64_t choice = 0; choice < top_k; ++choice) {
    T highest = -kInfinity;
#pragma omp simd reduction(max : highest)
    for (int32_t i = 0; i < count; ++i) highest = values[i] > highest ? values[i] : highest;
    int32_t first = count;
#pragma omp simd reduction(min : first)
    for (int32_t i = 0; i < count; ++i) first = values[i] == highest && i < first ? i : first;
    ids[choice] = first;
    values[first] = std::numeric_limits<T>::quiet_NaN();
  }
}

}  // namespace

template <typename T>
void router_forward(const T* logits, const T* bias, const T* mask, int64_t tokens, int64_t experts, int64_t top_k,
                    Score score, double scaling, int64_t* ids, T* weights, T* totals, int64_t* tokens_per_expert) {
  const int threads = omp_get_max_threads();
  std::vector<int64_t> counts(static_cast<size_t>(threads * experts));
  parallel_ranges(tokens, tokens * experts, [&](int64_t begin, int64_t end, int thread) {
    std::vector<T> scores(experts), values(experts);
    int64_t* const count = counts.data() + thread * experts;
    for (int64_t token = begin; token < end; ++token) {
      score_token(logits + token * experts, mask, experts, score, scores.data());
#pragma omp simd
      for (int64_t i = 0; i < experts; ++i) values[i] = scores[i] + bias[i] + mask[i];
      int64_t* const chosen = ids + token * top_k;
      choose(values.data(), experts, top_k, chosen);
      T total = 0;
      for (int64_t choice = 0; choice < top_k; ++choice) total += scores[chosen[choice]];
      const T factor = T(scaling) / std::max(total, T(kSmallestSum));
      for (int64_t choice = 0; choice < top_k; ++choice) {
        weights[token * top_k + choice] = scores[chosen[choice]] * factor;
        ++count[chosen[choice]];
      }
      totals[token] = total;
    }
  });
  for (int64_t expert = 0; expert < experts; ++expert) {
    tokens_per_expert[expert] = 0;
    for (int thread = 0; thread < threads; ++thread) tokens_per_expert[expert] += counts[thread * experts + expert];
  }
}

// With q = chosen scores / total and g the gradient of the weights, g' = scaling * (g - sum of g * q) is total times that of
// a chosen score. The softmax's sum over all experts cancels: dlogit = q * g' for the chosen and zero for the others. Where
// the total is too small, only its floor divides.
template <typename T>
void router_backward(const T* logits, const T* mask, const int64_t* ids, const T* weights, const T* totals,
                     const T* grad_weights, int64_t tokens, int64_t experts, int64_t top_k, Score score, double scaling,
                     T* grad_logits) {
  const T scale = T(scaling), smallest = T(kSmallestSum);
  parallel_ranges(tokens, tokens * experts, [&](int64_t begin, int64_t end, int) {
    std::vector<T> scores(experts);
    for (int64_t token = begin; token < end; ++token) {
      const int64_t* const chosen = ids + token * top_k;
      const T *weight = weights + token * top_k, *grad = grad_weights + token * top_k, *row = logits + token * experts;
      T* const out = grad_logits + token * experts;
      std::fill(out, out + experts, T(0));
      if (scale == T(0)) continue;
      const bool renormalised = !(totals[token] < smallest);
      T product = 0;  // sum of g * q
      for (int64_t choice = 0; choice < top_k; ++choice) product += grad[choice] * weight[choice] / scale;
      if (score == Score::kSigmoid) {
        const T factor = scale / std::max(totals[token], smallest), inner = renormalised ? product : T(0);
        for (int64_t choice = 0; choice < top_k; ++choice) {
          const int64_t expert = chosen[choice];
          const T one = T(1) / (T(1) + vector_exp(-(row[expert] + mask[expert])));
          out[expert] = factor * (grad[choice] - inner) * one * (T(1) - one);
        }
      } else if (renormalised) {
        for (int64_t choice = 0; choice < top_k; ++choice) out[chosen[choice]] = weight[choice] * (grad[choice] - product);
      } else {
        score_token(row, mask, experts, score, scores.data());
        for (int64_t i = 0; i < experts; ++i) out[i] = -scale * product * scores[i];
        for (int64_t choice = 0; choice < top_k; ++choice) out[chosen[choice]] += weight[choice] * grad[choice];
      }
    }
  });
}

#define INSTANTIATE(T)                                                                                                  \
  template void router_forward<T>(const T*, const T*, const T*, int64_t, int64_t, int64_t, Score, double, int64_t*, T*, \
                                  T*, int64_t*);                                                                        \
  template void router_backward<T>(const T*, const T*, const int64_t*, const T*, const T*, const T*, int64_t, int64_t,  \
                                   int64_t, Score, double, T*);
INSTANTIATE(float)
INSTANTIATE(double)

}  // namespace ernie5::cpu
