"""Whole generators and sources left out in turn: what a head is worth where it was not taught."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from mpft_deploy.dataset import Sample
from mpft_deploy.detector.probe import (
    GROUP_POWER,
    INVERSE_PENALTY,
    STEADINESS,
    Probe,
    sample_weights,
)
from mpft_deploy.detector.recalibrate import Outcome, recalibrate
from mpft_deploy.errors import InputError
from mpft_deploy.spec import Calibration, KeepRule, ViewPolicy
from mpft_deploy.weights import F32

I64 = npt.NDArray[np.int64]

JUDGED = 2
"""Of the views that heads learn from, those whose mean stands for what is said of a picture."""


def families(samples: Sequence[Sample]) -> I64:
    """i64 [n]: which images are kin: of one generator, or of one source, or kin of the same.

    Who publishes images of several generators, or real ones beside them, saves all of them alike.
    """
    parent: dict[tuple[str, object], tuple[str, object]] = {}

    def root(name: tuple[str, object]) -> tuple[str, object]:
        while parent.setdefault(name, name) != name:
            name = parent[name]
        return name

    ends = []
    for sample in samples:
        source = ("source", sample.source or sample.set)
        generator = ("generator", (sample.label, sample.generator or source))
        parent[root(generator)] = root(source)
        ends.append(source)
    numbers: dict[tuple[str, object], int] = {}
    return np.array([numbers.setdefault(root(end), len(numbers)) for end in ends], np.int64)


def assign_folds(samples: Sequence[Sample], folds: int, seed: int) -> I64:
    """i64 [n], 0 to `folds` − 1: families stay together, and each class is spread evenly.

    The largest families come first, each into the fold that has the least of its classes.
    """
    kin = families(samples)
    labels = np.array([sample.label for sample in samples])
    counts = np.stack([np.bincount(kin[labels == k], minlength=kin.max() + 1) for k in (0, 1)], 1)
    shares = counts / np.maximum(1, counts.sum(0))
    blurred = shares.sum(1) * np.random.default_rng((seed, 5)).uniform(0.5, 1.5, len(shares))
    filled, chosen = np.zeros((folds, 2)), np.zeros(len(shares), np.int64)
    for family in np.argsort(-blurred, kind="stable"):
        chosen[family] = ((filled + shares[family]) ** 2 - filled**2).sum(1).argmin()
        filled[chosen[family]] += shares[family]
    return chosen[kin]


def require_families(samples: Sequence[Sample], folds: int, seed: int) -> None:
    """An InputError unless each fold has images, and the others have both classes to learn from."""
    assigned = assign_folds(samples, folds, seed)
    labels = np.array([sample.label for sample in samples])
    for fold in range(folds):
        if not (assigned == fold).any() or len(set(labels[assigned != fold].tolist())) < 2:
            raise InputError(
                f"the images are of {len(set(families(samples).tolist()))} families (those of one "
                f"generator, source or collection are kin), too few to leave out one of {folds} "
                "folds: give images of more, each in a folder of its own or with columns generator "
                "and source; or pass fewer --folds, or --val in their place"
            )


def out_of_fold(
    features: F32,
    samples: Sequence[Sample],
    folds: I64,
    inverse_penalty: float = INVERSE_PENALTY,
    power: float = GROUP_POWER,
    steadiness: float = STEADINESS,
    learn: int | None = None,
) -> F32:
    """Logits of images by heads that learnt from the other folds alone.

    Args:
        features: f32 [looks, n, F], of random views of each image.
        folds: i64 [n].
        inverse_penalty, steadiness: as `Probe.fit` takes them.
        power: as `sample_weights` takes it.
        learn: how many of the looks they learn from; None for all.

    Returns:
        f32 [looks, n].
    """
    logits = np.empty(features.shape[:2], np.float32)
    for fold in np.unique(folds):
        others, left_out = folds != fold, folds == fold
        kept = [sample for sample, there in zip(samples, others, strict=True) if there]
        head = fit_on_looks(features[:learn, others], kept, inverse_penalty, power, steadiness)
        logits[:, left_out] = [head.logits(look) for look in features[:, left_out]]
    return logits


def fit_on_looks(
    features: F32,
    samples: Sequence[Sample],
    inverse_penalty: float = INVERSE_PENALTY,
    power: float = GROUP_POWER,
    steadiness: float = STEADINESS,
) -> Probe:
    """The head of random views f32 [looks, n, F] of some images; see `out_of_fold`."""
    labels = [sample.label for sample in samples]
    return Probe.fit(features, labels, sample_weights(samples, power), inverse_penalty, steadiness)


@dataclass(frozen=True)
class LeftOut:
    """What heads say of images whose family they did not learn from.

    folds: i64 [n], in which each was left out.
    logits: f32 [looks, n], of random views of each.
    """

    samples: list[Sample]
    folds: I64
    logits: F32

    @classmethod
    def of(cls, features: F32, samples: list[Sample], folds: int, seed: int) -> LeftOut:
        """By features f32 [looks, n, F] of the images, which `require_families` has passed."""
        assigned = assign_folds(samples, folds, seed)
        return cls(samples, assigned, out_of_fold(features, samples, assigned))

    @property
    def means(self) -> F32:
        """f32 [n], the logit of each image as one of several views."""
        return np.asarray(self.logits[:JUDGED].mean(0))

    def calibrations(self, rule: KeepRule, false_alarm: float) -> tuple[Outcome, Outcome]:
        """Of pictures, by the mean over several views, and of frames, by one view that moves."""

        def by(logits: F32, views: ViewPolicy) -> Outcome:
            return recalibrate(
                Calibration(),
                [sample.label for sample in self.samples],
                logits,
                rule,
                sources=[sample.source for sample in self.samples],
                views=views,
                groups=[sample.generator or sample.set for sample in self.samples],
                false_alarm=false_alarm,
            )

        return by(self.means, "three"), by(self.logits[0], "moving")

    def to_parquet(self) -> bytes:
        """As a table: one row for each image, with the logit of each view."""
        columns = {
            "path": [sample.path.name for sample in self.samples],
            "label": np.array([sample.label for sample in self.samples], np.int8),
            "generator": [sample.generator for sample in self.samples],
            "source": [sample.source for sample in self.samples],
            "family": families(self.samples),
            "fold": self.folds,
            **{f"logit {look}": logits for look, logits in enumerate(self.logits)},
        }
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer, compression="zstd")
        return buffer.getvalue()
