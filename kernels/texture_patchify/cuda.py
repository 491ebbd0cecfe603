"""texture_patchify on a CUDA device, from Python: arrays of any library in, nothing copied.

Takes anything with `__cuda_array_interface__` or DLPack: torch and JAX tensors, CuPy and PyCUDA
arrays. The code is in `cuda/`; see README.md.
"""

from __future__ import annotations

import ctypes
import sys
from typing import Any, NamedTuple

from mpft_deploy.errors import UsageError
from mpft_deploy.kernels import cuda
from mpft_deploy.kernels.texture_patchify.oracle import (
    MAX_PATCH,
    MIN_PATCH,
    Patches,
    check_seed,
)
from mpft_deploy.spec import KeepRule

KEEP_CODES = {"smooth": 0, "textured": 1, "random": 2, "all": 3}

_CUDA_DEVICES = (2, 13)  # DLPack: kDLCUDA, kDLCUDAManaged
_DLPACK_KINDS = {0: "i", 1: "u", 2: "f"}


class Arguments(ctypes.Structure):
    """`mpft_texture_patchify_args` of cuda/texture_patchify.h, field by field."""

    _fields_ = (
        ("frames", ctypes.c_void_p),
        ("row_pitch", ctypes.c_uint64),
        ("batch_stride", ctypes.c_uint64),
        ("patches", ctypes.c_void_p),
        ("positions", ctypes.c_void_p),
        ("scores", ctypes.c_void_p),
        ("seed", ctypes.c_uint64),
        ("batch", ctypes.c_int32),
        ("size", ctypes.c_int32),
        ("patch", ctypes.c_int32),
        ("count", ctypes.c_int32),
        ("keep", ctypes.c_int32),
    )


class DeviceArray(NamedTuple):
    """Where an array lies. `dtype` is as in NumPy ("u1", "i4"); strides are in bytes."""

    pointer: int
    shape: tuple[int, ...]
    dtype: str
    strides: tuple[int, ...]


def run(images: Any, patch: int, keep: KeepRule, seed: int, out: Patches | None) -> Patches:
    """One call on the current stream of the arrays' library, as the registry wants it.

    Args:
        images: as in `launch`; torch tensors and CuPy arrays of other layouts are copied once.
        patch, keep, seed: as in `launch`.
        out: arrays on the device, written and returned. Without it new ones are allocated, which
            torch tensors and CuPy arrays can do and others cannot.

    Raises:
        UsageError, EnvironmentLacksError: as `launch`.
    """
    library = type(images).__module__.partition(".")[0]
    images = _in_rows(library, images)
    if out is None:
        out = _allocate(library, images, patch, keep)
    launch(images, *out, patch=patch, keep=keep, seed=seed, stream=_stream(library, images))
    return out


def launch(
    frames: Any,
    patches: Any,
    positions: Any,
    scores: Any,
    *,
    patch: int,
    keep: KeepRule,
    seed: int = 0,
    stream: int = 0,
) -> None:
    """Enqueue texture_patchify on a stream; see `oracle.texture_patchify` for what it computes.

    Allocates nothing and waits for nothing, so it can be captured in a CUDA graph. The caller
    orders it after whatever fills `frames`, and keeps the arrays alive until it has run.

    Args:
        frames: u8 [B, S, S, 3] on the current device; the pixels of a row adjacent, rows and
            frames at any distance (a crop of a pitched frame needs no copy).
        patches: written; u8 [B, K, 3·p·p], contiguous.
        positions: written; i32 [B, K], contiguous.
        scores: written; i32 [B, N], contiguous.
        patch: side p of a cell in pixels, 4 to 64; S is a multiple of it.
        keep: which cells to keep, and how many.
        seed: for `random` rules, 0 to 2⁶⁴ − 1.
        stream: a cudaStream_t as an integer (`torch.cuda.current_stream().cuda_stream`).

    Raises:
        UsageError: an array or argument is not as above; says which.
        EnvironmentLacksError: the kernels are not built, or CUDA reports an error.
    """
    arguments = prepare(
        device_array("frames", frames),
        device_array("patches", patches),
        device_array("positions", positions),
        device_array("scores", scores),
        patch=patch,
        keep=keep,
        seed=seed,
    )
    for name in ("frames", "patches", "positions", "scores"):
        _check_device(name, getattr(arguments, name))
    launch_arguments(arguments, stream)


