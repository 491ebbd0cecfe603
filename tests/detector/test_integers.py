"""Heads that are fitted on what the network in integers gives."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import safetensors.numpy

from mpft_deploy.detector.integers import IntegerTower
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.kernels.encoder import Encoder, make_network
from mpft_deploy.spec import KeepRule
from mpft_deploy.weights import Stored, quantise, stored_weights


@pytest.mark.parametrize("feature", ["plain", "unit"])
@pytest.mark.parametrize("stored", ["int8", "int6", "float32"])
def test_a_head_on_these_features_gives_the_engine_s_logits(stored: Stored, feature: str) -> None:
    spec = reference.tiny_spec(taps=2, feature=feature)
    weights = reference.random_weights(spec, seed=5)
    crops = np.random.default_rng(5).integers(0, 256, (6, 32, 32, 3), np.uint8)
    cut = texture_patchify(crops, spec.patch, KeepRule.parse("textured:6"))
    features = IntegerTower(spec, weights, stored, threads=1).features(*cut[:2])
    assert features.shape == (6, 2 * spec.architecture.output_dim)

    # The head, of one row, is rounded where matrices are.
    whole = stored_weights(safetensors.numpy.save(quantise(weights, stored)), spec, "weights")
    head = whole["head.weight"]
    head = head if isinstance(head, np.ndarray) else head.real()
    network = make_network(spec, whole)
    expected = Encoder(network, 1).logits(*cut[:2])
    # Float32 in another order; narrow rounding alone is thousands of times more.
    np.testing.assert_allclose(features @ head[0] + network.head_bias, expected, rtol=0, atol=1e-5)
