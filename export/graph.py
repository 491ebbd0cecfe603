"""The encoder as an ONNX graph, written straight from the weights; no tracing, no torch.

Inputs `patches` u8 [B, K, 3·p·p] and `positions` i32 [B, K], output `logit` f32 [B]. K is fixed,
B is free. Mean and standard deviation are folded into the first matmul, the attention scale into
the query weights, projection and head into one vector. Of the last block only the class token is
computed, since nothing else of it reaches the logit. Shape operands are constants; no int64 tensor
is computed.

The layers of the blocks are multiplied in float32, or by a detector's own integers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from mpft_deploy.engine.reference import SMOOTHED
from mpft_deploy.errors import InputError
from mpft_deploy.export.integers import METADATA, Integers
from mpft_deploy.kernels.encoder.oracle import TINY
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.weights import F32, detector_shapes

OPSET = 20  # the first with Gelu
IR_VERSION = 10
LAYER_NORM_EPSILON = 1e-5  # of PyTorch's LayerNorm, which CLIP uses unchanged


class GraphBuilder:
    """Collects nodes and constants; a node's name is also that of its first output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, onnx.TensorProto] = {}

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        """Store a constant once and return its name."""
        if name not in self.constants:
            array = np.ascontiguousarray(value).reshape(np.shape(value))
            self.constants[name] = numpy_helper.from_array(array, name)
        return name

    def node(self, op: str, name: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return that output's name."""
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def linear(self, name: str, x: str, weight: F32 | Integers, bias: F32) -> str:
        """x [..., I] · weight [O, I]ᵀ + bias [O]; nodes `NAME.matmul` and `NAME`."""
        if isinstance(weight, Integers):
            product = self._integer_product(name, x, weight)
        else:
            product = self.node(
                "MatMul", f"{name}.matmul", x, self.constant(f"{name}.weight", weight.T)
            )
        return self.node("Add", name, product, self.constant(f"{name}.bias", bias))

    def _integer_product(self, name: str, x: str, weight: Integers) -> str:
        """x [B, T, I] · weight [O, I]ᵀ, of x as integers of 16 bits with one scale a token.

        As `oracle.linear` has it. Integers are a high and a low byte, each 128 larger than what it
        stands for, and both bytes of all tokens are multiplied at once: MatMulInteger has the sums
        of either exactly, and of weights up to 64 ONNX Runtime has too on processors that would
        saturate otherwise.
        """

        def number(value: float) -> str:
            return self.constant(f"number.{value:g}", np.array(value, np.float32))

        def node(op: str, part: str, *inputs: str, **attributes: Any) -> str:
            return self.node(op, f"{name}.{part}", *inputs, **attributes)

        last = self.constant("last", np.array([-1]))
        most = node("ReduceMax", "x.most", node("Abs", "x.magnitude", x), last, keepdims=1)
        seen = node("Max", "x.seen", most, number(float(TINY)))
        scale = node("Div", "x.scale", seen, number(float(weight.limit)))
        # ONNX Runtime would make one division of 1 / scale · x, which rounds otherwise.
        one = node("Div", "x.one", scale, scale)
        scaled = node("Mul", "x.scaled", x, node("Div", "x.inverse", one, scale))
        whole = node("Round", "x.whole", scaled)  # halves to even
        above = node(
            "Add", "x.above", node("Mul", "x.share", whole, number(1 / 256)), number(128.5)
        )
        high = node("Floor", "x.high", above)
        rest = node("Sub", "x.rest", whole, node("Mul", "x.high.whole", high, number(256)))
        low = node("Add", "x.low", rest, number(128 * 256 + 128))
        both = node("Concat", "x.both", high, low, axis=1)
        sums = node(
            "MatMulInteger",
            "matmul",
            node("Cast", "x.bytes", both, to=TensorProto.UINT8),
            self.constant(f"{name}.weight", weight.integers.T),
            self.constant("zero.byte", np.array(128, np.uint8)),
        )
        parts = _split(self, f"{name}.sums", sums, ("high", "low"), axis=1)
        shifted = node("Mul", "high", parts[0], self.constant("byte", np.array(256, np.int32)))
        total = node("Cast", "sum", node("Add", "both", shifted, parts[1]), to=TensorProto.FLOAT)
        rows = node("Mul", "rows", total, self.constant(f"{name}.weight.scale", weight.scale))
        return node("Mul", "product", rows, scale)

    def layer_norm(self, name: str, x: str, weight: F32, bias: F32) -> str:
        """LayerNorm over the last axis."""
        return self.node(
            "LayerNormalization",
            name,
            x,
            self.constant(f"{name}.weight", weight),
            self.constant(f"{name}.bias", bias),
            axis=-1,
            epsilon=LAYER_NORM_EPSILON,
        )


def build_graph(
    spec: DetectorSpec,
    weights: Mapping[str, F32],
    tokens: int | None = None,
    integers: Mapping[str, Integers] = MappingProxyType({}),
) -> onnx.ModelProto:
    """Write the encoder graph.

    Args:
        spec: the detector's spec.
        weights: float32, by open_clip's names, see `DetectorFolder`; a block may have SMOOTHED too.
        tokens: K; None takes the spec's.
        integers: in the place of the blocks' matrices, by the same names.

    Returns:
        A model with the same bytes for the same input.

    Raises:
        InputError: a weight is missing, extra or of the wrong shape.
    """
    count = spec.tokens if tokens is None else tokens
    _check_weights(spec, weights)
    builder = GraphBuilder()
    x = _embed(builder, spec, weights)
    read = []
    for block in range(spec.depth):
        last = block == spec.depth - 1
        x = _block(builder, spec, weights, integers, block, class_only=last)
        if block >= spec.depth - spec.taps:
            token = f"features.block{block}"
            read.append(x if last else builder.node("Gather", token, x, "first", axis=1))
    _head(builder, spec, weights, read)
    columns = 3 * spec.patch**2
    graph = helper.make_graph(
        builder.nodes,
        "mpft_encoder",
        [
            helper.make_tensor_value_info("patches", TensorProto.UINT8, ["batch", count, columns]),
            helper.make_tensor_value_info("positions", TensorProto.INT32, ["batch", count]),
        ],
        [helper.make_tensor_value_info("logit", TensorProto.FLOAT, ["batch"])],
        list(builder.constants.values()),
    )
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="mpft-deploy",
    )
    if integers:
        helper.set_model_props(model, METADATA)
    return model


