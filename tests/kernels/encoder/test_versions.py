"""Every version of the encoder that runs here equals the oracle, whatever the network."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from encoder_cases import (
    TOWERS,
    Case,
    Size,
    any_case,
    make_case,
    one_case,
    random_network,
    random_views,
    same_bits,
    tower,
)
from hypothesis import given

from mpft_deploy.engine import native as engine
from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.kernels import cuda as library
from mpft_deploy.kernels.encoder import VERSIONS, Encoder, oracle, registry

EVERY = [
    pytest.param(one.name, marks=pytest.mark.skipif(bool(one.why_not()), reason=str(one.why_not())))
    for one in VERSIONS
    if one.name != "numpy" and one.device == "cpu"
]


@pytest.mark.parametrize("name", EVERY)
@given(case=any_case())
def test_equals_the_oracle(name: str, case: Case) -> None:
    found = Encoder(case.network, case.threads, name).logits(case.patches, case.positions)
    assert same_bits(found, case.expected)


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("of", TOWERS)
@pytest.mark.parametrize("name", EVERY)
def test_towers_as_they_are_used(name: str, of: str, activation: str) -> None:
    case = tower(of, activation)
    encoder = Encoder(case.network, case.threads, name)
    assert same_bits(encoder.logits(case.patches, case.positions), case.expected)


@pytest.mark.parametrize("name", EVERY)
def test_counts_follow_one_another(name: str) -> None:
    """Memory of a larger view leaves nothing behind in a smaller one."""
    size = Size(cells=40)
    network = random_network(5, size)
    encoder = Encoder(network, 3, name)
    for count in (7, 40, 1, 18, 2, 40):
        case = make_case(network, random_views(count, size, 2, count), 3)
        assert same_bits(encoder.logits(case.patches, case.positions), case.expected)


@pytest.mark.parametrize("name", EVERY)
def test_callers_take_turns(name: str) -> None:
    size = Size()
    network = random_network(6, size)
    encoder = Encoder(network, 2, name)
    cases = [make_case(network, random_views(seed, size, 1, 9), 2) for seed in range(4)]

    def agrees(turn: int) -> bool:
        case = cases[turn % len(cases)]
        return same_bits(encoder.logits(case.patches, case.positions), case.expected)

    with ThreadPoolExecutor(4) as callers:
        assert all(callers.map(agrees, range(100)))


@pytest.mark.parametrize("name", EVERY)
def test_denormals_count_whatever_the_caller_has_set(name: str) -> None:
    torch = pytest.importorskip("torch")
    case = one_case(7, kind="denormal")
    encoder = Encoder(case.network, 1, name)
    small = np.full(1, 1e-40, np.float32)
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no flag for denormals")
    try:
        found = encoder.logits(case.patches, case.positions)
        flushed = (small * np.float32(0.5))[0]
    finally:
        torch.set_flush_denormal(False)
    assert same_bits(found, case.expected)
    assert flushed == 0, "the caller's rules are put back"


def test_arguments_are_checked() -> None:
    size = Size()
    network = random_network(1, size)
    patches, positions = random_views(1, size, 2, 5)
    encoder = Encoder(network)
    wrong = [
        (patches.astype(np.int8), positions, "patches must be uint8"),
        (patches[:, :, :-1], positions, "patches must be uint8"),
        (patches[:1], positions, "patches must be uint8"),
        (patches[0], positions[0], "patches must be uint8"),
        (patches, positions.astype(np.int64), "positions must be int32"),
        (patches[:, :0], positions[:, :0], "K at least 1"),
        (patches, positions + 9, "below 9, got"),
        (patches, positions - 9, "at least 0"),
    ]
    for bad_patches, bad_positions, message in wrong:
        with pytest.raises(UsageError, match=message):
            encoder.logits(bad_patches, bad_positions)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="threads must be 1 or more, got 0"):
        Encoder(network, 0)


def test_arrays_in_any_layout() -> None:
    case = one_case(2, batch=3, count=6)
    found = Encoder(case.network).logits(
        np.asfortranarray(case.patches), np.repeat(case.positions, 2, axis=1)[:, ::2]
    )
    assert same_bits(found, case.expected)


def test_a_version_is_forced_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_network(3, Size())
    monkeypatch.delenv("MPFT_KERNEL", raising=False)
    first = next(one.name for one in VERSIONS if one.device == "cpu" and not one.why_not())
    assert Encoder(network).version == first
    for name in ("scalar", "numpy"):
        monkeypatch.setenv("MPFT_KERNEL", name)
        assert Encoder(network).version == name
    monkeypatch.setenv("MPFT_KERNEL", "sse9")
    with pytest.raises(UsageError, match=r"MPFT_KERNEL=sse9 is no version.*numpy \(available\)"):
        Encoder(network)
    lacking = next(one for one in VERSIONS if one.why_not() is not None)
    monkeypatch.setenv("MPFT_KERNEL", lacking.name)
    with pytest.raises(EnvironmentLacksError, match=f"MPFT_KERNEL={lacking.name} does not run"):
        Encoder(network)


WITHOUT_NATIVE = """
import sys, warnings
sys.modules["mpft_deploy.kernels.encoder._encoder"] = None
from encoder_cases import one_case, same_bits
from mpft_deploy.kernels.encoder import Encoder
case = one_case(1, batch=2, count=5)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    encoder = Encoder(case.network)
print(encoder.version, same_bits(encoder.logits(case.patches, case.positions), case.expected))
print([str(w.message) for w in caught])
"""


@pytest.mark.parametrize("forced", ["", "numpy"])
def test_without_the_native_module_numpy_runs_and_says_so(forced: str) -> None:
    environment = {
        **os.environ,
        "MPFT_KERNEL": forced,
        "PYTHONPATH": str(Path(__file__).parents[1]),
    }
    command = [sys.executable, "-c", WITHOUT_NATIVE]
    out = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=True
    ).stdout
    ran, warned = out.splitlines()
    assert ran == "numpy True"
    assert ("runs on NumPy" in warned and "install mpft-deploy again" in warned) != bool(forced)


CROWDED = """
import resource
from pathlib import Path
from encoder_cases import Size, random_network
from mpft_deploy.errors import EnvironmentLacksError
from mpft_deploy.kernels.encoder import Encoder
network = random_network(3, Size())
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**26,) * 2)  # the stacks of a few
try:
    Encoder(network, 64)
