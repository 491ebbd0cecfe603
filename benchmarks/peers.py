"""What a user would run in place of a bundle: PyTorch, torch.compile, ONNX Runtime, OpenVINO.

Each sees all tokens of a decoded view, through open_clip's own tower, in a process of two threads.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mpft_deploy.spec import CLIP_MEAN, CLIP_STD, Architecture

if TYPE_CHECKING:
    import torch

THREADS = 2

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]
Run = Callable[[U8], float]
"""A view u8 [S, S, 3] → its logit."""


def normalised(view: U8) -> F32:
    """f32 [1, 3, S, S], as torchvision's ToTensor and Normalize give it."""
    scaled = view.astype(np.float32) / np.float32(255)
    mean, std = np.float32(CLIP_MEAN), np.float32(CLIP_STD)
    return np.ascontiguousarray(((scaled - mean) / std).transpose(2, 0, 1)[None])


def tower(architecture: Architecture, patch: int, size: int) -> torch.nn.Module:
    """A whole image tower and head with random weights: they cost what trained ones cost."""
    import torch

    from mpft_deploy.detector.backbone import Geometry
    from mpft_deploy.detector.model import Detector

    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    model = Detector(Geometry(architecture, patch, size), architecture.layers)
    return torch.nn.Sequential(model.visual, model.head).eval()


def eager(model: Callable[[torch.Tensor], torch.Tensor]) -> Run:
    """PyTorch in float32; the paper's own deployment."""
    import torch

    def run(view: U8) -> float:
        with torch.inference_mode():
            return float(model(torch.from_numpy(normalised(view))))

    return run


def compiled(model: torch.nn.Module) -> Run:
    """torch.compile with its default settings."""
    import torch

    return eager(torch.compile(model))  # type: ignore[arg-type]


def write_onnx(model: torch.nn.Module, size: int, path: Path) -> None:
    """torch.onnx.export with its default settings."""
    import torch

    torch.onnx.export(
        model, (torch.zeros(1, 3, size, size),), path, dynamo=True, external_data=False
    )


def onnxruntime(path: Path) -> Run:
    """A graph of `write_onnx` in ONNX Runtime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda view: float(session.run(None, {name: normalised(view)})[0].item())


def write_openvino_int8(onnx: Path, views: U8, path: Path) -> None:
    """Post-training quantisation by NNCF in its transformer mode, on the views, to `path`.xml."""
    import nncf
    import openvino

    model = openvino.Core().read_model(onnx)
    quantised = nncf.quantize(
        model,
        nncf.Dataset([normalised(view) for view in views]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(views),
    )
    openvino.save_model(quantised, path)


NO_BF16 = "OpenVINO bf16: this processor has no bfloat16, so that OpenVINO would run it in fp32"


def has_bf16() -> bool:
    """Whether OpenVINO can multiply in bfloat16 here."""
    import openvino as ov

    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def openvino(path: Path, precision: str = "") -> Run:
    """A graph that OpenVINO reads, for latency; `precision` f32 or bf16, else as it chooses."""
    import openvino as ov

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY"}
    if precision:
        settings["INFERENCE_PRECISION_HINT"] = precision
    request = ov.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda view: float(request.infer([normalised(view)])[0].item())
