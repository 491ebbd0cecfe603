"""The C++ sources of the CPU kernel, built without Python: mutants, memory, other processors."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import native_library
import numpy as np
import pytest
from equality import assert_equal, assert_equals_oracle, picture
from native_library import KERNEL, Library, build

from mpft_deploy.kernels.texture_patchify import oracle
from mpft_deploy.kernels.texture_patchify.oracle import Patches
from mpft_deploy.spec import KeepRule

pytestmark = pytest.mark.skipif(
    native_library.why_not() is not None, reason=str(native_library.why_not())
)

SIMD = {"avx512", "avx2", "neon"}
EVERY = SIMD | {"scalar"}

# name: (versions that it changes, file, an expression, what stands there instead).
MUTANTS = {
    "scalar drops a direction": (
        {"scalar"},
        "scalar.cpp",
        "direction < kPairs",
        "direction < kPairs - 1",
    ),
    "scalar repeats a direction": (
        {"scalar"},
        "rule.hpp",
        "pairs[direction]",
        "pairs[direction < 3 ? direction : 2]",
    ),
    "no horizontal pairs": (
        SIMD,
        "simd.hpp",
        "V::add_differences(sums, below_left, below_right)",
        "V::add_differences(sums, below, below)",
    ),
    "no vertical pairs": (
        SIMD,
        "simd.hpp",
        "V::add_differences(sums, above, below)",
        "V::add_differences(sums, below, below)",
    ),
    "no diagonal pairs": (
        SIMD,
        "simd.hpp",
        "V::add_differences(sums, above_left, below_right)",
        "V::add_differences(sums, below, below)",
    ),
    "no anti-diagonal pairs": (
        SIMD,
        "simd.hpp",
        "V::add_differences(sums, above_right, below_left)",
        "V::add_differences(sums, below, below)",
    ),
    "pairs across cells": (
        SIMD,
        "simd.hpp",
        "std::memset(masks.has_right + cell_end - kChannels, 0, kChannels)",
        "std::memset(masks.has_right + cell_end - kChannels, 1, kChannels)",
    ),
    "last row left out": (SIMD, "simd.hpp", "row < rows", "row < rows - 1"),
    "ties to the higher index, smooth": (
        EVERY,
        "rule.hpp",
        "static_cast<std::uint64_t>(texture) << 32 | cell",
        "static_cast<std::uint64_t>(texture) << 32 | (~0u - cell)",
    ),
    "ties to the higher index, textured": (
        EVERY,
        "rule.hpp",
        "static_cast<std::uint64_t>(~texture) << 32 | cell",
        "static_cast<std::uint64_t>(~texture) << 32 | (~0u - cell)",
    ),
    "seed ignored": (EVERY, "rule.hpp", "mix(digest ^ mix(seed))", "mix(digest)"),
    "pixels ignored": (EVERY, "rule.hpp", "mix(digest ^ mix(seed))", "mix(mix(seed))"),
    "positions descending": (
        EVERY,
        "cpu.cpp",
        "select(options, scores, static_cast<std::uint32_t>(cells), positions)",
        "select(options, scores, static_cast<std::uint32_t>(cells), positions), "
        "std::reverse(positions, positions + options.count)",
    ),
    "rows packed from elsewhere": (EVERY, "cpu.cpp", "from += row_stride", "from += bytes"),
    "end of a row not packed": (
        EVERY,
        "cpu.cpp",
        "std::memcpy(to + bytes - block, from + bytes - block, block)",
        "nullptr",
    ),
}
OVER_READ = ("simd.hpp", "end - here - to_last_row < V::kWidth + kChannels", "false")
"""A mutant that reads what is not there, which the suite need not notice."""


@pytest.fixture(scope="module")
def mutable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build with all mutants in it, of which MPFT_MUTANT says by number which is alive."""
    folder = tmp_path_factory.mktemp("mutants")
    kernel = folder / "kernel"
    kernel.mkdir()
    for name in ("*.cpp", "*.hpp", "CMakeLists.txt"):
        for source in KERNEL.glob(name):
            shutil.copyfile(source, kernel / source.name)
    places = [*(mutant[1:] for mutant in MUTANTS.values()), OVER_READ]
    for number, (file, text, instead) in enumerate(places, 1):
        source = (kernel / file).read_text()
        assert source.count(text) == 1, f"{text} does not fit {file} any more"
        chosen = f"(mpft_mutant == {number} ? ({instead}) : ({text}))"
        (kernel / file).write_text(source.replace(text, chosen))
    for file in {file for file, *_ in places}:
        source = (kernel / file).read_text().replace("MPFT_HD constexpr", "MPFT_HD inline")
        (kernel / file).write_text(f"extern int mpft_mutant;\n{source}")
    with (kernel / "cpu.cpp").open("a") as cpu:
        cpu.write('#include <cstdlib>\nint mpft_mutant = std::atoi(std::getenv("MPFT_MUTANT"));\n')
    return build(
        folder / "build",
        MPFT_KERNEL_DIR=str(kernel),
        CMAKE_BUILD_TYPE="Debug",
    )


