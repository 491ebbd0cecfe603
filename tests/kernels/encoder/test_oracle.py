"""The definition of the encoder: close to the float model it stands for, exact where it says so."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import reference
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from mpft_deploy.detector_folder import GOLDEN, WEIGHTS, Golden, read_spec
from mpft_deploy.kernels import Patches, texture_patchify
from mpft_deploy.kernels.encoder import Encoder, oracle
from mpft_deploy.kernels.encoder.network import (
    LIMIT,
    OUTLIER,
    Linear,
    Network,
    limits,
    make_network,
)
from mpft_deploy.kernels.encoder.oracle import F32
from mpft_deploy.spec import Architecture, Crop, DetectorSpec, KeepRule
from mpft_deploy.weights import Rows, Stored, quantise, stored_weights

ALL = ("qkv", "out", "fc", "proj")
SHIPPED = Path(__file__).parents[3] / "models" / "mpft-vit-b16"


def stored_detector(spec: DetectorSpec, stored: Stored, seed: int) -> dict[str, Rows | F32]:
    data = safetensors.numpy.save(quantise(reference.random_weights(spec, seed), stored))
    return stored_weights(data, spec, "weights")


def real(stored: dict[str, Rows | F32]) -> dict[str, F32]:
    return {
        name: value.real() if isinstance(value, Rows) else value for name, value in stored.items()
    }


def views(spec: DetectorSpec, keep: str, count: int) -> Patches:
    size = spec.crop.size
    images = np.random.default_rng(1).integers(0, 256, (count, size, size, 3), np.uint8)
    return texture_patchify(images, spec.patch, KeepRule.parse(keep), 0)


def logits(network: Network, cut: Patches) -> F32:
    pairs = zip(cut.patches, cut.positions, strict=True)
    return np.array([oracle.logit(network, *pair) for pair in pairs])


@pytest.mark.parametrize(
    ("taps", "feature"),
    [(1, "token"), (2, "token"), (1, "plain"), (2, "plain"), (1, "unit"), (2, "unit")],
)
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("stored", ["int8", "int6"])
def test_is_close_to_the_float_model(
    taps: int, feature: str, activation: str, stored: Stored
) -> None:
    architecture = Architecture("tiny", 64, 3, 2, 128, 32, activation)  # type: ignore[arg-type]
    spec = reference.tiny_spec(taps=taps, feature=feature, architecture=architecture)
    weights = stored_detector(spec, stored, seed=3)
    cut = views(spec, "textured:6", 12)
    expected = reference.logits(spec, real(weights), cut)
    wide, usual, narrow = (
        np.abs(logits(make_network(spec, weights, wide=layers), cut) - expected)
        for layers in (ALL, ("proj",), ())
    )
    assert wide.max() < WIDE_ERROR
    for rounded in (usual, narrow):  # to 8 bits, which must show
        assert 30 * wide.mean() < rounded.mean()
        assert rounded.max() < NARROW_ERROR


WIDE_ERROR, NARROW_ERROR = 3e-4, 0.12
"""Twice the largest that were measured, 1.5e-4 and 0.06, of logits around 1."""


@pytest.mark.parametrize("keep", ["smooth:1", "textured:63", "textured:127", "all"])
def test_any_number_of_cells(keep: str) -> None:
    spec = reference.tiny_spec(crop=Crop(size=128), keep="all")  # 256 cells
    weights = stored_detector(spec, "int6", seed=4)
    cut = views(spec, keep, 2)
    found = logits(make_network(spec, weights, wide=ALL), cut)
    expected = reference.logits(spec, real(weights), cut)
    np.testing.assert_allclose(found, expected, rtol=0, atol=WIDE_ERROR)


def test_the_shipped_detector_gives_its_golden_logits() -> None:
    """Of the float model; the fastest version stands in for the oracle where they were equal."""
    spec = read_spec(SHIPPED)
    golden = Golden.from_bytes((SHIPPED / GOLDEN).read_bytes(), spec, GOLDEN)
    weights = stored_weights((SHIPPED / WEIGHTS).read_bytes(), spec, "weights")
    keep = KeepRule.parse(spec.keep)
    cut = texture_patchify(golden.crops[:4], spec.patch, keep, spec.keep_seed)
    network = make_network(spec, weights, wide=ALL)
    found = Encoder(network).logits(cut.patches, cut.positions)
    np.testing.assert_array_equal(
        found[:1], [oracle.logit(network, cut.patches[0], cut.positions[0])]
    )
    # Of all 32, whose deviation is 4.6, the error is 0.0023 on average, 0.0064 at most.
    np.testing.assert_allclose(found, golden.logits[:4], rtol=0, atol=0.007)


def test_sums_of_heavy_rows_fit_into_32_bits() -> None:
    weight = np.full((2, 5000), 127, np.int8)
    weight[1] = 31
    limit, _ = limits(weight, wide=True)
    assert limit == (2**31 - 1) // (127 * 5000) < LIMIT
    assert limits(weight[1:], wide=True)[0] * 31 * 5000 < 2**31


# The parts.

FLOATS = st.floats(-1e4, 1e4, width=32, allow_subnormal=True)
ROWS = arrays.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 70)), elements=FLOATS)


@given(ROWS)
def test_tree_sum(x: F32) -> None:
    found, exact = oracle.tree_sum(x), x.astype(np.float64).sum(1)
    # Each number takes part in at most so many additions, each off by half a unit.
    steps = -(-x.shape[1] // oracle.LANES) + math.log2(oracle.LANES)
    bound = steps * 2.0**-24 * 1.01 * np.abs(x.astype(np.float64)).sum(1)
    assert found.dtype == np.float32
    assert (np.abs(found - exact) <= bound + 1e-44).all()


def test_the_order_of_tree_sum() -> None:
    """Numbers at which another order would give another sum."""
    x = np.zeros((1, 40), np.float32)
    x[0, [0, 16, 32]] = 2.0**24, 1, 1  # lane 0: both ones are lost
    x[0, [3, 11]] = 1, 1  # lanes 3 and 11: one half meets the other first
    assert oracle.tree_sum(x)[0] == 2.0**24 + 2


def layer_of(columns: int, *, wide: bool) -> Linear:
    weight = np.ones((1, columns), np.int8)
    ones = np.ones(1, np.float32)
    return Linear(weight, ones, ones, *limits(weight, wide=wide))


@given(ROWS, st.booleans())
def test_quantise(x: F32, wide: bool) -> None:
    whole, scale = oracle.quantise(x, layer_of(x.shape[1], wide=wide))
    assert np.array_equal(whole, np.rint(whole))
    slack = 1.001 * scale[:, None] / 2 + oracle.TINY
    assert (np.abs(whole * scale[:, None].astype(np.float64) - x) <= slack).all()
    largest, filled = np.abs(whole).max(1), scale != 0
    if wide:
        assert (largest[filled] == LIMIT).all()
    assert (largest <= LIMIT).all()
    usual = OUTLIER * np.abs(x).mean(1)
    small = np.abs(x) <= (1 - 1e-5) * usual[:, None]
    assert wide or (np.abs(whole)[small] <= 127).all()


def test_extreme_rows() -> None:
    rows = np.zeros((5, 20), np.float32)
    rows[1] = 1e-40  # denormal
    rows[2, 3], rows[2, 4] = -3e38, 1  # one huge outlier
    rows[3] = -0.5
    rows[4, 0] = 2.0**-100
    whole, scale = oracle.quantise(rows, layer_of(20, wide=True))
    np.testing.assert_array_equal(scale[:2], 0)
    np.testing.assert_array_equal(whole[:2], 0)
    assert [whole[2, 3], whole[2, 4]] == [-LIMIT, 0]
    assert [*whole[3], whole[4, 0]] == [-LIMIT] * 20 + [LIMIT]
    assert scale[4] == np.float32(2.0**-100) / np.float32(LIMIT)
    whole, _ = oracle.quantise(rows, layer_of(20, wide=False))
    assert whole[2, 3] == -round(127 * 20 / OUTLIER)
    assert whole[3, 0] == -round(127 / OUTLIER)


@given(arrays.arrays(np.float32, 30, elements=st.floats(-87, 87, width=32)))
def test_exponential(x: F32) -> None:
    exact = np.exp(x.astype(np.float64))
    assert (np.abs(oracle.exponential(x) - exact) <= 2 * np.spacing(exact.astype(np.float32))).all()


def test_exponential_ends() -> None:
    found = oracle.exponential(np.float32([-1e30, -87, 0, 87, 1e30]))
    assert found[0] == found[1] > 0
    assert found[3] == found[4]
    assert found[2] == 1


@given(arrays.arrays(np.float32, 30, elements=st.floats(-1e4, 1e4, width=32)))
def test_both_gelus(x: F32) -> None:
    x64 = x.astype(np.float64)
    exact = x64 * (1 + np.vectorize(math.erf)(x64 / math.sqrt(2))) / 2
    assert (np.abs(oracle.gelu(x) - exact) <= 5e-7 * (1 + np.abs(x64))).all()
    with np.errstate(over="ignore"):
        exact = x64 / (1 + np.exp(-1.702 * x64))
    assert (np.abs(oracle.quick_gelu(x) - exact) <= 1e-6 * np.maximum(1, np.abs(exact))).all()


@given(arrays.arrays(np.float32, (3, 33), elements=st.floats(-100, 100, width=32)))
def test_layer_norm(x: F32) -> None:
    rng = np.random.default_rng(0)
    weight, bias = rng.normal(size=(2, 33)).astype(np.float32)
    found = oracle.layer_norm(x, oracle.Norm(weight, bias))
    x64 = x.astype(np.float64)
    apart = x64 - x64.mean(1, keepdims=True)
    exact = apart / np.sqrt((apart**2).mean(1, keepdims=True) + 1e-5) * weight + bias
    # What is lost is lost in the mean.
    error = 1e-5 * (1 + np.abs(x64).max(1) / np.sqrt((apart**2).mean(1) + 1e-5))
    assert (np.abs(found - exact) <= error[:, None]).all()
