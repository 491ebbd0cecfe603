"""Times of an engine's operators, from each backend's own profiler."""

from __future__ import annotations

import json
import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from mpft_deploy.bundle import Bundle
from mpft_deploy.errors import EnvironmentLacksError, InputError
from mpft_deploy.files import display, read_small
from mpft_deploy.profile.layer_names import OTHER, Place, fused_path, layer_path, names_within
from mpft_deploy.spec import MALFORMED

WARM_UP = 5


@dataclass(frozen=True)
class Operator:
    """One operator: its place in the network, its kind, and the mean milliseconds of a run."""

    name: str
    place: Place
    kind: str
    ms: float


@dataclass(frozen=True)
class OperatorTimes:
    """Operators in the order in which they run; engine_ms is a whole run with the profiler on."""

    source: str
    runs: int
    engine_ms: float
    operators: list[Operator] = field(default_factory=list)


Feeds = Mapping[str, Any]


def onnxruntime_operators(engine: bytes, feeds: Feeds, *, threads: int, runs: int) -> OperatorTimes:
    """By ONNX Runtime's profiler; its optimised graph keeps our names or adds to them."""
    import onnxruntime

    from mpft_deploy.engine.ort import make_session

    with tempfile.TemporaryDirectory() as folder:
        session = make_session(engine, threads=threads, profile=str(Path(folder) / "operators"))
        total = _timed(lambda: session.run(["logit"], feeds), runs)
        events = json.loads(Path(session.end_profiling()).read_bytes())
    nodes = [event for event in events if event.get("cat") == "Node"]
    # Each run gives the same events in order; those of the warm-up come first.
    per_run = len(nodes) // (runs + WARM_UP)
    order: dict[str, str] = {}
    spent: dict[str, float] = {}
    for event in nodes[per_run * WARM_UP :]:
        name = event["name"].removesuffix("_kernel_time")
        order[name] = event["args"].get("op_name", "")
        spent[name] = spent.get(name, 0.0) + event["dur"] / 1e3
    operators = [
        Operator(name, layer_path(name), kind, spent[name] / runs) for name, kind in order.items()
    ]
    return OperatorTimes(f"ONNX Runtime {onnxruntime.__version__}", runs, total, operators)


def openvino_operators(engine: bytes, feeds: Feeds, *, threads: int, runs: int) -> OperatorTimes:
    """By OpenVINO's performance counters; its runtime model knows which of our nodes it fused."""
    import openvino

    from mpft_deploy.engine.openvino import compile_engine

    model = compile_engine(engine, threads=threads, profile=True)
    request = model.create_infer_request()
    places = {
        node.friendly_name: _openvino_place(node) for node in model.get_runtime_model().get_ops()
    }
    # A counter is the mean of all runs so far, so those of the warm-up are taken out again.
    for _ in range(WARM_UP):
        request.infer(feeds)
    before = {node.node_name: _milliseconds(node) for node in request.profiling_info}
    total = _timed(lambda: request.infer(feeds), runs, warm_up=0)
    operators = []
    for node in request.profiling_info:
        name = node.node_name
        spent = (WARM_UP + runs) * _milliseconds(node) - WARM_UP * before.get(name, 0.0)
        place = places.get(name) or fused_path([name])
        operators.append(Operator(name, place, node.node_type, max(0.0, spent / runs)))
    return OperatorTimes(f"OpenVINO {openvino.__version__}", runs, total, operators)


def _milliseconds(node: Any) -> float:
    return float(node.real_time.total_seconds() * 1e3)


def _openvino_place(node: Any) -> Place:
    own = layer_path(node.friendly_name)
    info = node.rt_info
    if own != OTHER or "originalLayersNames" not in info:
        return own
    return fused_path(names_within(str(info["originalLayersNames"].value)))


def tensorrt_operators(path: Path) -> OperatorTimes:
    """From the file that `trtexec --exportProfile` writes.

    Raises:
        InputError: it is no such file.
    """
    try:
        content = msgspec.json.decode(read_small(path))
        runs = int(content[0]["count"])
        operators = [
            Operator(
                layer["name"],
                fused_path(names_within(layer["name"])),
                "",
                float(layer["averageMs"]),
            )
            for layer in content[1:]
        ]
        total = sum(operator.ms for operator in operators)
        if not 0 < total < math.inf:
            raise ValueError("no layer took any time")
    except (*MALFORMED, ValueError, KeyError, IndexError, TypeError):
        raise InputError(
            f"{display(path)} is no profile of TensorRT: write one with "
            "trtexec --loadEngine=ENGINE --exportProfile=FILE --separateProfileRun"
        ) from None
    return OperatorTimes("TensorRT (trtexec)", runs, total, operators)


PROFILERS: dict[str, Callable[..., OperatorTimes]] = {
    "onnxruntime": onnxruntime_operators,
    "openvino": openvino_operators,
}
"""Of the backends that have one."""


def require_profiler(bundle: Bundle) -> None:
    """An EnvironmentLacksError unless the bundle's backend has a profiler here."""
    backend = bundle.info.backend
    if backend == "native":
        raise EnvironmentLacksError(
            "--layers: an engine of the backend native is one function, whose parts nothing times; "
            "one of the same detector can be looked into that was exported by --backend onnxruntime"
        )
    if backend not in PROFILERS:
        raise EnvironmentLacksError(
            f"{backend} tells its layers through trtexec alone: run trtexec "
            f"--loadEngine={bundle.info.engine} --exportProfile=FILE --separateProfileRun on the "
            "device and pass --layers-from FILE"
        )


def _timed(run: Callable[[], object], runs: int, warm_up: int = WARM_UP) -> float:
    """Mean milliseconds of some runs."""
    for _ in range(warm_up):
        run()
    begin = time.perf_counter_ns()
    for _ in range(runs):
        run()
    return (time.perf_counter_ns() - begin) / 1e6 / runs
