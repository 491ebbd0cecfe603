"""The spec: reading, writing, refusing."""

from __future__ import annotations

import math

import msgspec
import pytest
import reference
from hypothesis import given
from hypothesis import strategies as st

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.spec import Calibration, DetectorSpec, KeepRule, convert_record

finite = st.floats(-1e6, 1e6)
unit = st.floats(0, 1)


@given(st.sampled_from(["smooth", "textured", "random"]), st.integers(1, 4096))
def test_keep_rule_reads_what_it_writes(kind, count):
    rule = KeepRule(kind, count)
    assert KeepRule.parse(str(rule)) == rule


@pytest.mark.parametrize(
    "text",
    ["", "smooth", "smooth:", "smooth:0", "smooth:-1", "smooth:1.5", "all:3", "rough:9", "²"],
)
def test_keep_rule_refuses(text):
    with pytest.raises(UsageError, match="keep rule"):
        KeepRule.parse(text)


@given(st.text())
def test_keep_rule_never_fails_otherwise(text):
    try:
        rule = KeepRule.parse(text)
    except UsageError:
        return
    assert KeepRule.parse(str(rule)) == rule


def test_keep_rule_beyond_the_cells_is_refused():
    assert KeepRule.parse("all").resolve(196) == 196
    with pytest.raises(UsageError, match="only 16 cells"):
        KeepRule.parse("smooth:17").resolve(16)


@given(finite, st.floats(1e-3, 1e3), st.tuples(unit, unit, unit).map(sorted), finite)
def test_calibration_stays_a_probability_and_its_verdicts_agree(shift, scale, band, logit):
    low, threshold, high = band
    calibration = Calibration(shift=shift, scale=scale, threshold=threshold, unsure=(low, high))
    probability = calibration.probability(logit)
    assert 0 <= probability <= 1
    verdict = calibration.verdict(probability)
    if verdict == "unsure":
        assert low < probability < high
    else:
        assert verdict == calibration.decide(probability)


def test_calibration_is_the_logistic_function():
    assert Calibration(shift=1, scale=2).probability(0.5) == pytest.approx(1 / (1 + math.exp(-3)))


@given(st.sampled_from(["smooth:6", "textured:1", "random:16", "all"]), finite, st.integers(1, 3))
def test_spec_survives_json(keep, shift, depth):
    spec = reference.tiny_spec(keep=keep, depth=depth, calibration=Calibration(shift=shift))
    assert msgspec.json.decode(msgspec.json.encode(spec), type=DetectorSpec) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": 3}, "patch"),
        ({"patch": "8"}, "patch"),
        ({"surprise": 1}, "surprise"),
        ({"depth": 4}, "depth 4 exceeds the 3 blocks"),
        ({"taps": 3}, "3 taps exceed the 2 blocks"),
        ({"taps": 0}, "taps"),
        ({"crop": {"size": 30}}, "no multiple"),
        ({"keep": "textured:17"}, "only 16 cells"),
        ({"keep": "rough:6"}, "keep rule"),
        ({"std": [1.0, 0.0, 1.0]}, "std"),
        ({"calibration": {"threshold": 0.1}}, "within unsure"),
        ({"calibration": {"scale": 0.0}}, "scale"),
    ],
)
def test_invalid_specs_say_what_is_wrong(change, message):
    payload = {**msgspec.to_builtins(reference.tiny_spec()), **change}
    with pytest.raises(InputError, match=message):
        convert_record(payload, DetectorSpec, "the spec")


def test_missing_field_is_named():
    payload = msgspec.to_builtins(reference.tiny_spec())
    del payload["keep"]
    with pytest.raises(InputError, match="keep"):
        convert_record(payload, DetectorSpec, "the spec")


@given(
    st.floats(-3, 3), st.floats(0.1, 5), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1),
    st.floats(-9, 9), st.floats(0, 1), st.floats(-1, 1),
)  # fmt: skip
def test_what_is_not_near_keeps_its_verdict_if_it_moves(shift, scale, a, b, c, logit, by, move):
    low, threshold, high = sorted((a, b, c))
    calibration = Calibration(shift=shift, scale=scale, threshold=threshold, unsure=(low, high))
    here, there = (calibration.probability(logit + x) for x in (0, by * move))
    if not calibration.is_near(logit, by):
        assert calibration.verdict(there) == calibration.verdict(here)
        assert calibration.decide(there) == calibration.decide(here)