def runnable(native: Library, names: set[str]) -> list[str]:
    """Those of the named versions that run here."""
    image = np.zeros((1, 4, 4, 3), np.uint8)
    found = []
    for name in sorted(names):
        try:
            native.run(name, image, 4, KeepRule("all"))
        except ValueError:
            continue
        found.append(name)
    return found


def test_suite_passes_the_sources_as_they_are(
    mutable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MPFT_MUTANT", "0")
    native = Library(mutable, tmp_path / "library.so")
    for name in runnable(native, EVERY):
        assert_equals_oracle(lambda *request, name=name: native.run(name, *request))


@pytest.mark.parametrize("mutant", MUTANTS)
def test_suite_finds_the_mutant(
    mutable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mutant: str
) -> None:
    monkeypatch.setenv("MPFT_MUTANT", str(1 + list(MUTANTS).index(mutant)))
    native = Library(mutable, tmp_path / "library.so")
    for name in runnable(native, MUTANTS[mutant][0]):
        with pytest.raises(AssertionError, match=r"scores|positions|patches"):
            assert_equals_oracle(lambda *request, name=name: native.run(name, *request))


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release build."""
    return build(tmp_path_factory.mktemp("plain"))


def driver(*command: str | Path, images: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, input=images, capture_output=True, check=False)


@pytest.mark.parametrize("command", ["check", "threads"])
def test_driver_finds_every_version_equal(plain: Path, command: str) -> None:
    done = driver(plain / "driver", command)
    assert done.returncode == 0, done.stdout.decode()
    assert b"all equal" in done.stdout


def test_driver_catches_a_read_past_the_end(mutable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPFT_MUTANT", str(1 + len(MUTANTS)))
    done = driver(mutable / "driver", "check")
    if done.stdout.startswith(b"versions: scalar\n"):
        pytest.skip("this processor runs no version with vectors")
    assert done.returncode < 0, "it should have died of the unreadable page"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sanitizers", "command"), [("address,undefined", "check"), ("thread", "threads")]
)
def test_sanitizers_are_silent(tmp_path: Path, sanitizers: str, command: str) -> None:
    build(tmp_path, "driver", MPFT_SANITIZE=sanitizers)
    done = driver(tmp_path / "driver", command)
    assert done.returncode == 0, (done.stdout + done.stderr).decode()
    assert b"all equal" in done.stdout


def test_files_for_an_instruction_set_export_one_function(mutable: Path) -> None:
    """A weak symbol in one could replace the same one elsewhere, on a processor that lacks it."""
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    for name in ("avx2", "avx512", "neon"):
        (compiled,) = mutable.rglob(f"{name}.cpp.o")
        listing = subprocess.run(
            ["nm", "--demangle", "--defined-only", "--extern-only", compiled],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        symbols = [line.split(maxsplit=2)[2] for line in listing.splitlines()]
        assert all(f"score_{name}(" in symbol for symbol in symbols), listing


# Processors that this machine is not.


def apply(emulator: list[str], program: Path, name: str, patch: int, rule: str) -> None:
    """Run one version of a driver under an emulator and compare with the oracle."""
    images, keep = picture("noise", 2, 5 * patch, patch), KeepRule.parse(rule)
    expected = oracle.texture_patchify(images, patch, keep, 9)
    code = native_library.KEEP_CODES[keep.kind]
    numbers = (2, 5 * patch, patch, code, expected.positions.shape[1], 9)
    done = driver(*emulator, program, "apply", name, *map(str, numbers), images=images.tobytes())
    assert done.returncode == 0, done.stderr.decode()
    parts = np.split(
        np.frombuffer(done.stdout, np.uint8),
        np.cumsum([array.nbytes for array in expected])[:2],
    )
    found = (
        part.view(array.dtype).reshape(array.shape)
        for part, array in zip(parts, expected, strict=True)
    )
    assert_equal(Patches(*found), expected)


def test_neon_equals_oracle_under_emulation(tmp_path: Path) -> None:
    compiler = "aarch64-linux-gnu-g++"
    if missing := [tool for tool in (compiler, "qemu-aarch64") if shutil.which(tool) is None]:
        pytest.skip(f"needs {' and '.join(missing)} (packages g++-aarch64-linux-gnu, qemu-user)")
    build(
        tmp_path,
        "driver",
        CMAKE_SYSTEM_NAME="Linux",
        CMAKE_SYSTEM_PROCESSOR="aarch64",
        CMAKE_CXX_COMPILER=compiler,
        CMAKE_EXE_LINKER_FLAGS="-static",
    )
    for patch, rule in ((4, "smooth:7"), (14, "textured:9"), (16, "random:12"), (63, "all")):
        apply(["qemu-aarch64"], tmp_path / "driver", "neon", patch, rule)


def test_processor_without_avx(plain: Path) -> None:
    """The same build runs on a processor of 2010 and leaves out what that lacks."""
    if shutil.which("qemu-x86_64") is None:
        pytest.skip("needs qemu-x86_64 (package qemu-user)")
    emulator = ["qemu-x86_64", "-cpu", "Westmere"]
    apply(emulator, plain / "driver", "scalar", 16, "textured:9")
    done = driver(*emulator, plain / "driver", "apply", "avx2", *map(str, (1, 4, 4, 3, 1, 0)))
    assert done.returncode == 1
