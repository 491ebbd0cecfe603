"""The TensorRT plugin: the C++ glue over a simulated device, both languages in a real registry."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.kernels.texture_patchify import oracle
from mpft_deploy.kernels.texture_patchify.tensorrt import plugin
from mpft_deploy.kernels.texture_patchify.tensorrt.plugin import F16, F32, Attributes
from mpft_deploy.spec import KeepRule

ROOT = Path(__file__).parents[2]
KERNELS = ROOT / "kernels" / "texture_patchify"
INT32, INT64 = 5, 10  # nvinfer1::PluginFieldType


class CAttributes(ctypes.Structure):
    """`Attributes` of attributes.hpp."""

    _fields_ = (
        ("patch", ctypes.c_int32),
        ("keep", ctypes.c_int32),
        ("count", ctypes.c_int32),
        ("patch_type", ctypes.c_int32),
        ("seed", ctypes.c_int64),
    )


@pytest.fixture(scope="session")
def library_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """plugin.cpp against tests/kernels/nvinfer, its launcher replaced by the simulator."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler on PATH")
    path = tmp_path_factory.mktemp("plugin") / "plugin.so"
    here = ROOT / "tests" / "kernels"
    command = [compiler, "-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    command += ["-Wno-unknown-pragmas", f"-I{here / 'nvinfer'}", f"-I{KERNELS / 'tensorrt'}"]
    command += [f"-I{KERNELS / 'cuda'}", "-o", str(path)]
    sources = [str(here / name) for name in ("plugin_on_host.cpp", "cuda_on_host.cpp")]
    subprocess.run([*command, *sources], check=True)
    return path


@pytest.fixture(scope="session")
def compiled(library_path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(library_path))
    library.describe.restype = ctypes.c_char_p
    library.creates.restype = ctypes.c_bool
    library.live.argtypes = (
        ctypes.POINTER(CAttributes),
        ctypes.c_int64,
        ctypes.c_int64,
        ctypes.c_void_p,
        ctypes.c_void_p * 3,
        ctypes.c_int64 * 10,
    )
    return library


def c_attributes(attributes: Attributes) -> CAttributes:
    return CAttributes(
        attributes.patch,
        attributes.keep,
        attributes.count,
        attributes.patch_type,
        attributes.seed,
    )


def test_both_languages_say_the_same(compiled: ctypes.CDLL) -> None:
    types = {"INT32": INT32, "INT64": INT64}
    fields = [f"{name}:{types[kind]}" for name, kind in plugin.FIELD_TYPES.items()]
    python = "|".join([plugin.NAME, plugin.VERSION, plugin.NAMESPACE, *fields])
    assert compiled.describe().decode() == python
    assert list(plugin.FIELD_TYPES) == [name for name, _ in CAttributes._fields_]


@pytest.mark.parametrize("rule", ["smooth:5", "textured:9", "random:7", "all"])
@pytest.mark.parametrize("patch_type", [F16, F32])
def test_a_plugin_lives_and_equals_the_oracle(
    compiled: ctypes.CDLL, rule: str, patch_type: int
) -> None:
    """Create, clone, shapes, types, serialise, create again, attach, enqueue."""
    keep, seed, patch = KeepRule.parse(rule), 2**63 + 11, 16
    attributes = Attributes.of(patch, keep, seed, patch_type=patch_type)
    frames = np.random.default_rng(3).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
    expected = oracle.texture_patchify(frames, patch, keep, seed)
    outputs = [
        np.zeros(expected.patches.shape, np.float32 if patch_type == F32 else np.float16),
        np.zeros(expected.positions.shape, np.int32),
        np.zeros(expected.scores.shape, np.int32),
    ]
    pointers = (ctypes.c_void_p * 3)(*(array.ctypes.data for array in outputs))
    answers = (ctypes.c_int64 * 10)()
    status = compiled.live(
        ctypes.byref(c_attributes(attributes)), 2, 64, frames.ctypes.data, pointers, answers
    )
    assert status == 0
    float_type = 0 if patch_type == F32 else 1  # nvinfer1::DataType
    shapes = [extent for array in expected for extent in array.shape]
    assert list(answers) == [*shapes, float_type, 3, 3]
    for got, want in zip(outputs, expected, strict=True):
        assert np.array_equal(got, want)


def test_types_and_formats(compiled: ctypes.CDLL) -> None:
    attributes = c_attributes(Attributes.of(14, KeepRule("smooth", 3)))

    def supported(*types: int, linear: bool = True) -> int:
        result: int = compiled.supported(
            ctypes.byref(attributes), (ctypes.c_int32 * 4)(*types), 0 if linear else 1
        )
        return result

    f32, f16, int8, int32, uint8 = 0, 1, 2, 3, 5
    assert supported(int8, f16, int32, int32) == 0b1111
    assert supported(uint8, f16, int32, int32) == 0b1111
    assert supported(f16, f32, f32, int8) == 0
    assert supported(int8, f16, int32, int32, linear=False) == 0


GOOD = {"patch": 14, "keep": 1, "count": 9}


@pytest.mark.parametrize(
    ("change", "types", "made"),
    [
        ({}, {}, True),
        ({"seed": -1, "patch_type": 2}, {}, True),
        ({"keep": 3, "count": 0}, {}, True),
        ({"keep": 3}, {}, False),
        ({"count": 0}, {}, False),
        ({"keep": 4}, {}, False),
        ({"patch": 3}, {}, False),
        ({"patch": 65}, {}, False),
        ({"patch_type": 0}, {}, False),
        ({"unknown": 1}, {}, False),
        ({"patch": None}, {}, False),
        ({"keep": None}, {}, False),
        ({}, {"patch": INT64}, False),
        ({"seed": 1}, {"seed": INT32}, False),
    ],
)
def test_fields_are_judged_alike(
    compiled: ctypes.CDLL, change: dict[str, int | None], types: dict[str, int], made: bool
) -> None:
    values = {name: value for name, value in {**GOOD, **change}.items() if value is not None}
    kinds = {
        name: types.get(name, INT64 if plugin.FIELD_TYPES.get(name) == "INT64" else INT32)
        for name in values
    }
    count = len(values)
    assert made == compiled.creates(
        count,
        (ctypes.c_char_p * count)(*(name.encode() for name in values)),
        (ctypes.c_int32 * count)(*kinds.values()),
        (ctypes.c_int64 * count)(*values.values()),
    )
    trt = pytest.importorskip("tensorrt_lean_bindings", reason="pip install 'mpft-deploy[lean]'")
    collection = trt.PluginFieldCollection(
        [
            trt.PluginField(
                name,
                np.array([value], np.int64 if kinds[name] == INT64 else np.int32),
                trt.PluginFieldType.INT64 if kinds[name] == INT64 else trt.PluginFieldType.INT32,
            )
            for name, value in values.items()
        ]
    )
    if made:
        attributes = plugin.attributes_from(trt, collection)
        again = plugin.attributes_from(trt, plugin.fields_from(trt, attributes))
        assert again == attributes
    else:
        with pytest.raises(UsageError):
            plugin.attributes_from(trt, collection)


REGISTRY_CHECK = """
import sys

import numpy as np
import tensorrt_lean_bindings as trt

from mpft_deploy.kernels.texture_patchify.tensorrt import plugin
from mpft_deploy.spec import KeepRule

library = sys.argv[1]
registry = trt.get_plugin_registry()
attributes = plugin.Attributes.of(14, KeepRule("textured", 95), 2**64 - 1)
identity = (plugin.NAME, plugin.VERSION, plugin.NAMESPACE)
assert registry.get_creator(*identity) is None
if library == "python":
    plugin.register(trt)
else:
    registry.load_library(library)
creator = registry.get_creator(*identity)
assert (creator.name, creator.plugin_version, creator.plugin_namespace) == identity
assert {field.name: field.type.name for field in creator.field_names} == plugin.FIELD_TYPES
made = creator.create_plugin("node", plugin.fields_from(trt, attributes), trt.TensorRTPhase.BUILD)
core = made.get_capability_interface(trt.PluginCapabilityType.CORE)
build = made.get_capability_interface(trt.PluginCapabilityType.BUILD)
runtime = made.get_capability_interface(trt.PluginCapabilityType.RUNTIME)
assert (core.plugin_name, core.plugin_version, core.plugin_namespace) == identity
assert build.num_outputs == 3
assert build.timing_cache_id == "patch=14,keep=1,count=95,patch_type=1,seed=-1"
assert runtime is not None
if library == "python":
    assert plugin.attributes_from(trt, made.clone().get_fields_to_serialize()) == attributes
    types = made.get_output_data_types([trt.DataType.UINT8])
    assert types == [trt.DataType.HALF, trt.DataType.INT32, trt.DataType.INT32]
    try:
        plugin.register(trt)
    except plugin.EnvironmentLacksError as error:
        print(error)
print("done")
"""


@pytest.mark.parametrize("language", ["python", "c++"])
def test_the_real_registry_takes_it(language: str, library_path: Path) -> None:
    """In a process of its own: the registry is one a process."""
    pytest.importorskip("tensorrt_lean_bindings", reason="pip install 'mpft-deploy[lean]'")
    argument = "python" if language == "python" else str(library_path)
    run = subprocess.run(
        [sys.executable, "-c", REGISTRY_CHECK, argument], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.endswith("done\n")
    assert ("registered already" in run.stdout) == (language == "python")


@pytest.mark.skipif(
    shutil.which("nvcc") is None or shutil.which("cmake") is None, reason="no nvcc or no cmake"
)
def test_cmake_builds_it_where_tensorrt_is(tmp_path: Path) -> None:
    """With the re-declared header in place of an installation, and one architecture."""
    pytest.importorskip("tensorrt_lean_bindings", reason="pip install 'mpft-deploy[lean]'")
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\n"
        "project(plugin LANGUAGES CXX)\n"
        f"add_subdirectory({KERNELS / 'cuda'} cuda)\n"
        f"add_subdirectory({KERNELS / 'tensorrt'} tensorrt)\n"
    )
    header = ROOT / "tests" / "kernels" / "nvinfer"
    build, prefix = tmp_path / "build", tmp_path / "installed"
    configure = ["cmake", "-S", str(tmp_path), "-B", str(build), f"-DTENSORRT_ROOT={header}"]
    configure += ["-DMPFT_CUDA=ON", "-DCMAKE_CUDA_ARCHITECTURES=90-real"]
    for command in (
        [*configure, f"-DTENSORRT_INCLUDE_DIR={header}", f"-DCMAKE_INSTALL_PREFIX={prefix}"],
        ["cmake", "--build", str(build)],
        ["cmake", "--install", str(build)],
    ):
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
    library = prefix / "mpft_deploy" / "kernels" / "texture_patchify" / "libmpft_tensorrt.so"
    run = subprocess.run(
        [sys.executable, "-c", REGISTRY_CHECK, str(library)], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_enqueue_without_a_device_is_an_error_that_says_so() -> None:
    trt = pytest.importorskip("tensorrt_lean_bindings", reason="pip install 'mpft-deploy[lean]'")
    made: Any = plugin.creator(trt).create_plugin(
        "node", plugin.fields_from(trt, Attributes.of(16, KeepRule("all"))), None
    )
    desc = trt.PluginTensorDesc()
    desc.dims = trt.Dims([1, 32, 32, 3])
    if plugin.cuda.why_not() is None:
        pytest.skip("there is a CUDA device here")
    with pytest.raises(EnvironmentLacksError, match="CUDA"):
        made.enqueue([desc], [], [16], [16, 16, 16], 0, 0)
    desc.dims = trt.Dims([1, 32, 48, 3])
    with pytest.raises(UsageError, match=r"\[B, S, S, 3\], got \[1, 32, 48, 3\]"):
        made.on_shape_change([desc], [])
