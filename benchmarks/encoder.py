"""The network in integers against its peers: first equal, then timed.

    python benchmarks/encoder.py DETECTOR [--rounds N] [--profile] [--json OUT]

Kept cells of one view to its logit, two threads, batch 1, contestants taking turns; and a batch of
four views, and loading from a warm page cache. What the processor could do at most is measured by a
loop over registers in the same run. `--profile` tells where the time goes (perf) and counts
instructions (valgrind), on a driver that is built here.

Peers are those that are installed: onnxruntime, openvino.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from encoder_profile import WIDE, profile
from peers import THREADS
from records import write_record
from samples import FLOAT_LAYERS
from turns import figures, measured, provenance, take_turns, target

from mpft_deploy.bundle import Device, Precision
from mpft_deploy.detector_folder import DetectorFolder
from mpft_deploy.engine.native import read_packed, write_engine
from mpft_deploy.engine.published import find_published
from mpft_deploy.errors import MpftError
from mpft_deploy.export.materials import Materials
from mpft_deploy.export.pipeline import Request, gather, make
from mpft_deploy.kernels import Patches, texture_patchify
from mpft_deploy.kernels.encoder import VERSIONS, Encoder, choose, oracle
from mpft_deploy.kernels.encoder.packing import Packed, unpack

NOT_OFFERED = (
    "not offered: narrow with c_proj wide. It is neither as fast as narrow nor has it the verdicts "
    "of wide; twice has these for less, and stands here in its place"
)
PEERS = {
    "ONNX Runtime fp32": ("onnxruntime", "fp32", ()),
    "ONNX Runtime int8": ("onnxruntime", "int8", ()),
    "ONNX Runtime int8, c_proj in float": ("onnxruntime", "int8", FLOAT_LAYERS),
    "OpenVINO int8": ("openvino", "int8-static", ()),
    "OpenVINO int8, c_proj in float": ("openvino", "int8-static", FLOAT_LAYERS),
}
TURN, BATCH, LOADS = 4, 4, 5

Cells = tuple[np.ndarray, np.ndarray]
"""Patches u8 [B, K, 3·p·p] and positions i32 [B, K]."""
Run = Callable[[Cells], object]


def second_looks(detector: DetectorFolder) -> dict[str, Any]:
    """How many pictures of the detector's certificate the precision twice looks at again."""
    published, why = find_published(detector, detector.spec.keep)
    if published is None:
        sys.exit(f"FAILED: {why or 'the detector has no certificate: run mpft certify'}")
    calibration, again = detector.spec.calibration, published.again
    near = [calibration.is_near(float(logit), again) for logit in published.logits["narrow"]]
    return {"share_of_second_looks": float(np.mean(near)), "images": len(near)}


def check_equal(packed: Mapping[str, Packed], cut: Patches) -> None:
    """Exits unless every version gives the oracle's bits, and a batch those of its views alone."""
    for name, network in packed.items():
        expected = oracle.logit(unpack(network), cut.patches[0], cut.positions[0])
        for version in VERSIONS:
            if version.why_not() or version.device != "cpu" or version.name == "numpy":
                continue
            for threads in (1, THREADS):
                encoder = Encoder(network, threads, version.name)
                found = encoder.logits(cut.patches[:1], cut.positions[:1])
                if found[0] != expected:
                    sys.exit(f"FAILED: {version.name} gives {found[0]} of {name}, not {expected}")
        encoder = Encoder(network, THREADS)
        alone = [encoder.logits(cut.patches[i : i + 1], cut.positions[i : i + 1]) for i in range(3)]
        if not np.array_equal(encoder.logits(cut.patches[:3], cut.positions[:3]), np.ravel(alone)):
            sys.exit(f"FAILED: a batch of {name} has other logits than its views")
        print(f"equal to the oracle: {name}", flush=True)


def contestants(
    detector: Path, materials: Materials, packed: Mapping[str, Packed]
) -> dict[str, Run]:
    """From kept cells to a logit, by name; peers that are not installed are told and left out."""
    found: dict[str, Run] = {}
    for name, network in packed.items():
        found[name] = partial(run_encoder, Encoder(network, THREADS))
    found["narrow, scalar"] = partial(run_encoder, Encoder(packed["narrow"], THREADS, "scalar"))
    for name, (backend, precision, floats) in PEERS.items():
        request = Request(detector, Path(), backend, precision, floats, threads=THREADS)
        try:
            engine = make(request, materials).engine
        except MpftError as error:
            print(f"left out: {name}: {error}", flush=True)
            continue
        assert engine is not None
        found[name] = partial(run_engine, engine)
    return found


def run_encoder(encoder: Encoder, cells: Cells) -> object:
    return encoder.logits(*cells)


def run_engine(engine: Any, cells: Cells) -> object:
    return engine.run(*cells)


