"""One ONNX file from pixels to logit, for people who bring their own runtime.

Input `frames` u8 [B, S, S, 3] RGB, outputs `logit` f32 [B] and `positions` i32 [B, K]. The cells
are scored, selected and packed by an ONNX function, `mpft.texture_patchify`, of standard operators
alone; behind it stands the encoder graph as it is. ONNX Runtime and TensorRT run the function's
body; for OpenVINO, run `onnx.inliner` first.

The function equals the NumPy oracle exactly and everywhere. All it computes is whole numbers below
2²⁴, so that a runtime that swaps its integers for float32 is exact too: a score is at most
3 · 255 · (2 · 64 · 63 + 2 · 63²) = 12,241,530, in a cell of 64 pixels, and a rank is below 3·N. No
result depends on the order in which a TopK leaves equal values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import onnx
from onnx import TensorProto, helper

from mpft_deploy import __version__
from mpft_deploy.bundle import Certificate
from mpft_deploy.errors import GateError, UsageError
from mpft_deploy.export.graph import OPSET, GraphBuilder, serialise
from mpft_deploy.export.materials import Say
from mpft_deploy.export.pipeline import Built, build, silent
from mpft_deploy.export.request import Request
from mpft_deploy.files import display
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.outputs import reserve, write_output
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.standing import marked_kind

DOMAIN, FUNCTION = "mpft", "texture_patchify"
SPEC_KEY = "mpft.spec"

OUTPUT = marked_kind("a graph that mpft-export wrote", b"\x12\x0bmpft-deploy")
"""Known by ModelProto.producer_name: field 2, 11 bytes."""

LOGIT_TOLERANCE = 1e-3
"""Between the encoder alone and behind the function: the same arithmetic, fused differently."""


def patchify_function(spec: DetectorSpec) -> onnx.FunctionProto:
    """texture_patchify at the inference rule of a spec, as an ONNX function.

    Input frames u8 [B, S, S, 3]. Outputs patches f32 [B, K, 3·p·p], which hold whole numbers from 0
    to 255 (TensorRT has no bytes between two nodes); positions i32 [B, K]; scores i32 [B, N].

    Raises:
        UsageError: the rule is `random`, whose 64-bit hash is not made of portable operators.
    """
    rule = spec.keep_rule
    if rule.kind == "random":
        raise UsageError(
            f"a standalone graph cannot hold the keep rule {rule}: its hash needs 64-bit integers "
            "that not every runtime has. Use a detector with smooth, textured or all."
        )
    b, p, n = GraphBuilder(), spec.patch, spec.cells
    grid = spec.crop.size // p

    # By way of float, which is exact: TensorRT converts bytes to no other type.
    floats = b.node("Cast", "frames.float", "frames", to=TensorProto.FLOAT)
    pixels = b.node("Cast", "pixels", floats, to=TensorProto.INT32)
    split_shape = b.constant("split.shape", np.array([0, grid, p, grid, 3 * p]))
    split = b.node("Reshape", "split", pixels, split_shape)
    ordered = b.node("Transpose", "ordered", split, perm=[0, 1, 3, 2, 4])
    cells_shape = b.constant("cells.shape", np.array([0, n, p, 3 * p]))
    cells = b.node("Reshape", "cells", ordered, cells_shape)

    scores = _scores(b, cells, p)
    if rule.kind == "all":
        index = b.constant("index", np.arange(n, dtype=np.int32))
        none = b.node("Mul", "none", scores, b.constant("zero", np.array(0, np.int32)))
        b.node("Add", "positions", none, index)
    else:
        _select(b, scores, n, spec.tokens, largest=rule.kind == "textured")

    rows_shape = b.constant("rows.shape", np.array([0, n, 3 * p * p]))
    rows = b.node("Reshape", "rows", cells, rows_shape)
    where = b.node("Cast", "positions.int64", "positions", to=TensorProto.INT64)
    where = b.node("Unsqueeze", "where", where, b.constant("where.axes", np.array([2])))
    kept = b.node("GatherND", "kept", rows, where, batch_dims=1)
    b.node("Cast", "patches", kept, to=TensorProto.FLOAT)

    constants = [
        helper.make_node("Constant", [], [name], name=name, value=tensor)
        for name, tensor in b.constants.items()
    ]
    return helper.make_function(
        DOMAIN,
        FUNCTION,
        inputs=["frames"],
        outputs=["patches", "positions", "scores"],
        nodes=constants + b.nodes,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )


def build_standalone(spec: DetectorSpec, encoder: onnx.ModelProto) -> onnx.ModelProto:
    """Put texture_patchify before an encoder graph.

    Args:
        spec: the detector's spec.
        encoder: as `build_graph` or `apply_precision` gives it; not changed.

    Returns:
        A model with the same bytes for the same input.
    """
    function = patchify_function(spec)
    call = helper.make_node(
        FUNCTION,
        ["frames"],
        ["patches", "positions", "scores"],
        name=FUNCTION,
        domain=DOMAIN,
    )
    size = spec.crop.size
    graph = helper.make_graph(
        [call, *encoder.graph.node],
        "mpft_standalone",
        [helper.make_tensor_value_info("frames", TensorProto.UINT8, ["batch", size, size, 3])],
        [
            *encoder.graph.output,
            helper.make_tensor_value_info("positions", TensorProto.INT32, ["batch", spec.tokens]),
        ],
        encoder.graph.initializer,
    )
    return helper.make_model(
        graph,
        opset_imports=[*encoder.opset_import, helper.make_opsetid(DOMAIN, 1)],
        functions=[function],
        ir_version=encoder.ir_version,
        producer_name=encoder.producer_name,
    )


@dataclass(frozen=True)
class Standalone:
    """A standalone model that was compared with its detector.

    model: an ONNX file's bytes; its metadata holds the spec as JSON, under SPEC_KEY.
    precision: as the export names it.
    batchable: whether a verdict does not depend on the images that share its batch.
    """

    model: bytes
    spec: DetectorSpec
    precision: str
    detector_seal: str
    certificate: Certificate
    batchable: bool


def make_standalone(request: Request, say: Say = silent) -> Standalone:
    """Build and certify an encoder, put texture_patchify before it, and check the whole.

    Raises:
        GateError: the encoder missed its budget, or the whole differs from its parts.
        UsageError: a backend other than ONNX Runtime, or a `random` rule.
    """
    if request.backend != "onnxruntime":
        raise UsageError(f"a standalone graph is certified on onnxruntime, not {request.backend}")
    built = build(request, say)
    spec = built.spec
    assert built.graph is not None  # ONNX Runtime's
    model = build_standalone(spec, built.graph)
    helper.set_model_props(
        model,
        {
            **{one.key: one.value for one in built.graph.metadata_props},
            SPEC_KEY: msgspec.json.encode(spec).decode(),
            "mpft.precision": str(built.precision),
            "mpft.detector_seal": built.detector.seal,
            "mpft.version": __version__,
        },
    )
    data = serialise(model)
    say("checking the standalone graph on the golden crops")
    _check_whole(data, built, request.threads)
    return Standalone(
        model=data,
        spec=spec,
        precision=str(built.precision),
        detector_seal=built.detector.seal,
        certificate=built.certificate,
        batchable=not built.mixes_views,
    )


def export_standalone(request: Request, say: Say = silent) -> Standalone:
    """Write the standalone graph to the file `request.out`, whole or not at all."""
    out = request.out
    if out.suffix != ".onnx":
        raise UsageError(f"{display(out)}: name a file that ends with .onnx")
    with reserve(out, OUTPUT, replace=request.overwrite, inputs=request.inputs, parents=True):
        made = make_standalone(request, say)
        write_output(out, made.model, OUTPUT)
    return made


def _scores(b: GraphBuilder, cells: str, patch: int) -> str:
    """Texture scores i32 [B, N] of cells i32 [B, N, p, 3·p]."""

    def cut(name: str, x: str, axis: int, start: int, stop: int) -> str:
        bounds = [b.constant(f"at.{value}", np.array([value])) for value in (start, stop, axis)]
        return b.node("Slice", name, x, *bounds)

    last = 3 * (patch - 1)
    left, right = cut("left", cells, 3, 0, last), cut("right", cells, 3, 3, last + 3)
    pairs = {
        "horizontal": (left, right),
        "vertical": (cut("top", cells, 2, 0, patch - 1), cut("bottom", cells, 2, 1, patch)),
        "diagonal": (
            cut("top_left", left, 2, 0, patch - 1),
            cut("bottom_right", right, 2, 1, patch),
        ),
        "antidiagonal": (
            cut("top_right", right, 2, 0, patch - 1),
            cut("bottom_left", left, 2, 1, patch),
        ),
    }
    axes = b.constant("pixel.axes", np.array([2, 3]))
    sums = []
    for name, (one, other) in pairs.items():
        change = b.node("Abs", f"{name}.change", b.node("Sub", f"{name}.difference", one, other))
        sums.append(b.node("ReduceSum", f"{name}.sum", change, axes, keepdims=0))
    straight = b.node("Add", "straight", sums[0], sums[1])
    slanted = b.node("Add", "slanted", sums[2], sums[3])
    return b.node("Add", "scores", straight, slanted)


def _select(b: GraphBuilder, scores: str, cells: int, count: int, *, largest: bool) -> None:
    """Node `positions`, i32 [B, K] ascending, from scores i32 [B, N].

    With v the K-th best score, cells better than v rank as their index, those equal to v as
    index + N, the rest as index + 2N: the K lowest ranks, all different, are the cells to keep.
    """
    better, reduce = ("Greater", "ReduceMin") if largest else ("Less", "ReduceMax")
    index = b.constant("index", np.arange(cells, dtype=np.int32))
    best, _ = _top_k(b, "best", scores, count, largest=largest)
    last = b.node(reduce, "last", best, b.constant("cell.axes", np.array([1])), keepdims=1)
    steps = [
        b.node("Cast", f"{name}.int32", b.node(op, name, *sides), to=TensorProto.INT32)
        for name, op, sides in (
            ("not_better", f"{better}OrEqual", (last, scores)),
            ("worse", better, (last, scores)),
        )
    ]
    step = b.node("Add", "step", *steps)
    offset = b.node("Mul", "offset", step, b.constant("cells.count", np.array(cells, np.int32)))
    rank = b.node("Add", "rank", index, offset)
    _, chosen = _top_k(b, "chosen", rank, count, largest=False)
    unsorted = b.node("Cast", "unsorted", chosen, to=TensorProto.INT32)
    _top_k(b, "ascending", unsorted, count, largest=False, values="positions")


def _top_k(
    b: GraphBuilder, name: str, x: str, count: int, *, largest: bool, values: str | None = None
) -> tuple[str, str]:
    """Values and indices (int64) of the K best along the last axis, best first."""
    outputs = (values or f"{name}.values", f"{name}.indices")
    k = b.constant("kept.count", np.array([count]))
    attributes: dict[str, Any] = {"axis": -1, "largest": int(largest), "sorted": 1}
    b.nodes.append(helper.make_node("TopK", [x, k], list(outputs), name=name, **attributes))
    return outputs


def _check_whole(model: bytes, built: Built, threads: int) -> None:
    """A GateError unless the model finds the oracle's positions and the encoder's logits."""
    from mpft_deploy.engine.ort import make_session

    spec = built.spec
    assert built.engine is not None
    session = make_session(model, threads=threads)
    for index, crop in enumerate(built.golden.crops):
        logit, positions = session.run(["logit", "positions"], {"frames": crop[None]})
        cut = texture_patchify(crop[None], spec.patch, spec.keep_rule, spec.keep_seed)
        expected = built.engine.run(cut.patches, cut.positions)
        difference = float(np.abs(logit - expected).max())
        if not np.array_equal(positions, cut.positions) or not difference <= LOGIT_TOLERANCE:
            raise GateError(
                f"the standalone graph differs from the engine on golden crop {index} (logit by "
                f"{difference:.3g}) and was not written. This is a fault of mpft-deploy or of "
                "this version of onnxruntime: please report it with both versions."
            )
