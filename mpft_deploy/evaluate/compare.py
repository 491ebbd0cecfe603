"""Two prediction files of the same images: is one detector better, or is it chance?"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np

from mpft_deploy.errors import InputError, UsageError
from mpft_deploy.evaluate.metrics import CHUNK, METRICS, RESAMPLES, generator, interval, measure
from mpft_deploy.evaluate.predictions import Predictions, Rows
from mpft_deploy.evaluate.summary import POOLED, Figure
from mpft_deploy.files import display
from mpft_deploy.spec import Calibration, Record

AUC = list(METRICS).index("auc")


class Pair(Record, frozen=True):
    """B against A on the same images.

    Attributes:
        name: of the set, or all images.
        auc_a, auc_b, auc_difference: B minus A, with the interval of a paired bootstrap; None where
            a class is missing.
        only_a_right, only_b_right: images that just one of them decides rightly.
        p_value: of McNemar's exact test, that neither decides rightly more often.
    """

    protocol: str
    name: str
    real: int
    generated: int
    auc_a: float | None
    auc_b: float | None
    auc_difference: Figure | None
    only_a_right: int
    only_b_right: int
    p_value: float


def compare(
    a: Predictions, b: Predictions, keep_a: str, keep_b: str, names: tuple[Path, Path]
) -> list[Pair]:
    """Compare two prediction matrices per set and pooled, under every protocol that both have.

    Images that either gives no verdict of, whatever their logit, are left out.

    Args:
        keep_a, keep_b: the keep rules to compare.
        names: of the files, for errors.

    Raises:
        UsageError: they have no protocol in common.
        InputError: they are not of the same images.
    """
    protocols = [name for name in a.header.protocols if name in b.header.protocols]
    if not protocols:
        raise UsageError("the two files have no protocol in common: evaluate both alike")
    out = []
    for protocol in protocols:
        paired = _paired(a.rows(protocol, keep_a), b.rows(protocol, keep_b), names)
        both = paired[0].judged & paired[1].judged
        rows_a, rows_b = (rows.where(both) for rows in paired)
        calibrations = a.header.calibration, b.header.calibration
        sets = rows_a.by_set(a.header.reals)
        for name, chosen in sets:
            pair = rows_a.where(chosen), rows_b.where(chosen)
            out.append(_pair(protocol, name, *pair, *calibrations))
        if len(sets) > 1:
            out.append(_pair(protocol, POOLED, rows_a, rows_b, *calibrations))
    return out


def _paired(a: Rows, b: Rows, names: tuple[Path, Path]) -> tuple[Rows, Rows]:
    """Both in the order of A; an InputError unless they hold the same images."""

    def keys(rows: Rows) -> list[tuple[str, str, str, int]]:
        columns = rows.digests, rows.sets, rows.paths, rows.labels
        return list(zip(*(column.tolist() for column in columns), strict=True))

    wanted, there = keys(a), keys(b)
    missing, extra = (Counter(wanted) - Counter(there)), (Counter(there) - Counter(wanted))
    if missing or extra:
        raise InputError(
            f"{display(names[0])} and {display(names[1])} are not of the same images: "
            f"{missing.total()} are only in the first, {extra.total()} only in the second. "
            "Evaluate both on the same DATA"
        )
    places = {key: place for place, key in enumerate(there)}  # copies have one logit
    return a, b.where(np.array([places[key] for key in wanted], np.int64))


def _pair(
    protocol: str,
    name: str,
    a: Rows,
    b: Rows,
    calibration_a: Calibration,
    calibration_b: Calibration,
) -> Pair:
    from scipy.stats import binomtest

    from mpft_deploy.evaluate.metrics import resample

    labels = a.labels
    both = ((a, calibration_a), (b, calibration_b))
    auc_a, auc_b = (
        float(measure(labels, rows.logits, rows.probabilities, calibration)[0, AUC])
        for rows, calibration in both
    )
    figure = None
    if not np.isnan(auc_a):
        rng, step = generator(name), max(1, CHUNK // len(labels))
        differences = []
        for left in range(RESAMPLES, 0, -step):
            weights = resample(labels, min(step, left), rng)
            drawn = [
                measure(labels, rows.logits, rows.probabilities, calibration, weights)[:, AUC]
                for rows, calibration in both
            ]
            differences.append(drawn[1] - drawn[0])
        low, high = interval(np.concatenate(differences))
        figure = Figure(value=auc_b - auc_a, low=low, high=high)
    right_a, right_b = (
        (rows.probabilities >= calibration.threshold) == (labels == 1) for rows, calibration in both
    )
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    return Pair(
        protocol=protocol,
        name=name,
        real=int((labels == 0).sum()),
        generated=int((labels == 1).sum()),
        auc_a=None if np.isnan(auc_a) else auc_a,
        auc_b=None if np.isnan(auc_b) else auc_b,
        auc_difference=figure,
        only_a_right=only_a,
        only_b_right=only_b,
        # The images on which both agree say nothing of which one is better.
        p_value=float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0,
    )
