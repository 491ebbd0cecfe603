"""What gpu_suite.py compares and measures, a function a section."""

from __future__ import annotations

import functools
import math
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu_peers
import numpy as np
import numpy.typing as npt
from turns import figures, target

from mpft_deploy.detector_folder import DetectorFolder, read_detector
from mpft_deploy.engine import DeviceView, cuda, native
from mpft_deploy.engine.on_device import ViewEngine
from mpft_deploy.engine.published import find_published
from mpft_deploy.engine.tensorrt import TENSORRT
from mpft_deploy.export.recipes import precision_of
from mpft_deploy.kernels.texture_patchify import cuda as kernels
from mpft_deploy.kernels.texture_patchify import oracle
from mpft_deploy.screen import Screener
from mpft_deploy.spec import KeepRule

Json = dict[str, Any]
U8 = npt.NDArray[np.uint8]

SECONDS = 2.0
"""That a figure is taken for."""

FEWEST = 10
"""Calls, which bound a median."""

WARM_UP = 3
"""Calls: a graph is captured after the second."""

SETUPS = ((14, "textured:95"), (14, "textured:127"), (16, "textured:95"), (14, "all"))
SIZE, MANY = 224, (64, 256, 1024)
FLUSH = 256 << 20
"""Bytes, more than any cache holds."""

SANITIZERS = ("memcheck", "racecheck", "synccheck", "initcheck")


