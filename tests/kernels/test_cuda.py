"""The CUDA device code, run on the host, equals the oracle; and faults in it are found."""

from __future__ import annotations

import ctypes
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_calls import (
    TEXTURE,
    Call,
    Library,
    copy_kernels,
    pictures,
    place,
    succeeds_in_child,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mpft_deploy.fitness import coarse_scores
from mpft_deploy.kernels.cuda import INTERFACE
from mpft_deploy.kernels.encoder.oracle import DEFINITION
from mpft_deploy.kernels.texture_patchify import cuda, oracle
from mpft_deploy.spec import KeepRule


@st.composite
def calls(draw: st.DrawFn) -> Call:
    patch = draw(st.one_of(st.sampled_from([14, 16]), st.integers(4, 64)))
    grid = draw(st.integers(1, max(1, 112 // patch)))
    kind = draw(st.sampled_from(["smooth", "textured", "random", "all"]))
    count = None if kind == "all" else draw(st.integers(1, grid * grid))
    levels = draw(st.sampled_from(["noise", "few", "flat", "extreme"]))
    images = pictures(draw(st.integers(1, 3)), patch * grid, levels, draw(st.integers(0, 99)))
    seed = draw(st.integers(0, 2**64 - 1))
    return Call(images, patch, KeepRule(kind, count), seed)  # type: ignore[arg-type]


def test_it_says_what_it_was_built_from(host: Library) -> None:
    host.mpft_definition.restype = ctypes.c_char_p
    assert host.mpft_definition() == f"{DEFINITION}.{INTERFACE}".encode()


@settings(max_examples=200, deadline=None)
@given(calls(), st.sampled_from([1, 8, 132]), st.booleans())
def test_device_code_equals_the_oracle(
    host: Library, call: Call, multiprocessors: int, descending: bool
) -> None:
    assert call.run(host, multiprocessors=multiprocessors, descending=descending) == 0
    assert call.equals_oracle()


@pytest.mark.parametrize("patch", [14, 16])
def test_usual_views_equal_the_oracle(host: Library, patch: int) -> None:
    call = Call(pictures(2, 224, "few", 3), patch, KeepRule("textured", 95))
    assert call.run(host) == 0
    assert call.equals_oracle()


@pytest.mark.parametrize("rule", ["smooth:4000", "random:60", "all"])
def test_the_largest_grid(host: Library, rule: str) -> None:
    call = Call(pictures(1, 4 * 64, "few", 5), 4, KeepRule.parse(rule))
    assert call.run(host, multiprocessors=2) == 0
    assert call.equals_oracle()


@pytest.mark.parametrize(
    "change",
    [
        {"views": None},
        {"batch": -1},
        {"patch": 3},
        {"patch": 65},
        {"size": 31},
        {"size": 0},
        {"count": 0},
        {"count": 65},
        {"keep": 3},
        {"keep": 4},
        {"keep": -1},
        {"size": 4 * 65},
        {"batch": 2**31 - 1},
    ],
)
def test_what_cannot_be_is_refused(host: Library, change: dict[str, Any]) -> None:
    call = Call(pictures(1, 32, "noise", 0), 4, KeepRule("smooth", 5))
    call.arguments |= change
    assert call.run(host) == 1
    assert "4,096 cells" in host.mpft_message(1).decode()
    assert call.wrote_nothing()


@pytest.mark.parametrize("name", ["views", "patches", "positions", "scores"])
def test_memory_that_is_not_aligned_is_refused(host: Library, name: str) -> None:
    call = Call(pictures(1, 32, "noise", 0), 4, KeepRule("smooth", 5))
    call.arguments[name] += 8
    assert call.run(host) == 1


def test_an_empty_batch_does_nothing(host: Library) -> None:
    call = Call(np.zeros((0, 32, 32, 3), np.uint8), 16, KeepRule("all"))
    call.arguments |= {"views": None, "patches": None}
    assert call.run(host) == 0


@pytest.mark.parametrize(("size", "patch"), [(32, 16), (28, 14), (15, 5), (21, 7), (24, 6)])
def test_no_byte_outside_the_views_is_read(host: Library, size: int, patch: int) -> None:
    """The views end, and in a second run begin, where memory that cannot be read begins."""
    page = os.sysconf("SC_PAGE_SIZE")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    used = cuda.pitch_of(size) * size
    pages = -(-used // page)
    base = libc.mmap(None, (pages + 2) * page, 3, 0x22, -1, 0)  # private, anonymous
    assert base not in (None, ctypes.c_void_p(-1).value)
    assert libc.mprotect(base, page, 0) == libc.mprotect(base + (pages + 1) * page, page, 0) == 0
    call = Call(pictures(1, size, "noise", 1), patch, KeepRule("textured", 1))
    for start in (base + page, base + (pages + 1) * page - used):
        call.arguments["views"] = start
        assert succeeds_in_child(lambda: call.run(host) == 0)


@pytest.mark.parametrize(("batch", "size"), [(1, 16), (3, 224), (2, 45)])
def test_means_are_those_that_fitness_takes(host: Library, batch: int, size: int) -> None:
    """Scored in cells of 4 × 4 they are `coarse_scores`."""
    images, side = pictures(batch, size, "noise", 8), size // 16 * 4
    views, means = place(images), place(np.full((batch, side, side, 3), 7, np.uint8))
    addresses = [array.ctypes.data for array in (views, means)]
    assert host.mpft_means_launch(addresses[0], batch, size, side, addresses[1], None) == 0
    found = means[:, :, : 3 * side].reshape(batch, side, side, 3)
    assert np.array_equal(oracle.texture_scores(found, 4), coarse_scores(images))
    assert host.mpft_means_launch(addresses[0], batch, size, size // 4 + 1, addresses[1], None) == 1


MUTATIONS = {
    "nothing is changed": ("cuda/kernels.cuh", "#pragma once", "#pragma once"),
    "a direction is dropped": (
        "cuda/kernels.cuh",
        "direction < kPairs;",
        "direction < kPairs - 1;",
    ),
    "ties go to the higher index": ("rule.hpp", "<< 32 | cell", "<< 32 | (0xFFFFu - cell)"),
    "pairs reach into the next cell": (
        "cuda/kernels.cuh",
        "byte_mask(left - kChannels)",
        "byte_mask(left)",
    ),
    "one cell too few": (
        "cuda/kernels.cuh",
        "key_of(cell) <= threshold",
        "key_of(cell) < threshold",
    ),
    "a barrier is missing": (
        "cuda/kernels.cuh",
        "    __syncthreads();\n    int digit = 0;",
        "    int digit = 0;",
    ),
    "the pitch is ignored": (
        "cuda/kernels.cuh",
        "row_bytes * problem.pitch",
        "row_bytes * (3 * problem.size)",
    ),
    "totals share one buffer": ("cuda/kernels.cuh", "warp_totals[tile % 2]", "warp_totals[0]"),
    "the digest is not cleared": (
        "cuda/kernels.cuh",
        "scratch.digest = 0;",
        "scratch.digest += 0;",
    ),
    "the last band is left out": (
        "cuda/launch.cu",
        "problem.batch * problem.grid,",
        "problem.batch * problem.grid - 1,",
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_comparison_finds_a_fault(name: str, tmp_path: Path) -> None:
    file, old, new = MUTATIONS[name]
    kernels = copy_kernels(tmp_path, fast_paths=False)  # which cells of 4 pixels have not
    path = kernels / "texture_patchify" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    library = Library.build(tmp_path, TEXTURE, kernels=kernels)
    keep_rules = [KeepRule.parse(rule) for rule in ("smooth:9", "random:40")]

    def all_equal() -> bool:
        for keep, descending in itertools.product(keep_rules, (False, True)):
            # Rows of 140 pixels are padded.
            call = Call(pictures(2, 28 * 5, "few", 2), 5, keep, seed=1)
            if call.run(library, descending=descending) or not call.equals_oracle():
                return False
        return True

    assert succeeds_in_child(all_equal) == (old == new)
