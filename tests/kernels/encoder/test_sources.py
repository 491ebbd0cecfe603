"""The encoder's C++ sources, built without Python: mutants, sanitizers, other processors."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import native_library
import numpy as np
import pytest
from encoder_cases import Case, suite

from mpft_deploy.kernels.encoder import VERSIONS

pytestmark = pytest.mark.skipif(
    native_library.why_not() is not None, reason=str(native_library.why_not())
)

PROJECT = Path(__file__).with_name("native")
KERNEL = PROJECT.parents[3] / "kernels" / "encoder"
HERE = {one.name for one in VERSIONS if one.why_not() is None and one.name != "numpy"}

# name: (versions that it changes, file, text, what stands there instead).
MUTANTS = {
    "lanes added in another order": (
        {"avx2"},
        "avx2.cpp",
        "_mm_add_ps(four, _mm_movehl_ps(four, four))",
        "_mm_hadd_ps(four, four)",
    ),
    "neighbouring lanes added": (
        {"scalar"},
        "lanes.hpp",
        "x.part[i] + x.part[i + half]",
        "x.part[2 * i] + x.part[2 * i + 1]",
    ),
    "scales in another order": (
        HERE,
        "blocks.hpp",
        "sums * load<V>(layer.scale + column) * all<V>(room_.scale[token])",
        "sums * (load<V>(layer.scale + column) * all<V>(room_.scale[token]))",
    ),
    "residual in another order": (
        HERE,
        "blocks.hpp",
        "value + load<V>(position + column)",
        "colours * load<V>(model_.patch_scale + column) + "
        "(load<V>(model_.patch_bias + column) + load<V>(position + column))",
    ),
    "fused multiply-adds": (
        {"avx2"},
        "CMakeLists.txt",
        "-ffp-contract=off",
        "-ffp-contract=fast -mfma",
    ),
    "division in the place of the inverse": (
        HERE,
        "arithmetic.hpp",
        "to_whole(load<V>(row + i) * inverse)",
        "to_whole(load<V>(row + i) / all<V>(bound / limit))",
    ),
    "rows of zeros divided": (HERE, "arithmetic.hpp", "if (bound < kTiny)", "if (bound < 0)"),
    "low bytes left out": (
        HERE,
        "blocks.hpp",
        "sums[0] * all<V>(128) + sums[1]",
        "sums[0] * all<V>(128)",
    ),
    "offset not compensated": ({"avx2"}, "encoder.cpp", "offset, -offset)", "offset, 0)"),
    "pixels not compensated": (HERE, "encoder.cpp", "offset, kOffset - offset)", "offset, 0)"),
    "sums saturate at 16 bits": (
        {"avx2"},
        "avx2.cpp",
        "kOffsetLargest = 32;",
        "kOffsetLargest = 64;",
    ),
    "exponents of a shorter series": (HERE, "arithmetic.hpp", "1.0 / 5040", "0"),
    "weights of no token": (HERE, "blocks.hpp", "i < row_; ++i) scores[i] = 0;", "i < 0;) {}"),
}


def build(folder: Path, **definitions: str) -> Path:
    """The driver, built or rebuilt in a folder."""
    native_library.build(folder, "driver", PROJECT, **definitions)
    return folder / "driver"


def passes(cases: list[Case], *command: str | Path) -> bool:
    """Whether a driver computes what is due."""
    done = subprocess.run(
        command,
        input=b"".join(case.packed() for case in cases),
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout == np.concatenate([case.expected for case in cases]).tobytes()


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return suite()


@pytest.fixture(scope="module")
def mutable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the sources in `kernel`, to be built into `build`."""
    folder = tmp_path_factory.mktemp("mutants")
    (folder / "kernel").mkdir()
    for name in ("*.cpp", "*.hpp", "CMakeLists.txt"):
        for source in KERNEL.glob(name):
            shutil.copyfile(source, folder / "kernel" / source.name)
    return folder


