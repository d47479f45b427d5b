// Random calls of the kernels, whose memory is exactly as large as the kernels are told, so that a sanitizer sees each
// step beyond it. An array of no elements is null, as Paddle's are.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <initializer_list>
#include <limits>
#include <memory>
#include <random>
#include <vector>

#include "common/bfloat16.h"

namespace ernie5::fuzz {

// One call's sizes and arrays, which live as long as it does.
class Call {
 public:
  Call(const char* name, uint64_t seed) : name_(name), seed_(seed), random_(seed) {}
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  int64_t between(int64_t lowest, int64_t highest) {
    return std::uniform_int_distribution<int64_t>(lowest, highest)(random_);
  }
  bool coin() { return between(0, 1) == 1; }
  int64_t pick(std::initializer_list<int64_t> values) { return values.begin()[between(0, values.size() - 1)]; }
  // From `lowest` on; the smallest are likely, and so are those around the width of a vector.
  int64_t size(int64_t lowest, int64_t highest) {
    const int64_t small = std::min(highest, lowest + 2);
    const int64_t kind = between(0, 2);
    if (kind == 0) return between(lowest, small);
    if (kind == 1) return std::max(lowest, std::min(highest, pick({8, 16, 32, 64}) + between(-1, 1)));
    return between(lowest, highest);
  }

  template <typename T>
  T* input(int64_t count, double scale = 1) {
    T* const values = array<T>(count);
    std::normal_distribution<float> normal;
    for (int64_t i = 0; i < count; ++i) values[i] = T(static_cast<float>(scale) * normal(random_));
    return values;
  }
  // NaN, of which none may be left when the call is over.
  template <typename T>
  T* output(int64_t count) {
    T* const values = array<T>(count);
    for (int64_t i = 0; i < count; ++i) values[i] = T(std::numeric_limits<float>::quiet_NaN());
    checks_.push_back([=](const Call& call) {
      for (int64_t i = 0; i < count; ++i)
        if (!std::isfinite(static_cast<double>(values[i])))
          call.fail("an element was not written, or is not finite", i);
    });
    return values;
  }
  template <typename T>
  T* integers(int64_t count, T lowest = 0, T highest = 0) {
    T* const values = array<T>(count);
    for (int64_t i = 0; i < count; ++i) values[i] = static_cast<T>(between(lowest, highest));
    return values;
  }
  template <typename T>
  T* array(int64_t count) {
    if (count == 0) return nullptr;
    std::shared_ptr<T[]> memory(new T[count]);
    arrays_.push_back(memory);
    return memory.get();
  }

  void finish() const {
    for (const auto& check : checks_) check(*this);
  }
  [[noreturn]] void fail(const char* what, int64_t where) const {
    std::fprintf(stderr, "%s, seed %llu: %s (%lld)\n", name_, static_cast<unsigned long long>(seed_), what,
                 static_cast<long long>(where));
    std::exit(1);
  }

 private:
  const char* name_;
  uint64_t seed_;
  std::mt19937_64 random_;
  std::vector<std::shared_ptr<void>> arrays_;
  std::vector<std::function<void(const Call&)>> checks_;
};

using Run = void (*)(Call&);

struct Operator {
  const char* name;
  std::vector<Run> runs;  // one a dtype
};

inline std::vector<Operator>& operators() {
  static std::vector<Operator> all;
  return all;
}

struct Registered {
  Registered(const char* name, std::initializer_list<Run> runs) { operators().push_back({name, runs}); }
};

}  // namespace ernie5::fuzz
