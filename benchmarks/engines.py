"""Engines of one detector against PyTorch eager, side by side: parity first, then time.

    python benchmarks/engines.py models/NAME IMAGES [--json OUT]

From a decoded view to its logit, one view at a time, two threads, the engines taking turns of some
views (A B C A B C …), each warmed up at the start of its turn. Needs the extra `train`. The peer is
what a user of the paper would run: PyTorch eager in float32 with all tokens, once with the
detector's own blocks and once with all blocks of its backbone (random weights in the blocks that
the detector does not have: they cost the
same).
"""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import click
import msgspec
import numpy as np
import torch

from mpft_deploy.bundle import Device
from mpft_deploy.detector.backbone import Geometry
from mpft_deploy.detector.model import Detector
from mpft_deploy.detector_folder import read_detector
from mpft_deploy.engine import get_backend
from mpft_deploy.engine.certificate import compare
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.precision import apply_precision
from mpft_deploy.export.smoothing import smooth
from mpft_deploy.files import write_atomic
from mpft_deploy.images import find_images, load_views
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.spec import KeepRule
from mpft_deploy.statistics import summary

THREADS = 2
TURN, WARM_UP = 15, 3
PAUSE_SECONDS = 0.1
"""Between turns: an engine's threads spin for a while and would take the next one's cores."""

Run = Callable[[np.ndarray], float]


def eager(model: Detector, patch: int) -> Run:
    """PyTorch in float32 on all tokens."""

    def run(view: np.ndarray) -> float:
        cut = texture_patchify(view[None], patch, KeepRule("all"))
        with torch.inference_mode():
            patches, positions = torch.from_numpy(cut.patches), torch.from_numpy(cut.positions)
            return float(model(patches, positions)[0])

    return run


@click.command()
@click.argument("detector", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.option("--views", "count", default=150, show_default=True, help="Images, spread evenly.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result here.")
def main(detector: Path, images: Path, count: int, json_path: Path | None) -> None:
    """Time DETECTOR's engines and their PyTorch peers on IMAGES."""
    torch.set_num_threads(THREADS)
    folder = read_detector(detector)
    spec = folder.spec
    paths = list(find_images(images))
    paths = paths[:: max(1, len(paths) // count)][:count]
    views = load_views(paths, spec.crop.size)

    arch = spec.architecture
    whole = Detector(Geometry(arch, spec.patch, spec.crop.size), arch.layers).eval()
    own = Detector.from_spec(spec, folder.weights, str(detector))
    graph = build_graph(spec, folder.weights)
    smoothed = build_graph(spec, smooth(spec, folder.weights, folder.golden.crops))
    backend = get_backend("onnxruntime")

    def engine(model: bytes) -> Run:
        loaded = backend.load(model, threads=THREADS)

        def run(view: np.ndarray) -> float:
            cut = texture_patchify(view[None], spec.patch, spec.keep_rule, spec.keep_seed)
            return float(loaded.run(cut.patches, cut.positions)[0])

        return run

    reference = f"onnxruntime fp32, {spec.keep}"
    runs = {
        f"PyTorch eager fp32, all tokens, {arch.layers} blocks": eager(whole, spec.patch),
        f"PyTorch eager fp32, all tokens, {spec.depth} blocks": eager(own, spec.patch),
        reference: engine(serialise(graph)),
        f"onnxruntime int8, {spec.keep}": engine(serialise(apply_precision(smoothed, "int8"))),
        f"onnxruntime int8, block 0 float, {spec.keep}": engine(
            serialise(apply_precision(smoothed, "int8", ["block0.*"]))
        ),
    }
    logits: dict[str, list[float]] = {name: [] for name in runs}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for begin in range(0, len(views), TURN):
        turn = views[begin : begin + TURN]
        for name, run in runs.items():
            time.sleep(PAUSE_SECONDS)
            for view in turn[:WARM_UP]:
                run(view)
            for view in turn:
                start = time.perf_counter()
                logit = run(view)
                times[name].append((time.perf_counter() - start) * 1e3)
                logits[name].append(logit)

    exact = np.array(logits[reference], np.float32)
    first, second = list(runs)[:2]
    results = []
    for name in runs:
        milliseconds = summary(np.array(times[name]))
        changes = compare(
            exact,
            np.array(logits[name], np.float32),
            spec.calibration,
            names=[path.name for path in paths],
            views=views,
            reference_name=reference,
        )
        same_rule = name.endswith(spec.keep)
        results.append(
            {
                "name": name,
                "ms": milliseconds,
                "flips": changes.flips if same_rule else None,
                "mean_logit_difference": changes.logit_difference["mean"] if same_rule else None,
                "times_faster_than_whole": np.median(times[first]) / milliseconds["p50"],
                "times_faster_than_own": np.median(times[second]) / milliseconds["p50"],
            }
        )
        row = results[-1]
        flips = f"{row['flips']} of {len(views)}" if same_rule else "-"
        print(
            f"{name:<48} p50 {milliseconds['p50']:8.2f}  p90 {milliseconds['p90']:8.2f} ms"
            f"  flips {flips:>10}  × {row['times_faster_than_whole']:5.1f} of {arch.layers} blocks,"
            f" × {row['times_faster_than_own']:5.1f} of {spec.depth}"
        )
    if json_path:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
        record = {
            "device": msgspec.to_builtins(Device.here()),
            "commit": commit.stdout.strip(),
            "threads": THREADS,
            "views": len(views),
            "results": results,
        }
        write_atomic(json_path, (json.dumps(record, indent=2) + "\n").encode())


if __name__ == "__main__":
    main()
