"""The encoder on a GPU: the bits that CPUs give, and latency. A part of gpu_suite.py."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from mpft_deploy.bundle import WIDTHS
from mpft_deploy.detector_folder import DetectorFolder
from mpft_deploy.kernels.encoder import Encoder, cuda, make_network
from mpft_deploy.kernels.encoder.packing import pack
from mpft_deploy.kernels.texture_patchify import oracle

BATCHES = (1, 8, 64)
CALLS_PER_GRAPH = 10


def differences(
    detector: DetectorFolder, views: int | None, library: ctypes.CDLL | None = None
) -> list[str]:
    """One line for every precision at which a logit of a golden crop differs in a bit.

    Args:
        views: how many golden crops are judged, as one batch and each alone; None takes all.
        library: in the place of the one that is installed.
    """
    spec = detector.spec
    cut = oracle.texture_patchify(
        detector.golden.crops[:views], spec.patch, spec.keep_rule, spec.keep_seed
    )
    found = []
    for wide, name in WIDTHS.items():
        packed = pack(make_network(spec, detector.stored, wide=wide))
        due = Encoder(packed).logits(cut.patches, cut.positions)
        encoder = cuda.CudaEncoder(packed, library)
        together = encoder.logits(cut.patches, cut.positions)
        alone = [
            encoder.logits(patches[None], positions[None])
            for patches, positions in zip(cut.patches, cut.positions, strict=True)
        ]
        for how, logits in (("together", together), ("alone", np.concatenate(alone))):
            wrong = int((logits.view(np.uint32) != due.view(np.uint32)).sum())
            if wrong:
                most = np.abs(logits.astype(np.float64) - due).max()
                found.append(f"encoder {name}: {wrong} of {len(due)} {how}, by up to {most:.3g}")
    return found


def measure(
    detector: DetectorFolder,
    stream: Callable[[], int],
    graph_seconds: Callable[[Callable[[int], None], int], float],
) -> list[dict[str, Any]]:
    """Time of one call inside a CUDA graph, from device patches to device logits.

    Args:
        stream: torch's current stream; graph_seconds: as in gpu_suite.py.
    """
    import torch

    spec = detector.spec
    encoder = cuda.CudaEncoder(pack(make_network(spec, detector.stored)))
    count = spec.keep_rule.resolve(spec.cells)
    rows = []
    for batch in BATCHES:
        turns = np.resize(np.arange(len(detector.golden.crops)), batch)
        cut = oracle.texture_patchify(
            detector.golden.crops[turns], spec.patch, spec.keep_rule, spec.keep_seed
        )
        patches, positions = (
            torch.from_numpy(array).cuda() for array in (cut.patches, cut.positions)
        )
        logits = torch.empty(batch, dtype=torch.float32, device="cuda")
        encoder.reserve(batch, count)

        def call(
            number: int, patches: Any = patches, positions: Any = positions, logits: Any = logits
        ) -> None:
            encoder.launch(patches, positions, logits, stream())

        seconds = graph_seconds(call, CALLS_PER_GRAPH)
        rows.append(
            {
                "batch": batch,
                "cells": count,
                "milliseconds": round(1e3 * seconds, 4),
                "views_per_second": round(batch / seconds),
            }
        )
    return rows
