"""The encoder's CUDA code: run on the host it equals the oracle; compiled it keeps the rules."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simulated_gpu
from cuda_calls import ENCODER, ROOT, TEXTURE, Library, copy_kernels
from encoder_cases import (
    Case,
    Size,
    any_case,
    make_case,
    one_case,
    random_network,
    random_views,
    same_bits,
    suite,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from mpft_deploy.detector_folder import read_detector
from mpft_deploy.engine import DeviceView, SeesViews, logits_of, native
from mpft_deploy.engine.native import NativeEngine, write_engine
from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.export.recipes import precision_of
from mpft_deploy.fitness import coarse_scores
from mpft_deploy.kernels import cuda as library
from mpft_deploy.kernels.encoder import Encoder, cuda
from mpft_deploy.kernels.encoder.packing import pack
from mpft_deploy.kernels.texture_patchify.oracle import texture_scores

KERNEL = ROOT / "kernels" / "encoder"
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


class Device:
    """The library on the host, and the device that it believes to run on."""

    def __init__(self, library: Library) -> None:
        self.library, self.state = library, library.state

    def encoder(self, case: Case, multiprocessors: int = FEW) -> cuda.CudaEncoder:
        self.state.multiprocessors = multiprocessors
        return cuda.CudaEncoder(pack(case.network), self.library)

    def passes(self, case: Case, multiprocessors: int, *, descending: bool = False) -> bool:
        """Whether it computes what is due."""
        self.state.descending = descending
        encoder = self.encoder(case, multiprocessors)
        encoder.reserve(max(1, len(case.patches)), case.positions.shape[1])
        return self.gives(encoder, case)

    def gives(self, encoder: cuda.CudaEncoder, case: Case) -> bool:
        """Whether a launch gives what is due; host memory stands for the device's."""
        logits = np.full(len(case.patches), np.nan, np.float32)
        addresses = (one.ctypes.data for one in (case.patches, case.positions, logits))
        encoder.launch(*addresses, *case.positions.shape)
        return same_bits(logits, case.expected) and not self.state.faulty


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Device:
    """With all mutants in it, of which Simulated.mutant says by number which is alive."""
    folder = tmp_path_factory.mktemp("encoder_on_host")
    kernels = copy_kernels(folder, fast_paths=False)
    for number, (old, new) in enumerate(MUTANTS.values(), 1):
        (path,) = [one for one in kernels.glob("encoder/cuda/*.cuh") if old in one.read_text()]
        text, alive = path.read_text(), f"simulated.mutant == {number}"
        assert text.count(old) == 1, f"{old} is not alone in {path.name}"
        if old.endswith(";"):
            instead = f"{new} if (!({alive})) {old.removeprefix(new)}"
        else:
            instead = f"({alive} ? ({new}) : ({old}))"
        path.write_text(text.replace(old, instead))
    return Device(Library.build(folder, TEXTURE, ENCODER, kernels=kernels))


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
@given(any_case(), st.sampled_from([FEW, 5, MANY]), st.booleans())
def test_equals_the_oracle(
    built: Device, case: Case, multiprocessors: int, descending: bool
) -> None:
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
        before, launched = device.state.others, device.state.launches
        assert device.gives(encoder, case)
        assert device.state.others == before
        assert device.state.launches == launched + 5 + 9 * 3 + 2
    for batch, count in ((3, 1), (1, 41)):
        case = make_case(network, random_views(1, size, batch, count), 1)
        with pytest.raises(UsageError, match="reserve for the largest first"):
            device.gives(encoder, case)


def test_every_failure_of_a_call_is_told_and_frees_what_was_taken(device: Device) -> None:
    case = one_case(10, Size(depth=1), count=3)
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
    with pytest.raises(EnvironmentLacksError) as told:
        Encoder(random_network(12, Size()))
    assert str(told.value).startswith(f"MPFT_KERNEL=cuda does not run here: {reason}. These do: ")
    assert str(told.value).count(reason) == 1


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


@pytest.mark.parametrize("precision", ["narrow", "twice"])
def test_a_frame_is_judged_on_the_device_as_on_the_processor(
    device: Device, detector: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """The whole way, with our own code for the device, in every bit; and a mutant is found."""
    gpu = simulated_gpu.install(monkeypatch)
    gpu.kernels = simulated_gpu.HostKernels(gpu, device.library)
    monkeypatch.setattr(library, "load_library", lambda: gpu.kernels)
    device.state.multiprocessors = MANY
    folder = read_detector(detector)
    data = write_engine(folder.spec, folder.stored, precision_of(precision))
    engine, expected = native.load(data, threads=1), NativeEngine(native.read_packed(data), 1)
    assert isinstance(engine, SeesViews)
    if precision == "twice":
        engine, expected = engine.wide, expected.wide
    views = folder.golden.crops[:3]
    due = logits_of(expected, folder.spec, views)
    for _ in range(3):  # queued, captured, replayed
        assert same_bits(logits_of(engine, folder.spec, views), due)
    there = [simulated_gpu.DeviceArray(gpu, view, pad=5) for view in views]
    seen = engine.run_views(folder.spec, [DeviceView(one.address, one.pitch) for one in there])
    assert same_bits(seen.logits, due)
    assert np.array_equal(seen.scores, texture_scores(views, folder.spec.patch))
    assert np.array_equal(seen.coarse, coarse_scores(views))
    assert not device.state.faulty
    device.state.mutant = 1 + list(MUTANTS).index("scales multiplied first")
    assert not same_bits(logits_of(engine, folder.spec, views), due)
