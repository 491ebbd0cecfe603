"""What gpu_suite.py compares and measures, a function a section."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gpu_bench import U8, Bench, Json, Memory
from turns import figures, target

from mpft_deploy.engine import cuda, native
from mpft_deploy.engine.on_device import ViewEngine
from mpft_deploy.engine.published import find_published
from mpft_deploy.engine.tensorrt import TENSORRT
from mpft_deploy.export.recipes import precision_of
from mpft_deploy.kernels.texture_patchify import cuda as kernels
from mpft_deploy.kernels.texture_patchify import oracle, texture_patchify
from mpft_deploy.spec import KeepRule

SETUPS = ((14, "textured:95"), (14, "textured:127"), (16, "textured:95"), (14, "all"))
SIZE = 224
FLUSH = 256 << 20
"""Bytes, more than any cache holds."""


def cases(dry: bool) -> Iterator[tuple[U8, int, KeepRule]]:
    """Images, patch and rule: fast paths, other sizes, ties, many cells."""
    random = np.random.default_rng(0)

    def noise(batch: int, size: int) -> U8:
        return random.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)

    for size, patch in ((45, 5),) if dry else ((224, 14), (224, 16), (15, 5), (66, 11), (256, 4)):
        cells = (size // patch) ** 2
        images = noise(2, size)
        for count in sorted({1, 95, 127, cells - 1} & set(range(1, cells + 1))):
            for kind in ("smooth", "textured", "random"):
                # Few levels, so that many scores are equal.
                yield images // 200 * 200, patch, KeepRule(kind, count)
        yield images, patch, KeepRule("all")
    if not dry:
        yield noise(600, SIZE), 14, KeepRule("textured", 95)


def patchify_differences(bench: Bench) -> Iterator[str]:
    """One line for every case in which texture_patchify differs from its definition."""
    for images, patch, keep in cases(bench.dry):
        expected, memory = oracle.texture_patchify(images, patch, keep, 7), Memory()
        batch, size = images.shape[:2]
        rows = np.zeros((batch, size, kernels.pitch_of(size)), np.uint8)
        rows[:, :, : 3 * size] = images.reshape(batch, size, -1)
        views = memory.put(rows)
        with memory.device.current():
            out = [memory.device.allocate(one.nbytes) for one in expected]
            where = {"batch": batch, "size": size, "stream": memory.device.stream}
            kernels.launch(views, *out, patch=patch, keep=keep, seed=7, **where)
        for name, address, due in zip(expected._fields, out, expected, strict=True):
            if not np.array_equal(memory.get(address, due), due):
                yield f"{name}, {list(images.shape)}, {patch} px, {keep}"


def logit_differences(bench: Bench) -> Iterator[str]:
    """One line for every precision of which a golden crop's logit differs in a bit."""
    spec, crops = bench.detector.spec, bench.detector.golden.crops[: 1 if bench.dry else None]
    published, _ = find_published(bench.detector, spec.keep)
    for precision in native.MEASURED:
        engine = bench.engine(precision)
        if published is not None:
            due = published.golden_of(precision)
        else:
            due = _on_host(bench, precision).run(*oracle_cut(bench, crops))
        together = engine.run_views(spec, list(crops)).logits
        alone = np.concatenate([engine.run_views(spec, [crop]).logits for crop in crops])
        for how, logits in (("together", together), ("alone", alone)):
            wrong = logits.view(np.uint32) != due[: len(crops)].view(np.uint32)
            if wrong.any():
                most = np.abs(logits.astype(np.float64) - due).max()
                yield f"logits {precision}: {wrong.sum()} of {len(due)} {how}, by up to {most:.3g}"


def oracle_cut(bench: Bench, views: U8) -> tuple[U8, npt.NDArray[np.int32]]:
    """Patches and positions of views."""
    spec = bench.detector.spec
    cut = oracle.texture_patchify(views, spec.patch, spec.keep_rule, spec.keep_seed)
    return cut.patches, cut.positions


def _on_host(bench: Bench, precision: str) -> native.NativeEngine:
    data = native.write_engine(bench.detector.spec, bench.detector.stored, precision_of(precision))
    return native.NativeEngine(native.read_packed(data), 2)


def verdict_differences(bench: Bench) -> Iterator[str]:
    """One line for every frame whose verdict is another than the processor's."""
    frames, memory = bench.frames(3 if bench.dry else 8), Memory()
    due = bench.screener("narrow", _on_host(bench, "narrow"), 1).batch(list(frames))
    judge = bench.screener("narrow", bench.engine("narrow"), 8)
    for where, shots in (("host", list(frames)), ("device", [memory.frame(one) for one in frames])):
        for number, (one, other) in enumerate(zip(judge.batch(shots), due, strict=True)):
            if one != other:
                yield f"verdict of frame {number} on the {where}: {one} and not {other}"