@dataclass(eq=False)
class Bench:
    """What is measured on.

    few: compare less; dry: on a simulated device, as little as shows that it runs.
    """

    detector: DetectorFolder
    few: bool
    dry: bool

    @property
    def batches(self) -> tuple[int, int, int]:
        """One view, as many as streams have at once, and many."""
        return (1, 2, 3) if self.dry else (1, 8, 64)

    @classmethod
    def make(cls, detector: Path, *, few: bool = False, dry: bool = False) -> Bench:
        """Of a detector's folder."""
        return cls(read_detector(detector), few or dry, dry)

    @functools.cache  # noqa: B019, one bench a process
    def engine(self, precision: str) -> ViewEngine:
        """The detector on the GPU."""
        data = native.write_engine(
            self.detector.spec, self.detector.stored, precision_of(precision)
        )
        engine = native.load(data, threads=0)
        assert isinstance(engine, ViewEngine)
        return engine

    def screener(self, precision: str, engine: Any, batch: int) -> Screener:
        """Verdicts by an engine, of the middle of frames."""
        info = SimpleNamespace(mixes_views=False, precision=precision_of(precision))
        bundle: Any = SimpleNamespace(spec=self.detector.spec, info=info)
        return Screener(bundle, engine, views="centre", batch=batch)

    def frames(self, count: int) -> U8:
        """Pictures u8 [count, 1080, 1920, 3], or smaller ones, with texture of all strengths."""
        random = np.random.default_rng(3)
        height, width = (90, 160) if self.dry else (1080, 1920)
        coarse = random.integers(0, 256, (count, height // 10, width // 10, 3), np.uint8)
        noise = random.integers(0, 40, (count, height, width, 3), np.uint8)
        return coarse.repeat(10, 1).repeat(10, 2) // 2 + noise

    def views(self, count: int) -> list[U8]:
        """The middle of frames, u8 [S, S, 3]."""
        size = self.detector.spec.crop.size
        found = self.frames(min(count, 8))[:, :size, :size]
        return [np.ascontiguousarray(found[index % len(found)]) for index in range(count)]

    def time(self, call: Callable[[], object]) -> list[float]:
        """Milliseconds of calls, each to its end, after warming up."""
        for _ in range(WARM_UP):
            call()
        times: list[float] = []
        end = time.perf_counter() + (0 if self.dry else SECONDS)
        while len(times) < FEWEST or time.perf_counter() < end:
            begin = time.perf_counter_ns()
            call()
            times.append((time.perf_counter_ns() - begin) / 1e6)
        return times


class Memory:
    """Arrays on the device, by `__cuda_array_interface__`."""

    def __init__(self) -> None:
        self.device = cuda.open_device()

    def put(self, array: U8, pad: int = 0) -> Any:
        """A copy of u8 [H, W, 3] there, in rows `pad` bytes apart."""
        rows = np.zeros((len(array), array.shape[1] * 3 + pad), np.uint8)
        rows[:, : array.shape[1] * 3] = array.reshape(len(array), -1)
        with self.device.current():
            pinned, address = self.device.pin(rows.nbytes), self.device.allocate(rows.nbytes)
            pinned[...] = rows.ravel()
            self.device.upload(address, pinned)
            self.device.wait()
        interface = {"shape": array.shape, "typestr": "|u1", "data": (address, False)}
        interface |= {"strides": (rows.shape[1], 3, 1), "version": 3}
        return SimpleNamespace(__cuda_array_interface__=interface)

    def get(self, address: int, shape: tuple[int, ...], dtype: str) -> npt.NDArray[Any]:
        """What lies there."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        with self.device.current():
            pinned = self.device.pin(size)
            self.device.download(pinned, address)
            self.device.wait()
        return pinned.view(dtype).reshape(shape).copy()


def cases(few: bool) -> Iterator[tuple[U8, int, KeepRule]]:
    """Images, patch and rule: fast paths, other sizes, ties, many cells."""
    random = np.random.default_rng(0)

    def noise(batch: int, size: int) -> U8:
        return random.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)

    for size, patch in ((45, 5),) if few else ((224, 14), (224, 16), (15, 5), (66, 11), (264, 4)):
        cells = (size // patch) ** 2
        images = noise(2, size)
        for count in sorted({1, 63, 95, 96, 127, 191, cells - 1} & set(range(1, cells + 1))):
            for kind in ("smooth", "textured", "random"):
                # Few levels, so that many scores are equal.
                yield images // 200 * 200, patch, KeepRule(kind, count)
        yield images, patch, KeepRule("all")
    if not few:
        yield noise(1, 1024), 4, KeepRule("textured", 1000)
        yield noise(600, SIZE), 14, KeepRule("textured", 95)


def patchify_differences(bench: Bench) -> Iterator[str]:
    """One line for every case in which texture_patchify differs from its definition."""
    for images, patch, keep in cases(bench.few):
        expected = oracle.texture_patchify(images, patch, keep, 7)
        batch, size = images.shape[:2]
        for pad in (0, 1):  # a byte more a row: every alignment occurs
            memory, rows = Memory(), images.reshape(batch * size, size, 3)
            frames = kernels.device_array("frames", memory.put(rows, pad))
            pitch = frames.strides[0]
            placed = frames._replace(shape=images.shape, strides=(pitch * size, pitch, 3, 1))
            with memory.device.current():
                out = [
                    kernels.contiguous(memory.device.allocate(one.nbytes), one.shape, kind)
                    for one, kind in zip(expected, ("u1", "i4", "i4"), strict=True)
                ]
                arguments = kernels.prepare(placed, *out, patch=patch, keep=keep, seed=7)
                kernels.launch_arguments(arguments, memory.device.stream)
            for name, one, due in zip(oracle.Patches._fields, out, expected, strict=True):
                if not np.array_equal(memory.get(one.pointer, one.shape, one.dtype), due):
                    yield f"{name}, {list(images.shape)}, rows {pad} apart, {patch} px, {keep}"


def logit_differences(bench: Bench) -> Iterator[str]:
    """One line for every precision of which a golden crop's logit differs in a bit."""
    spec, crops = bench.detector.spec, bench.detector.golden.crops[: 1 if bench.few else None]
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
    for where, shots in (("host", list(frames)), ("device", [memory.put(one) for one in frames])):
        for number, (one, other) in enumerate(zip(judge.batch(shots), due, strict=True)):
            if one != other:
                yield f"verdict of frame {number} on the {where}: {one} and not {other}"


def equality(bench: Bench) -> Json:
    """All that must be the same in every bit; and PyTorch's network must be ours."""
    checks = (
        *(patchify_differences, logit_differences, verdict_differences),
        gpu_peers.differences,
    )
    return {"different": [line for check in checks for line in check(bench)]}


def latency(bench: Bench) -> list[Json]:
    """From a frame in host memory or on the device to its verdict, and from views to logits."""
    rows, spec, memory = [], bench.detector.spec, Memory()
    for precision in native.MEASURED:
        engine = bench.engine(precision)
        for batch in bench.batches[:2]:
            judge = bench.screener(precision, engine, batch)
            frames, views = list(bench.frames(batch)), bench.views(batch)
            there = [memory.put(one) for one in frames]
            for name, call in {
                "host frame to verdict": functools.partial(judge.batch, frames),
                "device frame to verdict": functools.partial(judge.batch, there),
                "host view to logit": functools.partial(engine.run_views, spec, views),
                "device view to logit": functools.partial(
                    engine.run_views, spec, [_view(one) for one in there]
                ),
            }.items():
                row = {"what": name, "precision": precision, "batch": batch}
                rows.append({**row, "ms": figures(bench.time(call))})
    return rows


def _view(array: Any) -> DeviceView:
    interface = array.__cuda_array_interface__
    return DeviceView(interface["data"][0], interface["strides"][0])


def throughput(bench: Bench) -> Json:
    """Views a second at 64 at once, and the power that they take."""
    spec, memory, batch = bench.detector.spec, Memory(), bench.batches[-1]
    engine, views = bench.engine("narrow"), bench.views(batch)
    there = [_view(memory.put(view)) for view in views]
    found: Json = {"batch": batch}
    for name, given in (("host", views), ("device", there)):
        with Watts() as watts:
            ms = figures(bench.time(functools.partial(engine.run_views, spec, given)))
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
    """Microseconds of the parts of a batch, each many times in one graph."""
    engine, rows = bench.engine("narrow"), []
    for batch in bench.batches:
        engine.run_views(bench.detector.spec, bench.views(batch))
        parts = _parts(engine, batch, 3 * bench.detector.spec.crop.size**2)
        took = {name: 1000 * _graphed(bench, engine._device, part) for name, part in parts.items()}
        rows.append({"batch": batch, **{name: round(one, 3) for name, one in took.items()}})
    return rows


def _parts(engine: ViewEngine, batch: int, size: int) -> dict[str, Callable[[], object]]:
    """What an engine queues for views of so many bytes, part by part."""
    device, packer, network = engine._device, engine._packer, engine._network
    assert packer is not None
    views = packer._pinned.reshape(-1)[: batch * size]
    return {
        "upload": functools.partial(device.upload, packer._views, views),
        "texture_patchify": functools.partial(packer.pack, batch, tells=False),
        "network": functools.partial(network.enqueue, batch, device.stream),
        "download": functools.partial(
            device.download, engine._host["logit"][:batch], engine._address["logit"]
        ),
    }


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
    shapes = ((batch, count, 3 * patch**2), (batch, count), (batch, cells))
    sizes = [math.prod(shape) * width for shape, width in zip(shapes, (1, 4, 4), strict=True)]
    half = (frame_bytes + sum(sizes)) // 2
    launches, copies = [], []
    with device.current():
        for _ in range(1 if batch == 1 else max(2, -(-FLUSH // frame_bytes))):
            out = [
                kernels.contiguous(device.allocate(size), shape, kind)
                for size, shape, kind in zip(sizes, shapes, ("u1", "i4", "i4"), strict=True)
            ]
            shape = (batch, SIZE, SIZE, 3)
            frames = kernels.contiguous(device.allocate(frame_bytes), shape, "u1")
            arguments = kernels.prepare(frames, *out, patch=patch, keep=keep)
            launches.append(functools.partial(kernels.launch_arguments, arguments, device.stream))
            source, copied = device.allocate(half), device.allocate(half)
            copies.append(functools.partial(device.copy_rows, copied, source, half, half, 1))
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
    engine, spec, rows = made.engine, bench.detector.spec, []
    assert isinstance(engine, ViewEngine)
    for batch in bench.batches[:2]:
        call = functools.partial(engine.run_views, spec, bench.views(batch))
        rows.append({"batch": batch, "ms": figures(bench.time(call))})
    return {"engine_bytes": len(made.engine_bytes), "rows": rows}


def sanitizers(bench: Bench) -> Json:
    """What compute-sanitizer's tools say of a few calls: "clean", or the end of its report."""
    program = shutil.which("compute-sanitizer")
    if program is None or bench.dry:
        return {"not_measured": "compute-sanitizer is not on PATH" if not program else "dry run"}
    reports = {}
    script = Path(__file__).with_name("gpu_suite.py")
    for tool in SANITIZERS:
        command = [program, f"--tool={tool}", "--error-exitcode=9", sys.executable, str(script)]
        try:
            done = subprocess.run(
                [*command, "--checks-only"], capture_output=True, text=True, timeout=60
            )
            reports[tool] = "clean" if done.returncode == 0 else done.stdout[-2000:]
        except subprocess.TimeoutExpired:
            reports[tool] = "no time was left"
    return reports


def peers(bench: Bench) -> list[Json]:
    """PyTorch on the same network: see `gpu_peers`."""
    return gpu_peers.measure(bench)


SECTIONS: dict[str, Callable[[Bench], Any]] = {
    "equality": equality,
    "latency": latency,
    "throughput": throughput,
    "stages": stages,
    "kernel": kernel,
    "tensorrt": tensorrt,
    "peers": peers,
    "sanitizers": sanitizers,
}
"""In the order in which they run."""


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
        for row in sections.get("peers", []):
            limit = {"eager, all tokens": 5.0, "compiled, all tokens": 2.5}.get(row["what"])
            if limit and row["batch"] == 1 and "ms" in row:
                ratio = row["ms"]["p50"]["value"] / first
                found.append(target(f"of {row['what']}", ratio, limit, "×", at_least=True))
    rate = sections.get("throughput", {}).get("host", {}).get("views_per_second")
    many = [row for row in sections.get("peers", []) if "ms" in row]
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


def describe_gpu() -> Json:
    """Name, capability and driver."""
    facts = cuda.versions()
    return {
        name: facts.get(name)
        for name in ("gpu", "compute-capability", "cuda-driver", "nvidia-driver", "jetson")
    }
