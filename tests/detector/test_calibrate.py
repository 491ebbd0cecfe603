"""Calibration, scores, and golden crops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpft_deploy.dataset import Sample
from mpft_deploy.detector.calibrate import fit_calibration
from mpft_deploy.detector.golden import spread, synthetic_crops
from mpft_deploy.errors import GateError
from mpft_deploy.evaluate.scores import score, score_by_set
from mpft_deploy.spec import Calibration


def drawn(real: int, generated: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and logits whose true odds at equal classes are exp(2 · (logit − 1))."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], [real, generated])
    return labels, np.where(labels, 1.5, 0.5) + rng.normal(0, math.sqrt(0.5), len(labels))


@pytest.mark.parametrize(("real", "generated"), [(6000, 6000), (9000, 3000)])
def test_calibration_finds_the_true_odds_whatever_the_share_of_classes(
    real: int, generated: int
) -> None:
    calibration = fit_calibration(*drawn(real, generated))
    assert calibration.shift == pytest.approx(-1, abs=0.05)
    assert calibration.scale == pytest.approx(2, rel=0.1)


@settings(deadline=None)
@given(gain=st.floats(0.01, 100), offset=st.floats(-50, 50), threshold=st.floats(0.05, 0.95))
def test_probabilities_do_not_depend_on_the_logits_unit(
    gain: float, offset: float, threshold: float
) -> None:
    labels, logits = drawn(40, 30)
    plain = fit_calibration(labels, logits)
    moved = fit_calibration(labels, gain * logits + offset)
    for value in (-1.0, 0.8, 3.0):
        assert moved.probability(gain * value + offset) == pytest.approx(
            plain.probability(value), abs=1e-3
        )
    at = Calibration(shift=offset, scale=gain, threshold=threshold, unsure=(0.0, 1.0))
    assert at.probability(at.logit_threshold) == pytest.approx(threshold, abs=1e-9)


def test_separable_logits_still_give_a_finite_scale() -> None:
    calibration = fit_calibration([0] * 20 + [1] * 20, [-3.0] * 20 + [3.0] * 20)
    assert 0 < calibration.scale < 10
    assert 0.9 < calibration.probability(3.0) < 1


@pytest.mark.parametrize("sign", [0.0, -1.0])
def test_logits_that_do_not_rank_are_refused(sign: float) -> None:
    labels, logits = drawn(50, 50)
    with pytest.raises(GateError, match="no better than chance"):
        fit_calibration(labels, sign * logits)


def test_score_counts_each_class() -> None:
    one = score([0, 0, 0, 1, 1], [-1.0, 0.2, -2.0, 0.0, 3.0])
    assert (one.real, one.generated) == (3, 2)
    assert one.real_accuracy == pytest.approx(2 / 3)
    assert one.generated_accuracy == 1.0
    assert one.balanced_accuracy == pytest.approx(5 / 6)
    assert one.auc == pytest.approx(5 / 6)
    alone = score([0, 0], [1.0, -1.0], threshold=2.0)
    assert (alone.auc, alone.balanced_accuracy, alone.real_accuracy) == (None, None, 1.0)


def test_scores_by_set_keep_sets_apart() -> None:
    samples = [Sample(Path(f"{i}"), i % 2, name) for name in "ba" for i in range(2)]
    scores = score_by_set(samples, [-1.0, 1.0, 1.0, -1.0])
    assert [(name, one.auc) for name, one in scores.items()] == [("a", 0.0), ("b", 1.0)]


@settings(deadline=None)
@given(st.lists(st.floats(-30, 30), min_size=1, max_size=80), st.integers(2, 40))
def test_spread_takes_the_ends_and_no_logit_twice(logits: list[float], count: int) -> None:
    chosen = spread(logits, count)
    assert len(chosen) == min(count, len(logits)) == len(set(chosen.tolist()))
    values = np.asarray(logits)[chosen]
    if len(chosen) > 1:
        assert values.min() == min(logits)
        assert values.max() == max(logits)


def test_spread_is_even_where_logits_crowd() -> None:
    logits = np.concatenate([np.zeros(500), np.linspace(0, 10, 101)])
    assert np.diff(np.sort(logits[spread(logits, 11)])).max() <= 1.1


def test_synthetic_crops_follow_from_the_seed_and_vary() -> None:
    crops = synthetic_crops(64, count=20, seed=1)
    assert crops.shape == (20, 64, 64, 3)
    assert crops.dtype == np.uint8
    np.testing.assert_array_equal(crops, synthetic_crops(64, count=20, seed=1))
    assert (crops != synthetic_crops(64, count=20, seed=2)).any()
    steps = np.abs(np.diff(crops.astype(int), axis=2)).mean((1, 2, 3))
    assert steps.min() < 3
    assert steps.max() > 20
    assert len({crop.tobytes() for crop in crops}) == 20
