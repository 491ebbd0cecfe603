"""Layers: operators fold into the network's names, and their times account for the engine's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import reference

from mpft_deploy.errors import InputError
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.precision import apply_precision
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.profile.layer_names import OTHER, fused_path, layer_path, names_within
from mpft_deploy.profile.layers import fold
from mpft_deploy.profile.operators import (
    OperatorTimes,
    onnxruntime_operators,
    openvino_operators,
    tensorrt_operators,
)
from mpft_deploy.profile.work import count_work
from mpft_deploy.spec import Architecture, Crop

DEPTH = 2
SPEC = reference.tiny_spec(
    architecture=Architecture(
        name="b16",
        width=768,
        layers=DEPTH,
        heads=12,
        hidden=3072,
        output_dim=512,
        activation="quick_gelu",
    ),
    depth=DEPTH,
    patch=16,
    crop=Crop(size=224),
    keep="textured:98",
    train_keep="smooth:98",
)
"""CLIP B/16 in all but depth."""


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("block7.attention.qkv.matmul.integer", ("block 7", "attention", "qkv")),
        ("block7.attention.q.heads", ("block 7", "attention", "heads")),
        ("block5.attention.q.matmul", ("block 5", "attention", "q")),
        ("block0.attention.merged", ("block 0", "attention", "mix")),
        ("block0.attention.scores.fp32", ("block 0", "attention", "scores")),
        ("block11.mlp.activation/QuickGeluFusion/", ("block 11", "mlp", "activation")),
        ("block11.mlp.c_fc.matmul/DequantizationMultiply", ("block 11", "mlp", "c_fc")),
        ("block3.ln_2", ("block 3", "ln_2")),
        ("block3", ("block 3", "residual")),
        ("block3.attended", ("block 3", "residual")),
        ("patch_embedding.matmul", ("embedding", "tokens")),
        ("ln_pre", ("embedding", "ln_pre")),
        ("head.matmul", ("head",)),
        ("logit", ("head",)),
        ("Constant_17", OTHER),
        ("blocks", OTHER),
    ],
)
def test_names_lead_to_places(name: str, path: tuple[str, ...]) -> None:
    assert layer_path(name) == path


def test_fused_names_lead_to_the_place_of_most() -> None:
    text = "__myl_Fc[block2.mlp.c_fc.matmul + block2.mlp.c_fc + block2.mlp.activation.gate]"
    assert fused_path(names_within(text)) == ("block 2", "mlp", "c_fc")
    assert fused_path(names_within("Reformatting CopyNode")) == OTHER


@pytest.fixture(scope="module")
def graphs() -> dict[str, bytes]:
    """Of random weights, with few tokens so that they are quick."""
    graph = build_graph(SPEC, reference.random_weights(SPEC), tokens=48)
    return {name: serialise(apply_precision(graph, name)) for name in ("fp32", "bf16", "int8")}


def feeds(tokens: int = 48) -> dict[str, np.ndarray]:
    view = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    cut = texture_patchify(view, SPEC.patch, SPEC.keep_rule)
    return {"patches": cut.patches[:, :tokens], "positions": cut.positions[:, :tokens]}


def check(measure: Callable[[], OperatorTimes], graph: bytes) -> None:
    for _ in range(10):  # another process may take the processor between two operators
        layers = fold(measure(), count_work(graph), None)
        attributed = sum(layer.ms for layer in layers.layers)
        assert attributed + layers.unattributed_ms == pytest.approx(layers.engine_ms)
        if 0.9 * layers.engine_ms <= attributed <= 1.1 * layers.engine_ms:
            break
    else:
        pytest.fail(f"of {layers.engine_ms} ms {attributed} are told, ten times")
    paths = {layer.path for layer in layers.layers}
    for block in range(DEPTH):
        linear = "kv" if block == DEPTH - 1 else "qkv"
        for rest in (("attention", linear), ("mlp", "c_fc"), ("mlp", "c_proj")):
            assert (f"block {block}", *rest) in paths
    elsewhere = sum(layer.ms for layer in layers.layers if layer.path == OTHER)
    assert elsewhere <= 0.05 * layers.engine_ms
    mlp = sum(layer.ms for layer in layers.layers if layer.path[1:2] == ("mlp",))
    assert mlp > 0.2 * layers.engine_ms


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_onnxruntime_layers_add_up(graphs: dict[str, bytes], precision: str) -> None:
    graph = graphs[precision]
    check(lambda: onnxruntime_operators(graph, feeds(), threads=1, runs=10), graph)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_layers_add_up(graphs: dict[str, bytes], precision: str) -> None:
    pytest.importorskip("openvino")
    graph = graphs[precision]
    check(lambda: openvino_operators(graph, feeds(), threads=1, runs=10), graph)


@pytest.mark.parametrize(("precision", "size"), [("fp32", 4), ("int8", 1), ("bf16", 2)])
def test_work_of_a_known_layer(graphs: dict[str, bytes], precision: str, size: int) -> None:
    work = count_work(graphs[precision])
    own = work["block 0", "mlp", "c_fc"]
    assert own.flops == 2 * 49 * 768 * 3072
    assert own.precision == precision
    weights = 768 * 3072 * size
    assert weights < own.bytes < weights + 49 * (768 + 3072) * 4 + 40_000
    # Of the last block only the class token's row is computed.
    assert work[f"block {DEPTH - 1}", "mlp", "c_fc"].flops == 2 * 768 * 3072
    assert work["block 0", "attention", "scores"].flops == 2 * 12 * 49 * 49 * 64


def test_tensorrt_profile_is_folded(tmp_path: Path) -> None:
    layers = [
        {"count": 100},
        {"name": "block0.mlp.c_fc.matmul + block0.mlp.c_fc", "averageMs": 0.5},
        {"name": "Reformatting CopyNode for Input Tensor 0", "averageMs": 0.1},
    ]
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(layers))
    times = tensorrt_operators(path)
    found = fold(times, {}, None)
    assert [(layer.path, layer.ms) for layer in found.layers] == [
        (("block 0", "mlp", "c_fc"), 0.5),
        (OTHER, 0.1),
    ]
    assert (times.runs, found.engine_ms) == (100, pytest.approx(0.6))
    nested = "[" * 100_000
    nothing = '[{"count": 1}]'
    cut_off = '[{"count": 1}, {"name": 3}]'
    for content in ("", "[]", "{}", nothing, cut_off, '[{"count": NaN}]', nested):
        path.write_text(content)
        with pytest.raises(InputError, match="trtexec"):
            tensorrt_operators(path)
