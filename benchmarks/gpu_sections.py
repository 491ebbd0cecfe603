"""What gpu_suite.py compares and measures, a function a section."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import statistics
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gpu_bench import U8, Bench, Json, Memory
from gpu_equality import equality
from turns import figures, target

from mpft_deploy.engine import cuda, native
from mpft_deploy.engine.on_device import ViewEngine
from mpft_deploy.engine.tensorrt import TENSORRT
from mpft_deploy.kernels.texture_patchify import cuda as kernels
from mpft_deploy.kernels.texture_patchify import texture_patchify
from mpft_deploy.spec import KeepRule

SETUPS = ((14, "textured:95"), (14, "textured:127"), (16, "textured:95"), (14, "all"))
SIZE, MANY = 224, (64, 256, 1024)
FLUSH = 256 << 20
"""Bytes, more than any cache holds."""


def latency(bench: Bench) -> list[Json]:
    """From a frame in host memory or on the device to its verdict, and from views to logits."""
    rows, spec, memory = [], bench.detector.spec, Memory()
    for precision in native.MEASURED:
        engine = bench.engine(precision)
        for batch in bench.batches[:2]:
            judge = bench.screener(precision, engine, batch)
            frames, views = list(bench.frames(batch)), bench.views(batch)
            there, views_there = map(memory.frame, frames), list(map(memory.view, views))
            for name, call in {
                "host frame to verdict": functools.partial(judge.batch, frames),
                "device frame to verdict": functools.partial(judge.batch, list(there)),
                "host view to logit": functools.partial(on_host_first, bench, engine, views),
                "device view to logit": functools.partial(engine.run_views, spec, views_there),
            }.items():
                row = {"what": name, "precision": precision, "batch": batch}
                rows.append({**row, "ms": figures(bench.time(call))})
    return rows


def on_host_first(bench: Bench, engine: ViewEngine, views: list[U8]) -> npt.NDArray[np.float32]:
    """Logits of views in host memory, whose cells are packed there."""
    spec = bench.detector.spec
    cut = texture_patchify(np.stack(views), spec.patch, spec.keep_rule, spec.keep_seed)
    return engine.run(cut.patches, cut.positions)


def throughput(bench: Bench) -> Json:
    """Views a second at 64 at once, and the power that they take."""
    spec, memory, batch = bench.detector.spec, Memory(), bench.batches[-1]
    engine, views = bench.engine("narrow"), bench.views(batch)
    there = list(map(memory.view, views))
    found: Json = {"batch": batch}
    for name, call in {
        "host": functools.partial(on_host_first, bench, engine, views),
        "device": functools.partial(engine.run_views, spec, there),
    }.items():
        with Watts() as watts:
            ms = figures(bench.time(call))
        rate = batch / ms["p50"]["value"] * 1000
        found[name] = {"ms": ms, "views_per_second": round(rate), **watts.told(rate)}
    return found


class Watts:
    """What nvidia-smi says of power while a block runs."""

    def __enter__(self) -> Watts:
        self._seen: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def told(self, rate: float) -> Json:
        """Watts, and joules a view."""
        if not self._seen:
            return {"watts": None, "joules_per_view": None}
        watts = statistics.median(self._seen)
        return {"watts": watts, "joules_per_view": round(watts / rate, 6)}

    def _watch(self) -> None:
        command = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits"]
        while shutil.which(command[0]) and not self._over.wait(0.1):
            told = subprocess.run(command, capture_output=True, text=True).stdout.splitlines()
            if told and told[0].strip().replace(".", "", 1).isdigit():
                self._seen.append(float(told[0]))


def stages(bench: Bench) -> list[Json]:
    """Microseconds of the parts of a batch, each many times in one graph: what is queued for cells
    that were packed on the host, and what packs those of views on the device."""
    engine, rows, spec = bench.engine("narrow"), [], bench.detector.spec
    device, network, host = engine._device, engine._network, engine._host
    for batch in bench.batches:
        engine.run_views(spec, bench.views(batch))
        packer = engine._packer
        assert packer is not None
        parts: dict[str, Callable[[], object]] = {
            "upload": functools.partial(
                device.upload, engine._address["patches"], host["patches"][:batch]
            ),
            "texture_patchify": functools.partial(packer.pack, batch),
            "network": functools.partial(network.enqueue, batch, device.stream),
            "download": functools.partial(
                device.download, host["logit"][:batch], engine._address["logit"]
            ),
        }
        took = {name: 1000 * _graphed(bench, device, part) for name, part in parts.items()}
        rows.append({"batch": batch, **{name: round(one, 3) for name, one in took.items()}})
    return rows


def _graphed(bench: Bench, device: cuda.Device, *parts: Callable[[], object]) -> float:
    """Median milliseconds of a part, of a graph that holds them by turns, many times."""
    rounds = 2 if bench.dry else max(1, 100 // len(parts))

    def all_of_them() -> None:
        for _ in range(rounds):
            for part in parts:
                part()

    with device.current():
        replay = device.capture(all_of_them)

        def once() -> None:
            replay()
            device.wait()

        return statistics.median(bench.time(once)) / rounds / len(parts)


def kernel(bench: Bench) -> Json:
    """texture_patchify inside a graph: microseconds of one frame in the cache, and of larger
    batches, the cache flushed by turns, beside a copy of as many bytes: each frame read once, each
    output written once."""
    setups = SETUPS[: 1 if bench.dry else None]
    return {
        "batch_1": [_kernel(bench, patch, rule, 1) for patch, rule in setups],
        "batches": [
            _kernel(bench, patch, rule, batch)
            for patch, rule in setups
            for batch in (MANY[:0] if bench.dry else MANY)
        ],
    }


def _kernel(bench: Bench, patch: int, rule: str, batch: int) -> Json:
    device, keep = cuda.open_device(), KeepRule.parse(rule)
    cells = (SIZE // patch) ** 2
    count, frame_bytes = keep.resolve(cells), batch * SIZE * SIZE * 3
    sizes = (batch * count * 3 * patch**2, 4 * batch * count, 4 * batch * cells)
    half = (frame_bytes + sum(sizes)) // 2
    launches, copies = [], []
    how = {"batch": batch, "size": SIZE, "patch": patch, "keep": keep, "seed": 0}
    with device.current():
        for _ in range(1 if batch == 1 else max(2, -(-FLUSH // frame_bytes))):
            memory = [device.allocate(size) for size in (frame_bytes, *sizes)]
            launch = functools.partial(kernels.launch, *memory, stream=device.stream, **how)
            launches.append(launch)
            source, copied = device.allocate(half), device.allocate(half)
            copies.append(functools.partial(device.copy_rows, copied, half, source, half, half, 1))
    ms = _graphed(bench, device, *launches)
    row = {"patch": patch, "keep": rule, "batch": batch, "microseconds": round(1000 * ms, 3)}
    if batch == 1:
        return row
    share = _graphed(bench, device, *copies) / ms
    return {**row, "gb_per_s": round(2 * half / ms / 1e6, 1), "share_of_copy": round(share, 3)}


def tensorrt(bench: Bench) -> Json:
    """The same detector as a float16 plan of TensorRT, where that is installed."""
    if bench.dry or (reason := TENSORRT.why_not()):
        return {"not_measured": "dry run" if bench.dry else reason}
    from mpft_deploy.export.pipeline import Request, gather, make

    request = Request(bench.detector.path, Path("unused"), backend="tensorrt", precision="fp16")
    made = make(request, gather(request))
    engine, rows = made.engine, []
    assert isinstance(engine, ViewEngine)
    for batch in bench.batches[:2]:
        call = functools.partial(on_host_first, bench, engine, bench.views(batch))
        rows.append({"batch": batch, "ms": figures(bench.time(call))})
    return {"engine_bytes": len(made.engine_bytes), "rows": rows}


def peers(bench: Bench) -> Json:
    """PyTorch on the same network: see `gpu_peers`."""
    if importlib.util.find_spec("torch") is None:
        return {"not_measured": "PyTorch is not installed"}
    import gpu_peers

    return {"different": list(gpu_peers.differences(bench)), "rows": gpu_peers.measure(bench)}


SECTIONS: dict[str, Callable[[Bench], Any]] = {
    "equality": equality,
    "latency": latency,
    "throughput": throughput,
    "stages": stages,
    "kernel": kernel,
    "tensorrt": tensorrt,
    "peers": peers,
}
"""In the order in which they run: the last may take minutes."""


def targets(sections: Json) -> list[Json]:
    """Figures beside their limits, as far as they were measured."""
    found: list[Json] = []
    if rows := sections.get("latency"):
        ours = {
            (row["what"], row["precision"], row["batch"]): row["ms"]["p50"]["value"] for row in rows
        }
        first = ours["host frame to verdict", "narrow", 1]
        found.append(
            target("host frame to verdict, batch 1, p50", first, 0.6, "ms", at_least=False)
        )
        for row in sections.get("peers", {}).get("rows", []):
            limit = {"eager, all tokens": 5.0, "compiled, all tokens": 2.5}.get(row["what"])
            if limit and row["batch"] == 1 and "ms" in row:
                ratio = row["ms"]["p50"]["value"] / first
                found.append(target(f"of {row['what']}", ratio, limit, "×", at_least=True))
    rate = sections.get("throughput", {}).get("host", {}).get("views_per_second")
    many = [row for row in sections.get("peers", {}).get("rows", []) if "ms" in row]
    rivals = [one["views_per_second"] for one in many if one["batch"] == many[-1]["batch"]]
    if rate and rivals:
        ratio = rate / max(rivals)
        found.append(
            target("throughput of the fastest peer, many at once", ratio, 4.0, "×", at_least=True)
        )
    for row in sections.get("kernel", {}).get("batch_1", []):
        name = f"texture_patchify in a graph, {row['patch']} px, {row['keep']}"
        found.append(target(name, row["microseconds"], 10.0, "µs", at_least=False))
    for row in sections.get("kernel", {}).get("batches", []):
        name = f"texture_patchify of a copy, {row['batch']} × {row['patch']} px, {row['keep']}"
        found.append(target(name, row["share_of_copy"], 0.7, "", at_least=True))
    return found
