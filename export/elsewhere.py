"""What would be built for a device that is not here: engines, sizes, and what it needs for them."""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass

import numpy as np

from mpft_deploy.detector_folder import read_detector
from mpft_deploy.engine import native, tensorrt
from mpft_deploy.errors import UsageError
from mpft_deploy.export.materials import with_keep
from mpft_deploy.export.recipes import precision_of, recipe_of
from mpft_deploy.export.request import NARROWEST, NATIVE, Request
from mpft_deploy.export.tensorrt import refuse_older
from mpft_deploy.files import display
from mpft_deploy.kernels.encoder.packing import packed_shapes
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.weights import detector_shapes

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1, "float8": 1}
"""Of a weight."""


@dataclass(frozen=True)
class Elsewhere:
    """A kind of device; versions are those that its JetPack brings."""

    title: str
    capability: str
    jetpack: str
    cuda: str
    tensorrt: str


DEVICES = {
    "jetson-orin": Elsewhere("NVIDIA Jetson Orin", "8.7", "6", "12.6", "10.3"),
    "jetson-thor": Elsewhere("NVIDIA Jetson Thor", "11.0", "7", "13.0", "10.13"),
}
"""By the names that --target knows them by."""

UNTOLD = ("auto", NARROWEST)


def describe_elsewhere(request: Request, name: str) -> dict[str, dict[str, str]]:
    """What engines an export on such a device would make, by title: rows by name, for people.

    Args:
        request: whose backend and precision, if they are not left open, are the only ones.

    Raises:
        UsageError: the device has no such engine.
    """
    device = DEVICES[name]
    spec = with_keep(read_detector(request.detector).spec, request.keep)
    taken = {NATIVE: native.PRECISIONS, "tensorrt": tensorrt.TENSORRT.PRECISIONS}
    backends = [*taken] if request.backend == "auto" else [request.backend]
    if backends[0] not in taken:
        raise UsageError(f"{device.title} runs native and tensorrt, and not backend {backends[0]}")
    able = [one for one in backends if request.precision in (*UNTOLD, *taken[one])]
    if not able:
        choices = ", ".join(name for one in backends for name in taken[one])
        raise UsageError(
            f"{device.title} has no engine of precision {request.precision} by "
            f"{' or '.join(backends)}: choose {choices}"
        )
    if request.precision not in UNTOLD:
        precision_of(request.precision, request.float_layers)  # raises where it can leave none
    found = {}
    for backend in able:
        one = _native if backend == NATIVE else _plan
        title, rows = one(request, spec, device)
        found[f"{device.title}, {title}"] = rows
    return found


def _native(request: Request, spec: DetectorSpec, device: Elsewhere) -> tuple[str, dict[str, str]]:
    shapes = packed_shapes(native.sizes_of(spec))
    size = sum(math.prod(shape) * np.dtype(kind).itemsize for kind, shape in shapes)
    told = "" if request.precision in UNTOLD else request.precision
    return f"native {told}".rstrip(), {
        "engine": f"{size / 1e6:.1f} MB, the same file as for any other device",
        "how long": "nothing is built: the stored integers are written in the order of reading",
        "runs on": f"the GPU (SM {device.capability}) where the CUDA kernels are built, else the "
        "processor, with the same logits in every bit",
        "needs there": f"JetPack {device.jetpack} with nvcc (CUDA {device.cuda}), and "
        "`pip install '.[cuda]'` in a checkout",
        "export": f"here or there: {_command(request)}" + f" --precision {told}" * bool(told),
    }


def _plan(request: Request, spec: DetectorSpec, device: Elsewhere) -> tuple[str, dict[str, str]]:
    name = "fp16" if request.precision in UNTOLD else request.precision
    refuse_older(name, (device.capability,), "")
    precision = precision_of(name, request.float_layers)
    # Of blocks, the matrices are of the precision; all else is float32.
    shapes = detector_shapes(spec).items()
    size = sum(
        math.prod(shape)
        * (BYTES[precision.weights] if len(shape) == 2 and "resblocks" in weight else 4)
        for weight, shape in shapes
    )
    more = "more than " if request.float_layers else ""
    low, usual, high = request.options.batch
    most = request.options.workspace
    scratch = f", {most} MiB of scratch at most" if most else ""
    return f"tensorrt {name}", {
        "precision": f"{precision}: {recipe_of(name).help}",
        "engine": f"{more}{size / 1e6:.0f} MB of weights, and TensorRT's kernels",
        "how long": "not measured: TensorRT times its kernels there. The export tells how far it "
        "is, and --timing-cache makes the next one quick",
        "memory while building": f"{more}{2 * size / 1e6:.0f} MB and what TensorRT takes{scratch}",
        "profile": f"batch of {low} to {high}, fastest at {usual}",
        "runs on": f"SM {device.capability} under JetPack {device.jetpack}, and nowhere else",
        "needs there": f"JetPack {device.jetpack} (TensorRT {device.tensorrt}, CUDA {device.cuda}) "
        "and `pip install '.[cuda,export]'` in a checkout",
        "export": f"there: {_command(request)} --backend tensorrt --precision {name} "
        "--timing-cache kernels.cache",
    }


def _command(request: Request) -> str:
    """How the export is asked for, without a backend and what goes with it."""
    words = ["mpft-export", display(request.detector), display(request.out)]
    words += ["--keep", request.keep] if request.keep else []
    for pattern in request.float_layers:
        words += ["--float-layers", pattern]
    return shlex.join(words)
