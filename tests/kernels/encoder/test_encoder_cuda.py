"""The encoder's CUDA code: run on the host it equals the oracle; compiled it keeps the rules."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from encoder_cases import (
    KINDS,
    LAYERS,
    Case,
    Size,
    make_case,
    random_network,
    random_views,
    same_bits,
    suite,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mpft_deploy.detector_folder import read_detector
from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.kernels.encoder import Encoder, cuda
from mpft_deploy.kernels.encoder.packing import pack

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

from gpu_encoder import differences

KERNEL = Path(__file__).parents[3] / "kernels" / "encoder"
MANY, FEW = 1000, 1  # multiprocessors, by which the two tiles of the products are chosen

# name: an expression or a statement of a .cuh file, what stands there instead.
MUTANTS = {
    "neighbouring lanes added first": (
        "x + __shfl_xor_sync(~0u, x, half)",
        "x + __shfl_xor_sync(~0u, x, kLanes / 2 / half)",
    ),
    "scales multiplied first": (
        "value * part.scale[output] * product.scales[token]",
        "value * (part.scale[output] * product.scales[token])",
    ),
    "a fused multiply-add": (
        "(at(i) - mean) * inverse * norm.weight[i] + norm.bias[i]",
        "fmaf((at(i) - mean) * inverse, norm.weight[i], norm.bias[i])",
    ),
    "multiplied by an inverse": ("most / limit", "most * (1 / limit)"),
    "small rows are zeros": ("most < kTiny", "most < 1"),
    "negative numbers are not large": (
        "One::larger(most, magnitude)",
        "One::larger(most, at(i))",
    ),
    "the largest sets the scale": ("sum_lanes(usual) * least", "sum_lanes(usual) * 0"),
    "high bytes left out": ("static_cast<std::uint32_t>(high[i / 4][j][k]) << 8", "0u"),
    "high bytes rounded down": ("values[i] + 128", "values[i]"),
    "fours of weights exchanged": ("four + i / 2 * 4", "four + i % 2 * 4"),
    "inputs left over": ("chunks * (warp + 1) / kWarps", "chunks / kWarps * (warp + 1)"),
    "sums before all have them": ("if (kShare) {\n    __syncthreads();", "if (kShare) {"),
    "features keep their length": ("sum / length", "sum"),
    "a view's class token is no row": ("token / product.cells + 1", "1"),
    "another largest score": ("own[0]", "0"),
    "the last half of a head left out": ("item < size * kParts", "item < size"),
}


class Simulated(ctypes.Structure):
    """Of cuda_on_host/cuda_runtime.h, field by field."""

    _fields_ = (
        ("multiprocessors", ctypes.c_int),
        ("descending", ctypes.c_bool),
        ("until_failure", ctypes.c_int),
        ("launches", ctypes.c_int),
        ("others", ctypes.c_int),
        ("blocks", ctypes.c_int),
        ("faulty", ctypes.c_bool),
        ("mutant", ctypes.c_int),
    )


class Device:
    """The encoder's library on the host, and the device that it believes to run on."""

    def __init__(self, path: Path) -> None:
        self.library = cuda.bind(ctypes.CDLL(str(path)))
        self.library.mpft_simulated.restype = ctypes.POINTER(Simulated)
        self.state: Any = self.library.mpft_simulated().contents

    def encoder(self, case: Case, multiprocessors: int = FEW) -> cuda.CudaEncoder:
        self.state.multiprocessors = multiprocessors
        return cuda.CudaEncoder(pack(case.network), self.library)

    def passes(self, case: Case, multiprocessors: int, *, descending: bool = False) -> bool:
        """Whether it computes what is due."""
        self.state.descending = descending
        found = self.encoder(case, multiprocessors).logits(case.patches, case.positions)
        return same_bits(found, case.expected) and not self.state.faulty


