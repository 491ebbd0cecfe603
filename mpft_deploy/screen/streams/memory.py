"""Memory that stays flat: the C library's allocator, set for a process that holds many pictures.

glibc takes large blocks from the system one by one, and returns each when it is freed; but as soon
as one is freed it counts that size as small, up to 32 MB. Frames then lie between small blocks that
live long, in an arena for every few threads, and what is freed between those stays resident: with
16 cameras of 720p 65 MB beside the 62 MB in use, and ever more; of one clip of 1080p 42 MB beside
148. With the limit kept at its first value that is 4 MB beside 64, and does not grow. Decoders use
their frames again and again, so few more blocks have to be asked for.
"""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD, M_ARENA_MAX = -3, -8
"""Of mallopt(3) in glibc."""

LARGE = 128 * 1024
"""Bytes from which on a block is returned to the system when it is freed; where glibc starts."""

ARENAS = 2
"""Threads share them: those of sources wait for data most of the time, not for each other."""


def give_frames_back() -> bool:
    """Set the allocator of this process, before its threads start; whether it could be set.

    For a program's start, not for a library: it concerns the whole process. Allocators other than
    glibc's are left as they are.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(
        mallopt(name, value) for name, value in ((M_MMAP_THRESHOLD, LARGE), (M_ARENA_MAX, ARENAS))
    )
