"""The product's float32 network against the tests' own in float64."""

from __future__ import annotations

import numpy as np
import pytest
import reference

from mpft_deploy.engine.reference import SMOOTHED, Reference
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.spec import Architecture


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("feature", ["token", "plain", "unit"])
@pytest.mark.parametrize("taps", [1, 2])
def test_logits_are_those_of_the_network(activation: str, feature: str, taps: int) -> None:
    arch = Architecture("tiny", 64, 3, 2, 128, 32, activation)  # type: ignore[arg-type]
    spec = reference.tiny_spec(architecture=arch, feature=feature, taps=taps, depth=3)
    weights = reference.random_weights(spec, 4)
    factors = np.exp(np.random.default_rng(0).normal(size=128)).astype(np.float32)
    weights[f"transformer.resblocks.1.{SMOOTHED}"] = factors
    crops = np.random.default_rng(1).integers(0, 256, (5, 32, 32, 3), np.uint8)
    cut = texture_patchify(crops, spec.patch, spec.keep_rule, spec.keep_seed)
    expected = reference.logits(spec, weights, cut)
    found = Reference(spec, weights).run(cut.patches, cut.positions)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-5)


def test_hidden_values_that_overflow_the_exponential_are_zero() -> None:
    spec = reference.tiny_spec()
    weights = reference.random_weights(spec)
    weights["transformer.resblocks.0.mlp.c_fc.bias"] -= 300
    crops = np.zeros((1, 32, 32, 3), np.uint8)
    cut = texture_patchify(crops, spec.patch, spec.keep_rule, spec.keep_seed)
    found = Reference(spec, weights).run(cut.patches, cut.positions)
    np.testing.assert_allclose(found, reference.logits(spec, weights, cut), atol=1e-5)
