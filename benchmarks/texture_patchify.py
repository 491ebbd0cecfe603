"""texture_patchify on CPUs against its peers: first equal, then timed.

    python benchmarks/texture_patchify.py [--json results.json] [--callgrind]

One image of 224 × 224, cells of 16, the 96 most textured kept; score, select and pack. Everything
is called from Python, the versions with `out=`, on one thread, with the image in the cache; the
contestants take turns, so that whatever else the machine does falls on all alike. "Bytes" are
those that must move: the image once, the outputs once.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "kernels"))

from native_library import Library, build  # noqa: E402  # lies with the tests that use it too
from records import write_record  # noqa: E402

from mpft_deploy.bundle import Device  # noqa: E402
from mpft_deploy.kernels.texture_patchify import oracle, registry  # noqa: E402
from mpft_deploy.kernels.texture_patchify.oracle import U8, Patches  # noqa: E402
from mpft_deploy.spec import KeepRule  # noqa: E402

SIZE, PATCH, KEEP = 224, 16, KeepRule.parse("textured:96")
GRID = SIZE // PATCH
CELLS = GRID * GRID
COUNT = KEEP.resolve(CELLS)
BYTES = 3 * SIZE**2 + 3 * PATCH**2 * COUNT + 4 * COUNT + 4 * CELLS

# A peer, and how much faster than it each version with vectors shall be. memcpy: at most 4 times
# slower than copying the image.
TARGETS = {"numpy": 30, "scalar, not vectorised": 8, "PyTorch": 4, "OpenCV": 4, "memcpy": 1 / 4}

Contestant = Callable[[], Patches | None]


def peers(images: U8, out: Patches, library: Library) -> dict[str, Contestant]:
    """What the versions are measured against; each does the same work on `images`."""

    def plain() -> Patches:
        library.run_into("scalar", images, PATCH, KEEP, 0, out)
        return out

    copy = np.empty_like(images)
    found: dict[str, Contestant] = {
        "memcpy": lambda: np.copyto(copy, images),
        "numpy": lambda: oracle.texture_patchify(images, PATCH, KEEP),
        "scalar, not vectorised": plain,
    }
    for name, module, make in (("PyTorch", "torch", in_torch), ("OpenCV", "cv2", in_opencv)):
        if importlib.util.find_spec(module) is None:
            print(f"{name} is left out: {module} is not installed")
        else:
            found[name] = make(images)
    return found


def in_torch(images: U8) -> Contestant:
    """PyTorch's own operations."""
    import torch

    torch.set_num_threads(1)
    tensor = torch.from_numpy(images)

    @torch.inference_mode()
    def run() -> Patches:
        cells = tensor.view(-1, GRID, PATCH, GRID, PATCH, 3).transpose(2, 3)
        x = cells.reshape(-1, CELLS, PATCH, PATCH * 3).to(torch.int16)
        here, right = x[..., :-3], x[..., 3:]
        scores = (here - right).abs_().sum((2, 3), dtype=torch.int32)
        scores += (x[:, :, :-1] - x[:, :, 1:]).abs_().sum((2, 3), dtype=torch.int32)
        scores += (here[:, :, :-1] - right[:, :, 1:]).abs_().sum((2, 3), dtype=torch.int32)
        scores += (right[:, :, :-1] - here[:, :, 1:]).abs_().sum((2, 3), dtype=torch.int32)
        # topk breaks ties in any order, so a stable sort it must be.
        order = torch.sort(scores, dim=1, descending=True, stable=True).indices
        kept = order[:, :COUNT].sort(dim=1).values
        flat = cells.reshape(-1, CELLS, 3 * PATCH * PATCH)
        packed = flat.gather(1, kept[:, :, None].expand(-1, -1, flat.shape[2]))
        return Patches(packed.numpy(), kept.to(torch.int32).numpy(), scores.numpy())

    return run


