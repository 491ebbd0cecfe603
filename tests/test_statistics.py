"""Our few statistics against SciPy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpft_deploy.statistics import auc, balanced_accuracy, summary, wilson_interval

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


@given(st.integers(0, 300), st.integers(1, 300))
def test_wilson_equals_scipy(hits, extra):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(hits, hits + extra).proportion_ci(method="wilson")
    assert wilson_interval(hits, hits + extra) == pytest.approx(tuple(expected))


def test_summary_names_its_quantiles():
    values = summary(np.arange(101.0))
    assert values == {"mean": 50, "min": 0, "p50": 50, "p90": 90, "p99": 99, "max": 100}
