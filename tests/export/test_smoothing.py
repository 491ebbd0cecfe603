"""Smoothing changes how well a network quantises, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
import reference

from mpft_deploy.engine.ort import load
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.precision import apply_precision
from mpft_deploy.export.smoothing import activation_maxima, smooth
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
    smoothed = smooth(spec, weights, images[:20])
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