def serialise(model: onnx.ModelProto) -> bytes:
    """The model's bytes, the same for the same model."""
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def _check_weights(spec: DetectorSpec, weights: Mapping[str, F32]) -> None:
    expected = detector_shapes(spec)
    for block in range(spec.depth):
        name = f"transformer.resblocks.{block}.{SMOOTHED}"
        if name in weights:
            expected[name] = (spec.architecture.hidden,)
    wrong = {
        "missing": sorted(expected.keys() - weights.keys()),
        "unexpected": sorted(weights.keys() - expected.keys()),
        "of another shape": [
            f"{name} {list(weights[name].shape)} (expected {list(shape)})"
            for name, shape in expected.items()
            if name in weights and weights[name].shape != shape
        ],
    }
    if any(wrong.values()):
        raise InputError(
            f"the weights do not fit {spec.architecture.name} at depth {spec.depth}: "
            + "; ".join(f"{kind}: {', '.join(names)}" for kind, names in wrong.items() if names)
        )


def _embed(builder: GraphBuilder, spec: DetectorSpec, weights: Mapping[str, F32]) -> str:
    """Patches and positions → tokens f32 [B, K + 1, D], class token first."""
    kernel = weights["conv1.weight"].astype(np.float64)  # [D, 3, p, p]
    std = 255 * np.asarray(spec.std)
    shift = np.asarray(spec.mean) / np.asarray(spec.std)
    # Σ w · (x / 255 − mean) / std = Σ (w / 255 std) · x − Σ w · mean / std
    folded = (kernel / std[None, :, None, None]).transpose(0, 2, 3, 1).reshape(len(kernel), -1)
    bias = -(kernel.sum((2, 3)) * shift).sum(1)

    pixels = builder.node("Cast", "patches.float", "patches", to=TensorProto.FLOAT)
    embedded = builder.linear(
        "patch_embedding", pixels, folded.astype(np.float32), bias.astype(np.float32)
    )
    table = weights["positional_embedding"]
    where = builder.node(
        "Gather",
        "position_embedding",
        builder.constant("position_embedding.table", table[1:]),
        "positions",
        axis=0,
    )
    cells = builder.node("Add", "cell_tokens", embedded, where)
    # The class token is the same for each image: looked up by a position multiplied by zero, so
    # that it takes the batch size without any arithmetic on shapes.
    first = builder.constant("first", np.array([0], np.int32))
    one = builder.node("Gather", "class_token.position", "positions", first, axis=1)
    zero = builder.node(
        "Mul", "class_token.zero", one, builder.constant("zero", np.array(0, np.int32))
    )
    row = builder.constant(
        "class_token.table", (weights["class_embedding"] + table[0]).astype(np.float32)[None]
    )
    class_token = builder.node("Gather", "class_token", row, zero, axis=0)
    tokens = builder.node("Concat", "tokens", class_token, cells, axis=1)
    return builder.layer_norm("ln_pre", tokens, weights["ln_pre.weight"], weights["ln_pre.bias"])


