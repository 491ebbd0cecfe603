"""All figures of a prediction matrix: per set and generator, as their mean, and pooled."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import msgspec
import numpy as np
from scipy.stats import beta

from mpft_deploy.evaluate.metadata import features, held_out_logits
from mpft_deploy.evaluate.metrics import CONFIDENCE, F64, METRICS, RESAMPLES, bootstrap, interval
from mpft_deploy.evaluate.predictions import Header, Predictions, Rows
from mpft_deploy.evaluate.protocols import RAW
from mpft_deploy.spec import Calibration, Record

Kind = Literal["set", "generator", "mean", "pooled"]

MEAN, POOLED = "mean over sets", "all images"

METADATA = "metadata alone"
"""In the place of a keep rule: a regression on what files say of themselves; see `metadata`."""


class Figure(Record, frozen=True):
    """A metric with its bootstrap interval of 95 %."""

    value: float
    low: float
    high: float


class Group(Record, frozen=True):
    """The figures of some images under one protocol and keep rule.

    Attributes:
        kind: `set`; `generator`, its images against all real ones of their set, where a set has
            several; `mean` over the sets; or `pooled`, all images.
        set: that whose images they are; "" of `mean` and `pooled`.
        real, generated: images of either class that have a verdict.
        unsure_real, unsure_generated: those that have none, too small or without texture; they are
            in no figure.
        figures: by the names of METRICS; None where a class is missing.
    """

    keep: str
    protocol: str
    kind: Kind
    set: str
    name: str
    real: int
    generated: int
    unsure_real: int
    unsure_generated: int
    figures: dict[str, Figure | None]


def summarise(predictions: Predictions) -> list[Group]:
    """Figures of every keep rule, protocol and group, in the order of tables."""
    header = predictions.header
    found = [
        group
        for keep in header.keeps
        for protocol in header.protocols
        for group in _groups(predictions.rows(protocol, keep), header, protocol, keep)
    ]
    return found + _of_metadata(predictions)


def _of_metadata(predictions: Predictions) -> list[Group]:
    """Figures of METADATA on each set, and their mean; none of sets with too few images."""
    header = predictions.header
    table = predictions.under(RAW, header.keeps[0])
    rows, numbers = predictions.rows(RAW, header.keeps[0]), features(table)
    plain = msgspec.structs.replace(header, calibration=Calibration(unsure=(0.5, 0.5)))
    out = []
    for name, mask in rows.by_set(header.reals):
        chosen = mask & rows.judged
        logits = held_out_logits(numbers[chosen], rows.labels[chosen])
        if logits is not None:
            chances = 1 / (1 + np.exp(-logits))
            judged = replace(
                rows.where(chosen),
                logits=logits,
                probabilities=chances,
                sets=np.full(len(logits), name, object),
                generators=np.full(len(logits), "", object),
            )
            out.append(judged)
    if not out:
        return []
    every = Rows(
        **{name: np.concatenate([getattr(one, name) for one in out]) for name in vars(out[0])}
    )
    own = msgspec.structs.replace(plain, reals={})
    kept = ("set", "mean")
    return [one for one in _groups(every, own, RAW, METADATA) if one.kind in kept]


def _groups(rows: Rows, header: Header, protocol: str, keep: str) -> list[Group]:
    def measured(chosen: Rows, name: str) -> tuple[F64, F64]:
        of = chosen.where(chosen.judged)
        if not len(of):
            return np.full(len(METRICS), np.nan), np.full((RESAMPLES, len(METRICS)), np.nan)
        return bootstrap(of.labels, of.logits, of.probabilities, header.calibration, name=name)

    def group(kind: Kind, name: str, of: Rows, point: F64, samples: F64, *, set: str = "") -> Group:
        real, generated = (int((of.judged & (of.labels == label)).sum()) for label in (0, 1))
        unsure = np.bincount(of.labels[~of.judged], minlength=2).tolist()
        return Group(
            keep=keep,
            protocol=protocol,
            kind=kind,
            set=set,
            name=name,
            real=real,
            generated=generated,
            unsure_real=unsure[0],
            unsure_generated=unsure[1],
            figures={
                metric: _figure(float(point[place]), samples[:, place])
                for place, metric in enumerate(METRICS)
            }
            | ({} if kind == "mean" else _shares(real, generated, point)),
        )

    out, points, resamples = [], [], []
    for name, mask in rows.by_set(header.reals):
        of = rows.where(mask)
        point, samples = measured(of, name)
        points.append(point)
        resamples.append(samples)
        out.append(group("set", name, of, point, samples, set=name))
        out += [
            group("generator", maker, part, *measured(part, f"{name}/{maker}"), set=name)
            for maker, part in generators(of)
        ]
    if len(points) > 1:
        out.append(group("mean", MEAN, rows, *_mean(np.stack(points), np.stack(resamples))))
        out.append(group("pooled", POOLED, rows, *measured(rows, POOLED)))
    return out


def generators(rows: Rows) -> list[tuple[str, Rows]]:
    """Each generator of a set with all of the set's real images; none if it has only one."""
    generated = rows.labels == 1
    names = sorted(set(rows.generators[generated].tolist()))
    if len(names) < 2:
        return []
    return [
        (name or "not named", rows.where(~generated | (rows.generators == name))) for name in names
    ]


def _mean(points: F64, samples: F64) -> tuple[F64, F64]:
    """Mean of points [S, M] and resamples [S, R, M] over the sets that have a metric."""
    has = ~np.isnan(points)
    count = has.sum(0)
    with np.errstate(invalid="ignore"):
        return (
            np.where(has, points, 0).sum(0) / count,
            np.where(has[:, None], samples, 0).sum(0) / count,
        )


def _shares(real: int, generated: int, point: F64) -> dict[str, Figure | None]:
    """The shares of a class, with exact intervals (Clopper and Pearson 1934).

    Resamples of images that are all right are all right: they would promise what 29 images cannot.
    """
    return {
        metric: _exact(round(float(point[place]) * count), count)
        for metric, count in (("real_accuracy", real), ("generated_accuracy", generated))
        for place in [list(METRICS).index(metric)]
        if count
    }


def _exact(hits: int, count: int) -> Figure:
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, count - hits + 1))
    high = 1.0 if hits == count else float(beta.ppf(1 - tail, hits + 1, count - hits))
    return Figure(value=hits / count, low=low, high=high)


def _figure(value: float, samples: F64) -> Figure | None:
    if math.isnan(value):
        return None
    # A resample may have nothing outside the unsure band, and so no accuracy there.
    low, high = interval(samples[~np.isnan(samples)])
    return Figure(value=value, low=low, high=high)
