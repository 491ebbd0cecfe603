"""Which version runs: the choice, forcing one by name, and what is said where one cannot run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from mpft_deploy.cli.main import cli, run
from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.kernels import Patches, encoder, implementations, texture_patchify
from mpft_deploy.kernels.texture_patchify import oracle, registry
from mpft_deploy.spec import KeepRule

IMAGES = np.random.default_rng(1).integers(0, 256, (2, 32, 32, 3), np.uint8)
KEEP = KeepRule.parse("textured:3")


@pytest.fixture(autouse=True)
def settle_the_choice_anew() -> Iterator[None]:
    registry.chosen.cache_clear()
    yield
    registry.chosen.cache_clear()


def python(code: str, **environment: str) -> str:
    """Run code in a fresh interpreter; its stdout."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_fastest_available_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MPFT_KERNEL", raising=False)
    states = implementations()
    assert [one.name for one in states] == [one.name for one in registry.IMPLEMENTATIONS]
    (choice,) = (one for one in states if one.chosen and one.device == "cpu")
    assert choice.name == next(
        one.name for one in states if one.why_not is None and one.device == "cpu"
    )
    assert next(one for one in states if one.name == "scalar").why_not is None


@pytest.mark.parametrize("name", ["scalar", "numpy"])
def test_a_version_is_forced_by_name(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv("MPFT_KERNEL", name)
    assert [one.name for one in implementations() if one.chosen] == [name]
    expected = oracle.texture_patchify(IMAGES, 8, KEEP)
    for found, array in zip(texture_patchify(IMAGES, 8, KEEP), expected, strict=True):
        np.testing.assert_array_equal(found, array)


def test_an_unknown_name_lists_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPFT_KERNEL", "sse9")
    with pytest.raises(UsageError, match=r"MPFT_KERNEL=sse9 is no version.*numpy \(available\)"):
        texture_patchify(IMAGES, 8, KEEP)


def test_a_name_that_does_not_run_here_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    name, why_not = next((one.name, one.why_not) for one in implementations() if one.why_not)
    registry.chosen.cache_clear()
    monkeypatch.setenv("MPFT_KERNEL", name)
    with pytest.raises(EnvironmentLacksError) as caught:
        texture_patchify(IMAGES, 8, KEEP)
    assert f"MPFT_KERNEL={name}" in str(caught.value)
    assert why_not in str(caught.value)
    assert re.search(r"These do: .*\bscalar\b", str(caught.value))


WITHOUT_NATIVE = """
import sys, warnings
sys.modules["mpft_deploy.kernels.texture_patchify._native"] = None
import numpy as np
from mpft_deploy.kernels import implementations, texture_patchify
from mpft_deploy.spec import KeepRule
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = texture_patchify(np.zeros((1, 8, 8, 3), np.uint8), 4, KeepRule("all"))
print([str(w.message) for w in caught])
print(found.positions.tolist())
for one in implementations():
    print(one.name, one.chosen, one.why_not)
"""


def test_without_the_native_module_numpy_runs_and_says_so() -> None:
    out = python(WITHOUT_NATIVE, MPFT_KERNEL="")
    warned, positions, *listing = out.splitlines()
    assert "runs on NumPy" in warned
    assert positions == "[[0, 1, 2, 3]]"
    assert "numpy True None" in listing
    assert sum("False this installation has no native code" in line for line in listing) == 4
    assert python(WITHOUT_NATIVE, MPFT_KERNEL="numpy").startswith("[]"), "asked for: no warning"


def test_names_lead_to_the_function_and_to_the_package() -> None:
    out = python(
        "import sys\n"
        "from mpft_deploy.kernels.texture_patchify.oracle import texture_scores\n"
        "from mpft_deploy.kernels import texture_patchify\n"
        "from mpft_deploy.kernels.texture_patchify import texture_patchify as same\n"
        "print(callable(texture_patchify), texture_patchify is same)\n"
        "print([name for name in ('torch', 'triton', 'onnx', 'PIL', 'av') if name in sys.modules])"
    )
    assert out.split("\n")[:2] == ["True True", "[]"]


def test_a_seed_out_of_range_matters_to_random_alone() -> None:
    texture_patchify(IMAGES, 8, KEEP, -1)
    for seed in (-1, 2**64):
        with pytest.raises(UsageError, match=r"seed must be 0 to 2\*\*64 - 1"):
            texture_patchify(IMAGES, 8, KeepRule.parse("random:3"), seed)


def test_integers_of_numpy_count_as_integers() -> None:
    expected = oracle.texture_patchify(IMAGES, 8, KeepRule.parse("random:3"), 2**63)
    found = texture_patchify(IMAGES, np.uint8(8), KeepRule.parse("random:3"), np.uint64(2**63))
    assert all(map(np.array_equal, found, expected))


def test_more_cells_than_there_are() -> None:
    with pytest.raises(UsageError, match="only 16 cells"):
        texture_patchify(IMAGES, 8, KeepRule.parse("smooth:17"))


def test_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cli, "mpft", ["kernels"]) == 0
    lines = capsys.readouterr().out.splitlines()
    chosen = [
        [kernel, next(one.name for one in found if one.chosen)]
        for kernel, found in (
            ("texture_patchify", implementations()),
            ("encoder", encoder.statuses()),
        )
    ]
    found = [line.split()[1:3] for line in lines if line.startswith("* ") and " cpu " in line]
    assert found == chosen
    assert run(cli, "mpft", ["kernels", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in listed] == [
        one.name for one in (*registry.IMPLEMENTATIONS, *encoder.VERSIONS)
    ]
    assert set(listed[0]) == {"kernel", "name", "device", "why_not", "chosen"}


def test_command_with_an_unknown_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MPFT_KERNEL", "sse9")
    assert run(cli, "mpft", ["kernels", "--json"]) == 2
    assert "sse9 is no version" in json.loads(capsys.readouterr().out)["error"]


def test_outputs_are_of_the_documented_type() -> None:
    found = texture_patchify(IMAGES, 8, KEEP)
    assert isinstance(found, Patches)
    assert [array.dtype.name for array in found] == ["uint8", "int32", "int32"]
    assert [array.shape for array in found] == [(2, 3, 192), (2, 3), (2, 16)]
