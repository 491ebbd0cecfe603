"""Engines of one detector against what a user would run instead: parity first, then time.

    python benchmarks/engines.py DETECTOR IMAGES BUNDLE [--json OUT]

From a decoded view to its logit, one view at a time, two threads, the engines taking turns of some
views (A B C A B C …), each warmed up at the start of its turn. Peers see all tokens of the whole
backbone, with random weights: those cost the same. BUNDLE is an engine that was exported before,
such as the winner of `mpft-export --target auto`.
Peak memory is that of a fresh process that loads one engine and runs a few views.

Needs the extras `train` and `openvino`, and nncf.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np
import peers
from peers import THREADS, U8, Run
from records import write_record

from mpft_deploy.bundle import Device, read_bundle
from mpft_deploy.detector_folder import read_detector
from mpft_deploy.engine import get_backend, load_engine
from mpft_deploy.engine.certificate import compare
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.pipeline import Request, export
from mpft_deploy.export.precision import apply_precision
from mpft_deploy.files import sha256
from mpft_deploy.finding import find_images
from mpft_deploy.images import load_views
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.spec import Architecture, Crop, DetectorSpec
from mpft_deploy.statistics import summary
from mpft_deploy.weights import detector_shapes

TURN, WARM_UP = 15, 3
FEWEST = 29
"""Samples of which a 90th percentile says something."""
PAUSE_SECONDS = 0.1
"""Between turns: an engine's threads spin for a while and would take the next one's cores."""
LARGE_VIEWS = 8
LARGE = DetectorSpec(
    architecture=Architecture(
        name="ViT-L-14-quickgelu", width=1024, heads=16, layers=24, hidden=4096, output_dim=768,
        activation="quick_gelu",
    ),
    depth=24, patch=14, crop=Crop(size=224),
    train_keep="smooth:63", fill="drop", keep="textured:63",
)  # fmt: skip
EXACT, CHOSEN = "ours, fp32", "ours, chosen"
EAGER = "PyTorch eager fp32"
LARGE_EAGER, LARGE_OURS = "L/14, PyTorch eager fp32", "L/14, ours, int8, textured:63"


@dataclass(frozen=True)
class Entry:
    """One engine: how it is loaded, whose verdicts it can be compared with, its file's size."""

    load: Callable[[], Run]
    ours: bool
    size: int


def of_engine(spec: DetectorSpec, load: Callable[[], Any]) -> Callable[[], Run]:
    """One of our engines, from a view on."""

    def loaded() -> Run:
        engine = load()

        def run(view: U8) -> float:
            cut = texture_patchify(view[None], spec.patch, spec.keep_rule, spec.keep_seed)
            return float(engine.run(cut.patches, cut.positions)[0])

        return run

    return loaded


def of_bundle(path: Path) -> Entry:
    bundle = read_bundle(path)
    size = sum(file.stat().st_size for file in path.iterdir())
    return Entry(of_engine(bundle.spec, partial(load_engine, bundle, threads=THREADS)), True, size)


def build(detector: Path, views: U8, work: Path) -> None:
    """Write everything that is loaded later into `work`, unless it is there."""
    if (work / "done").exists():
        return
    spec = read_detector(detector).spec
    whole = peers.tower(spec.architecture, spec.patch, spec.crop.size)
    peers.write_onnx(whole, spec.crop.size, work / "exported.onnx")
    peers.write_openvino_int8(work / "exported.onnx", views[:32], work / "int8.xml")
    request = Request(detector, work / "fp32", "onnxruntime", "fp32", threads=THREADS)
    export(request)
    export(Request(detector, work / "int8", "onnxruntime", "int8", threads=THREADS))
    (work / "done").touch()


def entries(detector: Path, bundle: Path, work: Path) -> dict[str, Entry]:
    """All engines of the shipped size, by name."""
    spec = read_detector(detector).spec
    whole = partial(peers.tower, spec.architecture, spec.patch, spec.crop.size)
    onnx = (work / "exported.onnx").stat().st_size
    int8 = sum((work / f"int8{suffix}").stat().st_size for suffix in (".xml", ".bin"))
    return {
        EAGER: Entry(lambda: peers.eager(whole()), False, onnx),
        "torch.compile fp32": Entry(lambda: peers.compiled(whole()), False, onnx),
        "ONNX Runtime fp32 of torch.onnx": Entry(
            lambda: peers.onnxruntime(work / "exported.onnx"), False, onnx
        ),
        "OpenVINO fp32 of torch.onnx": Entry(
            lambda: peers.openvino(work / "exported.onnx", "f32"), False, onnx
        ),
        **(
            {
                "OpenVINO bf16 of torch.onnx": Entry(
                    lambda: peers.openvino(work / "exported.onnx", "bf16"), False, onnx
                )
            }
            if peers.has_bf16()
            else {}
        ),
        "OpenVINO int8 of NNCF": Entry(lambda: peers.openvino(work / "int8.xml"), False, int8),
        EXACT: of_bundle(work / "fp32"),
        "ours, int8 throughout": of_bundle(work / "int8"),
        CHOSEN: of_bundle(bundle),
    }