def build_mutable(folder: Path) -> Path:
    return build(
        folder / "build",
        MPFT_KERNEL_DIR=str(folder / "kernel"),
        CMAKE_BUILD_TYPE="Debug",
        # As little as makes fused multiply-adds where these are allowed.
        CMAKE_CXX_FLAGS_DEBUG="-O1 -fexpensive-optimizations",
    )


def test_suite_passes_the_sources_as_they_are(mutable: Path, cases: list[Case]) -> None:
    driver = build_mutable(mutable)
    for name in sorted(HERE):
        assert passes(cases, driver, name), name


@pytest.mark.parametrize("mutant", MUTANTS)
def test_suite_finds_the_mutant(mutable: Path, cases: list[Case], mutant: str) -> None:
    names, file, text, instead = MUTANTS[mutant]
    if not names & HERE:
        pytest.skip("the version does not run here")
    source = mutable / "kernel" / file
    original = source.read_text()
    assert text in original, "the mutant no longer fits the source"
    source.write_text(original.replace(text, instead))
    try:
        driver = build_mutable(mutable)
        for name in sorted(names & HERE):
            assert not passes(cases, driver, name), name
    finally:
        source.write_text(original)


def test_files_for_an_instruction_set_export_one_name(mutable: Path) -> None:
    """A weak symbol in one could replace the same one elsewhere, on a processor that lacks it."""
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    build_mutable(mutable)
    for name, exported in (("avx2", "kAvx2"), ("avx512vnni", "kAvx512Vnni"), ("neon", "kNeon")):
        (compiled,) = (mutable / "build").rglob(f"{name}.cpp.o")
        listing = subprocess.run(
            ["nm", "--demangle", "--defined-only", "--extern-only", compiled],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        symbols = [line.split(maxsplit=2)[2] for line in listing.splitlines()]
        assert all(symbol == f"mpft::encoder::{exported}" for symbol in symbols), listing


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", "thread"])
def test_sanitizers_are_silent(tmp_path: Path, cases: list[Case], sanitizers: str) -> None:
    driver = build(tmp_path, MPFT_SANITIZE=sanitizers, CMAKE_BUILD_TYPE="Debug")
    for name in sorted(HERE):
        assert passes(cases, driver, name), name


def test_neon_equals_oracle_under_emulation(tmp_path: Path, cases: list[Case]) -> None:
    compiler = "aarch64-linux-gnu-g++"
    if missing := [tool for tool in (compiler, "qemu-aarch64") if shutil.which(tool) is None]:
        pytest.skip(f"needs {' and '.join(missing)} (packages g++-aarch64-linux-gnu, qemu-user)")
    driver = build(
        tmp_path,
        CMAKE_SYSTEM_NAME="Linux",
        CMAKE_SYSTEM_PROCESSOR="aarch64",
        CMAKE_CXX_COMPILER=compiler,
        CMAKE_EXE_LINKER_FLAGS="-static",
    )
    for name in ("neon", "scalar"):
        assert passes(cases, "qemu-aarch64", "-cpu", "max", driver, name), name


def test_avx512_equals_oracle_in_plain_c(mutable: Path, cases: list[Case]) -> None:
    """The version for AVX-512, its intrinsics written out by SIMDe, on any x86-64."""
    probe = ["c++", "-fsyntax-only", "-x", "c++", "-include", "simde/x86/avx512.h", "/dev/null"]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs SIMDe (package libsimde-dev)")
    edits = {
        "CMakeLists.txt": ('"-mavx512f;-mavx512vnni"', f"-I{PROJECT / 'emulated'}"),
        "encoder.cpp": ("vnni ? nullptr", "true || vnni ? nullptr"),
    }
    originals = {name: (mutable / "kernel" / name).read_text() for name in edits}
    try:
        for name, (text, instead) in edits.items():
            assert text in originals[name]
            (mutable / "kernel" / name).write_text(originals[name].replace(text, instead))
        driver = build_mutable(mutable)
    finally:
        for name, original in originals.items():
            (mutable / "kernel" / name).write_text(original)
    assert passes(cases, driver, "avx512")
