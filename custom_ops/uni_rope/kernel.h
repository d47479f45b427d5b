// The turn of a rotary embedding.
#pragma once
#include <cstdint>

#include "common/bfloat16.h"

namespace ernie5::cpu {

// Pair (j, j + pairs) of each head turned by its angle: first * cos - second * sin, second * cos + first * sin; by the
// opposite angle where `back`. states, out [tokens, heads, 2 * pairs]; cos, sin [angles, pairs], token i turned by angle
// i % angles. Computed in compute_t<T>.
template <typename T>
void uni_rope(const T* states, const float* cos, const float* sin, int64_t tokens, int64_t angles, int64_t heads,
              int64_t pairs, bool back, T* out);

}  // namespace ernie5::cpu
