"""Metrics against scikit-learn, and bootstrap weights against resampled images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from sklearn import metrics as sk

from mpft_deploy.evaluate.metrics import (
    BINS,
    FALSE_ALARMS,
    METRICS,
    bootstrap,
    interval,
    measure,
    resample,
)
from mpft_deploy.evaluate.scores import score
from mpft_deploy.spec import Calibration

CALIBRATION = Calibration(shift=0.2, scale=1.5, threshold=0.4, unsure=(0.25, 0.7))


def chances_of(logits: np.ndarray) -> np.ndarray:
    return np.array([CALIBRATION.probability(float(logit)) for logit in logits])


def measured(labels: np.ndarray, logits: np.ndarray) -> dict[str, float]:
    values = measure(labels, logits, chances_of(logits), CALIBRATION)[0]
    return dict(zip(METRICS, values.tolist(), strict=True))


@st.composite
def images(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Labels of both classes, and logits with many ties or none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    labels = np.repeat([0, 1], [draw(st.integers(1, 40)), draw(st.integers(1, 40))])
    logits = rng.normal(size=len(labels)) * draw(st.sampled_from([0.3, 3.0]))
    logits += labels * draw(st.floats(-1, 3))
    return labels, np.round(logits, draw(st.sampled_from([0, 1, 9])))


@settings(max_examples=60)
@given(images())
def test_metrics_equal_scikit_learn(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    labels, logits = drawn
    chances = chances_of(logits)
    called = chances >= CALIBRATION.threshold
    ours = measured(labels, logits)
    assert ours["auc"] == pytest.approx(sk.roc_auc_score(labels, logits))
    assert ours["ap"] == pytest.approx(sk.average_precision_score(labels, logits))
    assert ours["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(labels, called))
    assert ours["real_accuracy"] == pytest.approx(sk.recall_score(labels, called, pos_label=0))
    assert ours["generated_accuracy"] == pytest.approx(sk.recall_score(labels, called))
    alarms, hits, _ = sk.roc_curve(labels, logits, drop_intermediate=False)
    for rate in FALSE_ALARMS:
        expected = hits[alarms <= rate].max()
        assert ours[f"detection_{round(100 * rate)}"] == pytest.approx(expected)
    # The equal error rate: where a walk along the ROC curve meets the falling diagonal.
    walk = np.arange(len(alarms))

    def above(way: float) -> float:
        return float(np.interp(way, walk, alarms) + np.interp(way, walk, hits) - 1)

    crossing = brentq(above, 0, walk[-1])
    assert ours["eer"] == pytest.approx(np.interp(crossing, walk, alarms), abs=1e-9)


@settings(max_examples=30)
@given(images())
def test_calibration_error_and_band_by_their_definitions(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    labels, logits = drawn
    chances = chances_of(logits)
    weight = 0.5 / np.bincount(labels)[labels]
    expected = 0.0
    for low in range(BINS):
        inside = (chances >= low / BINS) & (chances < (low + 1) / BINS)
        gap = (weight * (labels - chances))[inside].sum()
        expected += abs(gap)
    ours = measured(labels, logits)
    assert ours["ece"] == pytest.approx(expected, abs=1e-9)
    verdicts = np.array([CALIBRATION.verdict(chance) for chance in chances])
    decided = verdicts != "unsure"
    right = verdicts == np.where(labels, "generated", "real")
    classes = [labels == 0, labels == 1]
    assert ours["coverage"] == pytest.approx(np.mean([decided[one].mean() for one in classes]))
    shares = [right[one & decided].mean() for one in classes if (one & decided).any()]
    if shares:
        assert ours["decided_accuracy"] == pytest.approx(np.mean(shares))
    else:
        assert np.isnan(ours["decided_accuracy"])


@settings(max_examples=20)
@given(images(), st.integers(0, 1000))
def test_a_weighted_image_counts_as_that_many(
    drawn: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    labels, logits = drawn
    weights = resample(labels, 3, np.random.default_rng(seed))
    assert weights[:, labels == 0].sum(1).tolist() == [np.sum(labels == 0)] * 3
    together = measure(labels, logits, chances_of(logits), CALIBRATION, weights)
    for one, expected in zip(weights, together, strict=True):
        repeated = np.repeat(np.arange(len(labels)), one.astype(int))
        alone = measured(labels[repeated], logits[repeated])
        np.testing.assert_allclose(list(alone.values()), expected, atol=1e-9)


def test_one_class_alone_has_only_its_own_figures() -> None:
    ours = measured(np.zeros(5, int), np.array([-3.0, -2, 0, 1, 4]))
    there = {name for name, value in ours.items() if not np.isnan(value)}
    assert there == {"real_accuracy", "coverage", "decided_accuracy"}


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(1)
    labels = np.repeat([0, 1], 60)
    place = list(METRICS).index("auc")
    held = 0
    for trial in range(60):
        logits = rng.normal(size=120) + labels
        _, samples = bootstrap(
            labels, logits, chances_of(logits), CALIBRATION, name=str(trial), resamples=300
        )
        low, high = interval(samples[:, place])
        held += low <= 0.7602 <= high  # Φ(1/√2)
    assert 50 <= held <= 60


def test_bootstrap_follows_from_its_name() -> None:
    labels, logits = np.repeat([0, 1], 10), np.linspace(-1, 1, 20)
    runs = [
        bootstrap(labels, logits, chances_of(logits), CALIBRATION, name=name, resamples=20)[1]
        for name in ("a", "a", "b")
    ]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).any()


@given(images())
@settings(max_examples=10)
def test_short_scores_agree_with_the_metrics(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    labels, logits = drawn
    plain = Calibration()
    chances = np.array([plain.probability(float(logit)) for logit in logits])
    values = dict(zip(METRICS, measure(labels, logits, chances, plain)[0].tolist(), strict=True))
    short = score(labels, logits)
    assert short.auc == pytest.approx(values["auc"])
    assert short.balanced_accuracy == pytest.approx(values["balanced_accuracy"])
