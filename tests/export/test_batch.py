"""Whether a view's logit depends on its batch: read from the graph, and true."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from mpft_deploy.bundle import Precision, read_bundle
from mpft_deploy.cli.main import cli, run
from mpft_deploy.engine import load_engine
from mpft_deploy.export.materials import spread
from mpft_deploy.export.precision import mixes_views
from mpft_deploy.export.recipes import INTEGERS, RECIPES, precision_of
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.screen.screener import Screener
from mpft_deploy.screen.streams.settings import ScreenSettings


@pytest.mark.parametrize(
    ("options", "mixes"),
    [
        ([], False),
        (["--precision", "int8"], True),
        (["--precision", "int8", "--float-layers", "*.mlp.c_proj"], True),  # README's
        (["--precision", "int8-static", "--float-layers", "*.mlp.c_proj"], False),
    ],
)
def test_views_alone_and_in_a_batch(detector, tmp_path, caplog, options, mixes):
    out = tmp_path / "bundle"
    assert run(cli, "mpft", ["export", str(detector), str(out), *options]) == 0
    bundle = read_bundle(out)
    assert bundle.info.mixes_views == mixes
    engine = load_engine(bundle, threads=1)
    for batch in (0, 8):  # an operator's 8 is not taken
        asked = ScreenSettings(batch=batch).batch_of(bundle.info)
        assert Screener(bundle, engine, batch=asked).batch_size == (1 if mixes else 8)
    assert ("is not taken" in caplog.text) == mixes
    spec = bundle.spec
    # Views as unlike as two cameras': noise beside a dark one.
    crops = bundle.golden.crops[:2] // np.array([1, 20], np.uint8)[:, None, None, None]
    cut = texture_patchify(crops, spec.patch, spec.keep_rule, spec.keep_seed)
    alone = [engine.run(cut.patches[i : i + 1], cut.positions[i : i + 1])[0] for i in (0, 1)]
    moved = np.abs(engine.run(cut.patches, cut.positions) - alone).max()
    assert (moved > 1e-4) == mixes, moved


def graph_of(op, axes=None, *, attribute=False, **attributes):
    """A graph of one operator on f32 [batch, 4, 8]."""
    constants = []
    inputs = ["x"]
    if axes is not None and attribute:
        attributes["axes"] = axes
    elif axes is not None:
        constants.append(numpy_helper.from_array(np.array(axes, np.int64), "axes"))
        inputs.append("axes")
    nodes = [
        helper.make_node("Relu", ["input"], ["x"]),
        helper.make_node(op, inputs, ["y"], **attributes),
    ]
    graph = helper.make_graph(
        nodes,
        "one",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 4, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.mark.parametrize(
    ("graph", "mixes"),
    [
        (graph_of("ReduceMax", [-1]), False),  # a scale for each token
        (graph_of("ReduceMax", [1, 2]), False),
        (graph_of("ReduceMax", [0]), True),
        (graph_of("ReduceMax", [-3]), True),  # the first axis by another name
        (graph_of("ReduceMean", [-3, -1]), True),
        (graph_of("ReduceMax"), True),
        (graph_of("ReduceMax", []), True),
        (graph_of("ReduceMax", [], noop_with_empty_axes=1), False),
        (graph_of("Softmax", axis=-1), False),
        (graph_of("Softmax", axis=0), True),
        (graph_of("Softmax"), False),
        (graph_of("LayerNormalization", axis=-3), True),
    ],
)
def test_what_is_taken_over_the_batch(graph, mixes):
    assert mixes_views(graph) == mixes


def test_names_of_precisions_are_derived_from_what_they_are():
    for name in RECIPES:
        assert str(precision_of(name)) == name
    shown = precision_of("int8-static+fp16", ["*.mlp.c_proj", "block0.*"])
    assert shown == Precision("int8", "static", "float16", ("*.mlp.c_proj", "block0.*"))
    assert str(shown) == "int8-static+fp16 (float: *.mlp.c_proj, block0.*)"
    assert {str(precision_of(name)) for name in INTEGERS} == {"narrow", "twice", "wide"}


def test_calibration_is_spread_over_both_classes():
    """By the hash of names, not the first of a sorted list."""
    names = [f"0_real/{i:03}" for i in range(200)] + [f"1_fake/{i:03}" for i in range(40)]
    labels = np.array([0] * 200 + [1] * 40)
    chosen = spread(names, labels, 64)
    assert len(set(chosen)) == 64
    assert labels[chosen].sum() == 32
    assert max(i for i in chosen if i < 200) > 100
    assert labels[spread(names, labels, 128)].sum() == 40
    assert spread(names, labels, 64) == chosen
    unlabelled = spread(names, None, 64)
    assert 0 < labels[unlabelled].sum() < 30
    assert sorted(spread(names, labels, 1000)) == list(range(240))
