// Work shared out over the threads of OpenMP, as many as Paddle's own kernels take (OMP_NUM_THREADS).
#pragma once
#include <omp.h>

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace ernie5 {

// Below so many elements of work a second thread costs more than it saves. (sanitize.py shares out less.)
#ifndef ERNIE5_SMALL_WORK
#define ERNIE5_SMALL_WORK (1 << 15)
#endif
constexpr int64_t kSmallWork = ERNIE5_SMALL_WORK;

inline int num_threads(int64_t work) { return work < kSmallWork || omp_in_parallel() ? 1 : omp_get_max_threads(); }

// run(begin, end, thread) over [0, count) in equal parts, one a thread. `work`: elements touched, all in all.
template <typename Run>
void parallel_ranges(int64_t count, int64_t work, const Run& run) {
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(work), std::max<int64_t>(count, 1)));
  if (threads == 1) {
    run(int64_t{0}, count, 0);
    return;
  }
#pragma omp parallel num_threads(threads)
  {
    const int64_t thread = omp_get_thread_num(), team = omp_get_num_threads();
    run(count * thread / team, count * (thread + 1) / team, static_cast<int>(thread));
  }
}

// run(item, thread) for each item of [0, count), taken by whichever thread is free: for items of unequal work.
template <typename Run>
void parallel_items(int64_t count, int64_t work, const Run& run) {
  const int threads = static_cast<int>(std::min<int64_t>(num_threads(work), std::max<int64_t>(count, 1)));
  if (threads == 1) {
    for (int64_t item = 0; item < count; ++item) run(item, 0);
    return;
  }
  std::atomic<int64_t> next{0};
#pragma omp parallel num_threads(threads)
  {
    const int thread = omp_get_thread_num();
    for (int64_t item = next++; item < count; item = next++) run(item, thread);
  }
}

}  // namespace ernie5
