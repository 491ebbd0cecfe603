"""From the file of a 1080p JPEG to its verdict, at batch 1: ours, the peer, and each optimisation.

    python benchmarks/pipeline.py DETECTOR BUNDLE [--json OUT]

The peer is what a user would write: Pillow, torchvision's transforms, PyTorch eager in float32 on
all tokens; with the blocks that the detector has, and with all of its backbone (random weights in
the others: they cost the same). BUNDLE is an engine that was exported before, such as the winner
of `mpft-export --target cpu`; it runs beside ours in int8 of ONNX Runtime, and the faster counts.
Then that of ONNX Runtime with each optimisation left out in turn, and the decode of a window beside
libjpeg-turbo alone. All take turns. Needs the extra `train`.
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
from records import write_record
from samples import FLOAT_LAYERS, write_jpegs
from turns import figures, provenance, take_turns, target

from mpft_deploy.bundle import read_bundle
from mpft_deploy.detector_folder import DetectorFolder, read_detector
from mpft_deploy.engine import Engine, load_engine
from mpft_deploy.engine.ort import OnnxRuntimeEngine
from mpft_deploy.engine.reference import activation_maxima
from mpft_deploy.export.graph import build_graph, serialise
from mpft_deploy.export.precision import apply_precision
from mpft_deploy.export.smoothing import smooth
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.kernels.jpeg_window import decode_window, why_not
from mpft_deploy.kernels.texture_patchify.oracle import texture_patchify as oracle
from mpft_deploy.screen.sources import Item, read_frames
from mpft_deploy.spec import KeepRule
from mpft_deploy.views import view_corners

THREADS = 2
ROUNDS, TURN = 10, 10
DECODE_ROUNDS, DECODE_TURN = 20, 8
FASTER, DECODE_COST = 8.0, 1.2
OURS = "ours"

Verdict = Callable[[Path], str]


def peer(folder: DetectorFolder, blocks: int) -> Verdict:
    """Pillow, torchvision, PyTorch eager in float32 on all tokens."""
    import torch
    from PIL import Image
    from torchvision import transforms

    from mpft_deploy.detector.backbone import Geometry
    from mpft_deploy.detector.model import Detector

    torch.set_num_threads(THREADS)
    spec, arch = folder.spec, folder.spec.architecture
    if blocks == spec.depth:
        model = Detector.from_spec(spec, folder.weights, "benchmark")
    else:
        model = Detector(Geometry(arch, spec.patch, spec.crop.size), blocks).eval()
    size, patch = spec.crop.size, spec.patch
    cut = transforms.Compose([transforms.CenterCrop(size), transforms.PILToTensor()])
    cells = size // patch
    positions = torch.arange(cells * cells, dtype=torch.int32)[None]

    def run(path: Path) -> str:
        with Image.open(path) as image, torch.inference_mode():
            pixels = cut(image.convert("RGB"))
            # The detector normalises within; a plain ViT's convolution cuts the patches.
            grid = pixels.reshape(3, cells, patch, cells, patch).permute(1, 3, 2, 4, 0)
            patches = grid.reshape(1, cells * cells, patch * patch * 3).contiguous()
            logit = float(model(patches, positions)[0])
        return spec.calibration.verdict(spec.calibration.probability(logit))

    return run


def ours(
    folder: DetectorFolder,
    engine: Engine,
    *,
    keep: KeepRule | None = None,
    whole: bool = False,
    kernel: Callable[..., Any] = texture_patchify,
) -> Verdict:
    """The path of `mpft screen`, or one optimisation short of it."""
    from mpft_deploy.views import views

    spec = folder.spec
    size, rule = spec.crop.size, keep or spec.keep_rule

    def run(path: Path) -> str:
        frame = next(read_frames(Item(path, "image"), centre=None if whole else size))
        cut = kernel(views(frame.pixels, size), spec.patch, rule, spec.keep_seed)
        logit = float(engine.run(cut.patches, cut.positions)[0])
        return spec.calibration.verdict(spec.calibration.probability(logit))

    return run


def contestants(
    folder: DetectorFolder, bundle: Path
) -> tuple[dict[str, Verdict], dict[str, Verdict]]:
    """Whole pipelines by name, the peers last; and ours with one optimisation left out each."""
    spec = folder.spec
    maxima = activation_maxima(spec, folder.weights, folder.golden.crops)

    def model(precision: str, tokens: int | None = None) -> bytes:
        floats = FLOAT_LAYERS if precision == "int8" else ()
        smoothed = smooth(spec, folder.weights, maxima, floats).weights
        graph = build_graph(spec, smoothed, tokens=tokens)
        return serialise(apply_precision(graph, precision, floats))

    int8 = model("int8")
    engine = OnnxRuntimeEngine(int8, THREADS)
    base = ours(folder, engine)
    every = KeepRule("all")
    blocks = spec.architecture.layers
    read = read_bundle(bundle)
    wholes = {
        f"{OURS}, onnxruntime int8 (float: {', '.join(FLOAT_LAYERS)})": base,
        f"{OURS}, {read.info.backend} {read.info.precision}": ours(
            folder, load_engine(read, threads=THREADS)
        ),
        f"Pillow + torchvision + PyTorch eager, all tokens, {spec.depth} blocks": peer(
            folder, spec.depth
        ),
        f"Pillow + torchvision + PyTorch eager, all tokens, {blocks} blocks": peer(folder, blocks),
    }
    ablated = {
        "all optimisations": base,
        "whole JPEG decoded": ours(folder, engine, whole=True),
        "kernel in NumPy": ours(folder, engine, kernel=oracle),
        f"all {spec.cells} tokens": ours(
            folder, OnnxRuntimeEngine(model("int8", spec.cells), THREADS), keep=every
        ),
        "float32 engine": ours(folder, OnnxRuntimeEngine(model("fp32"), THREADS)),
        "one thread": ours(folder, OnnxRuntimeEngine(int8, 1)),
        "threads that sleep, not spin": ours(folder, OnnxRuntimeEngine(int8, THREADS, spin=False)),
    }
    return wholes, ablated


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
        wholes, ablated = contestants(folder, bundle)
        same = ("all optimisations", "whole JPEG decoded", "kernel in NumPy")
        if any(len({ablated[name](path) for name in same}) > 1 for path in paths):
            raise SystemExit("the optimised path gives other verdicts: nothing is timed")
        print("from JPEG file to verdict")
        whole_rows = _rows(take_turns(wholes, paths, rounds=rounds, turn=TURN))
        print("ours, with one optimisation left out")
        ablated_rows = _rows(take_turns(ablated, paths, rounds=rounds, turn=TURN))
        medians = {row["name"]: row["ms"]["p50"]["value"] for row in whole_rows}
        mine = min(ms for name, ms in medians.items() if name.startswith(OURS))
        # The last peer is the whole backbone, which a user has; the table shows the other too.
        theirs, milliseconds = list(medians.items())[-1]
        targets = [
            target(f"times faster than {theirs}", milliseconds / mine, FASTER, "×", at_least=True)
        ]
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
            "rows": whole_rows,
            "ablation": ablated_rows,
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
