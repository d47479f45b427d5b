#include "adamw/kernel.h"
#include "fuzz/call.h"

namespace {

template <typename T>
void run(ernie5::fuzz::Call& call) {
  using C = ernie5::compute_t<T>;
  std::vector<ernie5::cpu::AdamWTensor<T>> tensors;
  std::vector<const T*> gradients;
  std::vector<T*> scaled;
  std::vector<int64_t> counts;
  for (int64_t left = call.size(0, 6); left > 0; --left) {
    const int64_t count = call.coin() ? call.size(0, 200) : call.pick({65535, 65537});  // around a piece
    T* const gradient = call.input<T>(count);
    C* const second = call.array<C>(count);
    for (int64_t i = 0; i < count; ++i) second[i] = C(0.01);
    C* const powers = call.array<C>(2);
    powers[0] = C(0.9), powers[1] = C(0.95);
    tensors.push_back({call.input<T>(count), gradient, std::is_same_v<T, C> ? nullptr : call.input<C>(count),
                       call.input<C>(count), second, powers, powers + 1, count});
    gradients.push_back(gradient), scaled.push_back(gradient), counts.push_back(count);
  }
  ernie5::cpu::adamw<T>(tensors, {1e-3f, 0.9f, 0.95f, 1e-8f, 0.1f});
  const auto sums = ernie5::cpu::sums_of_squares<T>(gradients, counts);
  for (const double sum : sums)
    if (!std::isfinite(sum)) call.fail("a sum is not finite", 0);
  ernie5::cpu::scale<T>(scaled, counts, C(0.5));
}

const ernie5::fuzz::Registered kRegistered("adamw", {run<float>, run<double>, run<ernie5::bfloat16>});

}  // namespace
