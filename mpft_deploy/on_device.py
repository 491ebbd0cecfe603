"""Frames that lie on a CUDA device, made ready for an engine there: no pixel comes to the host."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

from mpft_deploy.engine import DeviceView
from mpft_deploy.errors import UsageError
from mpft_deploy.fitness import I32, enough_texture, too_small
from mpft_deploy.kernels.texture_patchify.interop import device_array, device_of, stream_of
from mpft_deploy.prepared import Told, judgeable, looked_at
from mpft_deploy.spec import DetectorSpec, ViewPolicy
from mpft_deploy.views import SizePolicy, Window, view_side, windows_of


@dataclass(frozen=True)
class OnDevice:
    """A frame on a device, and where its views lie.

    frame: keeps the memory.
    views, windows: where they lie in memory, and in the picture.
    size: height and width of the picture.
    reason: why no verdict can be given of it; "" if one can.
    """

    frame: Any
    views: list[DeviceView]
    windows: list[Window]
    size: tuple[int, int]
    reason: str

    def told(self, spec: DetectorSpec, scores: I32, coarse: I32) -> Told:
        """Which views count, by scores i32 [V, N] and coarse scores i32 [V, M] of them."""
        enough = enough_texture(spec.crop, scores, coarse, spec.patch)
        telling, reason = judgeable(enough, self.reason)
        return Told(telling, looked_at(self.windows, telling, self.size), reason)


def lies_on_device(frame: Any) -> bool:
    """Whether a frame is an array of a CUDA device: of torch, CuPy, PyCUDA, JAX and others."""
    return device_of(frame) == "cuda"


def prepare_on_device(spec: DetectorSpec, frame: Any, policy: ViewPolicy = "centre") -> OnDevice:
    """Find the views of a frame on a CUDA device, as `mpft_deploy.prepared.prepare` does.

    Args:
        frame: u8 [H, W, 3] RGB, with `__cuda_array_interface__` or DLPack; the pixels of a row
            adjacent, rows at any distance.

    Raises:
        UsageError: it is not, or its views are not parts of it as they are.
    """
    array = device_array(frame)
    shape, strides = array.shape, array.strides
    if array.dtype != "u1" or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise UsageError(f"a frame must be uint8 [H, W, 3], got {array.dtype} {list(shape)}")
    if strides[1:] != (3, 1) or strides[0] < 3 * shape[1]:
        raise UsageError(
            f"a frame on a device must have the pixels of a row adjacent, got strides "
            f"{list(strides)}: make it contiguous first"
        )
    spec.check_views(policy)
    height, width = shape[:2]
    crop = spec.crop
    reason = too_small(crop, height, width)
    if reason:
        policy = "centre"
    if policy == "three" or crop.scaling is not None:
        raise UsageError(
            f"views {'of scaled pictures' if crop.scaling else policy} are found on the host: copy "
            f"the frame there, or choose views of {', '.join(get_args(SizePolicy))}"
        )
    if view_side(height, width, crop.size) != crop.size:
        raise UsageError(
            f"a frame of {width} × {height} pixels is smaller than a view, and brought up on the "
            "host: copy it there"
        )
    windows = windows_of(height, width, crop.size, policy)
    stream = stream_of(frame)
    views = [
        DeviceView(array.pointer + row * strides[0] + 3 * column, strides[0], stream)
        for row, column, _, _ in windows
    ]
    return OnDevice(frame, views, windows, (height, width), reason)
