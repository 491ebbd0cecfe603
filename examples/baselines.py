"""What knows nothing of a picture but how it was stored: to stand beside every table."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

BASELINES = ("metadata alone", "JPEG ghosts alone")


def baselines(rows: list[dict[str, str]], samples: list[Any]) -> dict[str, Array]:
    """Features f32 [n, F] that know nothing of a picture but how it was stored.

    Metadata: size, format and quality of the source file. JPEG ghosts (Farid 2009): how far a view
    is from itself re-saved at some qualities, and how much its pixels jump at the borders of 8 × 8
    blocks; of the very views that the detector learns from.
    """
    from mpft_deploy.detector.batches import disturbed_crops
    from mpft_deploy.evaluate.protocols import resave

    stored = []
    for row in rows:
        size = np.log([float(row["source_width"]), float(row["source_height"])])
        kinds = [row["source_format"] == kind for kind in ("JPEG", "PNG", "WEBP")]
        stored.append([*size, abs(size[0] - size[1]), *kinds, float(row["jpeg_quality"] or 0)])
    ghosts = []
    for views in disturbed_crops(samples, 224, 0, 0):
        for view in views:
            grey = view.astype(np.float32)
            errors = [np.abs(resave(view, "JPEG", q) - grey).mean() for q in range(50, 100, 7)]
            jumps = [np.abs(np.diff(grey, axis=axis)).mean((1 - axis, 2)) for axis in (0, 1)]
            phases = [np.array([j[k::8].mean() for k in range(8)]) for j in jumps]
            peaks = [np.sort(phase)[::-1] / (phase.mean() + 1) for phase in phases]
            ghosts.append([*np.log1p(errors), *np.concatenate(peaks)])
    return dict(zip(BASELINES, (np.float32(stored), np.float32(ghosts)), strict=True))
