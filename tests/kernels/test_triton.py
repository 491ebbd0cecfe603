"""The Triton version: interpreted against the oracle, and compiled for every GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpft_deploy.errors import UsageError
from mpft_deploy.kernels.texture_patchify import oracle, triton_kernel
from mpft_deploy.spec import KeepRule

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "kernels" / "texture_patchify"


def interpret(**environment: str) -> subprocess.CompletedProcess[str]:
    """Run triton_interpreted.py where Triton interprets; it reads the variable when imported."""
    script = ROOT / "tests" / "kernels" / "triton_interpreted.py"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", str(script)]
    env = {**os.environ, "TRITON_INTERPRET": "1", **environment}
    return subprocess.run(command, env=env, capture_output=True, text=True, cwd=ROOT)


def test_interpreted_kernels_equal_the_oracle() -> None:
    run = interpret()
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (" + tl.abs(right - below)", ""),
        ("column < 3 * PATCH - 3)", "column < 3 * PATCH - 2)"),
        ("target + row * (3 * PATCH)", "target + row * (3 * PATCH - 1)"),
    ],
)
def test_the_comparison_finds_a_fault(old: str, new: str, tmp_path: Path) -> None:
    text = (KERNELS / "triton_device.py").read_text()
    assert old in text
    faulty = tmp_path / "triton_device.py"
    faulty.write_text(text.replace(old, new))
    run = interpret(MPFT_TEST_TRITON_DEVICE=str(faulty))
    assert run.returncode == 1, run.stdout
    assert "test_equals_the_oracle" in run.stdout


@st.composite
def score_tables(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """i32 [B, N] with many equal values, and values up to the largest that there are."""
    shape = (draw(st.integers(1, 3)), draw(st.integers(1, 300)))
    random = np.random.default_rng(draw(st.integers(0, 999)))
    high = draw(st.sampled_from([1, 3, 1000, 64**2 * 3 * 4 * 255 + 1]))
    return random.integers(0, high, shape, dtype=np.int32)


def selects_like_the_oracle(
    module: ModuleType, scores: np.ndarray[Any, Any], keep: KeepRule, seed: int
) -> bool:
    got = module.select_positions(torch.from_numpy(scores), keep, seed)
    want = oracle.select_positions(scores, keep, seed)
    return bool(got.dtype == torch.int32 and np.array_equal(got.numpy(), want))


@settings(max_examples=200, deadline=None)
@given(
    scores=score_tables(),
    kind=st.sampled_from(["smooth", "textured", "random", "all"]),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**64 - 1),
)
def test_selection_equals_the_oracle(
    scores: np.ndarray[Any, Any], kind: Any, share: float, seed: int
) -> None:
    count = None if kind == "all" else max(1, round(share * scores.shape[1]))
    assert selects_like_the_oracle(triton_kernel, scores, KeepRule(kind, count), seed)


@pytest.mark.parametrize(
    ("rule", "old", "new"),
    [
        ("smooth:20", "* 2**32 + index", "* 2**32 - index"),
        ("random:20", "& (2 ** (64 - bits) - 1)", "& -1"),
        ("random:20", " ^ _signed(2**63)", ""),
    ],
)
def test_a_fault_in_selection_is_found(rule: str, old: str, new: str, tmp_path: Path) -> None:
    text = (KERNELS / "triton_kernel.py").read_text()
    assert old in text
    (tmp_path / "faulty.py").write_text(text.replace(old, new))
    spec = importlib.util.spec_from_file_location("faulty", tmp_path / "faulty.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    scores = np.random.default_rng(0).integers(0, 3, (4, 100), dtype=np.int32)
    keep = KeepRule.parse(rule)
    assert selects_like_the_oracle(triton_kernel, scores, keep, 5)
    assert not selects_like_the_oracle(module, scores, keep, 5)


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.zeros((1, 16, 16, 3), np.float32), "images must be uint8"),
        (np.zeros((1, 16, 24, 3), np.uint8), "images must be uint8"),
        (np.zeros((1, 3, 16, 16), np.uint8), "images must be uint8"),
        (np.zeros((1, 18, 18, 3), np.uint8), "S a multiple of 8"),
    ],
)
def test_images_that_do_not_fit_are_refused(images: np.ndarray[Any, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        triton_kernel.texture_patchify(torch.from_numpy(images), 8, KeepRule("all"))


def test_other_arrays_are_refused() -> None:
    with pytest.raises(UsageError, match="takes torch tensors, got ndarray"):
        triton_kernel.run(np.zeros((1, 8, 8, 3), np.uint8), 8, KeepRule("all"), 0, None)


def test_every_architecture_compiles_without_spills(
    gpu_resources: Callable[..., list[dict[str, Any]]],
) -> None:
    rows = gpu_resources("triton")
    kernels = {(row["kernel"], row["patch"]) for row in rows}
    assert kernels == {(name, p) for name in ("score_cells", "pack_cells") for p in (14, 16)}
    assert {row["architecture"] for row in rows} == {"sm_80", "sm_87", "sm_89", "sm_90"}
    assert all(row["spill_bytes"] == 0 for row in rows)


@pytest.mark.gpu
@pytest.mark.parametrize("rule", ["smooth:63", "textured:95", "random:20", "all"])
def test_on_a_device_equals_the_oracle(rule: str) -> None:
    if reason := triton_kernel.why_not():
        pytest.skip(reason)
    keep = KeepRule.parse(rule)
    images = np.random.default_rng(4).integers(0, 256, (3, 224, 224, 3), dtype=np.uint8) // 200
    got = triton_kernel.texture_patchify(torch.from_numpy(images).cuda(), 14, keep, 9)
    want = oracle.texture_patchify(images, 14, keep, 9)
    for a, b in zip(got, want, strict=True):
        assert np.array_equal(a.cpu().numpy(), b)
