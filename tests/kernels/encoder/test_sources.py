"""The encoder's C++ sources, built without Python: mutants, sanitizers, other processors."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import native_library
import numpy as np
import pytest
from encoder_cases import Case, suite, tower

from mpft_deploy.kernels.encoder import VERSIONS

pytestmark = pytest.mark.skipif(
    native_library.why_not() is not None, reason=str(native_library.why_not())
)

PROJECT = Path(__file__).with_name("native")
KERNEL = PROJECT.parents[3] / "kernels" / "encoder"
HERE = {one.name for one in VERSIONS if one.why_not() is None and one.device == "cpu"} - {"numpy"}
# Processors with AVX2 run the version for AVX-512 too, its instructions written out in C++.
BUILT = HERE | {"avx512"} if "avx2" in HERE else HERE
BYTES = BUILT - {"scalar"}

# name: (versions that it changes, file, an expression, what stands there instead).
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
    "scales multiplied first": (
        BUILT,
        "blocks.hpp",
        "sums * load<V>(layer.scale + column) * all<V>(room_.scale[token])",
        "sums * (load<V>(layer.scale + column) * all<V>(room_.scale[token]))",
    ),
    "bias and position added first": (
        BUILT,
        "blocks.hpp",
        "scaled + load<V>(position + column)",
        "value * load<V>(model_.patch_scale + column) + "
        "(load<V>(model_.patch_bias + column) + load<V>(position + column))",
    ),
    "multiplied by an inverse": (
        BUILT,
        "arithmetic.hpp",
        "bound / layer.limit",
        "bound * (1 / layer.limit)",
    ),
    "small rows are zeros": (BUILT, "arithmetic.hpp", "bound < kTiny", "bound < 1"),
    "negative numbers are not large": (
        BUILT,
        "arithmetic.hpp",
        "larger(most, magnitudes)",
        "larger(most, load<V>(row + i))",
    ),
    "the largest sets the scale": (BUILT, "arithmetic.hpp", "sum(lanes) * layer.least", "0"),
    "high bytes left out": (BYTES, "multiply.hpp", "rows.high != nullptr", "false"),
    "high bytes rounded down": (
        {"avx512"},
        "avx512vnni.cpp",
        "_mm512_srai_epi32(_mm512_add_epi32(x, _mm512_set1_epi32(128)), 8)",
        "_mm512_srai_epi32(x, 8)",
    ),
    "high bytes of words rounded down": (
        {"avx2"},
        "avx2.cpp",
        "_mm256_add_epi16(words(parts), _mm256_set1_epi16(128))",
        "words(parts)",
    ),
    "high bytes without a sign": (
        {"avx512"},
        "avx512vnni.cpp",
        "_mm512_sub_epi32(above[one], too_much)",
        "above[one]",
    ),
    "high bytes of wide rows count less": (
        {"avx512"},
        "avx512vnni.cpp",
        "_mm512_slli_epi32(sums.part[i], 8)",
        "_mm512_slli_epi32(sums.part[i], 7)",
    ),
    "offset of groups not compensated": (
        {"avx2"},
        "encoder.cpp",
        "-kernel_.offset * sums[i]",
        "0",
    ),
    "offset not compensated": (
        {"avx2", "avx512"},
        "encoder.cpp",
        "fit[panel] ? 0 : kernel_.offset",
        "0",
    ),
    "pixels not compensated": (BYTES, "encoder.cpp", "kPixelZero", "0"),
    "pairs saturate": ({"avx2"}, "encoder.cpp", "kernel_.bytes_largest", "127"),
    "sums of groups overflow": ({"avx2"}, "encoder.cpp", "most * 128 < 1 << 15", "true"),
    "divided by another length": (BUILT, "blocks.hpp", "root(square)", "square"),
    "a shorter series": (BUILT, "arithmetic.hpp", "1.0 / 5040", "0.0"),
    "padding has weight": (BUILT, "blocks.hpp", "scores[i] = 0", "scores[i]"),
    "a panel twice": ({"avx512"}, "avx512vnni.cpp", "column + kLanes", "column"),
    "queries left out": (BUILT, "blocks.hpp", "query += kQueries", "query += kQueries + 1"),
    "the sign of erf is lost": (
        {"avx512"},
        "avx512vnni.cpp",
        "_mm512_set1_epi32(0x7FFFFFFF)",
        "_mm512_set1_epi32(-1)",
    ),
}


def build(folder: Path, **definitions: str) -> Path:
    """The driver, built in a folder."""
    native_library.build(folder, "driver", PROJECT, **definitions)
    return folder / "driver"


def passes(cases: list[Case], *command: str | Path, mutant: int = 0) -> bool:
    """Whether a driver computes what is due."""
    done = subprocess.run(
        command,
        input=b"".join(case.packed() for case in cases),
        capture_output=True,
        check=False,
        env={**os.environ, "MPFT_MUTANT": str(mutant)},
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout == np.concatenate([case.expected for case in cases]).tobytes()


def copy_sources(folder: Path) -> Path:
    """A copy of the sources, to be altered."""
    kernel = folder / "kernel"
    kernel.mkdir()
    for name in ("*.cpp", "*.hpp", "CMakeLists.txt"):
        for source in KERNEL.glob(name):
            shutil.copyfile(source, kernel / source.name)
    return kernel


def alter(file: Path, text: str, instead: str) -> None:
    source = file.read_text()
    assert source.count(text) == 1, f"{text} does not fit {file.name} any more"
    file.write_text(source.replace(text, instead))


def towers() -> list[Case]:
    """One block of each, which all versions here can be asked for that Python cannot call."""
    return [tower("B/32", "gelu"), tower("B/16", "quick_gelu"), tower("L/14", "gelu")]


def add_fused(kernel: Path) -> None:
    """In the place of NEON, which is not built for x86-64, the plain version with fused sums."""
    source = (kernel / "scalar.cpp").read_text()
    (kernel / "fused.cpp").write_text(source.replace("kScalar", "kFused"))
    alter(kernel / "kernel.hpp", "kScalar;", "kScalar, kFused;")
    why_not = "needs an AArch64 processor; this build is for x86-64"
    alter(kernel / "encoder.cpp", f'"neon", nullptr, "{why_not}"', '"fused", &kFused, nullptr')
    alter(kernel / "CMakeLists.txt", "scalar.cpp", "scalar.cpp fused.cpp")
    with (kernel / "CMakeLists.txt").open("a") as project:
        options = "-O2;-mfma;-ffp-contract=fast"
        project.write(
            f'set_source_files_properties(fused.cpp PROPERTIES COMPILE_OPTIONS "{options}")\n'
        )


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return suite()


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A driver with all mutants in it, of which MPFT_MUTANT says by number which is alive."""
    folder = tmp_path_factory.mktemp("mutants")
    kernel = copy_sources(folder)
    for number, (_, file, text, instead) in enumerate(MUTANTS.values(), 1):
        alter(kernel / file, text, f"(mpft_mutant == {number} ? ({instead}) : ({text}))")
    for file in {file for _, file, *_ in MUTANTS.values()}:
        path = kernel / file
        path.write_text(f"extern int mpft_mutant;\n{path.read_text()}")
    with (kernel / "pool.cpp").open("a") as pool:
        pool.write('#include <cstdlib>\nint mpft_mutant = std::atoi(std::getenv("MPFT_MUTANT"));\n')
    if "avx2" in HERE:
        add_fused(kernel)
    if "avx512" in BUILT - HERE:
        alter(kernel / "CMakeLists.txt", "-mavx512f;-mavx512vnni", f"-mavx2;-I{PROJECT}/emulated")
        alter(kernel / "encoder.cpp", "vnni ? nullptr", "true || vnni ? nullptr")
    return build(folder / "build", MPFT_KERNEL_DIR=str(kernel), CMAKE_BUILD_TYPE="Debug")


