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
    equals_oracle,
    pictures,
    place,
    run_host,
    succeeds_in_child,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mpft_deploy.fitness import coarse_scores
from mpft_deploy.kernels.texture_patchify import oracle
from mpft_deploy.spec import KeepRule


@st.composite
def calls(draw: st.DrawFn) -> dict[str, Any]:
    patch = draw(st.one_of(st.sampled_from([14, 16]), st.integers(4, 64)))
    grid = draw(st.integers(1, max(1, 112 // patch)))
    kind = draw(st.sampled_from(["smooth", "textured", "random", "all"]))
    count = None if kind == "all" else draw(st.integers(1, grid * grid))
    return {
        "patch": patch,
        "keep": KeepRule(kind, count),  # type: ignore[arg-type]
        "images": pictures(
            draw(st.integers(1, 3)),
            patch * grid,
            draw(st.sampled_from(["noise", "few", "flat", "extreme"])),
            draw(st.integers(0, 99)),
        ),
        "offset": draw(st.sampled_from([0, 0, 1, 2, 4, 8])),
        "row_pad": draw(st.sampled_from([0, 0, 1, 2, 4, 16])),
        "frame_pad": draw(st.sampled_from([0, 0, 1, 2, 4, 16])),
        "patches_offset": draw(st.sampled_from([0, 0, 1, 4])),
        "seed": draw(st.integers(0, 2**64 - 1)),
        "multiprocessors": draw(st.sampled_from([1, 8, 132])),
        "descending": draw(st.booleans()),
    }


@settings(max_examples=200, deadline=None)
@given(case=calls())
def test_device_code_equals_the_oracle(host: Library, case: dict[str, Any]) -> None:
    frames = place(
        case["images"],
        offset=case["offset"],
        row_pad=case["row_pad"],
        frame_pad=case["frame_pad"],
    )
    call = Call.make(
        frames,
        case["patch"],
        case["keep"],
        seed=case["seed"],
        patches_offset=case["patches_offset"],
    )
    status = run_host(
        host, call, multiprocessors=case["multiprocessors"], descending=case["descending"]
    )
    assert status == 0
    assert equals_oracle(call, case["patch"], case["keep"], case["seed"])


@pytest.mark.parametrize("patch", [14, 16])
@pytest.mark.parametrize("count", [63, 95, 96, 127, 191])
def test_fast_paths_equal_the_oracle(host: Library, patch: int, count: int) -> None:
    keep = KeepRule("textured", count)
    call = Call.make(pictures(2, 224, "few", 3), patch, keep)
    assert run_host(host, call) == 0
    assert equals_oracle(call, patch, keep)


@pytest.mark.parametrize("rule", ["smooth:4000", "random:60", "textured:1", "all"])
def test_more_cells_than_shared_memory_holds(host: Library, rule: str) -> None:
    keep = KeepRule.parse(rule)
    frames = pictures(1, 4 * 66, "few", 5)  # 4,356 cells, above the 4,096 that are cached
    call = Call.make(frames, 4, keep)
    assert run_host(host, call, multiprocessors=2) == 0
    assert equals_oracle(call, 4, keep)


def test_the_largest_grid(host: Library) -> None:
    keep = KeepRule("smooth", 5)
    call = Call.make(pictures(1, 1024, "few", 6), 4, keep)
    assert run_host(host, call) == 0
    assert equals_oracle(call, 4, keep)


@pytest.mark.parametrize(
    ("size", "patch", "row_pad"), [(32, 16, 0), (28, 14, 0), (15, 5, 0), (21, 7, 1), (24, 6, 2)]
)
def test_no_byte_outside_the_frames_is_read(
    host: Library, size: int, patch: int, row_pad: int
) -> None:
    """The frames end, and in a second run begin, where memory that cannot be read begins."""
    page = os.sysconf("SC_PAGE_SIZE")
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
    libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    pitch = 3 * size + row_pad
    used = pitch * (size - 1) + 3 * size
    pages = -(-used // page)
    base = libc.mmap(None, (pages + 2) * page, 3, 0x22, -1, 0)  # private, anonymous
    assert base not in (None, ctypes.c_void_p(-1).value)
    assert libc.mprotect(base, page, 0) == libc.mprotect(base + (pages + 1) * page, page, 0) == 0
    keep = KeepRule("textured", 1)
    reference = Call.make(pictures(1, size, "noise", 1), patch, keep)
    for start in (base + page, base + (pages + 1) * page - used):
        arguments = reference.arguments
        arguments.frames, arguments.row_pitch, arguments.batch_stride = start, pitch, pitch * size
        assert succeeds_in_child(lambda: run_host(host, reference) == 0)


@pytest.mark.parametrize(("batch", "size"), [(1, 16), (3, 224), (2, 45)])
def test_means_are_those_that_fitness_takes(host: Library, batch: int, size: int) -> None:
    """Scored in cells of 4 × 4 they are `coarse_scores`."""
    views, side = pictures(batch, size, "noise", 8), size // 16 * 4
    means = np.full((batch, side, side, 3), 7, np.uint8)
    addresses = (array.ctypes.data for array in (views, means))
    assert host.mpft_means_launch(next(addresses), batch, size, side, next(addresses), None) == 0
    scores = oracle.texture_scores(means, 4)
    assert np.array_equal(scores, coarse_scores(views))


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
        "row_bytes * problem.row_pitch",
        "row_bytes * (3ull * problem.grid * patch)",
    ),
    "totals share one buffer": ("cuda/kernels.cuh", "warp_totals[tile % 2]", "warp_totals[0]"),
    "the digest is not cleared": (
        "cuda/kernels.cuh",
        "scratch.digest = 0;",
        "scratch.digest += 0;",
    ),
    "the last band is left out": (
        "cuda/dispatch.cuh",
        "plan.batch * problem.grid,",
        "plan.batch * problem.grid - 1,",
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
            frames = place(pictures(2, 28 * 4, "few", 2), offset=0, row_pad=4, frame_pad=0)
            call = Call.make(frames, 4, keep, seed=1)
            if run_host(library, call, descending=descending) or not equals_oracle(
                call, 4, keep, 1
            ):
                return False
        return True

    assert succeeds_in_child(all_equal) == (old == new)
