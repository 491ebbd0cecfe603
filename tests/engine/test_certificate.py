"""Comparing, smoke tests and certificates."""

from __future__ import annotations

import json
import math

import msgspec
import numpy as np
import onnx
import pytest
import reference
from comparing import comparison
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from mpft_deploy.bundle import Certificate, Precision
from mpft_deploy.detector_folder import Golden
from mpft_deploy.engine.budget import Budget
from mpft_deploy.engine.certificate import (
    certify,
    compare,
    run_views,
    smoke_faults,
    smoke_test,
)
from mpft_deploy.engine.ort import load
from mpft_deploy.engine.reference import activation_maxima
from mpft_deploy.errors import InputError
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.precision import apply_precision
from mpft_deploy.export.recipes import precision_of
from mpft_deploy.export.smoothing import smooth
from mpft_deploy.files import canonical_json
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.spec import Calibration

logit = st.integers(-40, 40).map(lambda tenths: tenths / 10)
logits = st.lists(st.tuples(logit, logit), min_size=1, max_size=30)


@given(logits)
def test_flips_are_changes_of_side(pairs):
    result = comparison(pairs)
    expected = [(before >= 0) != (after >= 0) for before, after in pairs]
    assert result.flips == sum(expected) == len(result.flipped)
    assert result.flip_share == pytest.approx(sum(expected) / len(pairs))
    assert result.flip_bounds[0] <= result.flip_share <= result.flip_bounds[1]
    edge = math.log(0.6 / 0.4)
    crossed = [
        (before <= -edge and after >= edge) or (before >= edge and after <= -edge)
        for before, after in pairs
        if not any(math.isclose(abs(v), edge, rel_tol=1e-6) for v in (before, after))
    ]
    assert result.decisive_flips >= sum(crossed)
    assert result.decisive_flips <= result.flips
    sizes = [abs(flip.engine_logit - flip.reference_logit) for flip in result.flipped]
    assert sizes == sorted(sizes, reverse=True)


def test_certificate_counts_what_labels_tell():
    result = comparison([(-1, -1), (1, -2), (2, 2), (-2, -3)], labels=np.array([0, 1, 1, 0]))
    assert result.auc_change == pytest.approx(-0.25)
    assert result.balanced_accuracy_change == pytest.approx(-0.25)
    assert [flip.image for flip in result.flipped] == ["image 1"]
    assert result.flipped[0].decisive
    assert result.classes == (2, 2)


@given(st.lists(st.tuples(*[st.sampled_from([-9.0, -1.0, 0.0, 1.0, 9.0])] * 2), min_size=1))
def test_decisive_is_a_change_from_real_to_generated_or_back(pairs):
    """Whatever the band, also one that ends or begins at the threshold, and at its very edges."""
    at = Calibration().probability
    for unsure in ((at(-1), at(0)), (at(0), at(1)), (at(0), at(0)), (at(-1), at(1))):
        calibration = Calibration(threshold=at(0), unsure=unsure)
        found = compare(
            *np.array(pairs, np.float32).T,
            calibration,
            names=[""] * len(pairs),
            images_sha256="",
            reference_name="",
        )
        changed = [
            calibration.decide(before) != calibration.decide(after)
            and all(not unsure[0] < one < unsure[1] for one in (before, after))
            for before, after in ((at(one), at(other)) for one, other in pairs)
        ]
        assert found.decisive_flips == sum(changed)


def test_nothing_is_no_comparison():
    with pytest.raises(InputError, match="nothing to compare on"):
        comparison([])


NOT_FINITE = st.sampled_from([math.nan, math.inf, -math.inf])


@given(logits, NOT_FINITE, st.booleans(), st.integers(0, 29), st.booleans())
def test_a_logit_that_is_no_number_is_a_decisive_flip(pairs, odd, in_reference, place, labelled):
    place %= len(pairs)
    pairs[place] = (odd, pairs[place][1]) if in_reference else (pairs[place][0], odd)
    labels = np.arange(len(pairs)) % 2 if labelled else None
    result = comparison(pairs, labels)
    assert result.not_finite == 1
    assert result.decisive_flips >= 1
    worst = result.flipped[0]
    assert worst.image == f"image {place}"
    assert (worst.reference_logit is None) == in_reference
    assert result.logit_difference["max"] is None
    assert result.logit_difference["mean"] is None
    budget = Budget.parse("flips<=100%,decisive<=100%,logit<=1000,auc<=100%")
    certificate = certify(reference.tiny_spec(), comparison([(1, 1)]), [], result, budget)
    assert certificate.answer == "broken"
    stored = canonical_json(msgspec.to_builtins(certificate))
    assert msgspec.convert(json.loads(stored), Certificate) == certificate