def large(work: Path) -> tuple[dict[str, Entry], int]:
    """ViT-L/14 with random weights: eager with all tokens, and ours at K = 63; its view's side."""
    spec = LARGE
    arch = spec.architecture
    model = work / "large.onnx"
    if not model.exists():
        rng = np.random.default_rng(0)
        weights = {
            name: np.ones(size, np.float32) if name.endswith(("ln_1.weight", "ln_2.weight"))
            else rng.standard_normal(size, np.float32) * np.float32(0.02)
            for name, size in detector_shapes(spec).items()
        }  # fmt: skip
        model.write_bytes(serialise(apply_precision(build_graph(spec, weights), "int8")))
    ours = of_engine(
        spec, lambda: get_backend("onnxruntime").load(model.read_bytes(), threads=THREADS)
    )
    found = {
        LARGE_EAGER: Entry(
            lambda: peers.eager(peers.tower(arch, spec.patch, spec.crop.size)), False, 0
        ),
        LARGE_OURS: Entry(ours, True, model.stat().st_size),
    }
    return found, spec.crop.size


def time_in_turns(
    runs: Mapping[str, Run], views: U8
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Milliseconds and logits of each view, by name."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    logits: dict[str, list[float]] = {name: [] for name in runs}
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
    return times, logits


@click.command()
@click.argument("detector", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--views", "count", default=150, show_default=True, help="Images, spread evenly.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result here.")
@click.option("--work", type=click.Path(path_type=Path), hidden=True)
@click.option("--only", hidden=True)
def main(
    detector: Path,
    images: Path,
    bundle: Path,
    count: int,
    json_path: Path | None,
    work: Path | None,
    only: str | None,
) -> None:
    """Time DETECTOR's engines and their peers on IMAGES."""
    spec = read_detector(detector).spec
    paths = list(find_images(images))
    paths = paths[:: max(1, len(paths) // count)][:count]
    if only is not None:
        assert work is not None
        measure_memory(detector, bundle, work, only, paths[:WARM_UP])
        return
    with tempfile.TemporaryDirectory() as folder:
        work = work or Path(folder)
        views = load_views(paths, spec.crop.size)
        build(detector, views, work)
        found = entries(detector, bundle, work)
        times, logits = time_in_turns({name: one.load() for name, one in found.items()}, views)
        extra, side = large(work)
        more = {name: one.load() for name, one in extra.items()}
        times |= time_in_turns(more, load_views(paths[:LARGE_VIEWS], side))[0]
        del more
        found |= extra
        memory = {name: memory_of(sys.argv[1:], work, name) for name in found}

    exact = np.array(logits[EXACT], np.float32)
    results = []
    for name, one in found.items():
        row: dict[str, Any] = {
            "name": name,
            "ms": summary(
                np.array(times[name]), (50, 90, 99) if len(times[name]) >= FEWEST else (50,)
            ),
            "peak_memory_mb": memory[name],
            "size_mb": one.size / 1e6 or None,
            "flips": None,
        }
        if one.ours and name in logits:
            changes = compare(
                exact, np.array(logits[name], np.float32), spec.calibration,
                names=[path.name for path in paths],
                images_sha256=sha256(views.tobytes()), reference_name=EXACT,
            )  # fmt: skip
            row |= {"flips": changes.flips, "decisive": changes.decisive_flips}
            row["mean_logit_difference"] = changes.logit_difference["mean"]
        results.append(row)
        ninety = f"{row['ms']['p90']:8.2f}" if "p90" in row["ms"] else f"{'–':>8}"
        flips = "–" if row["flips"] is None else f"{row['flips']} of {len(views)}"
        print(
            f"{name:<34} p50 {row['ms']['p50']:8.2f}  p90 {ninety} ms  "
            f"peak {row['peak_memory_mb']:6.0f} MB  file {one.size / 1e6:6.1f} MB  flips {flips}"
        )
    ratios = judge({row["name"]: row["ms"]["p50"] for row in results})
    if json_path:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True)
        record = {
            "benchmark": "engines",
            "device": msgspec.to_builtins(Device.here()),
            "commit": commit.stdout.strip(),
            "threads": THREADS,
            "views": len(views),
            "detector": {
                "depth": spec.depth,
                "keep": spec.keep,
                "blocks": spec.architecture.layers,
            },
            "results": results,
            "left_out": [] if peers.has_bf16() else [peers.NO_BF16],
            "ratios": ratios,
        }
        write_record(json_path, record)


def judge(p50: Mapping[str, float]) -> list[dict[str, Any]]:
    """The ratios that the project promises, printed with their targets."""
    others = [ms for name, ms in p50.items() if "ours" not in name and "L/14" not in name]
    fastest = min(ms for ms in others if ms != p50[EAGER])
    ratios = [
        ("of eager with the whole backbone", p50[EAGER] / p50[CHOSEN], 15.0),
        ("of the fastest other peer", fastest / p50[CHOSEN], 2.5),
        ("of eager, L/14", p50[LARGE_EAGER] / p50[LARGE_OURS], 12.0),
    ]
    for name, ratio, target in ratios:
        print(
            f"{ratio:6.1f} × {name} (target {target:g}): {'met' if ratio >= target else 'MISSED'}"
        )
    return [{"name": name, "ratio": ratio, "target": target} for name, ratio, target in ratios]


def memory_of(arguments: list[str], work: Path, name: str) -> float:
    """Peak resident megabytes of a fresh process that runs one engine."""
    command = [sys.executable, __file__, *arguments, "--work", str(work), "--only", name]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise click.ClickException(f"{name}: {done.stderr[-2000:]}")
    return float(done.stdout.split()[-1])


def measure_memory(detector: Path, bundle: Path, work: Path, name: str, paths: list[Path]) -> None:
    if name.startswith("L/14"):
        found, side = large(work)
    else:
        found, side = entries(detector, bundle, work), read_detector(detector).spec.crop.size
    run = found[name].load()
    for view in load_views(paths, side):
        run(view)
    status = Path("/proc/self/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    print(float(peak.split()[1]) / 1e3)


if __name__ == "__main__":
    main()
