"""The library of the CUDA kernels, and the packages by which Python reaches a device.

The library is built where nvcc is; see texture_patchify/README.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import importlib
from pathlib import Path
from types import ModuleType

from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.extras import how_to_install

LIBRARY = "libmpft_cuda.so"
PACKAGES = ("cuda.bindings.runtime", "pycuda.driver")
"""What engines have memory, streams and graphs by: the first that can be imported."""

INTERFACE = "1"
"""Version of the library's functions and their arguments: MPFT_INTERFACE of mpft_cuda.h, since the
library may be older than this module, and would then take one argument for another."""

_BAD_ARRAYS = 2  # MPFT_BAD_ARRAYS
_CUDA_ERROR = 1000  # MPFT_CUDA_ERROR: statuses from here on are CUDA's


def why_not(oldest: int = 0) -> str | None:
    """Why the CUDA kernels cannot run here, and what to do about it; None if they can.

    Args:
        oldest: the first compute capability that will do, such as 80.
    """
    try:
        library = load_library()
    except EnvironmentLacksError as error:
        return str(error)
    capability = ctypes.c_int()
    if status := library.mpft_probe(ctypes.byref(capability)):
        return (
            f"CUDA does not work here: {message(library, status)}. Install the NVIDIA driver, and "
            "check with nvidia-smi that it sees a device."
        )
    if capability.value < oldest:
        return f"the GPU is of SM {capability.value}, and SM {oldest} or later is needed"
    return None


def find_package() -> ModuleType:
    """The first of PACKAGES; an EnvironmentLacksError where none is installed."""
    for name in PACKAGES:
        with contextlib.suppress(ImportError):
            return importlib.import_module(name)
    raise EnvironmentLacksError(
        f"the package cuda-python is not installed; {how_to_install('cuda')}. That is the one for "
        "CUDA 12, which JetPack 6 has (12.6) and every later driver runs; beside TensorRT 11, of "
        "CUDA 13, cuda-python 13 serves too. PyCUDA, built against the CUDA that is here, stands "
        "in for it"
    )


def check(what: str, library: ctypes.CDLL, status: int) -> None:
    """Raise what a call's status means.

    Raises:
        UsageError: arguments are wrong; ValueError: arrays of a network are; EnvironmentLacksError:
            CUDA says so.
    """
    if status == _BAD_ARRAYS:
        raise ValueError(message(library, status))
    if status:
        kind = UsageError if status < _CUDA_ERROR else EnvironmentLacksError
        raise kind(f"{what} on CUDA: {message(library, status)}")


def message(library: ctypes.CDLL, status: int) -> str:
    """What a status means, in a line."""
    text: bytes = library.mpft_message(status)
    return text.decode()


@functools.cache
def load_library() -> ctypes.CDLL:
    """The shared library beside this package's modules; an EnvironmentLacksError without it, or
    where it was built from other sources."""
    # An editable install keeps compiled files apart from sources; the package's path has both.
    for folder in importlib.import_module(__name__.rpartition(".")[0]).__path__:
        path = Path(folder) / LIBRARY
        if path.exists():
            library = ctypes.CDLL(str(path))
            _require_same_sources(library, path)
            return declare(library)
    raise EnvironmentLacksError(
        "the CUDA kernels are not built: install mpft-deploy from source on a machine with nvcc, "
        "and without its GPU (such as for an image) by "
        "pip install . --config-settings=cmake.define.MPFT_CUDA=ON"
    )


def _require_same_sources(library: ctypes.CDLL, path: Path) -> None:
    from mpft_deploy.kernels.encoder.oracle import DEFINITION  # beside what imports this module

    built, due = "an unnamed version", f"{DEFINITION}.{INTERFACE}"
    with contextlib.suppress(AttributeError):  # of a library from before it was named
        library.mpft_definition.restype = ctypes.c_char_p
        built = f"version {library.mpft_definition().decode()}"
    if built != f"version {due}":
        raise EnvironmentLacksError(
            f"{path} was built from other sources than the Python part: it is {built} of the CUDA "
            f"kernels, and version {due} is needed. Install mpft-deploy again, as you did before "
            "(in a checkout: `pip install -e .`)"
        )


def declare(library: ctypes.CDLL) -> ctypes.CDLL:
    """The library, which knows the arguments of its functions."""
    pointer, long, number = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int32
    patchify = (pointer, *[number] * 5, ctypes.c_uint64, *[pointer] * 4)
    for name, arguments in {
        "mpft_probe": (pointer,),
        "mpft_texture_patchify_launch": patchify,
        "mpft_means_launch": (pointer, number, number, number, pointer, pointer),
        "mpft_encoder_make": (pointer, number, pointer, pointer, number, pointer),
        "mpft_encoder_reserve": (pointer, long, long),
        "mpft_encoder_launch": (pointer, pointer, pointer, long, long, pointer, pointer),
        "mpft_encoder_free": (pointer,),
    }.items():
        with contextlib.suppress(AttributeError):  # of a part of it
            getattr(library, name).argtypes = arguments
    library.mpft_message.restype = ctypes.c_char_p
    return library
