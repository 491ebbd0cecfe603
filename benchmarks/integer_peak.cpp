// Products of integers a second on one core, by loops over registers alone; one line for each
// instruction that the processor has: its name, and 10⁹ products a second.
#include <ctime>

#include <cstdio>

namespace {

double seconds() {
  timespec now;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// The best of some runs of a loop of 8 instructions of so many products each.
template <class Loop>
void measure(const char* name, int products, Loop loop) {
  constexpr long kRounds = 2000000;
  double best = 1e9;
  for (int run = 0; run < 15; ++run) {
    const double start = seconds();
    loop(kRounds);
    const double taken = seconds() - start;
    if (taken < best) best = taken;
  }
  std::printf("%s %.2f\n", name, 8.0 * kRounds * products / best / 1e9);
}

}  // namespace

#if defined(__x86_64__)
#define EIGHT(f, r) f(r "2") f(r "3") f(r "4") f(r "5") f(r "6") f(r "7") f(r "8") f(r "9")
#define LOOP(text) \
  [](long rounds) { \
    for (long i = 0; i < rounds; ++i) { \
      __asm__ volatile(text ::: "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9"); \
    } \
  }
#define MADDUBS(to) "vpmaddubsw %%ymm0, %%ymm1, %%" to "\n"
#define MADDWD(to) "vpmaddwd %%ymm0, %%ymm1, %%" to "\n"
#define DPBUSD(to) "vpdpbusd %%zmm0, %%zmm1, %%" to "\n"

int main() {
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2")) {
    measure("vpmaddubsw", 32, LOOP(EIGHT(MADDUBS, "ymm")));
    measure("vpmaddwd", 16, LOOP(EIGHT(MADDWD, "ymm")));
  }
  if (__builtin_cpu_supports("avx512vnni")) measure("vpdpbusd", 64, LOOP(EIGHT(DPBUSD, "zmm")));
}
#elif defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
int main() {
  measure("sdot", 16, [](long rounds) {
    for (long i = 0; i < rounds; ++i) {
      __asm__ volatile(
          "sdot v2.4s, v0.16b, v1.16b\n sdot v3.4s, v0.16b, v1.16b\n"
          "sdot v4.4s, v0.16b, v1.16b\n sdot v5.4s, v0.16b, v1.16b\n"
          "sdot v6.4s, v0.16b, v1.16b\n sdot v7.4s, v0.16b, v1.16b\n"
          "sdot v16.4s, v0.16b, v1.16b\n sdot v17.4s, v0.16b, v1.16b\n" ::
              : "v2", "v3", "v4", "v5", "v6", "v7", "v16", "v17");
    }
  });
}
#else
int main() {}
#endif
