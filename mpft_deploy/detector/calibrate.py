"""From logit to probability: Platt scaling on labelled images, and what it is worth on others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.stats import chi2
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from mpft_deploy.errors import GateError, InputError
from mpft_deploy.spec import Calibration, HeldOut

LEAST_GROUPS = 3
"""Groups of a class below which nothing is said of how groups differ."""

CONFIDENCE = 0.8
"""Of the upper bound of the error between groups."""

LOWEST_AUC = 0.55
"""Below it the logits rank no better than chance, and no calibration can help."""


def fit_calibration(labels: npt.ArrayLike, logits: npt.ArrayLike) -> Calibration:
    """Fit shift and scale by logistic regression in which both classes weigh the same.

    Uses Platt's smoothed targets ("Probabilistic outputs for support vector machines", 1999), so
    that logits which separate the classes wholly still get a finite scale.

    Args:
        labels: [n], 0 real, 1 generated; both present.
        logits: [n].

    Raises:
        GateError: the logits rank no better than chance.
    """
    truth, values = np.asarray(labels, np.int64), np.asarray(logits, np.float64)
    auc = float(roc_auc_score(truth, values))
    if not auc >= LOWEST_AUC:
        raise GateError(
            f"the logits rank the validation images no better than chance (AUC {auc:.2f}), "
            "so no calibration can help: train longer, or on data closer to these images"
        )
    counts = np.bincount(truth, minlength=2)
    smoothed = np.array([1.0, counts[1] + 1.0]) / (counts + 2.0)
    target = smoothed[truth]
    weight = len(truth) / (2.0 * counts[truth])
    # A soft target t is the same sample twice: as generated with weight t, as real with 1 − t.
    centre, spread = float(values.mean()), float(values.std())
    standard = (values - centre) / spread
    outcome = np.repeat([1, 0], len(values))
    weights = np.concatenate([weight * target, weight * (1 - target)])
    fit = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000)
    fit.fit(np.concatenate([standard, standard])[:, None], outcome, weights)
    slope, intercept = float(fit.coef_[0, 0]), float(fit.intercept_[0])
    if slope <= 0:
        raise GateError("the higher the logit, the less often a validation image is generated")
    scale = slope / spread
    return Calibration(shift=intercept / scale - centre, scale=scale, prior=0.5)


def measure_held_out(
    labels: npt.ArrayLike, log_odds: npt.ArrayLike, groups: Sequence[str]
) -> HeldOut:
    """What calibrated log odds are worth on images that were not fitted to; see `HeldOut`.

    Args:
        labels: [n], 0 real, 1 generated.
        log_odds: [n], less the prior's.
        groups: [n], what each image shares a camera, collection or generator with.

    Raises:
        InputError: fewer than LEAST_GROUPS groups of a class.
        GateError: the generated groups do not score higher than the real ones.
    """
    truth, odds = np.asarray(labels, np.int64), np.asarray(log_odds, np.float64)
    means, sampling, spread = [], [], []
    for label, name in ((0, "real"), (1, "generated")):
        members = [odds[(truth == label) & chosen] for chosen in _groups(groups)]
        members = [values for values in members if len(values) > 1]
        if len(members) < LEAST_GROUPS:
            raise InputError(
                f"{len(members)} groups of {name} images are too few to say how far the detector "
                f"is off from one to the next: give {LEAST_GROUPS} or more of each class, of two "
                "images or more, as sets, or by a column generator"
            )
        variances = np.array([values.var(ddof=1) for values in members])
        means.append(np.array([values.mean() for values in members]))
        sampling.append(float(np.mean(variances / [len(values) for values in members])))
        spread.append(float(variances.mean()) ** 0.5)
    separation = float(means[1].mean() - means[0].mean())
    if not separation > 0:
        raise GateError(
            "generated groups score no higher than real ones: no stream could be decided by that"
        )
    errors = []
    for sign, mean, noise in zip((-1, 1), means, sampling, strict=True):
        # The upper end of what they scatter, as groups are few; of which a part is that of the few
        # images of each.
        scatter = float(((mean - sign * separation / 2) ** 2).sum())
        upper = scatter / float(chi2.ppf(1 - CONFIDENCE, len(mean))) - noise
        errors.append(max(0.0, upper) ** 0.5)
    return HeldOut(
        separation=separation,
        error=max(errors),
        spread=max(spread),
        real=len(means[0]),
        generated=len(means[1]),
        images=len(truth),
    )


def cross_measured(
    labels: npt.ArrayLike, logits: npt.ArrayLike, groups: Sequence[str]
) -> HeldOut | None:
    """As `measure_held_out`, each group by a calibration that was fitted to the others.

    None where there are too few groups, or the others do not rank.
    """
    truth, values = np.asarray(labels, np.int64), np.asarray(logits, np.float64)
    odds = np.empty(len(values))
    try:
        for chosen in _groups(groups):
            fitted = fit_calibration(truth[~chosen], values[~chosen])
            odds[chosen] = [fitted.log_odds(logit) for logit in values[chosen]]
        return measure_held_out(truth, odds, groups)
    except (InputError, GateError, ValueError):  # a class is missing without that group
        return None


def _groups(groups: Sequence[str]) -> list[npt.NDArray[np.bool_]]:
    names = np.asarray(groups)
    return [names == name for name in np.unique(names)]