except EnvironmentLacksError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")
def test_threads_that_the_system_does_not_start_are_told() -> None:
    """As of a container that may have few."""
    pytest.importorskip("mpft_deploy.kernels.encoder._encoder")
    paths = [str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
    environment.pop("MPFT_KERNEL", None)
    command = [sys.executable, "-c", CROWDED]
    out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "64 threads cannot be started" in out.stdout


def test_native_code_of_other_sources_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of an editable installation becomes; NumPy does not stand in without a word."""
    native = pytest.importorskip("mpft_deploy.kernels.encoder._encoder")
    assert native.DEFINITION == oracle.DEFINITION
    monkeypatch.delenv("MPFT_KERNEL", raising=False)
    network = random_network(3, Size())
    for older, told in (({"DEFINITION": "1"}, "version 1 of"), ({}, "an unnamed version of")):
        stale = types.SimpleNamespace(__file__="/lib/_encoder.so", **older)
        monkeypatch.setattr(registry, "_encoder", stale)
        with pytest.raises(EnvironmentLacksError, match=f"{told}.*Install mpft-deploy again"):
            Encoder(network)
        assert Encoder(network, version="numpy").version == "numpy"
        if library.why_not():  # or a GPU's is chosen
            assert told in (engine.why_not() or "")
            reasons = {one.name: one.why_not for one in registry.statuses() if not one.chosen}
            assert len(reasons) == len(registry.VERSIONS)
            assert told in (reasons["scalar"] or "")


def test_the_native_module_keeps_memory_safe() -> None:
    """What it refuses was refused by the registry already."""
    _encoder = pytest.importorskip("mpft_deploy.kernels.encoder._encoder")
    from mpft_deploy.kernels.encoder.packing import pack

    size = Size()
    network = random_network(4, size)
    packed = pack(network)
    parts = list(packed.arrays.values())
    *its_sizes, _ = dataclasses.astuple(packed.sizes)
    with pytest.raises(ValueError, match="do not fit"):
        _encoder.Encoder("scalar", its_sizes, True, parts[:-1], 1)
    with pytest.raises(ValueError, match="too many"):
        _encoder.Encoder("scalar", its_sizes, True, [*parts, parts[-1]], 1)
    with pytest.raises(ValueError, match="do not fit"):
        _encoder.Encoder("scalar", [its_sizes[0] * 3, *its_sizes[1:]], True, parts, 1)
    index = list(packed.arrays).index("blocks.0.key.limit")
    for limit, message in ((0, "out of range"), (4e4, "out of range"), (9, "different limits")):
        wrong = [*parts[:index], np.full_like(parts[index], limit), *parts[index + 1 :]]
        with pytest.raises(ValueError, match=message):
            _encoder.Encoder("scalar", its_sizes, True, wrong, 1)
    encoder = _encoder.Encoder("scalar", its_sizes, True, parts, 1)
    patches, positions = random_views(1, size, 2, 5)
    with pytest.raises(ValueError, match="do not fit"):
        encoder.logits(patches, positions + 9, np.empty(2, np.float32))
    with pytest.raises(ValueError, match="do not fit"):
        encoder.logits(patches, positions, np.empty(1, np.float32))