def test_only_half_of_the_differences_are_not_finite():
    pairs = [(1.0, 1.25)] * 30 + [(1.0, math.nan)]
    found = comparison(pairs).logit_difference
    assert found["p50"] == 0.25
    assert found["p90"] == 0.25
    assert found["max"] is None
    assert "p99" not in found  # of 31 images


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_an_engine_of_no_numbers_fails_the_smoke_test(odd):
    """On crops all called real, where no decision changes."""
    real = [(-1.0 - index, odd) for index in range(4)]
    golden = Golden(np.zeros((4, 1, 1, 3), np.uint8), np.array([a for a, _ in real], np.float32))
    for certified in (None, comparison([(a, a) for a, _ in real])):
        faults = smoke_faults(comparison(real), golden, Precision("int8"), certified)
        assert any("not finite" in one for one in faults)
    reversed_ = comparison([(b, a) for a, b in real])
    assert smoke_faults(reversed_, golden, Precision("float32"))


@pytest.mark.parametrize(
    ("precision", "off", "fails"),
    [("fp32", 0.0005, False), ("fp32", 0.002, True), ("int8", 0.9, False), ("int8", 1.1, True)],
)
def test_smoke_test_without_a_certificate(precision, off, fails):
    values = np.linspace(-5, 5, 32, dtype=np.float32)
    golden = Golden(np.zeros((32, 1, 1, 3), np.uint8), values)
    now = comparison([(value, value + off) for value in values.tolist()])
    assert bool(smoke_faults(now, golden, precision_of(precision))) == fails


@pytest.fixture(scope="module")
def quantised():
    """An int8 graph of a detector with loud channels, the golden crops, and the certified test."""
    spec = reference.tiny_spec(depth=3)
    weights = reference.random_weights(spec)
    for block in range(spec.depth):
        for norm in ("ln_1", "ln_2"):
            weights[f"transformer.resblocks.{block}.{norm}.weight"][[3, 40]] *= 10
    crops = np.random.default_rng(5).integers(0, 256, (32, 32, 32, 3), np.uint8)
    cut = texture_patchify(crops, spec.patch, spec.keep_rule, spec.keep_seed)
    golden = Golden(crops, reference.logits(spec, weights, cut))
    smoothed = smooth(spec, weights, activation_maxima(spec, weights, crops)).weights
    graph = apply_precision(build_graph(spec, smoothed), "int8")
    return spec, golden, graph, smoked(graph, spec, golden)


def smoked(graph, spec, golden):
    """The smoke test of a graph."""
    logits = run_views(load(serialise(graph), threads=1), spec, golden.crops)
    return smoke_test(logits, golden, spec.calibration)


def faults_of(quantised, **edits):
    """Faults of the smoke test of the graph with constants changed, each by a function."""
    spec, golden, graph, certified = quantised
    changed = onnx.ModelProto()
    changed.CopyFrom(graph)
    left = dict(edits)
    for tensor in changed.graph.initializer:
        if change := left.pop(tensor.name, None):
            value = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(change(value).astype(value.dtype), tensor.name))
    assert not left
    now = smoked(changed, spec, golden)
    return now, smoke_faults(now, golden, precision_of("int8"), certified)


def test_noise_that_is_drawn_anew_passes(quantised):
    for step in range(1, 5):
        now, faults = faults_of(quantised, **{"ln_pre.bias": lambda b, s=step: b * (1 + s * 1e-6)})
        assert not faults
    assert now.logit_difference != quantised[3].logit_difference


C_FC, QKV = "block1.mlp.c_fc", "block0.attention.qkv"


@pytest.mark.parametrize(
    "edits",
    [
        {f"{C_FC}.matmul.weight.scale": lambda scale: scale * 1.2},
        {f"{C_FC}.bias": np.zeros_like},
        {f"{QKV}.matmul.weight.int8": lambda weight: np.clip(weight, -32, 32)},
        {f"{QKV}.matmul.weight.zero": lambda zero: zero + 4},
    ],
    ids=["scale", "bias", "saturated", "zero point"],
)
def test_a_kernel_that_computes_badly_fails(quantised, edits):
    now, faults = faults_of(quantised, **edits)
    assert faults, now.logit_difference
    assert "allowed" in faults[0]


def test_certificate_without_images_says_that_nothing_is_proven():
    certificate = certify(reference.tiny_spec(), comparison([(1, 1)]), [])
    assert certificate.answer == "unproven"
    assert certificate.budget is None
    assert "not proven" in certificate.summary
    assert certificate.reasons == []