def _block(
    builder: GraphBuilder,
    spec: DetectorSpec,
    weights: Mapping[str, F32],
    integers: Mapping[str, Integers],
    index: int,
    *,
    class_only: bool,
) -> str:
    """One pre-norm residual block; with `class_only`, its output for the class token alone."""
    prefix, name = f"transformer.resblocks.{index}.", f"block{index}"
    own = {
        key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)
    }

    def matrix(part: str) -> F32 | Integers:
        return integers.get(f"{prefix}{part}", own[part])

    x = "ln_pre" if index == 0 else f"block{index - 1}"
    normal = builder.layer_norm(f"{name}.ln_1", x, own["ln_1.weight"], own["ln_1.bias"])
    attended = _attention(
        builder, spec, own, matrix, f"{name}.attention", normal, class_only=class_only
    )
    if class_only:
        x = builder.node("Gather", f"{name}.class_token", x, "first", axis=1)
    x = builder.node("Add", f"{name}.attended", x, attended)
    normal = builder.layer_norm(f"{name}.ln_2", x, own["ln_2.weight"], own["ln_2.bias"])
    hidden = builder.linear(
        f"{name}.mlp.c_fc", normal, matrix("mlp.c_fc.weight"), own["mlp.c_fc.bias"]
    )
    active = _activation(builder, spec, f"{name}.mlp.activation", hidden)
    if SMOOTHED in own:
        factors = builder.constant(f"{name}.{SMOOTHED}", own[SMOOTHED])
        active = builder.node("Mul", f"{name}.mlp.smoothed", active, factors)
    out = builder.linear(
        f"{name}.mlp.c_proj", active, matrix("mlp.c_proj.weight"), own["mlp.c_proj.bias"]
    )
    return builder.node("Add", name, x, out)