def in_opencv(images: U8) -> Contestant:
    """OpenCV's calls for the score, NumPy's for the choice of 196 numbers and the packing."""
    import cv2

    cv2.setNumThreads(1)
    column, row = np.indices((SIZE, SIZE))[::-1] % PATCH < PATCH - 1
    has_right = np.repeat(column * np.uint8(255), 3, axis=1)
    has_below = np.repeat(row * np.uint8(255), 3, axis=1)
    has_both = has_right & has_below

    def run() -> Patches:
        scores, positions, patches = [], [], []
        for image in images:
            x = image.reshape(SIZE, 3 * SIZE)
            total = np.zeros(x.shape, np.uint16)
            for a, b, mask in (
                (x[:, :-3], x[:, 3:], has_right[:, :-3]),
                (x[:-1], x[1:], has_below[:-1]),
                (x[:-1, :-3], x[1:, 3:], has_both[:-1, :-3]),
                (x[:-1, 3:], x[1:, :-3], has_both[:-1, :-3]),
            ):
                part = total[: a.shape[0], : a.shape[1]]
                difference = cv2.bitwise_and(cv2.absdiff(a, b), mask)
                cv2.add(part, difference, dst=part, dtype=cv2.CV_16U)
            bands = [
                cv2.reduce(total[top : top + PATCH], 0, cv2.REDUCE_SUM, dtype=cv2.CV_32F)
                for top in range(0, SIZE, PATCH)
            ]
            sums = cv2.reduce(
                np.concatenate(bands).reshape(CELLS, 3 * PATCH), 1, cv2.REDUCE_SUM
            ).ravel()
            kept = np.sort(np.argsort(-sums, kind="stable")[:COUNT])
            cells = x.reshape(GRID, PATCH, GRID, 3 * PATCH).transpose(0, 2, 1, 3)
            patches.append(cells[kept // GRID, kept % GRID].reshape(COUNT, -1))
            positions.append(kept.astype(np.int32))
            scores.append(sums.astype(np.int32))
        return Patches(np.stack(patches), np.stack(positions), np.stack(scores))

    return run


def versions() -> dict[str, registry.Implementation]:
    """The native versions that run here, the fastest first."""
    return {
        one.name: one
        for one in registry.IMPLEMENTATIONS
        if one.device == "cpu" and one.name != "numpy" and one.why_not() is None
    }


def check_equal(contestants: dict[str, Contestant], expected: Patches) -> None:
    """Stop unless every contestant gives the oracle's bytes."""
    for name, contestant in contestants.items():
        found = contestant()
        if found is None:
            continue  # memcpy computes nothing
        if not all(map(np.array_equal, found, expected)):
            sys.exit(f"FAILED: {name} differs from the oracle; nothing was timed")
    print(f"equal to the oracle: {', '.join(name for name in contestants if name != 'memcpy')}")


def time_interleaved(contestants: dict[str, Contestant], rounds: int) -> dict[str, float]:
    """Median seconds of a call; in each round every contestant has one burst of about 1 ms."""
    bursts = {}
    for name, contestant in contestants.items():
        once = min(seconds(contestant, 1) for _ in range(5))
        bursts[name] = max(1, int(1e-3 / once))
    samples: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, contestant in contestants.items():
            samples[name].append(seconds(contestant, bursts[name]) / bursts[name])
    return {name: statistics.median(values) for name, values in samples.items()}


def seconds(contestant: Callable[[], Any], calls: int) -> float:
    """Wall-clock seconds of some calls."""
    start = time.perf_counter()
    for _ in range(calls):
        contestant()
    return time.perf_counter() - start


def throughput(rng: np.random.Generator, rounds: int) -> list[dict[str, Any]]:
    """GB/s of native versions at batch 1 and 64, one thread and two, each with its own images."""
    results = []
    for batch in (1, 64):
        jobs = []
        for _ in range(2):
            images = rng.integers(0, 256, (batch, SIZE, SIZE, 3), np.uint8)
            jobs.append((images, oracle.texture_patchify(images, PATCH, KEEP)))
        for name, one in versions().items():
            for threads in (1, 2):
                rates = [
                    threads * batch * BYTES / threads_seconds(one, jobs[:threads], 512 // batch)
                    for _ in range(rounds)
                ]
                results.append(
                    {
                        "version": name,
                        "batch": batch,
                        "threads": threads,
                        "gigabytes_per_second": statistics.median(rates) / 1e9,
                    }
                )
    return results


def threads_seconds(
    one: registry.Implementation, jobs: list[tuple[U8, Patches]], calls: int
) -> float:
    """Seconds of a call while each job is repeated by its own thread."""

    def work(images: U8, out: Patches) -> None:
        for _ in range(calls):
            one.run(images, PATCH, KEEP, 0, out)

    threads = [threading.Thread(target=work, args=job) for job in jobs]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return (time.perf_counter() - start) / calls


def count_instructions(images: U8, builds: dict[str, tuple[Path, str]]) -> dict[str, int]:
    """Instructions of one call by valgrind's callgrind, which knows AVX2 but not AVX-512.

    `builds` gives for each entry of the result the folder of a build and the version to run.
    """
    if shutil.which("valgrind") is None:
        sys.exit("--callgrind needs valgrind; install it or leave the option out")
    counts = {}
    for label, (folder, name) in builds.items():
        done = subprocess.run(
            [
                *("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"),
                "--toggle-collect=mpft::texture::run(*",
                *(
                    folder / "driver",
                    "apply",
                    name,
                    "1",
                    str(SIZE),
                    str(PATCH),
                    "1",
                    str(COUNT),
                    "0",
                ),
            ],
            input=images.tobytes(),
            capture_output=True,
            check=False,
        )
        collected = re.search(rb"Collected : (\d+)", done.stderr)
        if done.returncode != 0 or collected is None:
            sys.exit(f"FAILED: callgrind on {label}:\n{done.stderr.decode()}")
        counts[label] = int(collected[1])
    return counts


def first_line(*command: str) -> str:
    """The first line that a program prints, or "unknown"."""
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return (done.stdout.splitlines() or [""])[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the results to this file")
    parser.add_argument("--rounds", type=int, default=100, help="bursts of each contestant")
    parser.add_argument("--callgrind", action="store_true", help="count instructions as well")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (1, SIZE, SIZE, 3), np.uint8)
    expected = oracle.texture_patchify(images, PATCH, KEEP)
    out = Patches(*(np.empty_like(array) for array in expected))
    with tempfile.TemporaryDirectory() as scratch:
        plain = build(Path(scratch, "plain"), CMAKE_CXX_FLAGS="-fno-tree-vectorize")
        library = Library(plain, plain / "library.so")
        contestants = peers(images, out, library)
        for name, one in versions().items():
            contestants[name] = functools.partial(one.run, images, PATCH, KEEP, 0, out)
        check_equal(contestants, expected)
        times = time_interleaved(contestants, options.rounds)
        instructions = {}
        if options.callgrind:
            shipped = build(Path(scratch, "shipped"))
            builds = {"scalar, not vectorised": (plain, "scalar")}
            builds |= {name: (shipped, name) for name in versions() if name != "avx512"}
            instructions = count_instructions(images, builds)

    print(f"\nmedian of {options.rounds} bursts, one thread, batch 1, {BYTES} bytes a call")
    for name, median in sorted(times.items(), key=lambda item: item[1]):
        print(f"  {name:24}{median * 1e6:10.2f} µs{BYTES / median / 1e9:9.2f} GB/s")
    print("\ntimes as fast as the peer")
    ratios = {}
    for name in (name for name in versions() if name != "scalar"):
        ratios[name] = {peer: times[peer] / times[name] for peer in TARGETS if peer in times}
        for peer, ratio in ratios[name].items():
            verdict = "PASSED" if ratio >= TARGETS[peer] else "FAILED"
            print(f"  {name:8}{peer:24}{ratio:8.2f}  target {TARGETS[peer]:5}  {verdict}")
    rates = throughput(rng, max(3, options.rounds // 10))
    print("\nGB/s")
    for rate in rates:
        print(
            f"  {rate['version']:8}batch {rate['batch']:3}  threads {rate['threads']}"
            f"{rate['gigabytes_per_second']:8.2f}"
        )
    for name, count in instructions.items():
        print(f"{name}: {count} instructions a call (callgrind)")

    if options.json:
        payload = {
            "benchmark": "texture_patchify",
            "setting": {"size": SIZE, "patch": PATCH, "keep": str(KEEP), "bytes": BYTES},
            "device": {"processor": Device.here().processor, "machine": Device.here().machine},
            "compiler": first_line("c++", "--version"),
            "commit": first_line("git", "describe", "--always", "--dirty", "--abbrev=40"),
            "median_seconds": times,
            "times_as_fast": ratios,
            "throughput": rates,
            "instructions": instructions,
        }
        write_record(options.json, payload)


if __name__ == "__main__":
    main()
