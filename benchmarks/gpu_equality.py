"""What must be the same on a GPU as on a processor, in every bit: kernels, logits and verdicts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from gpu_bench import U8, Bench, Json, Memory

from mpft_deploy.engine import native
from mpft_deploy.engine.published import find_published
from mpft_deploy.export.recipes import precision_of
from mpft_deploy.kernels.texture_patchify import cuda as kernels
from mpft_deploy.kernels.texture_patchify import oracle
from mpft_deploy.spec import KeepRule

SIZE = 224


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
