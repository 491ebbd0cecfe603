"""What TensorRT for RTX makes of a graph, read from its plan: which kernels there are, and of what.

A plan that was built with all details holds a text of its kernels and of the layers that each does.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pytest
import reference

from mpft_deploy.engine.reference import activation_maxima
from mpft_deploy.export.graph import build_graph
from mpft_deploy.export.precision import apply_precision, quantisable_layers
from mpft_deploy.export.smoothing import ranges_of
from mpft_deploy.spec import Architecture, Crop, DetectorSpec
from mpft_deploy.weights import F32

trt = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)

DEPTH = 3
MOVES = {"Resh", "Tran", "Slic", "Move", "Gath", "Conc", "Cast"}
"""What kernels' names call steps that reckon nothing."""


class Kernel(NamedTuple):
    """One launch: its kind and name, which is of what it does, and the layers that it does."""

    kind: str
    name: str
    layers: list[str]

    @property
    def copies(self) -> bool:
        """Whether it moves numbers, and reckons nothing but their type."""
        parts = re.findall("[A-Z][a-z]+", self.name.removeprefix("__myl_"))
        return bool(parts) and set(parts) <= {
            "Resh",
            "Tran",
            "Slic",
            "Move",
            "Gath",
            "Conc",
            "Cast",
        }


@pytest.fixture(scope="module")
def parts() -> tuple[DetectorSpec, dict[str, F32], dict[str, float]]:
    """A detector of the shipped one's form, narrow and low: spec, weights and ranges."""
    arch = Architecture(
        name="narrow",
        width=256,
        layers=DEPTH,
        heads=4,
        hidden=1024,
        output_dim=64,
        activation="quick_gelu",
    )
    spec = reference.tiny_spec(
        architecture=arch,
        depth=DEPTH,
        patch=16,
        crop=Crop(size=224),
        keep="textured:127",
        train_keep="smooth:127",
    )
    weights = reference.random_weights(spec)
    views = np.random.default_rng(1).integers(0, 256, (1, 224, 224, 3), np.uint8)
    return spec, weights, ranges_of(activation_maxima(spec, weights, views))


def kernels_of(parts: tuple[DetectorSpec, dict[str, F32], dict[str, float]], precision: str):
    """The kernels of a plan for two devices, as its text has them."""
    spec, weights, ranges = parts
    model = apply_precision(build_graph(spec, weights), precision, (), ranges)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert trt.OnnxParser(network, logger).parse(model.SerializeToString())
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.num_compute_capabilities = 2
    for index, name in enumerate(("SM86", "SM89")):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, *((batch, *rest) for batch in (1, 1, 8)))
    config.add_optimization_profile(profile)
    text = bytes(builder.build_serialized_network(network, config)).decode("latin-1")
    found = re.findall(
        r'^\s*(function|runtime_fusion|fully_connected)=\{ name="?([^"\s]+)"?.*?layers="(.*?)"',
        text,
        re.DOTALL | re.MULTILINE,
    )
    return [
        Kernel(kind, name, re.findall(r"ONNX Layer: ([^\]]+)\]", layers))
        for kind, name, layers in found
    ]


@pytest.mark.parametrize(
    ("precision", "most", "copies"), [("fp16", 44, 6), ("int8-static+fp16", 39, 5)]
)
def test_blocks_are_few_kernels(parts, precision: str, most: int, copies: int) -> None:
    kernels = kernels_of(parts, precision)
    for block in range(DEPTH):
        attention = [one for one in kernels if f"block{block}.attention.softmax" in one.layers]
        (one,) = attention
        assert "mha" in one.name
        assert {f"block{block}.attention.scores", f"block{block}.attention.mix"} <= {*one.layers}
        for norm in ("ln_1", "ln_2"):
            doing = [one for one in kernels if f"block{block}.{norm}" in one.layers]
            # That of the last block, of which the class token alone goes on, is cut in two.
            assert len(doing) == (2 if (block, norm) == (DEPTH - 1, "ln_1") else 1)
            if precision != "fp16" and len(doing) == 1:  # with its residual and quantisation
                assert any(layer.endswith(".quantise") for layer in doing[0].layers)
    assert sum(one.copies for one in kernels) <= copies
    assert len(kernels) <= most


def test_quantised_layers_multiply_integers(parts) -> None:
    """With scales in float32 the weights of attention's inputs became floats, for every batch."""
    spec, weights, _ = parts
    kernels = kernels_of(parts, "int8-static+fp16")
    for layer in quantisable_layers(build_graph(spec, weights)):
        products = [one for one in kernels if f"{layer}.matmul" in one.layers]
        (product,) = [one for one in products if one.kind == "fully_connected"]
        assert f"{layer}.matmul.weight" in product.layers
    assert not [one for one in kernels if one.name.startswith("__myl_CastMul")]