class OnDevice:
    """An array in host memory that says it is on a device."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.__cuda_array_interface__ = dict(array.__array_interface__, version=3)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """With all mutants in it, of which Simulated.mutant says by number which is alive."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler on PATH")
    folder = tmp_path_factory.mktemp("encoder_on_host")
    for source in [*KERNEL.glob("*.hpp"), *KERNEL.glob("cuda/*.*")]:
        copy = folder / source.relative_to(KERNEL)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(source, copy)
    for number, (old, new) in enumerate(MUTANTS.values(), 1):
        (path,) = [one for one in folder.glob("cuda/*.cuh") if old in one.read_text()]
        text, alive = path.read_text(), f"simulated.mutant == {number}"
        assert text.count(old) == 1, f"{old} is not alone in {path.name}"
        if old.endswith(";"):
            instead = f"{new} if (!({alive})) {old.removeprefix(new)}"
        else:
            instead = f"({alive} ? ({new}) : ({old}))"
        path.write_text(text.replace(old, instead))
    header = Path(__file__).with_name("cuda_on_host")
    command = [compiler, "-x", "c++", "-std=c++17", "-O2", "-ffp-contract=off", "-fPIC", "-shared"]
    command += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", f"-I{header}"]
    command += ["-o", str(folder / "host.so"), str(folder / "cuda" / "encoder.cu")]
    subprocess.run(command, check=True)
    return Device(folder / "host.so")


@pytest.fixture
def device(built: Device) -> Iterator[Device]:
    yield built
    state = built.state
    state.mutant, state.until_failure, state.faulty = 0, -1, False


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return suite()


def test_suite_passes(device: Device, cases: list[Case]) -> None:
    for number, case in enumerate(cases):
        assert device.passes(case, (FEW, MANY)[number % 2], descending=number % 4 < 2)


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32),
    size=st.builds(
        Size,
        heads=st.integers(1, 4),
        head_size=st.integers(1, 20),
        hidden=st.integers(1, 140),
        side=st.integers(1, 7),
        cells=st.integers(1, 40),
        depth=st.integers(1, 2),
        taps=st.just(1),
        embedding=st.sampled_from([0, 1, 37, 90]),
    ),
    kind=st.sampled_from(KINDS),
    limit=st.sampled_from([1, 31, 127]),
    wide=st.sets(st.sampled_from(LAYERS)),
    activation=st.sampled_from(["gelu", "quick_gelu"]),
    batch=st.integers(0, 3),
    count=st.integers(1, 40),
    every_tap=st.booleans(),
    multiprocessors=st.sampled_from([FEW, 5, MANY]),
    descending=st.booleans(),
)
def test_equals_the_oracle(
    built: Device,
    seed: int,
    size: Size,
    kind: str,
    limit: int,
    wide: set[str],
    activation: str,
    batch: int,
    count: int,
    every_tap: bool,
    multiprocessors: int,
    descending: bool,
) -> None:
    if every_tap:
        size = replace(size, taps=size.depth)
    network = random_network(seed, size, kind, limit, tuple(wide), activation)
    case = make_case(network, random_views(seed, size, batch, count), 1)
    assert built.passes(case, multiprocessors, descending=descending)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_suite_finds_the_mutant(device: Device, cases: list[Case], mutant: str) -> None:
    device.state.mutant = 1 + list(MUTANTS).index(mutant)
    by_batch = sorted(cases, key=lambda case: -len(case.patches))
    assert not all(device.passes(case, number) for case in by_batch for number in (FEW, MANY))


def test_a_launch_allocates_nothing_and_waits_for_nothing(device: Device) -> None:
    size = Size(cells=40, depth=3, taps=2)
    network = random_network(8, size)
    encoder = device.encoder(make_case(network, random_views(8, size, 1, 1), 1))
    encoder.reserve(2, 40)
    # What a larger view leaves behind in memory changes no smaller one.
    for batch, count in ((2, 7), (1, 40), (2, 1), (2, 18)):
        case = make_case(network, random_views(count, size, batch, count), 1)
        logits = np.full(batch, np.nan, np.float32)
        before, launched = device.state.others, device.state.launches
        encoder.launch(OnDevice(case.patches), OnDevice(case.positions), OnDevice(logits))
        assert same_bits(logits, case.expected)
        assert device.state.others == before
        assert device.state.launches == launched + 5 + 9 * 3 + 2
    with pytest.raises(UsageError, match="reserve for the largest first"):
        encoder.launch(
            OnDevice(np.zeros((3, 1, 48), np.uint8)),
            OnDevice(np.zeros((3, 1), np.int32)),
            OnDevice(np.zeros(3, np.float32)),
        )
    with pytest.raises(UsageError, match=r"patches must be contiguous u1 \[2, 5, 48\], got u1"):
        encoder.launch(
            OnDevice(np.zeros((2, 5, 47), np.uint8)),
            OnDevice(np.zeros((2, 5), np.int32)),
            OnDevice(np.zeros(2, np.float32)),
        )


