"""Calibration, scores, and golden crops."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpft_deploy.dataset import Sample
from mpft_deploy.detector.calibrate import cross_measured, fit_calibration, measure_held_out
from mpft_deploy.detector.golden import spread, synthetic_crops
from mpft_deploy.errors import GateError, InputError
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


def grouped(
    error: float, seed: int = 0, groups: int = 40, each: int = 60
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels, log odds of classes 4 apart, and groups that are off by `error`."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([0, 1], groups * each)
    off = np.repeat(rng.normal(0, error, 2 * groups), each)
    odds = 4 * labels - 2 + off + rng.normal(0, 1.5, len(labels))
    return labels, odds, [f"g{index // each}" for index in range(len(labels))]


@pytest.mark.parametrize("error", [0.0, 0.5, 2.0])
def test_the_error_between_groups_is_measured(error: float) -> None:
    held = measure_held_out(*grouped(error))
    assert held.separation == pytest.approx(4, abs=0.2 + error)
    assert held.spread == pytest.approx(1.5, rel=0.05)
    # An upper bound, so mostly above; with 40 groups not by much.
    assert 0.95 * error <= held.error <= 1.5 * error + 0.15
    assert (held.real, held.generated, held.images) == (40, 40, 4800)


def test_a_shift_of_both_classes_is_an_error_too() -> None:
    """Where the neutral point is not between the classes, every camera is off by that."""
    labels, odds, groups = grouped(0.1)
    assert measure_held_out(labels, odds + 1.0, groups).error > 1.0


def test_few_groups_are_surer_of_less_and_too_few_say_nothing() -> None:
    few = np.mean([measure_held_out(*grouped(1.0, seed, 3)).error for seed in range(20)])
    many = np.mean([measure_held_out(*grouped(1.0, seed, 30)).error for seed in range(20)])
    assert few > 1.2 * many
    with pytest.raises(InputError, match="2 groups of real images"):
        measure_held_out(*grouped(1.0, groups=2))
    labels, odds, groups = grouped(0.0)
    with pytest.raises(GateError, match="score no higher"):
        measure_held_out(1 - labels, odds, groups)


def test_the_error_of_small_groups_is_bounded_in_four_of_five_draws() -> None:
    """It was in three of five: the scatter of a group's few images was no part of the bound."""
    rng, groups, each, draws = np.random.default_rng(1), 10, 4, 400
    labels = np.repeat([0, 1], groups * each)
    names = [f"g{index // each}" for index in range(len(labels))]
    held = 0
    for _ in range(draws):
        off = np.repeat(rng.normal(0, np.repeat([1.0, 0.1], groups)), each)
        odds = 4 * labels - 2 + off + rng.normal(0, 2, len(labels))
        held += measure_held_out(labels, odds, names).error >= 1
    assert held / draws > 0.8 - 3 * math.sqrt(0.8 * 0.2 / draws)


def test_a_fit_is_measured_on_groups_that_it_left_out() -> None:
    labels, odds, groups = grouped(1.0, groups=8)
    held = cross_measured(labels, odds / 3 + 7, groups)
    assert held is not None
    assert held.error > 0.7
    assert cross_measured(labels, odds, ["one"] * len(labels)) is None
