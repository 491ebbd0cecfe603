"""From view to logit at each number of cells kept and in each precision, batch 1.

    python benchmarks/keeps.py DETECTOR [--json OUT]

What verdicts cost at other numbers of cells is in docs/method.md; here it is time alone. The
engines of one number take turns. Needs the extra `openvino`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from peers import THREADS, U8
from records import write_record
from samples import FLOAT_LAYERS
from turns import figures, provenance, take_turns

from mpft_deploy.engine import Engine
from mpft_deploy.export.materials import Materials
from mpft_deploy.export.pipeline import Request, gather, make
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.spec import DetectorSpec

KEEPS = ("textured:30", "textured:60", "textured:98", "all")
ENGINES = (
    ("native", "narrow"),
    ("native", "wide"),
    ("onnxruntime", "fp32"),
    ("onnxruntime", "int8"),
    ("openvino", "fp32"),
)
ROUNDS, TURN = 5, 8


def runs(detector: Path, materials: Materials, keep: str) -> dict[str, Callable[[U8], object]]:
    """From a view u8 [1, S, S, 3] on, by backend and precision."""
    found: dict[str, Callable[[U8], object]] = {}
    for backend, precision in ENGINES:
        floats = FLOAT_LAYERS if precision == "int8" else ()
        made = make(
            Request(detector, Path(), backend, precision, floats, keep=keep, threads=THREADS),
            materials,
        )
        assert made.engine is not None
        found[f"{backend} {precision}"] = partial(judge, made.engine, made.spec)
    return found


def judge(engine: Engine, spec: DetectorSpec, view: U8) -> float:
    """The logit of a view."""
    cut = texture_patchify(view, spec.patch, spec.keep_rule, spec.keep_seed)
    return float(engine.run(cut.patches, cut.positions)[0])


@click.command()
@click.argument("detector", type=click.Path(path_type=Path))
@click.option("--rounds", type=click.IntRange(3), default=ROUNDS, show_default=True)
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write the result here.")
def main(detector: Path, rounds: int, json_path: Path | None) -> None:
    """Time DETECTOR's engines at each number of cells."""
    materials = gather(Request(detector, Path(), threads=THREADS))
    spec, crops = materials.detector.spec, materials.detector.golden.crops
    views = [np.ascontiguousarray(crop[None]) for crop in crops]
    rows: list[dict[str, Any]] = []
    for keep in KEEPS:
        taken = take_turns(runs(detector, materials, keep), views, rounds=rounds, turn=TURN)
        ms = {name: figures(times) for name, times in taken.items()}
        rows.append({"keep": keep, "ms": ms})
        shown = "  ".join(f"{name} {one['p50']['value']:.1f}" for name, one in ms.items())
        print(f"{keep:<12} p50 ms: {shown}", flush=True)
    if json_path is not None:
        record = {
            "benchmark": "keeps",
            **provenance(),
            "threads": THREADS,
            "own": spec.keep,
            "float_layers": list(FLOAT_LAYERS),
            "rows": rows,
        }
        write_record(json_path, record)


if __name__ == "__main__":
    main()