def _attention(
    builder: GraphBuilder,
    spec: DetectorSpec,
    own: Mapping[str, F32],
    matrix: Callable[[str], F32 | Integers],
    name: str,
    x: str,
    *,
    class_only: bool,
) -> str:
    """Multi-head self-attention; with `class_only`, for the query of the class token alone."""
    width, heads = spec.architecture.width, spec.architecture.heads
    factors = np.ones(3 * width)  # the root of a head's size, on queries alone
    factors[:width] = (width // heads) ** -0.5
    weight = matrix("attn.in_proj_weight")
    if isinstance(weight, Integers):
        weight = weight.times(factors)
    else:
        weight = (weight * factors[:, None]).astype(np.float32)
    bias = (own["attn.in_proj_bias"] * factors).astype(np.float32)
    if class_only:
        first = builder.node("Gather", f"{name}.class_token", x, "first", axis=1)
        query = builder.linear(f"{name}.q", first, weight[:width], bias[:width])
        both = builder.linear(f"{name}.kv", x, weight[width:], bias[width:])
        parts = [query, *_split(builder, f"{name}.kv", both, ("k", "v"))]
    else:
        qkv = builder.linear(f"{name}.qkv", x, weight, bias)
        parts = _split(builder, f"{name}.qkv", qkv, ("q", "k", "v"))
    shape = builder.constant(f"heads{heads}.shape", np.array([0, 0, heads, width // heads]))
    q, k, v = (
        builder.node(
            "Transpose",
            f"{name}.{part}.heads",
            builder.node("Reshape", f"{name}.{part}.split", value, shape),
            perm=perm,
        )
        for part, value, perm in zip(
            "qkv", parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True
        )
    )
    share = builder.node(
        "Softmax", f"{name}.softmax", builder.node("MatMul", f"{name}.scores", q, k), axis=-1
    )
    mixed = builder.node("MatMul", f"{name}.mix", share, v)
    rows = builder.node("Transpose", f"{name}.rows", mixed, perm=[0, 2, 1, 3])
    merged = builder.node(
        "Reshape", f"{name}.merged", rows, builder.constant("width.shape", np.array([0, 0, width]))
    )
    return builder.linear(
        f"{name}.out_proj", merged, matrix("attn.out_proj.weight"), own["attn.out_proj.bias"]
    )


def _split(
    builder: GraphBuilder, name: str, x: str, parts: tuple[str, ...], axis: int = -1
) -> list[str]:
    """Equal parts along an axis."""
    outputs = [f"{name}.{part}" for part in parts]
    builder.nodes.append(
        helper.make_node(
            "Split", [x], outputs, name=f"{name}.split", axis=axis, num_outputs=len(parts)
        )
    )
    return outputs


def _activation(builder: GraphBuilder, spec: DetectorSpec, name: str, x: str) -> str:
    if spec.architecture.activation == "gelu":
        return builder.node("Gelu", name, x)
    # OpenAI's QuickGELU: x · sigmoid(1.702 x).
    factor = builder.constant("quick_gelu.factor", np.array(1.702, np.float32))
    steep = builder.node("Mul", f"{name}.steep", x, factor)
    gate = builder.node("Sigmoid", f"{name}.gate", steep)
    return builder.node("Mul", name, x, gate)


def _head(
    builder: GraphBuilder, spec: DetectorSpec, weights: Mapping[str, F32], read: Sequence[str]
) -> str:
    """Class tokens f32 [B, 1, D] of the blocks that are read → logit f32 [B]."""
    x = read[0] if len(read) == 1 else builder.node("Concat", "features", *read, axis=1)
    normal = builder.layer_norm("ln_post", x, weights["ln_post.weight"], weights["ln_post.bias"])
    vector = weights["head.weight"].ravel()
    if spec.feature == "unit":  # what is divided by its length must be there
        proj = builder.constant("proj", weights["proj"])
        projected = builder.node("MatMul", "proj.matmul", normal, proj)
        axis = builder.constant("last", np.array([-1]))
        length = builder.node("ReduceL2", "length", projected, axis, keepdims=1)
        normal = builder.node("Div", "unit", projected, length)
    elif spec.feature == "plain":
        parts = vector.astype(np.float64).reshape(len(read), -1)
        vector = (parts @ weights["proj"].astype(np.float64).T).ravel().astype(np.float32)
    rows = builder.node("Flatten", "head.rows", normal, axis=1)
    product = builder.node("MatMul", "head.matmul", rows, builder.constant("head.weight", vector))
    bias = builder.constant("head.bias", np.array(weights["head.bias"][0], np.float32))
    return builder.node("Add", "logit", product, bias)
