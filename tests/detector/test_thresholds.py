"""Promised shares: exact bounds, held in simulation."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from scipy.stats import binomtest

from mpft_deploy.detector import thresholds
from mpft_deploy.detector.thresholds import (
    false_alarm_threshold,
    false_alarms,
    images_needed,
    mean_bound,
    unsure_edges,
    upper_bound,
)
from mpft_deploy.errors import InputError

DRAWS = 2000
MOST = 0.05 + 3 * math.sqrt(0.05 * 0.95 / DRAWS)
"""Three standard errors of DRAWS above the 5 % of draws in which a bound may fail."""


def chances(normal: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-normal))


def beyond(edge: float) -> float:
    """Share of the images to come that are past an edge, where log odds are normal."""
    return 1 - NormalDist().cdf(math.log(edge / (1 - edge)))


@pytest.mark.parametrize(("images", "share"), [(59, 0.05), (100, 0.05), (400, 0.05), (200, 0.02)])
def test_the_promised_share_is_exceeded_in_one_draw_of_twenty(images: int, share: float) -> None:
    """A threshold that the same share of the images passes fails in half of the draws."""
    rng = np.random.default_rng(images)
    shares = [
        beyond(false_alarm_threshold(chances(rng.normal(size=images)), share)) for _ in range(DRAWS)
    ]
    assert np.mean(np.array(shares) > share) <= MOST
    assert np.mean(shares) > share / 10  # and does not promise by calling nothing generated


def test_decided_mistakes_are_bounded_for_either_class() -> None:
    rng = np.random.default_rng(1)
    failed = np.zeros(2)
    for _ in range(DRAWS):
        low, high = unsure_edges(chances(rng.normal(size=90)), chances(rng.normal(size=70)), 0.05)
        failed += [1 - beyond(low) > 0.05, beyond(high) > 0.05]
    assert (failed / DRAWS <= MOST).all()


def test_the_bound_over_sources_holds_where_images_of_one_are_alike() -> None:
    """Each source has its own rate of false alarms; the bound over images fails, as it must."""
    rng = np.random.default_rng(2)
    failed = {"images": 0, "sources": 0}
    draws = DRAWS // 4
    for _ in range(draws):
        rates = rng.beta(0.2, 1.8, size=12)  # 0.1 in the mean
        alarms = np.concatenate([rng.random(30) < rate for rate in rates])
        told = false_alarms(alarms.astype(float), 0.5, [str(i // 30) for i in range(360)])
        failed["images"] += told.bound < 0.1
        failed["sources"] += told.source_bound < 0.1
    assert failed["sources"] / draws <= 0.05 + 2 * (MOST - 0.05)
    assert failed["images"] / draws > 0.2


@pytest.mark.parametrize(("few", "many", "sources"), [(0.2, 1.8, 20), (0.3, 10, 75)])
def test_the_bound_over_many_sources_covers_nine_in_ten(
    few: float, many: float, sources: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thresholds, "RESAMPLES", 400)  # as wide, and ten times as quick
    rng = np.random.default_rng(3)
    rates = rng.beta(few, many, (400, sources))
    shares = rng.binomial(30, rates) / 30
    bounds = np.array([mean_bound(drawn[:, None], np.ones((sources, 1)))[0] for drawn in shares])
    assert np.mean(bounds < few / (few + many)) <= 0.15
    assert np.median(bounds) < 2.5 * few / (few + many)  # and says something


def test_a_threshold_over_many_sources_minds_the_one_that_is_loud() -> None:
    rng = np.random.default_rng(4)
    real = chances(rng.normal(size=3000) - 3)
    sources = [f"source {i // 100}" for i in range(3000)]
    alike = false_alarm_threshold(real, 0.03, sources)
    assert alike == pytest.approx(false_alarm_threshold(real, 0.03), rel=0.3)
    real[:300] = chances(rng.normal(size=300) + 2)  # three sources of thirty
    loud = false_alarm_threshold(real, 0.03, sources)
    told = false_alarms(real, loud, sources)
    assert told.source_bound is not None
    assert told.source_bound <= 0.03 < false_alarms(real, alike, sources).source_bound


@pytest.mark.parametrize(("hits", "total"), [(0, 29), (4, 200), (7, 7), (1, 100)])
def test_the_bound_is_that_of_clopper_and_pearson(hits: int, total: int) -> None:
    exact = binomtest(hits, total, alternative="less").proportion_ci(0.95, "exact").high
    assert upper_bound(hits, total) == pytest.approx(exact)


@pytest.mark.parametrize(("share", "needed"), [(0.05, 59), (0.02, 149), (0.01, 299), (0.1, 29)])
def test_how_many_images_it_takes_is_told(share: float, needed: int) -> None:
    assert images_needed(share) == needed
    real = chances(np.linspace(-3, 3, needed))
    assert false_alarm_threshold(real, share) > real.max()
    with pytest.raises(InputError, match=f"takes {needed}"):
        false_alarm_threshold(real[1:], share)
    with pytest.raises(InputError, match=f"generated images are too few.*takes {needed}"):
        unsure_edges(real, real[1:], share)


def test_without_sources_nothing_is_said_of_them() -> None:
    told = false_alarms(np.array([0.1, 0.9]), 0.5, [])
    assert (told.sources, told.source_bound) == (0, None)
    assert false_alarms(np.array([0.1, 0.9]), 0.5, ["", ""]) == told  # a manifest that says none
