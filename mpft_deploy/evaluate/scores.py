"""The few figures that training and model cards give of a set of images."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from mpft_deploy.dataset import Sample
from mpft_deploy.spec import Record
from mpft_deploy.statistics import auc, balanced_accuracy
from mpft_deploy.weights import F32


class Score(Record, frozen=True):
    """How a set of images was told apart.

    auc: area under the ROC curve; None where a class is missing.
    balanced_accuracy: mean of the two below, None where a class is missing.
    real_accuracy, generated_accuracy: share of each class on its side of the threshold, or None.
    """

    real: int
    generated: int
    auc: float | None
    balanced_accuracy: float | None
    real_accuracy: float | None
    generated_accuracy: float | None


def mean_over_views(logits: F32, counts: Sequence[int]) -> F32:
    """The logit of each image: the mean over its views, as screening takes it.

    Args:
        logits: f32 [views] or [rules, views], the views of the first image first.
        counts: views of each image.
    """
    if set(counts) == {1}:
        return logits
    starts = np.cumsum([0, *counts[:-1]])
    sums = np.add.reduceat(logits.astype(np.float64), starts, axis=-1)
    return (sums / counts).astype(np.float32)


def score(labels: npt.ArrayLike, logits: npt.ArrayLike, threshold: float = 0.0) -> Score:
    """Score logits against labels, 0 real and 1 generated; from `threshold` on called generated."""
    truth, values = np.asarray(labels, np.int64), np.asarray(logits, np.float64)
    called = values >= threshold
    real, generated = truth == 0, truth == 1
    return Score(
        real=int(real.sum()),
        generated=int(generated.sum()),
        auc=auc(truth, values),
        balanced_accuracy=balanced_accuracy(truth, called),
        real_accuracy=float((~called[real]).mean()) if real.any() else None,
        generated_accuracy=float(called[generated].mean()) if generated.any() else None,
    )


def score_by_group(
    samples: Sequence[Sample], logits: npt.ArrayLike, threshold: float = 0.0
) -> dict[str, Score]:
    """Score of each source of real images, then of each generator, against all of the other class.

    Counts and accuracy are of the group alone.
    """
    values = np.asarray(logits)
    labels = np.array([sample.label for sample in samples])
    names = np.array([sample.generator or sample.set for sample in samples])
    out = {}
    for label in (0, 1):
        for name in sorted(set(names[labels == label].tolist())):
            own = (labels == label) & (names == name)
            seen = own | (labels != label)
            alone = score(labels[own], values[own], threshold)
            out[name] = msgspec.structs.replace(alone, auc=auc(labels[seen], values[seen]))
    return out


def score_by_set(
    samples: Sequence[Sample], logits: npt.ArrayLike, threshold: float = 0.0
) -> dict[str, Score]:
    """Score of each set, by name in order."""
    values = np.asarray(logits)
    names = np.array([sample.set for sample in samples])
    labels = np.array([sample.label for sample in samples])
    return {
        name: score(labels[names == name], values[names == name], threshold)
        for name in sorted(set(names.tolist()))
    }
