"""Measure once, where a detector is published, what its engines change; see `engine.published`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mpft_deploy.cores import check_threads
from mpft_deploy.detector_folder import OUTPUT, rewrite_detector
from mpft_deploy.engine import native
from mpft_deploy.engine.certificate import run_views
from mpft_deploy.engine.published import Header, Published, network_of
from mpft_deploy.export.materials import FLOAT32, Materials, Say
from mpft_deploy.export.recipes import precision_of
from mpft_deploy.outputs import reserve


def certify_detector(
    path: Path, images: Sequence[Path], *, threads: int = 0, say: Say = lambda text: None
) -> Published:
    """Run float32 and the engines of the backend native on images, and write the logits into
    the detector's folder, in place of those that are there.

    Args:
        images: folders.
        threads: of the engines; 0 takes all cores.
        say: told of progress.

    Raises:
        InputError: an image cannot be read, or none is left to judge by.
    """
    check_threads(threads)
    with reserve(path, OUTPUT, replace=True, inputs=images):
        materials = Materials(path, tuple(images), (), say)
        detector, views = materials.detector, materials.views
        assert views is not None
        spec, crops = detector.spec, detector.golden.crops
        logits, golden = {}, {}
        for precision in native.MEASURED:
            data = native.write_engine(spec, detector.stored, precision_of(precision))
            engine = native.load(data, threads=threads)
            golden[precision] = run_views(engine, spec, crops)
            logits[precision] = materials.run(precision, engine, views.pixels, spec)
        header = Header(
            network=network_of(detector),
            reference=f"{FLOAT32}, {spec.keep}",
            keep=spec.keep,
            views=spec.calibration.views,
            names=tuple(views.names),
            images_sha256=views.pixels_sha256,
            left_out=views.left_out,
        )
        labels = None if views.labels is None else views.labels.astype(np.int8)
        reference = materials.reference_logits(views)
        published = Published(header, reference, logits, golden, labels)
        rewrite_detector(path, spec, certificate=published.to_bytes())
    return published
