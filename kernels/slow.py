"""What is said where NumPy stands in for native code: once, whatever runs on it."""

from __future__ import annotations

import functools
import warnings

HOW = (
    "this installation has no native code, as it was built without a C++ compiler or with another "
    "Python; with a compiler, install mpft-deploy again"
)


@functools.cache
def say_so() -> None:
    """Warn that NumPy computes, with the same verdicts."""
    warnings.warn(
        "mpft-deploy runs on NumPy: the same verdicts, many times slower than native code. "
        f"{HOW[0].upper()}{HOW[1:]}; MPFT_KERNEL=numpy accepts it",
        RuntimeWarning,
        stacklevel=4,
    )