@pytest.mark.parametrize("name", sorted(BUILT))
def test_suite_passes_the_sources_as_they_are(driver: Path, cases: list[Case], name: str) -> None:
    assert passes(cases + towers(), driver, name)


@pytest.mark.parametrize("mutant", MUTANTS)
def test_suite_finds_the_mutant(driver: Path, cases: list[Case], mutant: str) -> None:
    names, number = MUTANTS[mutant][0] & BUILT, 1 + list(MUTANTS).index(mutant)
    if not names:
        pytest.skip("the version does not run here")
    for name in sorted(names):
        assert not passes(cases, driver, name, mutant=number), name


def test_suite_finds_fused_multiply_adds(driver: Path, cases: list[Case]) -> None:
    """What compilers do unasked for processors that have them."""
    if "avx2" not in HERE:
        pytest.skip("needs an x86-64 processor with AVX2")
    assert not passes(cases, driver, "fused")


def test_files_for_an_instruction_set_export_one_name(driver: Path) -> None:
    """A weak symbol in one could replace the same one elsewhere, on a processor that lacks it."""
    if shutil.which("nm") is None:
        pytest.skip("needs nm")
    for name, exported in (("avx2", "kAvx2"), ("avx512vnni", "kAvx512Vnni"), ("neon", "kNeon")):
        (compiled,) = driver.parent.rglob(f"{name}.cpp.o")
        listing = subprocess.run(
            ["nm", "--demangle", "--defined-only", "--extern-only", compiled],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        symbols = [line.split(maxsplit=2)[2] for line in listing.splitlines()]
        assert all(symbol == f"mpft::encoder::{exported}" for symbol in symbols), listing


by_hand = pytest.mark.skipif("MPFT_SANITIZE" not in os.environ, reason="`make sanitize` runs it")


@pytest.mark.slow
@pytest.mark.parametrize("sanitizers", ["address,undefined", pytest.param("thread", marks=by_hand)])
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
        CMAKE_CXX_FLAGS_RELEASE="-O1",
    )
    for name in ("neon", "scalar"):
        assert passes(cases + towers(), "qemu-aarch64", "-cpu", "max", driver, name), name
