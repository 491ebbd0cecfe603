"""Arrays of other libraries, read where they lie: in host memory, or on a CUDA device."""

from __future__ import annotations

import ctypes
import sys
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from mpft_deploy.errors import UsageError
from mpft_deploy.kernels.texture_patchify.oracle import U8, Patches

Device = Literal["cpu", "cuda"]

# Device types of DLPack: where a processor can read, and where a CUDA device must.
_DLPACK_CPU, _DLPACK_CUDA, _DLPACK_CUDA_HOST, _DLPACK_CUDA_MANAGED = 1, 2, 3, 13

_DLPACK_KINDS = {0: "i", 1: "u", 2: "f"}

_OUT_DTYPES = (np.dtype(np.uint8), np.dtype(np.int32), np.dtype(np.int32))


def device_of(images: Any) -> Device:
    """Where the pixels are; a UsageError for a device that is neither."""
    if isinstance(images, np.ndarray):
        return "cpu"
    if hasattr(images, "__cuda_array_interface__"):
        return "cuda"
    if not hasattr(images, "__dlpack_device__"):
        return "cpu"
    kind = int(images.__dlpack_device__()[0])
    if kind in (_DLPACK_CPU, _DLPACK_CUDA_HOST):
        return "cpu"
    if kind in (_DLPACK_CUDA, _DLPACK_CUDA_MANAGED):
        return "cuda"
    raise UsageError(
        f"images must be in host memory or on a CUDA device, got {_described(images)} on a device "
        f"of DLPack type {kind}; copy them to host memory first"
    )


def as_numpy(images: Any) -> npt.NDArray[Any]:
    """View an array in host memory as a NumPy array: the same bytes, never a copy.

    Takes NumPy arrays, DLPack (torch, JAX), `__array_interface__` and the buffer protocol.

    Raises:
        UsageError: the array is on a CUDA device, or `images` is no array.
    """
    if isinstance(images, np.ndarray):
        return images
    if device_of(images) == "cuda":
        raise UsageError(
            f"images must be in host memory, got {_described(images)} on a CUDA device; copy them "
            "with .cpu() or cupy.asnumpy, or give whole frames to a Screener of an engine there"
        )
    try:
        if hasattr(images, "__dlpack__"):
            return np.from_dlpack(images)
        if hasattr(images, "__array_interface__"):
            return np.asarray(images)
        return np.asarray(memoryview(images))
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            f"images must be a uint8 array [B, S, S, 3] (NumPy, DLPack, __array_interface__ or the "
            f"buffer protocol), got {_described(images)}: {error}"
        ) from None


def in_rows(images: U8) -> U8:
    """`images` itself if the pixels of each row are contiguous, else one contiguous copy.

    The native versions read any batch and row stride in place, negative ones too, so that a crop
    of a large frame costs the crop. Other layouts (Fortran order, reversed or left-out channels,
    mirrored rows) are copied here, once.
    """
    return images if images.strides[2:] == (3, 1) else np.ascontiguousarray(images)


def outputs(images: U8, patch: int, count: int, out: Patches | None) -> Patches:
    """New arrays for the results, or `out` if it fits and does not overlap `images`.

    Args:
        images: u8 [B, S, S, 3].
        patch: side of a cell.
        count: cells kept of each image, K.
        out: patches u8 [B, K, 3·p·p], positions i32 [B, K], scores i32 [B, N], or None.
    """
    batch, cells = images.shape[0], (images.shape[1] // patch) ** 2
    shapes = ((batch, count, 3 * patch * patch), (batch, count), (batch, cells))
    if out is None:
        return Patches(
            np.empty(shapes[0], np.uint8),
            np.empty(shapes[1], np.int32),
            np.empty(shapes[2], np.int32),
        )
    for name, array, shape, dtype in zip(Patches._fields, out, shapes, _OUT_DTYPES, strict=True):
        if (
            not isinstance(array, np.ndarray)
            or array.dtype != dtype
            or array.shape != shape
            or not array.flags.carray
        ):
            raise UsageError(
                f"out.{name} must be a writable, aligned, C-contiguous NumPy array "
                f"{dtype} {list(shape)}, got {_described(array)}"
            )
        if np.may_share_memory(array, images):
            raise UsageError(f"out.{name} overlaps the images; give it memory of its own")
    return out


class DeviceArray(NamedTuple):
    """Where an array lies. `dtype` is as in NumPy ("u1", "i4"); strides are in bytes."""

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...]


def device_array(array: Any) -> DeviceArray:
    """Where an array lies of which `device_of` says "cuda".

    Nothing is waited for: what writes it has to be, see `stream_of`.
    """
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is None:
        return _read_dlpack(array.__dlpack__(stream=-1))
    shape = tuple(interface["shape"])
    dtype = interface["typestr"].lstrip("<|")
    strides = interface.get("strides") or _contiguous(shape, int(dtype[1:]))
    return DeviceArray(interface["data"][0], shape, dtype, tuple(strides))


def stream_of(array: Any) -> int:
    """The stream that an array is written on, as a cudaStream_t, as far as it or its library tells;
    else the default stream, which waits for those of all that are not told otherwise."""
    if told := getattr(array, "__cuda_array_interface__", {}).get("stream"):
        return int(told)
    library = type(array).__module__.partition(".")[0]
    if library == "torch":
        return int(sys.modules["torch"].cuda.current_stream(array.device).cuda_stream)
    if library == "cupy":
        return int(sys.modules["cupy"].cuda.get_current_stream().ptr)
    return 0


class _DLTensor(ctypes.Structure):
    """The head of a DLManagedTensor (dlpack.h, ABI 0.8 and unversioned)."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("dimensions", ctypes.c_int32),
        ("kind", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _read_dlpack(capsule: Any) -> DeviceArray:
    """Read a "dltensor" capsule without taking it over: the caller's array owns the memory."""
    read = ctypes.pythonapi.PyCapsule_GetPointer
    read.restype, read.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    address = read(capsule, b"dltensor")
    tensor = _DLTensor.from_address(address)
    itemsize = tensor.bits // 8
    shape = tuple(tensor.shape[: tensor.dimensions])
    strides = (
        tuple(itemsize * stride for stride in tensor.strides[: tensor.dimensions])
        if tensor.strides
        else _contiguous(shape, itemsize)
    )
    dtype = f"{_DLPACK_KINDS.get(tensor.kind, '?')}{itemsize}"
    return DeviceArray((tensor.data or 0) + tensor.byte_offset, shape, dtype, strides)


def _contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = []
    for extent in reversed(shape):
        strides.append(itemsize)
        itemsize *= extent
    return tuple(reversed(strides))


def _described(array: Any) -> str:
    """Type, and dtype, shape and flags as far as there are any."""
    text = f"{type(array).__module__}.{type(array).__qualname__}".removeprefix("builtins.")
    if hasattr(array, "dtype") and hasattr(array, "shape"):
        text += f" {array.dtype} {list(array.shape)}"
    if isinstance(array, np.ndarray):
        text += "" if array.flags.c_contiguous else ", not C-contiguous"
        text += "" if array.flags.aligned else ", not aligned"
        text += "" if array.flags.writeable else ", read-only"
    return text
