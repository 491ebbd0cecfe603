// The processor's rules for float32, as oracle.py supposes them: to the nearest, denormals count.
#pragma once

#if defined(__x86_64__)
#include <immintrin.h>
#endif
#include <cstdint>

namespace mpft::encoder {

// Sets them for this thread until the end of a scope. A library that was built with -ffast-math may
// have changed them for the whole process.
class FloatMode {
 public:
  FloatMode() : before_(get()) { set(kDefault); }
  FloatMode(const FloatMode&) = delete;
  FloatMode& operator=(const FloatMode&) = delete;
  ~FloatMode() { set(before_); }

 private:
#if defined(__x86_64__)
  static constexpr std::uint64_t kDefault = 0x1F80;  // of MXCSR: every exception masked
  static std::uint64_t get() { return _mm_getcsr(); }
  static void set(std::uint64_t mode) { _mm_setcsr(static_cast<unsigned>(mode)); }
#elif defined(__aarch64__)
  static constexpr std::uint64_t kDefault = 0;  // of FPCR
  static std::uint64_t get() {
    std::uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    return mode;
  }
  static void set(std::uint64_t mode) { __asm__ volatile("msr fpcr, %0" : : "r"(mode)); }
#else
  static constexpr std::uint64_t kDefault = 0;
  static std::uint64_t get() { return 0; }
  static void set(std::uint64_t) {}
#endif
  std::uint64_t before_;
};

}  // namespace mpft::encoder