def equality(bench: Bench) -> Json:
    """All that must be the same in every bit."""
    checks = (patchify_differences, logit_differences, verdict_differences)
    return {"different": [line for check in checks for line in check(bench)]}


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
        with watts() as seen:
            ms = figures(bench.time(call))
        rate = batch / ms["p50"]["value"] * 1000
        power = statistics.median(seen) if seen else None
        joules = round(power / rate, 6) if power else None
        row = {"views_per_second": round(rate), "watts": power, "joules_per_view": joules}
        found[name] = {"ms": ms, **row}
    return found


@contextlib.contextmanager
def watts() -> Iterator[list[float]]:
    """What nvidia-smi says of power while a block runs; there when that has ended."""
    seen: list[float] = []
    if shutil.which("nvidia-smi") is None:
        yield seen
        return
    command = ["nvidia-smi", "--query-gpu=power.draw", "--format=csv,noheader,nounits", "-lms=100"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield seen
        finally:
            process.terminate()
        told = process.communicate()[0].split()
    seen += [float(one) for one in told if one.replace(".", "", 1).isdigit()]


def stages(bench: Bench) -> list[Json]:
    """Microseconds of the parts of a batch, each many times in one graph: what is queued for cells
    that were packed on the host, and what packs those of views on the device."""
    engine, rows, spec = bench.engine("narrow"), [], bench.detector.spec
    device, network = engine._device, engine._network
    for batch in bench.batches:
        engine.run_views(spec, bench.views(batch))
        packer, host = engine._packer, engine._host
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


def kernel(bench: Bench) -> list[Json]:
    """texture_patchify inside a graph: microseconds of one frame in the cache, and of larger
    batches, the cache flushed by turns, beside a copy of as many bytes: each frame read once, each
    output written once."""
    batches, setups = ((1, 2), SETUPS[:1]) if bench.dry else ((1, 64, 256, 1024), SETUPS)
    return [_kernel(bench, patch, rule, batch) for patch, rule in setups for batch in batches]


def _kernel(bench: Bench, patch: int, rule: str, batch: int) -> Json:
    device, keep = cuda.open_device(), KeepRule.parse(rule)
    cells = (SIZE // patch) ** 2
    count, frame_bytes = keep.resolve(cells), batch * SIZE * SIZE * 3
    sizes = (batch * count * 3 * patch**2, 4 * batch * count, 4 * batch * cells)
    half = (frame_bytes + sum(sizes)) // 2
    launches, copies = [], []
    how = {"batch": batch, "size": SIZE, "patch": patch, "keep": keep, "seed": 0}
    with device.current():
        turns = 1 if batch == 1 else 2 if bench.dry else max(2, -(-FLUSH // frame_bytes))
        for _ in range(turns):
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


def targets(sections: Json) -> list[Json]:
    """Figures beside their limits, as far as they were measured."""
    found: list[Json] = []

    def add(name: str, value: float, limit: float, unit: str, *, at_least: bool) -> None:
        found.append(target(name, value, limit, unit, at_least=at_least))

    rivals = [row for row in sections.get("peers", {}).get("rows", []) if "ms" in row]
    for row in sections.get("latency", []):
        if (row["what"], row["precision"], row["batch"]) != ("host frame to verdict", "narrow", 1):
            continue
        first = row["ms"]["p50"]["value"]
        add("host frame to verdict, batch 1, p50", first, 0.6, "ms", at_least=False)
        for other in rivals:
            limit = {"eager, all tokens": 5.0, "compiled, all tokens": 2.5}.get(other["what"])
            if limit and other["batch"] == 1:
                ratio = other["ms"]["p50"]["value"] / first
                add(f"of {other['what']}", ratio, limit, "×", at_least=True)
    many = sections.get("throughput")
    rates = [row["views_per_second"] for row in rivals if many and row["batch"] == many["batch"]]
    if many and rates:
        ratio = many["host"]["views_per_second"] / max(rates)
        add("throughput of the fastest peer, many at once", ratio, 4.0, "×", at_least=True)
    for row in sections.get("kernel", []):
        name = f"texture_patchify, {row['batch']} × {row['patch']} px, {row['keep']}"
        if row["batch"] == 1:
            add(f"{name}, in a graph", row["microseconds"], 10.0, "µs", at_least=False)
        else:
            add(f"{name}, of a copy", row["share_of_copy"], 0.7, "", at_least=True)
    return found


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