def test_large_batches_of_host_memory_are_split(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda, "BATCH", 2)
    size = Size()
    network = random_network(9, size)
    case = make_case(network, random_views(9, size, 5, 6), 1)
    assert device.passes(case, FEW)


def test_every_failure_of_a_call_is_told_and_frees_what_was_taken(device: Device) -> None:
    size = Size(depth=1)
    case = make_case(random_network(10, size), random_views(10, size, 1, 3), 1)
    before, failures = device.state.blocks, 0

    def outcome() -> str:
        try:
            assert device.passes(case, FEW)
        except EnvironmentLacksError as error:
            return str(error)
        return "passed"

    while True:
        device.state.until_failure = failures
        found = outcome()
        assert device.state.blocks == before
        if found == "passed":
            break
        assert found == "the encoder on CUDA: out of memory"
        failures += 1
    assert failures > 50


def test_what_cannot_be_is_refused(device: Device) -> None:
    size = Size()
    network = random_network(11, size)
    packed = pack(network)
    encoder = cuda.CudaEncoder(packed, device.library)
    for batch, count in ((1, 2000), (0, 1), (2**31, 1)):
        with pytest.raises(UsageError, match="too many tokens"):
            encoder.reserve(batch, count)
    short = replace(packed, arrays=dict(list(packed.arrays.items())[:-1]))
    with pytest.raises(ValueError, match="do not fit its shape"):
        cuda.CudaEncoder(short, device.library)


def test_without_a_gpu_the_reason_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    reason = cuda.why_not()
    if reason is None:
        pytest.skip("there is a CUDA device here")
    monkeypatch.setenv("MPFT_KERNEL", "cuda")
    with pytest.raises(EnvironmentLacksError, match=re.escape(f"does not run here: {reason}")):
        Encoder(random_network(12, Size()))


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
def test_compiled_code_keeps_to_the_definition_and_to_its_registers(tmp_path: Path) -> None:
    """No fused multiply-add, no flush of denormals, no approximation; nothing spilled."""
    flags = re.search(
        r'COMPILE_OPTIONS\s+"(.*?)"', (KERNEL / "cuda" / "CMakeLists.txt").read_text()
    )
    assert flags is not None
    command = ["nvcc", "-std=c++17", *flags[1].split(";"), "-Xptxas", "-v", "--keep"]
    command += ["--keep-dir", str(tmp_path), "-cubin", "-arch=sm_80", "-o", str(tmp_path / "cubin")]
    done = subprocess.run(
        [*command, str(KERNEL / "cuda" / "encoder.cu")], capture_output=True, text=True, check=True
    )
    (compiled,) = tmp_path.glob("*.ptx")
    instructions = set(
        re.findall(r"^\s+(?:@\S+ )?([a-z][\w.]+)", compiled.read_text(), re.MULTILINE)
    )
    rounded = {"mul.rn.f32", "add.rn.f32", "div.rn.f32", "sqrt.rn.f32", "cvt.rn.f32.s32"}
    assert rounded <= instructions
    assert any("m16n8k32.row.col.s32.s8.s8.s32" in one for one in instructions)
    # Without .rn a sum or product may be fused.
    wrong = re.compile(
        r"fma|mad\.\S*f32|(add|sub|mul)\.f32|ftz|approx|full|ex2|lg2|rcp\.(?!rn)|\.f64"
    )
    assert not [one for one in instructions if wrong.search(one)]
    assert set(re.findall(r"(\d+) bytes spill", done.stderr)) == {"0"}


def test_the_gpu_suite_finds_a_difference(device: Device, detector: Path) -> None:
    """A dry run: what it compares on a GPU, on the host."""
    folder = read_detector(detector)
    assert differences(folder, 2, device.library) == []
    device.state.mutant = 1 + list(MUTANTS).index("scales multiplied first")
    found = differences(folder, 2, device.library)
    assert found
    line = r"encoder (wide|mixed|narrow): [12] of 2 (together|alone), by up to \S+"
    assert all(re.fullmatch(line, one) for one in found)
