"""Smoothing changes how well a network quantises, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import reference

from mpft_deploy.engine.ort import load
from mpft_deploy.engine.reference import activation_maxima
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.precision import apply_precision
from mpft_deploy.export.smoothing import ranges_of, smooth
from mpft_deploy.kernels import texture_patchify


@pytest.fixture(scope="module")
def outliers():
    """A detector with a few loud channels, as trained transformers have; and its images."""
    spec = reference.tiny_spec(depth=3)
    weights = reference.random_weights(spec)
    for block in range(spec.depth):
        for norm in ("ln_1", "ln_2"):
            weights[f"transformer.resblocks.{block}.{norm}.weight"][[3, 40]] *= 40
    images = np.random.default_rng(2).integers(0, 256, (40, 32, 32, 3), np.uint8)
    return spec, weights, images


def error(spec, weights, images, expected):
    cut = texture_patchify(images, spec.patch, spec.keep_rule)
    engine = load(serialise(apply_precision(build_graph(spec, weights), "int8")), threads=1)
    singles = [
        engine.run(cut.patches[i : i + 1], cut.positions[i : i + 1])[0] for i in range(len(images))
    ]
    return np.abs(np.array(singles) - expected).mean()


def test_same_function_and_less_error(outliers):
    spec, weights, images = outliers
    smoothed = smooth(spec, weights, activation_maxima(spec, weights, images[:20])).weights
    cut = texture_patchify(images, spec.patch, spec.keep_rule)
    expected = reference.logits(spec, weights, cut)
    np.testing.assert_allclose(reference.logits(spec, smoothed, cut), expected, atol=1e-4)
    assert error(spec, smoothed, images, expected) < 0.6 * error(spec, weights, images, expected)


def test_maxima_cover_every_layer_and_image(outliers):
    spec, weights, images = outliers
    maxima = activation_maxima(spec, weights, images)
    assert len(maxima) == 3 * 4 + 1  # the last block's query apart
    half = activation_maxima(spec, weights, images[:20])
    other = activation_maxima(spec, weights, images[20:])
    for layer, value in maxima.items():
        np.testing.assert_allclose(value, np.maximum(half[layer], other[layer]), rtol=1e-4)


def test_ranges_are_what_the_smoothed_layers_read(outliers):
    spec, weights, images = outliers
    smoothed = smooth(spec, weights, activation_maxima(spec, weights, images))
    measured = ranges_of(activation_maxima(spec, smoothed.weights, images))
    assert smoothed.ranges == pytest.approx(measured, rel=1e-3)


def test_layers_left_in_float_are_not_smoothed(outliers):
    """Nor is anything multiplied before them."""
    spec, weights, images = outliers
    maxima = activation_maxima(spec, weights, images)
    left = smooth(spec, weights, maxima, ("*.mlp.c_proj", "block1.*")).weights
    graph = build_graph(spec, left)
    assert not any("smoothed" in node.name for node in graph.graph.node)
    for name, value in weights.items():
        if "blocks.1." in name or "c_proj" in name:
            np.testing.assert_array_equal(left[name], value)
    norm = "transformer.resblocks.0.ln_2.weight"
    assert (left[norm] != weights[norm]).any()
    cut = texture_patchify(images, spec.patch, spec.keep_rule)
    np.testing.assert_allclose(
        reference.logits(spec, left, cut), reference.logits(spec, weights, cut), atol=1e-4
    )
    assert len(smooth(spec, weights, maxima, ("*",)).weights) == len(weights)
