"""From the file of a 1080p JPEG to its verdict, at batch 1: ours, peers, and the way between.

    python benchmarks/pipeline.py DETECTOR BUNDLE [--json OUT]

The peer is what a user would write: Pillow, and PyTorch eager in float32 on all tokens, with all
blocks of the backbone (random weights: they cost the same). The way from there to BUNDLE, of the
backend native, is walked one thing at a time: the detector's blocks alone, its tokens alone, one
graph in a runtime, integers, and the decode of a window in place of the whole picture. Beside it
the same pruned graph in ONNX Runtime, and the decode of a window beside libjpeg-turbo alone. All
take turns. Needs the extra `train`.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
from peers import THREADS
from records import write_record
from samples import FLOAT_LAYERS, write_jpegs
from turns import figures, provenance, take_turns, target

from mpft_deploy.bundle import Device, read_bundle
from mpft_deploy.detector_folder import DetectorFolder, read_detector
from mpft_deploy.engine import Engine, load_engine
from mpft_deploy.engine.ort import OnnxRuntimeEngine
from mpft_deploy.engine.reference import activation_maxima
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.precision import apply_precision
from mpft_deploy.export.smoothing import smooth
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.kernels.jpeg_window import decode_window, why_not
from mpft_deploy.screen.sources import Item, read_frames
from mpft_deploy.spec import KeepRule
from mpft_deploy.views import view_corners, views

ROUNDS, TURN = 5, 10
DECODE_ROUNDS, DECODE_TURN = 20, 8
FASTER, DECODE_COST = 8.0, 1.2
OURS = "ours"

Verdict = Callable[[Path], str]


def peer(folder: DetectorFolder, blocks: int, keep: KeepRule) -> Verdict:
    """Pillow and PyTorch eager in float32, on the tokens that a rule keeps."""
    import torch
    from PIL import Image

    from mpft_deploy.detector.backbone import Geometry
    from mpft_deploy.detector.model import Detector

    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
    spec = folder.spec
    tower = Geometry(spec.architecture, spec.patch, spec.crop.size)
    model = Detector(tower, blocks, taps=spec.taps).eval()

    def run(path: Path) -> str:
        with Image.open(path) as image, torch.inference_mode():
            view = views(np.asarray(image.convert("RGB")), spec.crop.size)
            cut = texture_patchify(view, spec.patch, keep, spec.keep_seed)
            cells = torch.from_numpy(cut.patches), torch.from_numpy(cut.positions)
            return spec.calibration.verdict(spec.calibration.probability(float(model(*cells)[0])))

    return run


def ours(folder: DetectorFolder, engine: Engine, *, whole: bool = False) -> Verdict:
    """The path of `mpft screen`, or with the whole JPEG decoded."""
    spec = folder.spec
    size = spec.crop.size

    def run(path: Path) -> str:
        frame = next(read_frames(Item(path, "image"), centre=None if whole else size))
        cut = texture_patchify(
            views(frame.pixels, size), spec.patch, spec.keep_rule, spec.keep_seed
        )
        logit = float(engine.run(cut.patches, cut.positions)[0])
        return spec.calibration.verdict(spec.calibration.probability(logit))

    return run


PYTORCH = "Pillow + PyTorch eager"
WHOLE = "whole JPEG decoded"


def contestants(folder: DetectorFolder, bundle: Path) -> tuple[dict[str, Verdict], dict[str, str]]:
    """Whole pipelines by name, and the steps of the way from PyTorch to ours: what is done, and
    which of these does it."""
    spec = folder.spec
    maxima = activation_maxima(spec, folder.weights, folder.golden.crops)

    def onnxruntime(precision: str) -> Engine:
        floats = FLOAT_LAYERS if precision == "int8" else ()
        smoothed = smooth(spec, folder.weights, maxima, floats).weights
        graph = apply_precision(build_graph(spec, smoothed), precision, floats)
        return OnnxRuntimeEngine(serialise(graph), THREADS)

    read = read_bundle(bundle)
    engine, precision = load_engine(read, threads=THREADS), read.info.precision
    # Of the precision twice, what is timed is the first look.
    name = f"{read.info.backend} {'narrow' if precision.again else precision}"
    fp32, every, blocks = onnxruntime("fp32"), KeepRule("all"), spec.architecture.layers
    found = {
        f"{OURS}, {name}": ours(folder, engine),
        f"{OURS}, {name}, {WHOLE}": ours(folder, engine, whole=True),
        f"{OURS}, onnxruntime fp32": ours(folder, fp32),
        f"{OURS}, onnxruntime fp32, {WHOLE}": ours(folder, fp32, whole=True),
        f"{OURS}, onnxruntime int8 (float: {', '.join(FLOAT_LAYERS)})": ours(
            folder, onnxruntime("int8")
        ),
        f"{PYTORCH}, kept tokens, {spec.depth} blocks": peer(folder, spec.depth, spec.keep_rule),
        f"{PYTORCH}, all tokens, {spec.depth} blocks": peer(folder, spec.depth, every),
        f"{PYTORCH}, all tokens, {blocks} blocks": peer(folder, blocks, every),
    }
    way = {
        f"{PYTORCH}, all tokens, {blocks} blocks": "PyTorch, all tokens and blocks",
        f"{PYTORCH}, all tokens, {spec.depth} blocks": "fewer blocks",
        f"{PYTORCH}, kept tokens, {spec.depth} blocks": "fewer tokens",
        f"{OURS}, onnxruntime fp32, {WHOLE}": "one graph, in ONNX Runtime",
        f"{OURS}, {name}, {WHOLE}": f"integers, {name}",
        f"{OURS}, {name}": "a window of the JPEG decoded",
    }
    return found, way


def bare_decoder(folder: Path) -> Any:
    """libjpeg-turbo alone, compiled now; a ClickException that says what is missing."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise click.ClickException("no C compiler: the bare decode cannot be measured")
    library = folder / "bare_jpeg.so"
    source = Path(__file__).with_name("bare_jpeg.c")
    command = [compiler, "-O2", "-shared", "-fPIC", str(source), "-o", str(library), "-ljpeg"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(
            "the bare decode cannot be compiled; install libjpeg-turbo's headers (Debian: "
            f"libjpeg62-turbo-dev): {done.stderr.strip().splitlines()[-1]}"
        )
    return ctypes.CDLL(str(library)).decode_rows


def measure_decode(paths: list[Path], size: int, scratch: Path) -> dict[str, Any]:
    """A window beside libjpeg-turbo alone and beside Pillow's whole decode."""
    from PIL import Image
    from samples import HEIGHT, WIDTH

    if reason := why_not():
        raise click.ClickException(reason)
    bare = bare_decoder(scratch)
    files = [path.read_bytes() for path in paths]
    [(top, left)] = view_corners(HEIGHT, WIDTH, size)
    row = np.empty((WIDTH, 3), np.uint8)
    address = row.ctypes.data_as(ctypes.c_void_p)

    def decode(data: bytes, columns: int) -> None:
        length = ctypes.c_ulong(len(data))
        bare(ctypes.c_char_p(data), length, top, size, left, columns, address)

    def pillow(data: bytes) -> None:
        Image.open(io.BytesIO(data)).convert("RGB")

    runs: dict[str, Callable[[bytes], object]] = {
        "ours": lambda data: decode_window(data, top, left, size, size),
        "bare libjpeg-turbo, the rows": lambda data: decode(data, 0),
        "bare libjpeg-turbo, rows and columns": lambda data: decode(data, size),
        "Pillow, the whole image": pillow,
    }
    for data in files:  # parity first
        pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        window = decode_window(data, top, left, size, size)
        if not np.array_equal(window, pixels[top : top + size, left : left + size]):
            raise SystemExit("a window differs from Pillow's decode: nothing is timed")
    times = take_turns(runs, files, rounds=DECODE_ROUNDS, turn=DECODE_TURN)
    rows = _rows(times)
    rows_alone = rows[1]["ms"]["p50"]["value"]
    cost = target(
        f"decode of a {size}-pixel crop of a 1080p JPEG, times a bare decode of its rows",
        rows[0]["ms"]["p50"]["value"] / rows_alone,
        DECODE_COST,
        "×",
        at_least=False,
        why="the rest of the file is read too, for damage below the window, which a bare decode of "
        "the rows does not see",
    )
    return {"rows": rows, "targets": [cost]}


def _rows(times: dict[str, list[float]]) -> list[dict[str, Any]]:
    rows = []
    for name, milliseconds in times.items():
        rows.append({"name": name, "ms": figures(milliseconds)})
        middle, ninety = (rows[-1]["ms"][key]["value"] for key in ("p50", "p90"))
        print(f"{name:<70} p50 {middle:8.2f}  p90 {ninety:8.2f} ms")
    return rows


@click.command()
@click.argument("detector", type=click.Path(path_type=Path))
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--images", type=click.Path(path_type=Path), help="Folder of 1080p JPEGs to use.")
@click.option(
    "--rounds",
    type=click.IntRange(3),  # p90 takes 29 samples
    default=ROUNDS,
    show_default=True,
    help="Turns of each contestant.",
)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result here.")
def main(
    detector: Path, bundle: Path, images: Path | None, rounds: int, json_path: Path | None
) -> None:
    """Time the whole path of DETECTOR and its BUNDLE against its peers."""
    folder = read_detector(detector)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        paths = sorted(images.glob("*.jpg")) if images else write_jpegs(detector, scratch, 8)
        runs, way = contestants(folder, bundle)
        mine, whole, *_ = runs.values()
        if any(mine(path) != whole(path) for path in paths):
            raise SystemExit("the optimised path gives other verdicts: nothing is timed")
        print("from JPEG file to verdict")
        rows = _rows(take_turns(runs, paths, rounds=rounds, turn=TURN))
        medians = {row["name"]: row["ms"]["p50"]["value"] for row in rows}
        waterfall = [{"step": step, "ms": medians[name]} for name, step in way.items()]
        best = min(ms for name, ms in medians.items() if name.startswith(OURS))
        theirs, milliseconds = list(medians.items())[-1]
        vnni = "avx512_vnni" in Device.here().instructions
        targets = [
            target(
                f"times faster than {theirs}", milliseconds / best, FASTER, "×", at_least=True,
                why="" if vnni else "set for processors with VNNI, where integers are worth more",
            )
        ]  # fmt: skip
        print("decoding a window of a JPEG")
        decode: dict[str, Any] = {"rows": [], "targets": [], "why_not": ""}
        with _told(decode):
            decode |= measure_decode(paths, folder.spec.crop.size, scratch)
    if json_path is not None:
        record = {
            "benchmark": "pipeline",
            **provenance(),
            "threads": THREADS,
            "jpeg": "1920 × 1080, quality 90, 4:2:0, mosaics of golden crops"
            if images is None
            else "files of --images",
            "rows": rows,
            "waterfall": waterfall,
            "decode": decode,
            "targets": [*targets, *decode["targets"]],
        }
        write_record(json_path, record)


@contextlib.contextmanager
def _told(decode: dict[str, Any]) -> Iterator[None]:
    """Keeps going without the part that this machine cannot measure, and says why."""
    try:
        yield
    except click.ClickException as error:
        decode["why_not"] = error.message
        print(f"not measured: {error.message}")


if __name__ == "__main__":
    main()
