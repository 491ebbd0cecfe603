"""Check and time the CUDA kernels on a GPU: one command for when one is at hand.

    python benchmarks/gpu_suite.py [--output FILE] [--no-sanitizer]

Checks that the CUDA kernels equal the NumPy oracle, bit for bit, before it times anything: of
texture_patchify patches, positions and scores, of the encoder the shipped detector's logits on its
golden crops. Runs the checks under compute-sanitizer if that is on PATH. Then measures
texture_patchify at batch 1 in microseconds inside a CUDA graph, and larger batches as a share of
what a device-to-device copy of as many bytes reaches, with the L2 cache flushed by turns; and the
encoder at batches of 1, 8 and 64. Writes JSON with device, driver and commit. Exit code 0: all
equal; 1: a difference or a sanitizer's finding; 3: no GPU here.
"""

from __future__ import annotations

import argparse
import functools
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gpu_encoder
import numpy as np
from records import write_record

from mpft_deploy.detector_folder import read_detector
from mpft_deploy.kernels.texture_patchify import cuda, oracle, texture_patchify
from mpft_deploy.kernels.texture_patchify.oracle import Patches
from mpft_deploy.spec import KeepRule

ROOT = Path(__file__).parents[1]
SIZE = 224
GOAL = 0.70  # share of copy bandwidth at batches of 64 and more
CALLS_PER_GRAPH = 100
REPLAYS = 30
SETUPS = ((14, "textured:95"), (14, "textured:127"), (16, "textured:95"), (14, "all"))
BATCHES = (64, 256, 1024)
SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")


