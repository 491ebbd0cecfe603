"""From logit to probability: Platt scaling on labelled images."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from mpft_deploy.errors import GateError
from mpft_deploy.spec import Calibration

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
    return Calibration(shift=intercept / scale - centre, scale=scale)