def time_reading(packed: Packed) -> float:
    """Milliseconds to read all weights from memory, which is what each view does."""
    matrices = (one for one in packed.arrays.values() if one.dtype == np.int8)
    weights = [one.reshape(-1).view(np.uint64) for one in matrices]
    taken = []
    for _ in range(LOADS):
        start = time.perf_counter()
        for one in weights:
            np.bitwise_or.reduce(one, axis=None)
        taken.append((time.perf_counter() - start) * 1e3)
    return min(taken)


def products(packed: Packed, cells: int) -> dict[str, float]:
    """Products of integers that a view's logit takes, by the kind of layer."""
    sizes, tokens = packed.sizes, cells + 1
    square, mlp = sizes.width**2, sizes.width * sizes.hidden
    whole = (sizes.depth - 1) * tokens
    return {
        "patch": 3.0 * sizes.area * sizes.width * cells,
        "qkv": 3.0 * square * whole + square * (2 * tokens + 1),
        "out": square * (whole + 1.0),
        "fc": mlp * (whole + 1.0),
        "proj": mlp * (whole + 1.0),
    }


def measure_peak(work: Path) -> dict[str, float]:
    """10⁹ products a second on one core, by instruction; empty without a compiler."""
    compiler = shutil.which("c++")
    if compiler is None:
        return {}
    program = work / "integer_peak"
    source = Path(__file__).with_name("integer_peak.cpp")
    subprocess.run([compiler, "-O2", source, "-o", program], check=True)
    lines = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return {name: float(rate) for name, rate in map(str.split, lines.splitlines())}


def least_seconds(
    count: Mapping[str, float], wide: tuple[str, ...], peak: Mapping[str, float]
) -> float:
    """What all products of a view take at the peak, on THREADS cores; 0 where it is not known."""
    narrow = peak.get("vpdpbusd") or peak.get("sdot") or peak.get("vpmaddubsw")
    if narrow is None:
        return 0
    # Wide rows are two passes over bytes, or one over words where that is as fast.
    twice = peak["vpmaddwd"] if "vpdpbusd" not in peak and "vpmaddwd" in peak else narrow / 2
    total = sum(number / (twice if kind in wide else narrow) for kind, number in count.items())
    return total / 1e9 / THREADS


def time_loading(engine: Path) -> list[float]:
    """Milliseconds to map an engine and make it ready, its pages in memory already."""
    import mmap

    taken = []
    for _ in range(LOADS):
        start = time.perf_counter()
        with engine.open("rb") as file:
            mapped = memoryview(mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ))
        Encoder(read_packed(mapped), THREADS)
        taken.append((time.perf_counter() - start) * 1e3)
    return taken


def judge(
    ms: Mapping[str, float],
    shared: Mapping[str, float],
    vnni: bool,
    floor: str,
    why: Mapping[str, str],
) -> list[dict[str, Any]]:
    """Every figure that was promised, beside its target.

    Args:
        floor: what bounds the speed of narrow; why: by name, what holds a figure back.
    """
    targets = []

    def faster(name: str, peer_names: tuple[str, ...], limit: float) -> None:
        there = [ms[peer] for peer in peer_names if peer in ms]
        if there:
            told = f"{name} against {' or '.join(peer for peer in peer_names if peer in ms)}"
            ratio = min(there) / ms[name]
            targets.append(target(told, ratio, limit, "times as fast", at_least=True, why=floor))

    fp32 = ("ONNX Runtime fp32",)
    print(NOT_OFFERED)
    if vnni:
        faster("twice", fp32, 3)
        faster(
            "twice", ("ONNX Runtime int8, c_proj in float", "OpenVINO int8, c_proj in float"), 1.5
        )
        faster("narrow", ("ONNX Runtime int8", "OpenVINO int8"), 1.15)
        faster("wide", fp32, 1.8)
    else:
        faster("twice", fp32, 1.2)
        faster("narrow", fp32, 1.2)
    limits = {
        "batch of four against one view": (3.5, "views", False),
        "load": (50, "ms", False),
        "largest error of wide": (0.02, "logit", False),
        "matmuls, share of the peak": (0.8, "", True),
        "everything but matmuls": (0.2, "of the time", False),
    }
    for name, value in shared.items():
        limit, unit, at_least = limits[name]
        targets.append(target(name, value, limit, unit, at_least=at_least, why=why.get(name, "")))
    return targets


