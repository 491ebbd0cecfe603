"""Ranges of activations, for the precisions that fix them at export.

The largest magnitude, not a percentile: CLIP carries much of what it knows in a few massive
activations, and clipping those costs most of the accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from mpft_deploy.export.smoothing import activation_maxima
from mpft_deploy.spec import DetectorSpec
from mpft_deploy.weights import F32


def activation_ranges(
    spec: DetectorSpec, weights: Mapping[str, F32], views: npt.NDArray[np.uint8]
) -> dict[str, float]:
    """Largest magnitude of each linear layer's input: layer as the graph names it → f32.

    Args:
        weights: those that the graph is built from, smoothed already if they are to be.
        views: u8 [n, S, S, 3] of the kind that the engine will see.
    """
    ranges = {
        layer: float(maxima.max())
        for layer, maxima in activation_maxima(spec, weights, views).items()
    }
    # `activation_maxima` calls the last block's key-value layer by the name of the others.
    last = f"block{spec.depth - 1}.attention"
    ranges[f"{last}.kv"] = ranges.pop(f"{last}.qkv")
    return ranges
