"""Counting flips and judging them."""

from __future__ import annotations

import contextlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpft_deploy.engine.certificate import (
    CLEAR,
    METRICS,
    Budget,
    compare,
    default_budget,
    judge,
    telling,
    worse_than_certified,
)
from mpft_deploy.errors import UsageError
from mpft_deploy.spec import Calibration

CALIBRATION = Calibration(threshold=0.5, unsure=(0.4, 0.6))
logit = st.integers(-40, 40).map(lambda tenths: tenths / 10)
logits = st.lists(st.tuples(logit, logit), min_size=1, max_size=30)


def comparison(pairs, labels=None):
    reference, engine = (np.array(side, np.float32) for side in zip(*pairs, strict=True))
    return compare(
        reference,
        engine,
        CALIBRATION,
        names=[f"image {index}" for index in range(len(pairs))],
        views=np.zeros((len(pairs), 1, 1, 3), np.uint8),
        reference_name="a test",
        labels=labels,
    )


@given(logits)
def test_flips_are_changes_of_side(pairs):
    result = comparison(pairs)
    expected = [(before >= 0) != (after >= 0) for before, after in pairs]
    assert result.flips == sum(expected) == len(result.flipped)
    assert result.flip_share == pytest.approx(sum(expected) / len(pairs))
    assert result.flip_interval[0] <= result.flip_share <= result.flip_interval[1]
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


@given(
    st.lists(st.tuples(st.sampled_from(sorted(METRICS)), st.floats(0, 9)), min_size=1, max_size=4)
)
def test_budget_reads_what_it_writes(terms):
    budget = Budget(tuple(terms))
    again = Budget.parse(str(budget))
    assert [metric for metric, _ in again.terms] == [metric for metric, _ in budget.terms]
    for (_, one), (_, two) in zip(budget.terms, again.terms, strict=True):
        assert two == pytest.approx(one, rel=1e-4)


@pytest.mark.parametrize(
    "text", ["", "flips", "flips<1%", "flips<=", "flips<=x", "speed<=1", "flips<=1%,,", "flips<=-1"]
)
def test_budget_refuses(text):
    with pytest.raises(UsageError, match="budget"):
        Budget.parse(text)


@given(st.text())
def test_budget_never_fails_otherwise(text):
    with contextlib.suppress(UsageError):
        Budget.parse(text)


@pytest.mark.parametrize(
    ("budget", "passed"),
    [
        ("flips<=50%", True),
        ("flips<=49%", False),
        ("decisive<=50%", True),
        ("decisive<=10%", False),
        ("logit<=3", True),
        ("logit<=2.9", False),
        ("flips<=50%,logit<=2.9", False),
        ("auc<=1", False),  # not to be judged without labels
    ],
)
def test_judgement(budget, passed):
    golden = comparison([(1, -2), (2, 2)])
    certificate = judge(golden, None, Budget.parse(budget), CALIBRATION)
    assert certificate.passed == passed
    assert bool(certificate.reasons) != passed


def test_images_outrank_golden_crops():
    bad, good = comparison([(1, -2)]), comparison([(1, 1)])
    assert judge(bad, good, default_budget("int8"), CALIBRATION).passed
    assert not judge(good, bad, default_budget("int8"), CALIBRATION).passed


@pytest.mark.parametrize(
    ("budget", "judged_on_images", "now", "fails"),
    [
        # One golden crop of two flipped when it was certified.
        ("flips<=1%", True, [(1, -2), (2, 2)], False),  # as then, and images outrank it
        ("flips<=1%", True, [(1, -2), (2, -2)], True),  # one more
        ("flips<=100%", True, [(1, -2), (2, -2)], False),  # one more, within the budget
        ("flips<=60%,logit<=4", False, [(1, -2), (2, 2)], False),
        ("flips<=60%,logit<=4", False, [(1, -4), (2, 2)], True),  # no flip more, but further off
        ("flips<=1%", False, [(1, -4), (2, 2)], False),  # over its budget then, no worse now
        ("flips<=1%", False, [(1, -4), (2, -2)], True),
    ],
)
def test_worse_than_certified(budget, judged_on_images, now, fails):
    images = comparison([(1, 1)]) if judged_on_images else None
    golden = comparison([(1, -2), (2, 2)])
    certificate = judge(golden, images, Budget.parse(budget), CALIBRATION)
    assert bool(worse_than_certified(comparison(now), certificate)) == fails


def test_golden_crops_on_the_threshold_tell_nothing():
    logits = np.array([-5.0, 1.6, 5.0, 1.4, 2.6, 2.0], np.float32)
    assert CLEAR * np.ptp(logits) == 0.5
    np.testing.assert_array_equal(telling(logits, 2.0), [0, 2, 3, 4])
    np.testing.assert_array_equal(telling(np.ones(3, np.float32), 1.0), [0, 1, 2])  # none is clear
    np.testing.assert_array_equal(telling(logits, math.inf), np.arange(6))
