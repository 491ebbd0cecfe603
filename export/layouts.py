"""Model repositories of inference servers, from the standalone graph.

Triton Inference Server: OUT/NAME/config.pbtxt and OUT/NAME/1/model.onnx, where NAME is the
detector's folder. The server takes `frames` u8 [B, S, S, 3] and gives `logit` f32 [B, 1] and
`positions` i32 [B, K]; from logit to verdict is the client's step, with the calibration that the
config's parameters hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from mpft_deploy.bundle import CERTIFICATE
from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.export.materials import Say
from mpft_deploy.export.pipeline import silent
from mpft_deploy.export.request import Request
from mpft_deploy.export.standalone import Standalone, make_standalone
from mpft_deploy.files import canonical_json, display
from mpft_deploy.outputs import reserve, staged_folder
from mpft_deploy.sealed import MAX_MANIFEST, read_regular
from mpft_deploy.standing import Kind

TRITON_CONFIG, MODEL = "config.pbtxt", "1/model.onnx"
WRITER = "# Written by mpft-deploy."
MAX_BATCH = 64
QUEUE_DELAY_US = 2000
"""How long a frame may wait for others: small beside the time of a view on any CPU."""


def _own(folder: Path) -> Collection[str] | None:
    """What belongs to a model that an export wrote; another version beside 1 does not."""
    try:
        config = read_regular(folder / TRITON_CONFIG, MAX_MANIFEST)
    except InputError:
        return None
    return (TRITON_CONFIG, MODEL, CERTIFICATE) if config.startswith(WRITER.encode()) else None


OUTPUT = Kind("a model that mpft-export wrote", _own)


def export_triton(request: Request, say: Say = silent) -> tuple[Path, Standalone]:
    """Write `request.out`/NAME, a model of a Triton repository, whole or not at all.

    Other models in the repository are left alone. Returns the model's folder and what it holds.

    Raises:
        GateError, InputError, UsageError: as of `make_standalone`.
    """
    name = re.sub(r"[^A-Za-z0-9_-]+", "_", request.detector.resolve().name) or "detector"
    if request.out.exists() and not request.out.is_dir():
        raise UsageError(
            f"{display(request.out)} is a file; name the folder of the model repository"
        )
    folder = request.out / name
    with reserve(folder, OUTPUT, replace=request.overwrite, inputs=request.inputs):
        made = make_standalone(request, say)
        with staged_folder(folder, OUTPUT) as staging:
            (staging / "1").mkdir()
            (staging / MODEL).write_bytes(made.model)
            (staging / TRITON_CONFIG).write_text(triton_config(name, made), encoding="ascii")
            certificate = canonical_json(msgspec.to_builtins(made.certificate))
            (staging / CERTIFICATE).write_bytes(certificate)
    return folder, made


def triton_config(name: str, made: Standalone) -> str:
    """The text of a config.pbtxt (ModelConfig of Triton's model_config.proto), ASCII.

    A model whose verdicts depend on the batch gets single images (`max_batch_size: 1`).
    """
    spec, size = made.spec, made.spec.crop.size
    small = "; of smaller ones the centre square is brought up by Pillow's bicubic"
    if scaling := spec.crop.scaling:
        small = f", after scaling to {scaling} pixels by Pillow's {scaling.filter}"
    batching = (
        f"max_batch_size: {MAX_BATCH}\n"
        f"dynamic_batching {{ max_queue_delay_microseconds: {QUEUE_DELAY_US} }}\n"
        if made.batchable
        else "# int8 takes its scales over a batch: only alone is an image's logit its own.\n"
        "max_batch_size: 1\n"
    )
    return f"""\
{WRITER} Frames are RGB, cut to {size} x {size} from the original pixels
# (policy: {spec.crop.policy}){small}.
# The probability of "generated" is
# sigmoid(scale * (logit + shift)): "generated" from the threshold on, "unsure" strictly between
# unsure_low and unsure_high.
name: {_quote(name)}
backend: "onnxruntime"
default_model_filename: "model.onnx"
{batching}version_policy {{ latest {{ num_versions: 1 }} }}
input [
  {{ name: "frames" data_type: TYPE_UINT8 dims: [ {size}, {size}, 3 ] }}
]
output [
  {{ name: "logit" data_type: TYPE_FP32 dims: [ 1 ] reshape {{ shape: [ ] }} }},
  {{ name: "positions" data_type: TYPE_INT32 dims: [ {spec.tokens} ] }}
]
# The certificate was measured on a CPU; before changing to KIND_GPU, compare the verdicts there.
instance_group [ {{ count: 1 kind: KIND_CPU }} ]
model_warmup [
  {{
    name: "random frame"
    batch_size: 1
    inputs {{
      key: "frames"
      value {{ data_type: TYPE_UINT8 dims: [ {size}, {size}, 3 ] random_data: true }}
    }}
  }}
]
{_parameters(made)}"""


def _parameters(made: Standalone) -> str:
    calibration = made.spec.calibration
    low, high = calibration.unsure
    values: Mapping[str, object] = {
        "scale": calibration.scale,
        "shift": calibration.shift,
        "threshold": calibration.threshold,
        "unsure_low": low,
        "unsure_high": high,
        "keep": made.spec.keep,
        "crop_policy": made.spec.crop.policy,
        "precision": made.precision,
        "detector_seal": made.detector_seal,
    }
    return "".join(
        f"parameters {{ key: {_quote(f'mpft.{key}')} "
        f"value {{ string_value: {_quote(str(value))} }} }}\n"
        for key, value in values.items()
    )


def _quote(text: str) -> str:
    """A string in protobuf's text format, which reads JSON's escapes."""
    return json.dumps(text)
