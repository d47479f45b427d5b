// Memory of one call of a kernel.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <new>

namespace ernie5::cpu {

constexpr int64_t kCacheLine = 64;

// Not initialised; as large as the largest that was asked for.
template <typename C>
class Scratch {
 public:
  explicit Scratch(int64_t count = 0) { reserve(count); }
  C* reserve(int64_t count) {
    if (count > count_) {
      const int64_t bytes = (count * static_cast<int64_t>(sizeof(C)) + kCacheLine - 1) / kCacheLine * kCacheLine;
      memory_.reset(static_cast<C*>(std::aligned_alloc(kCacheLine, static_cast<size_t>(bytes))));
      if (!memory_) throw std::bad_alloc();
#ifdef ERNIE5_POISON  // what is read before it is written is then not a number (sanitize.py)
      std::memset(memory_.get(), 0xFF, static_cast<size_t>(bytes));
#endif
      count_ = count;
    }
    return memory_.get();
  }
  C* get() const { return memory_.get(); }

 private:
  struct Free {
    void operator()(C* memory) const { std::free(memory); }
  };
  std::unique_ptr<C, Free> memory_;
  int64_t count_ = 0;
};

}  // namespace ernie5::cpu
