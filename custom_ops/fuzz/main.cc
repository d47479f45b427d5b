// driver ROUNDS FIRST_SEED [OPERATOR | overrun | overflow]: every operator, or the one named, ROUNDS times for each
// dtype on one, two and three threads. overrun and overflow are mistakes made on purpose, to see that they are found.
#include <omp.h>

#include <csignal>
#include <cstring>

#include "fuzz/call.h"
#include "rms_norm/kernel.h"

// Both sanitizers, each with a runtime of its own, end by abort, so that one handler says which call it was.
extern "C" const char* __asan_default_options() { return "abort_on_error=1"; }
extern "C" const char* __ubsan_default_options() { return "abort_on_error=1:print_stacktrace=1"; }

namespace {

using ernie5::fuzz::Call;

const char* name = "";  // of the call that runs
uint64_t seed = 0;
void say_where(int) { std::fprintf(stderr, "in %s, --seed %llu\n", name, static_cast<unsigned long long>(seed)); }

// The kernel is told of one element more than there is.
void overrun(Call& call) {
  const int64_t hidden = 24;
  auto* const inverse = call.output<float>(1);
  ernie5::cpu::rms_norm_forward<float>(call.input<float>(hidden - 1), nullptr, call.input<float>(hidden), 1, hidden,
                                       1e-5f, nullptr, call.output<float>(hidden), inverse);
}

void overflow(Call& call) {
  volatile int64_t large = INT64_MAX;
  call.output<float>(large + call.between(1, 2) > 0 ? 1 : 0);
}

void run(const ernie5::fuzz::Operator& one, int rounds, uint64_t first_seed) {
  for (int round = 0; round < rounds; ++round) {
    for (const auto function : one.runs) {
      omp_set_num_threads(1 + round % 3);
      name = one.name, seed = first_seed + static_cast<uint64_t>(round);
      Call call(name, seed);
      function(call);
      call.finish();
    }
  }
  std::printf("%s: %d calls for each of %zu dtypes\n", one.name, rounds, one.runs.size());
}

}  // namespace

int main(int count, char** words) {
  if (count < 3) return 2;
  std::signal(SIGABRT, say_where);
  const int rounds = std::atoi(words[1]);
  const auto first_seed = static_cast<uint64_t>(std::atoll(words[2]));
  const char* const only = count > 3 ? words[3] : "";
  bool found = false;
  std::vector<ernie5::fuzz::Operator> planted{{"overrun", {overrun}}, {"overflow", {overflow}}};
  for (const auto* list : {&ernie5::fuzz::operators(), &planted}) {
    for (const auto& one : *list) {
      if (std::strcmp(only, one.name) != 0 && (*only || list == &planted)) continue;
      run(one, rounds, first_seed);
      found = true;
    }
  }
  if (!found) std::fprintf(stderr, "no operator %s\n", only);
  return found ? 0 : 2;
}