def launch_arguments(arguments: Arguments, stream: int) -> None:
    """Enqueue a call that is prepared already; errors and the rest as in `launch`."""
    library = cuda.load_library()
    status = library.mpft_texture_patchify_launch(ctypes.byref(arguments), stream)
    cuda.check("texture_patchify", library, status)


def launch_means(views: int, batch: int, size: int, side: int, means: int, stream: int) -> None:
    """Enqueue the means of 4 × 4 pixels of views on the current device.

    Args:
        views: address of u8 [batch, size, size, 3].
        side: how many means along each side, from the top left.
        means: address of u8 [batch, side, side, 3], written.
    """
    library = cuda.load_library()
    status = library.mpft_means_launch(views, batch, size, side, means, stream)
    cuda.check("the means of pixels", library, status)


def prepare(
    frames: DeviceArray,
    patches: DeviceArray,
    positions: DeviceArray,
    scores: DeviceArray,
    *,
    patch: int,
    keep: KeepRule,
    seed: int = 0,
) -> Arguments:
    """Check the arrays of a call and turn them into the library's arguments; see `launch`."""
    shape = frames.shape
    # Strides of an empty batch mean nothing, and libraries differ in them.
    strides = _contiguous(shape, 1) if 0 in shape else frames.strides
    if (
        frames.dtype != "u1"
        or len(shape) != 4
        or shape[1] != shape[2]
        or shape[3] != 3
        or strides[2:] != (3, 1)
        or min(strides) < 0
    ):
        raise UsageError(
            "frames must be uint8 [B, S, S, 3] with the pixels of a row adjacent, "
            f"got {frames.dtype} {list(shape)} with strides {list(strides)}"
        )
    if not (MIN_PATCH <= patch <= MAX_PATCH and shape[1] and shape[1] % patch == 0):
        raise UsageError(
            f"patch must be {MIN_PATCH} to {MAX_PATCH} and divide the side of the frames, "
            f"got {patch} for {shape[1]}"
        )
    if keep.kind == "random":
        check_seed(seed)
    else:
        seed = 0
    batch, cells = shape[0], (shape[1] // patch) ** 2
    count = keep.resolve(cells)
    check_output("patches", patches, "u1", (batch, count, 3 * patch * patch))
    check_output("positions", positions, "i4", (batch, count))
    check_output("scores", scores, "i4", (batch, cells))
    return Arguments(
        frames=frames.pointer,
        row_pitch=strides[1],
        # A single frame may come with any batch stride; the library wants one that holds it.
        batch_stride=strides[0] if batch > 1 else strides[1] * shape[1],
        patches=patches.pointer,
        positions=positions.pointer,
        scores=scores.pointer,
        seed=seed,
        batch=batch,
        size=shape[1],
        patch=patch,
        count=count,
        keep=KEEP_CODES[keep.kind],
    )


def _in_rows(library: str, images: Any) -> Any:
    """The images, or a contiguous copy where pixels or rows of a frame are not in order."""
    array = device_array("images", images)
    size = array.shape[1] if len(array.shape) == 4 else 0
    low_strides = (3 * size * size, 3 * size) if array.shape[0] > 1 else (0, 3 * size)
    if array.strides[2:] == (3, 1) and all(map(int.__ge__, array.strides, low_strides)):
        return images
    if library == "torch":
        return images.contiguous()
    return sys.modules["cupy"].ascontiguousarray(images) if library == "cupy" else images


def _allocate(library: str, images: Any, patch: int, keep: KeepRule) -> Patches:
    """Outputs by the library that the images come from."""
    batch, cells = images.shape[0], (images.shape[1] // patch) ** 2 if patch > 0 else 0
    count = keep.resolve(cells)
    shapes = ((batch, count, 3 * patch * patch), (batch, count), (batch, cells))
    if library == "torch":
        torch = sys.modules["torch"]
        types = (torch.uint8, torch.int32, torch.int32)
        return Patches(*(images.new_empty(s, dtype=t) for s, t in zip(shapes, types, strict=True)))
    if library == "cupy":
        empty = sys.modules["cupy"].empty
        return Patches(*(empty(s, t) for s, t in zip(shapes, ("u1", "i4", "i4"), strict=True)))
    raise UsageError(
        f"texture_patchify on CUDA cannot allocate {library} arrays: pass out=Patches(...) with "
        f"uint8 {list(shapes[0])}, int32 {list(shapes[1])} and int32 {list(shapes[2])}"
    )


def _stream(library: str, images: Any) -> int:
    """The stream that the library works on now, as a cudaStream_t; else the default stream."""
    if library == "torch":
        return int(sys.modules["torch"].cuda.current_stream(images.device).cuda_stream)
    if library == "cupy":
        return int(sys.modules["cupy"].cuda.get_current_stream().ptr)
    return 0


def stream_of(array: Any) -> int:
    """The stream that an array is written on, as a cudaStream_t, as far as it or its library tells;
    else the default stream, which waits for those of all that are not told otherwise."""
    told = getattr(array, "__cuda_array_interface__", {}).get("stream")
    return int(told) if told else _stream(type(array).__module__.partition(".")[0], array)


def device_array(name: str, array: Any) -> DeviceArray:
    """Where an array of another library lies on the device; a UsageError if it does not."""
    interface = getattr(array, "__cuda_array_interface__", None)
    if interface is not None:
        shape = tuple(interface["shape"])
        dtype = interface["typestr"].lstrip("<|")
        strides = interface.get("strides")
        if strides is None:
            strides = _contiguous(shape, int(dtype[1:]))
        return DeviceArray(interface["data"][0], shape, dtype, tuple(strides))
    if hasattr(array, "__dlpack__") and array.__dlpack_device__()[0] in _CUDA_DEVICES:
        # Stream -1: no synchronisation; ordering is the caller's, as for the other protocol.
        return _read_dlpack(array.__dlpack__(stream=-1))
    raise UsageError(
        f"{name} must be an array on a CUDA device, with __cuda_array_interface__ or DLPack "
        f"(torch, CuPy, PyCUDA, JAX), got {type(array).__name__}"
    )


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


def contiguous(pointer: int, shape: tuple[int, ...], dtype: str) -> DeviceArray:
    """An array without gaps at that address."""
    return DeviceArray(pointer, shape, dtype, _contiguous(shape, int(dtype[1:])))


def _contiguous(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    strides = []
    for extent in reversed(shape):
        strides.append(itemsize)
        itemsize *= extent
    return tuple(reversed(strides))


def check_output(name: str, array: DeviceArray, dtype: str, shape: tuple[int, ...]) -> None:
    """A UsageError unless the array is contiguous, and of this type and shape."""
    if (array.dtype, array.shape) != (dtype, shape) or (
        array.strides != _contiguous(shape, int(dtype[1:])) and 0 not in shape
    ):
        raise UsageError(
            f"{name} must be contiguous {dtype} {list(shape)}, "
            f"got {array.dtype} {list(array.shape)} with strides {list(array.strides)}"
        )


def _check_device(name: str, pointer: int | None) -> None:
    if not pointer:  # an empty batch
        return
    library, owner, current = cuda.load_library(), ctypes.c_int(), ctypes.c_int()
    status = library.mpft_device_of(pointer, ctypes.byref(owner), ctypes.byref(current))
    cuda.check("texture_patchify", library, status)
    if owner.value != current.value:
        where = "in host memory" if owner.value < 0 else f"on CUDA device {owner.value}"
        raise UsageError(
            f"{name} lies {where} and the current device is {current.value}; make the device of "
            "the arrays current first (for torch: with torch.cuda.device(frames.device))"
        )
