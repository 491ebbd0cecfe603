"""The CUDA library: arrays of other libraries, loading, what nvcc makes of it, a device."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_calls import KERNELS, Call, pictures

from mpft_deploy.kernels import cuda as library
from mpft_deploy.kernels.encoder.oracle import DEFINITION
from mpft_deploy.kernels.texture_patchify.interop import DeviceArray, device_array
from mpft_deploy.spec import KeepRule


class OnDevice:
    """An array in host memory that says it is on a device, through either protocol."""

    def __init__(self, array: np.ndarray[Any, Any], protocol: str) -> None:
        self.array = array
        if protocol == "cuda":
            self.__cuda_array_interface__ = dict(array.__array_interface__, version=3)
        else:
            self.__dlpack__ = lambda stream: array.__dlpack__()
            self.__dlpack_device__ = lambda: (2, 0)


@pytest.mark.parametrize("protocol", ["cuda", "dlpack"])
def test_arrays_of_other_libraries_are_read_in_place(protocol: str) -> None:
    frames = np.zeros((4, 6, 5, 3), np.uint8)
    words = np.arange(6, dtype=np.int32).reshape(2, 3)
    for array in (frames, frames[:, ::2], words):
        due = DeviceArray(array.ctypes.data, array.shape, array.dtype.str[1:], array.strides)
        assert device_array(OnDevice(array, protocol)) == due


def test_a_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "LIBRARY", "libnot_built.so")
    library.load_library.cache_clear()
    try:
        reason = library.why_not() or ""
        assert "install mpft-deploy from source on a machine with nvcc" in reason
    finally:
        library.load_library.cache_clear()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on PATH")
@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("int nothing;", "an unnamed version"),
        ('const char* mpft_definition(void) { return "1.1"; }', "version 1.1"),
        (f'const char* mpft_definition(void) {{ return "{DEFINITION}.0"; }}', f"{DEFINITION}.0"),
    ],
)
def test_a_library_of_other_sources_is_told(
    source: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of an editable installation becomes; its functions would take other arguments."""
    (tmp_path / "older.c").write_text(source)
    path = tmp_path / library.LIBRARY
    subprocess.run(["cc", "-shared", "-o", path, tmp_path / "older.c"], check=True)
    package = importlib.import_module(library.__name__.rpartition(".")[0])
    monkeypatch.setattr(package, "__path__", [str(tmp_path), *package.__path__])
    library.load_library.cache_clear()
    try:
        reason = library.why_not() or ""
    finally:
        library.load_library.cache_clear()
    assert f"{path} was built from other sources" in reason
    assert told in reason
    assert "Install mpft-deploy again" in reason


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on PATH")
def test_compiled_it_spills_nothing_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Built as where a GPU is, but without the encoder, for the oldest that has it."""
    command = ["nvcc", "-std=c++17", "-arch=sm_80", "-shared", "-Xcompiler", "-fPIC", "-Xptxas"]
    command += ["-v", "-o", str(tmp_path / library.LIBRARY), str(KERNELS / "cuda" / "launch.cu")]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    assert set(re.findall(r"(\d+) bytes spill", told)) == {"0"}
    # 1,024 threads and more fit a multiprocessor's 65,536 registers.
    assert max(map(int, re.findall(r"Used (\d+) registers", told))) <= 64

    package = importlib.import_module(library.__name__.rpartition(".")[0])
    monkeypatch.setattr(package, "__path__", [str(tmp_path), *package.__path__])
    library.load_library.cache_clear()
    try:
        built, reason = library.load_library(), library.why_not()
    finally:
        library.load_library.cache_clear()
    call = Call(pictures(1, 32, "noise", 0), 16, KeepRule("all"))
    arguments = [*call.arguments.values(), None]
    if reason is None:
        pytest.skip("there is a CUDA device here")
    assert "Install the NVIDIA driver" in reason
    assert built.mpft_texture_patchify_launch(*arguments) >= 1000
    arguments[1] = -1  # arguments are judged before the driver is asked
    assert built.mpft_texture_patchify_launch(*arguments) == 1
