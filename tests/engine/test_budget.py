"""Budgets: three answers, by exact bounds."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from comparing import comparison
from hypothesis import given
from hypothesis import strategies as st

from mpft_deploy.engine.budget import METRICS, SHARES, Budget, default_budget, overall
from mpft_deploy.errors import UsageError
from mpft_deploy.statistics import share_is_within


def judged(budget, pairs, labels=None, **how):
    result = comparison(pairs, labels)
    return Budget.parse(budget).judge(result, **how), result


def test_every_metric_is_read_as_it_is_written():
    terms = st.tuples(st.sampled_from(sorted(METRICS)), st.floats(0.0001, 0.5))

    @given(st.lists(terms, min_size=1, max_size=4))
    def check(terms):
        budget = Budget(tuple(terms))
        again = Budget.parse(str(budget))
        assert [metric for metric, _ in again.terms] == [metric for metric, _ in budget.terms]
        for (_, one), (_, two) in zip(budget.terms, again.terms, strict=True):
            assert two == pytest.approx(one, rel=1e-4)

    check()


@pytest.mark.parametrize(
    "text",
    ["", "flips", "flips<1%", "flips<=", "flips<=x", "speed<=1", "flips<=1%,,", "flips<=-1",
     "flips<=0%", "decisive<=0", "flips<=101%", "logit<=50%", "logit<=1e999", "flips<=1e-320%"],
)  # fmt: skip
def test_budget_refuses(text):
    with pytest.raises(UsageError, match="budget"):
        Budget.parse(text)


@pytest.mark.parametrize("metric", SHARES)
@pytest.mark.parametrize("limit", ["1", "0.51", "2", "5"])
def test_a_share_without_percent_says_how_to_write_it(metric, limit):
    with pytest.raises(UsageError, match=f"write {metric}<={limit}%"):
        Budget.parse(f"{metric}<={limit}")
    assert Budget.parse(f"{metric}<={limit}%").terms == ((metric, float(limit) / 100),)


@given(st.text())
def test_budget_never_fails_otherwise(text):
    with contextlib.suppress(UsageError):
        Budget.parse(text)


@pytest.mark.parametrize(
    ("flipped", "images", "answer"),
    [(0, 298, "undecided"), (0, 299, "kept"), (14, 1726, "undecided"), (9, 1726, "kept"),
     (1, 472, "undecided"), (1, 473, "kept"), (3, 29, "broken"), (40, 2000, "broken")],
)  # fmt: skip
def test_flips_of_one_per_cent(flipped, images, answer):
    pairs = [(1, -2)] * flipped + [(1, 1)] * (images - flipped)
    [finding], result = judged("flips<=1%", pairs)
    assert finding.answer == answer == overall([finding], result)
    assert finding.measured == flipped / images
    low, high = finding.bounds
    assert (high <= 0.01) == (answer == "kept")
    assert (low > 0.01) == (answer == "broken")
    if answer == "undecided":
        more = finding.more_images
        whole = images + more
        assert share_is_within(round(flipped / images * whole), whole, 0.01) is not None
        assert f"about {more} more" in finding.reason
    else:
        assert finding.more_images is None


def test_stricter_confidence_takes_more_images():
    pairs = [(1, 1)] * 299
    [strict], _ = judged("flips<=1%", pairs, confidence=0.975)
    assert strict.answer == "undecided"
    assert "at 97.5 % confidence" in strict.reason
    [strict], _ = judged("flips<=1%", pairs + [(1, 1)] * 69, confidence=0.975)
    assert strict.answer == "kept"


@pytest.mark.parametrize(
    ("pairs", "answer"),
    [
        ([(1, 1.25)] * 299, "kept"),
        ([(1, 1.25)] * 298, "undecided"),
        ([(1, 1.75)] + [(1, 1)] * 5000, "broken"),  # what was seen once is so
        ([(1, float("nan"))] + [(1, 1)] * 5000, "broken"),
    ],
)
def test_largest_difference(pairs, answer):
    [finding], _ = judged("logit<=0.5", pairs)
    assert finding.answer == answer
    if answer == "undecided":
        assert 1 <= finding.more_images <= 4
    if answer == "kept":
        assert finding.bounds[1] <= 0.01  # as many may still exceed it


def test_loss_of_auc():
    rng = np.random.default_rng(1)
    labels = np.arange(4000) % 2
    before = rng.normal(2.0 * labels, 1)
    after = before + rng.normal(0, 0.05, 4000)
    same = list(zip(before.tolist(), after.tolist(), strict=True))
    [finding], _ = judged("auc<=1%", same, labels)
    assert finding.answer == "kept"
    assert finding.measured < finding.bounds[1] < 0.01
    [finding], _ = judged("auc<=1%", same[:200], labels[:200])
    assert finding.answer == "undecided"
    assert finding.more_images > 200
    noise = list(zip(before.tolist(), rng.normal(0, 1, 4000).tolist(), strict=True))
    [finding], _ = judged("auc<=1%", noise, labels)
    assert finding.answer == "broken"
    [finding], _ = judged("auc<=1%", same)
    assert finding.answer == "undecided"
    assert "no two labelled classes" in finding.reason


def test_a_budget_is_kept_where_all_of_it_is():
    findings, result = judged("flips<=1%,logit<=2", [(1, 1)] * 299)
    assert overall(findings, result) == "kept"
    findings, result = judged("flips<=0.5%,logit<=2", [(1, 1)] * 299)
    assert overall(findings, result) == "undecided"
    findings, result = judged("flips<=0.5%,logit<=2", [(1, 1)] * 298 + [(1, 4)])
    assert overall(findings, result) == "broken"


def test_what_is_chosen_by_is_what_was_seen():
    result = comparison([(1, -2), (2, 2)])
    assert not Budget.parse("flips<=50%,logit<=3").exceeded(result)
    for budget in ("flips<=49%", "logit<=2.9", "auc<=50%", "decisive<=10%"):
        assert Budget.parse(budget).exceeded(result)
    assert Budget.parse("flips<=100%").exceeded(comparison([(1, float("inf"))]))


def test_defaults_can_be_kept():
    for precision in ("fp32", "int8", "bf16"):
        result = comparison([(1, 1)] * 299)
        assert overall(default_budget(precision).judge(result), result) == "kept"


@pytest.mark.parametrize("text", ["flips<=1%", "decisive<=0.1%", "logit<=1", "flips<=100%"])
@pytest.mark.parametrize("confidence", [0.95, 0.975])
def test_fewest_images_that_can_keep_a_budget(text, confidence):
    budget = Budget.parse(text)
    needed = budget.images_needed(confidence)
    for images, answer in ((needed, "kept"), (needed - 1, "undecided")):
        if images:
            result = comparison([(1, 1)] * images)
            assert overall(budget.judge(result, confidence), result) == answer


def test_the_page_shows_what_is_printed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
    for images in (13, 299):
        [finding], _ = judged("flips<=1%", [(1, 1)] * images)
        assert f"\n    {finding.reason}\n" in page
