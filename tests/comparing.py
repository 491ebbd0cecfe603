"""Comparisons of logits that a test names."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mpft_deploy.bundle import Comparison
from mpft_deploy.engine.certificate import compare
from mpft_deploy.spec import Calibration

CALIBRATION = Calibration(threshold=0.5, unsure=(0.4, 0.6))


def comparison(
    pairs: Sequence[tuple[float, float]], labels: np.ndarray | None = None
) -> Comparison:
    """Of pairs of the reference's and the engine's logit."""
    sides = zip(*pairs, strict=True) if pairs else ((), ())
    before, after = (np.array(side, np.float32) for side in sides)
    return compare(
        before,
        after,
        CALIBRATION,
        names=[f"image {index}" for index in range(len(pairs))],
        images_sha256="0" * 64,
        reference_name="a test",
        labels=labels,
    )
