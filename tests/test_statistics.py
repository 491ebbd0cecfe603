"""Our few statistics against SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from mpft_deploy.statistics import (
    auc,
    auc_change_error,
    auc_reach,
    balanced_accuracy,
    binomial_cdf,
    samples_needed,
    samples_to_decide,
    share_bounds,
    share_is_within,
    summary,
)

labelled = st.lists(
    st.tuples(st.integers(0, 1), st.integers(-3, 3)), min_size=2, max_size=40
).filter(lambda pairs: {label for label, _ in pairs} == {0, 1})


@given(labelled)
def test_auc_and_balanced_accuracy_equal_scikit_learn(pairs):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, scores = map(np.array, zip(*pairs, strict=True))
    assert auc(labels, scores) == pytest.approx(metrics.roc_auc_score(labels, scores))
    assert balanced_accuracy(labels, scores > 0) == pytest.approx(
        metrics.balanced_accuracy_score(labels, scores > 0)
    )


def test_one_class_has_no_auc():
    assert auc(np.ones(3), np.arange(3)) is None
    assert balanced_accuracy(np.zeros(3), np.ones(3)) is None


def test_summary_names_its_quantiles():
    values = summary(np.arange(101.0))
    assert values == {"mean": 50, "min": 0, "p50": 50, "p90": 90, "p99": 99, "max": 100}


@given(st.integers(0, 3000), st.integers(1, 3000), st.floats(0.0005, 0.9995))
def test_binomial_equals_scipy(hits, total, share):
    assert binomial_cdf(hits, total, share) == pytest.approx(
        binom.cdf(hits, total, share), abs=1e-9
    )


@pytest.mark.parametrize("percent", [1, 10, 50, 90, 99, 99.9])
def test_samples_needed_is_the_first_number_with_a_bound(percent):
    share = max(percent, 100 - percent) / 100
    needed = samples_needed(percent)
    assert share**needed <= 0.05 < share ** (needed - 1)


@given(st.integers(0, 300), st.integers(0, 300))
def test_bounds_of_a_share_are_those_of_clopper_and_pearson(hits, rest):
    stats = pytest.importorskip("scipy.stats")
    total = hits + rest
    low, high = share_bounds(hits, total)
    if total:  # one-sided at 95 %: the two ends of the two-sided interval at 90 %
        expected = stats.binomtest(hits, total).proportion_ci(0.9, "exact")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    else:
        assert (low, high) == (0, 1)


@given(st.integers(0, 60), st.integers(0, 600), st.floats(0.001, 0.6))
def test_a_share_is_within_as_its_bounds_say(hits, rest, limit):
    low, high = share_bounds(hits, hits + rest)
    expected = True if high <= limit else False if low > limit else None
    if min(abs(high - limit), abs(low - limit)) > 1e-9:
        assert share_is_within(hits, hits + rest, limit) is expected


def test_samples_that_would_decide():
    assert samples_to_decide(0, 20, 0.01) in (299, 300, 301, 302)
    assert share_is_within(0, 299, 0.01) is True
    assert share_is_within(0, 298, 0.01) is None
    assert samples_to_decide(1, 100, 0.01) is None  # it is the limit itself
    more = samples_to_decide(3, 100, 0.01)
    assert more is not None
    assert share_is_within(round(0.03 * more), more, 0.01) is False
    assert share_is_within(0, 0, 0.01) is None


def test_change_of_auc_is_bounded_as_often_as_promised():
    """Simulated: a rescored detector whose true loss is known; each bound fails in 5 % or fewer."""
    rng = np.random.default_rng(0)

    def draw(count):
        labels = np.arange(count) % 2
        before = rng.normal(labels, 1)
        return labels, before, before + rng.normal(0, 1, count)

    def change(labels, before, after):
        return auc(labels, after) - auc(labels, before)

    truth = change(*draw(400_000))
    found = [(change(*case), auc_change_error(*case)) for case in (draw(600) for _ in range(400))]
    for side in (1, -1):
        missed = sum(side * (value - truth) > auc_reach(error, 300) for value, error in found)
        assert binom.sf(missed - 1, 400, 0.05) > 0.001
        assert missed > 4  # nor are the bounds idle


def test_change_of_auc_of_few_images_is_never_thought_to_be_nought():
    labels = np.array([0, 1] * 10)
    assert auc_change_error(labels, labels, labels) == 0
    assert auc_reach(0.0, 10) == pytest.approx(1 - 0.05**0.1)
    assert auc_change_error(np.ones(3), np.ones(3), np.ones(3)) is None
