// In the place of the compiler's: the intrinsics of AVX-512 in plain C, by SIMDe.
#pragma once

#define SIMDE_ENABLE_NATIVE_ALIASES
#include <simde/x86/avx512.h>
