"""Run by test_triton.py in a process with TRITON_INTERPRET=1: the Triton kernels on the CPU."""

from __future__ import annotations

import importlib.util
import os
import sys
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from mpft_deploy.kernels.texture_patchify import oracle, triton_kernel
from mpft_deploy.kernels.texture_patchify.oracle import Patches
from mpft_deploy.spec import KeepRule

FAULTY = os.environ.get("MPFT_TEST_TRITON_DEVICE")  # a file of kernels to judge instead


@pytest.fixture(autouse=True, scope="module")
def device_module() -> Any:
    """The Triton kernels, or the faulty ones."""
    if FAULTY is None:
        yield
        return
    spec = importlib.util.spec_from_file_location("faulty_triton_device", FAULTY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    kernels = triton_kernel.kernels
    triton_kernel.kernels = lambda: module
    yield
    triton_kernel.kernels = kernels


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], int, KeepRule, int]:
    patch = draw(st.sampled_from([4, 5, 7, 14, 16, 33]))
    grid = draw(st.integers(1, 3))
    kind = draw(st.sampled_from(["smooth", "textured", "random", "all"]))
    count = None if kind == "all" else draw(st.integers(1, grid * grid))
    random = np.random.default_rng(draw(st.integers(0, 99)))
    size = patch * grid
    images = random.integers(0, 256, (draw(st.integers(0, 2)), size, size, 3), dtype=np.uint8)
    images = images // 200 * 200 if draw(st.booleans()) else images
    return images, patch, KeepRule(kind, count), draw(st.integers(0, 2**64 - 1))  # type: ignore[arg-type]


# Faults are found, not explained.
PHASES = [Phase.generate] if FAULTY else list(Phase)


@settings(max_examples=40, deadline=None, phases=PHASES)
@given(case=cases(), layout=st.sampled_from(["contiguous", "crop", "planes"]))
def test_equals_the_oracle(
    case: tuple[np.ndarray[Any, Any], int, KeepRule, int], layout: str
) -> None:
    images, patch, keep, seed = case
    tensor = torch.from_numpy(images)
    if layout == "crop":
        wide = torch.zeros(
            (images.shape[0], images.shape[1] + 3, images.shape[2] + 5, 3), dtype=torch.uint8
        )
        wide[:, 1:-2, 2:-3] = tensor
        tensor = wide[:, 1:-2, 2:-3]
    elif layout == "planes":
        tensor = tensor.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    got = triton_kernel.texture_patchify(tensor, patch, keep, seed)
    want = oracle.texture_patchify(images, patch, keep, seed)
    for a, b in zip(got, want, strict=True):
        assert a.numpy().dtype == b.dtype
        assert np.array_equal(a.numpy(), b)


def test_results_are_written_to_out() -> None:
    images = torch.randint(0, 256, (1, 8, 8, 3), dtype=torch.uint8)
    keep = KeepRule("smooth", 2)
    want = oracle.texture_patchify(images.numpy(), 4, keep)
    out: Any = Patches(*(torch.zeros_like(torch.from_numpy(array)) for array in want))
    assert triton_kernel.run(images, 4, keep, 0, out) is out
    for a, b in zip(out, want, strict=True):
        assert np.array_equal(a.numpy(), b)
    with pytest.raises(
        triton_kernel.UsageError, match=r"out.patches must be torch.uint8 \[1, 1, 48\]"
    ):
        triton_kernel.run(images, 4, KeepRule("smooth", 1), 0, out)