def cases(quick: bool) -> Iterator[tuple[np.ndarray[Any, Any], int, KeepRule]]:
    """Images, patch and rule: fast paths, other sizes, ties, many cells; fewer if `quick`."""
    random = np.random.default_rng(0)

    def noise(batch: int, size: int) -> np.ndarray[Any, Any]:
        return random.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)

    for size, patch in ((224, 14), (224, 16), (15, 5), (66, 11), (128, 64), (264, 4)):
        cells = (size // patch) ** 2
        images = noise(2, size)
        for count in sorted({1, 63, 95, 96, 127, 191, cells - 1} & set(range(1, cells + 1))):
            for kind in ("smooth", "textured", "random"):
                # Few levels, so that many scores are equal.
                yield images // 200 * 200, patch, KeepRule(kind, count)
        yield images, patch, KeepRule("all")
    if not quick:
        yield noise(1, 1024), 4, KeepRule("textured", 1000)
        yield noise(600, SIZE), 14, KeepRule("textured", 95)


def differences(quick: bool) -> list[str]:
    """One line for every case in which the kernels differ from the oracle."""
    import torch

    found = []
    for images, patch, keep in cases(quick):
        expected = oracle.texture_patchify(images, patch, keep, 7)
        # Frames of one byte more a row: every alignment occurs.
        wide = torch.zeros((*images.shape[:2], images.shape[2] * 3 + 1), dtype=torch.uint8)
        wide[:, :, :-1] = torch.from_numpy(images).flatten(2)
        odd = wide.cuda()[:, :, :-1].unflatten(2, (-1, 3))
        for layout, frames in (("contiguous", torch.from_numpy(images).cuda()), ("pitched", odd)):
            got: Any = texture_patchify(frames, patch, keep, 7)
            found += [
                f"{field} differ, {list(images.shape)} {layout}, {patch} px, {keep}"
                for field, a, b in zip(Patches._fields, got, expected, strict=True)
                if not np.array_equal(a.cpu().numpy(), b)
            ]
    return found


def allocate(images: Any, patch: int, keep: KeepRule) -> Any:
    """Outputs on the device for one call."""
    import torch

    batch, cells = images.shape[0], (images.shape[1] // patch) ** 2
    count = keep.resolve(cells)
    return Patches(
        images.new_empty((batch, count, 3 * patch * patch)),
        images.new_empty((batch, count), dtype=torch.int32),
        images.new_empty((batch, cells), dtype=torch.int32),
    )


def stream() -> int:
    """torch's current stream as a cudaStream_t."""
    import torch

    return int(torch.cuda.current_stream().cuda_stream)


def graph_seconds(call: Callable[[int], None], calls: int) -> float:
    """Median time of one of `calls` calls that one CUDA graph holds, over REPLAYS replays."""
    import torch

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for number in range(3):
            call(number)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for number in range(calls):
            call(number)
    times = []
    for _ in range(REPLAYS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000 / calls)
    return float(np.median(times))


def launch(
    frames: list[Any],
    outs: list[Any],
    patch: int,
    keep: KeepRule,
    number: int,
) -> None:
    """The `number`-th call, on the arrays whose turn it is."""
    turn = number % len(frames)
    cuda.launch(frames[turn], *outs[turn], patch=patch, keep=keep, stream=stream())


def copy(halves: list[Any], number: int) -> None:
    """The `number`-th copy of one half of a buffer to the other."""
    target, source = halves[number % len(halves)]
    target.copy_(source)


def measure_batch_1() -> list[dict[str, Any]]:
    """Microseconds of one call at batch 1, its frame in the L2 cache."""
    import torch

    rows = []
    images = torch.randint(0, 256, (1, SIZE, SIZE, 3), dtype=torch.uint8, device="cuda")
    for patch, rule in SETUPS:
        keep = KeepRule.parse(rule)
        out = allocate(images, patch, keep)
        call = functools.partial(launch, [images], [out], patch, keep)
        rows.append(
            {
                "patch": patch,
                "keep": rule,
                "microseconds": round(1e6 * graph_seconds(call, CALLS_PER_GRAPH), 2),
                "microseconds_alone_in_a_graph": round(1e6 * graph_seconds(call, 1), 2),
            }
        )
    return rows


def measure_batches() -> list[dict[str, Any]]:
    """GB/s at larger batches: every byte of a frame read once and of the outputs written once."""
    import torch

    flush = 4 * torch.cuda.get_device_properties(0).L2_cache_size
    rows = []
    for patch, rule in SETUPS:
        keep = KeepRule.parse(rule)
        for batch in BATCHES:
            frame_bytes = batch * SIZE * SIZE * 3
            turns = max(2, -(-flush // frame_bytes))
            frames = [
                torch.randint(0, 256, (batch, SIZE, SIZE, 3), dtype=torch.uint8, device="cuda")
                for _ in range(turns)
            ]
            outs = [allocate(frames[0], patch, keep) for _ in range(turns)]
            moved = frame_bytes + sum(array.nbytes for array in outs[0])
            halves = [
                torch.empty((2, moved // 2), dtype=torch.uint8, device="cuda") for _ in range(turns)
            ]

            copy_seconds = graph_seconds(functools.partial(copy, halves), turns)
            call = functools.partial(launch, frames, outs, patch, keep)
            seconds = graph_seconds(call, turns)
            rows.append(
                {
                    "batch": batch,
                    "patch": patch,
                    "keep": rule,
                    "microseconds": round(1e6 * seconds, 2),
                    "bytes": moved,
                    "gb_per_s": round(moved / seconds / 1e9, 1),
                    "copy_gb_per_s": round(moved / copy_seconds / 1e9, 1),
                    "share_of_copy": round(copy_seconds / seconds, 3),
                }
            )
    return rows


def sanitize() -> dict[str, str]:
    """Run the checks under each tool of compute-sanitizer: "clean", or the end of its report."""
    if shutil.which("compute-sanitizer") is None:
        return {"compute-sanitizer": "not on PATH"}
    reports = {}
    for tool in SANITIZERS:
        command = ["compute-sanitizer", f"--tool={tool}", "--error-exitcode=9"]
        command += [sys.executable, __file__, "--checks-only"]
        run = subprocess.run(command, capture_output=True, text=True)
        reports[tool] = "clean" if run.returncode == 0 else run.stdout[-2000:]
    return reports


def environment() -> dict[str, Any]:
    """Device, driver, versions and commit."""
    import torch

    def output(*command: str) -> str:
        run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        return run.stdout.strip() if run.returncode == 0 else "unknown"

    query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
    return {
        "device": torch.cuda.get_device_name(0),
        "capability": list(torch.cuda.get_device_capability(0)),
        "driver": output(*query).partition("\n")[0] if shutil.which(query[0]) else "unknown",
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "commit": output("git", "rev-parse", "HEAD"),
        "changed_files": output("git", "status", "--porcelain") != "",
    }


def main() -> int:
    """Check, measure, write; see the module's docstring."""
    parser = argparse.ArgumentParser(description="Check and time the CUDA kernels on a GPU.")
    parser.add_argument("--output", type=Path, default=Path("gpu_suite.json"), help="JSON to write")
    parser.add_argument("--no-sanitizer", action="store_true", help="leave compute-sanitizer out")
    parser.add_argument("--checks-only", action="store_true", help="compare less, time nothing")
    options = parser.parse_args()
    if reason := cuda.why_not():
        print(f"gpu-suite: {reason}", file=sys.stderr)
        return 3
    try:
        import torch
    except ImportError:
        print("gpu-suite: torch is not installed: pip install '.[train]'", file=sys.stderr)
        return 3
    if not torch.cuda.is_available():
        print("gpu-suite: this torch has no CUDA; install a CUDA build of it", file=sys.stderr)
        return 3
    detector = read_detector(ROOT / "models" / "mpft-vit-b16")
    found = differences(options.checks_only)
    found += gpu_encoder.differences(detector, 2 if options.checks_only else None)
    for line in found:
        print(f"DIFFERENT {line}")
    print(f"bit-exactness: {'FAILED' if found else 'PASSED'}")
    if found or options.checks_only:
        return 1 if found else 0
    sanitized = {} if options.no_sanitizer else sanitize()
    results = {
        "benchmark": "gpu_suite",
        **environment(),
        "sanitizer": sanitized,
        "batch_1": measure_batch_1(),
        "batches": measure_batches(),
        "encoder": gpu_encoder.measure(detector, stream, graph_seconds),
    }
    write_record(options.output, results)
    for tool, report in sanitized.items():
        print(f"{tool}: {report}")
    for row in results["batch_1"]:
        print(f"batch 1, {row['patch']} px, {row['keep']}: {row['microseconds']} µs")
    for row in results["batches"]:
        verdict = "reaches" if row["share_of_copy"] >= GOAL else "misses"
        print(f"batch {row['batch']}, {row['patch']} px, {row['keep']}: ", end="")
        print(f"{row['gb_per_s']} GB/s, {row['share_of_copy']:.0%} of a copy, {verdict} the goal")
    for row in results["encoder"]:
        print(f"encoder, batch {row['batch']}: {row['milliseconds']} ms, ", end="")
        print(f"{row['views_per_second']} views/s")
    print(f"written to {options.output}")
    bad = [report for report in sanitized.values() if report not in ("clean", "not on PATH")]
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