@click.command()
@click.argument("detector", type=click.Path(path_type=Path))
@click.option("--rounds", type=click.IntRange(2), default=5, show_default=True)
@click.option("--profile", "profiled", is_flag=True, help="Shares of time and instructions too.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result here.")
def main(detector: Path, rounds: int, profiled: bool, json_path: Path | None) -> None:
    """Compare and time DETECTOR's network in integers."""
    materials = gather(Request(detector, Path(), threads=THREADS))
    folder = materials.detector
    spec, golden = folder.spec, folder.golden
    cut = texture_patchify(golden.crops, spec.patch, spec.keep_rule, spec.keep_seed)
    cells = [(cut.patches[i : i + 1], cut.positions[i : i + 1]) for i in range(len(cut.patches))]
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        packed = {}
        for name, wide in WIDE.items():
            precision = Precision("int8", "dynamic per token", wide_layers=wide)
            (work / name).write_bytes(write_engine(spec, folder.stored, precision))
            packed[name] = read_packed((work / name).read_bytes())
        check_equal(packed, cut)
        errors = {}
        for name, network in packed.items():
            found = Encoder(network, THREADS).logits(cut.patches, cut.positions)
            off = np.abs(found - golden.logits)
            errors[name] = {"mean": float(off.mean()), "largest": float(off.max())}
            print(f"{name}: off float32 by {off.mean():.4f} in the mean, {off.max():.4f} at most")
        runs = contestants(detector, materials, packed)
        taken = {name: figures(one) for name, one in
                 take_turns(runs, cells, rounds=rounds, turn=TURN).items()}  # fmt: skip
        ms = {name: one["p50"]["value"] for name, one in taken.items()}
        again = second_looks(folder)
        again["ms"] = ms["twice"] = ms["narrow"] + again["share_of_second_looks"] * ms["wide"]
        for name, one in sorted(ms.items(), key=lambda item: item[1]):
            print(f"{name:<40}{one:8.1f} ms", flush=True)
        print("twice: narrow, and wide for {share_of_second_looks:.1%} of {images} pictures, "
              "{ms:.1f} ms in the mean, by arithmetic".format(**again))  # fmt: skip

        four = [(cut.patches[i : i + BATCH], cut.positions[i : i + BATCH]) for i in range(0, 16, 4)]
        one = partial(run_encoder, Encoder(packed["narrow"], THREADS))
        batches = take_turns({"four": one}, four, rounds=2, turn=4)["four"]
        singles = take_turns({"one": one}, cells, rounds=2, turn=4)["one"]
        peak, loading = measure_peak(work), time_loading(work / "narrow")
        reading = time_reading(packed["narrow"])
        shared = {
            "batch of four against one view": float(np.median(batches) / np.median(singles)),
            "load": float(np.median(loading)),
            "largest error of wide": errors["wide"]["largest"],
        }
        profiles = profile(packed, cut, work) if profiled else {}
    count = products(packed["narrow"], cut.positions.shape[1])
    rates: dict[str, Any] = {}
    for name, wide in WIDE.items():
        least = least_seconds(count, wide, peak) * 1e3
        rates[name] = {"gmac_per_second": sum(count.values()) / ms[name] / 1e6,
                       "of_peak_over_all_time": least / ms[name] if least else None}  # fmt: skip
        print(f"{name}: {rates[name]}")
    best, vnni = choose(device="cpu").name, "avx512_vnni" in Device.here().instructions
    least = least_seconds(count, (), peak) * 1e3
    floor = f"narrow's products alone take {least:.1f} ms at the peak of this processor"
    why = {}
    if not vnni:
        why["matmuls, share of the peak"] = (
            "without VNNI the peak is of products in pairs alone, which are added and widened, too"
        )
    if divided := profiles.get(f"narrow, {best}", {}).get("shares"):
        shared["everything but matmuls"] = 1 - divided["matmuls"]
        why["everything but matmuls"] = (
            f"attention's products, float32 whose sums may not be fused, are "
            f"{divided['attention']:.0%} of the time, norms, GELU, scales and bytes of activations "
            f"{divided['else']:.0%}; both weigh more where products of integers are fast"
        )
        shared["matmuls, share of the peak"] = least / (ms["narrow"] * divided["matmuls"])
    # All that a batch could share is reading the weights from memory.
    least_batch = BATCH - (BATCH - 1) * reading / ms["narrow"]
    why["batch of four against one view"] = (
        "views are computed one by one, so that none changes another's bits; reading all weights "
        f"from memory takes {reading:.1f} ms, and a batch of {BATCH} that did it once would still "
        f"take {least_batch:.2f} views"
    )
    targets = judge(ms, shared, vnni, floor if least else "", why)
    if json_path is not None:
        record = {
            "benchmark": "encoder",
            **provenance(),
            **measured(detector),
            "threads": THREADS,
            "cells": cut.positions.shape[1],
            "version": best,
            "errors": errors,
            "ms": taken,
            "twice": again,
            "reading_weights_ms": reading,
            "least_batch_of_four": least_batch,
            "peak_gmac_per_second_of_a_core": peak,
            "rates": rates,
            "loading_ms": loading,
            "profiles": profiles,
            "targets": targets,
        }
        write_record(json_path, record)


if __name__ == "__main__":
    main()
