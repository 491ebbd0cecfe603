"""The process that parses and builds for `mpft_deploy.export.tensorrt`, which starts it.

Given a folder with `model.onnx` and `request.json`, it writes `engine.plan` and adds to the timing
cache that is named there. DOING holds what it does now, a line; REPORT at last `done`, or `failed`
with reasons and the step. It ends with code LACKS where the machine is at fault, such as by a full
disk, and the reason is its last word.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpft_deploy.engine.tensorrt import make_logger
from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.outputs import reserve
from mpft_deploy.sealed import read_regular
from mpft_deploy.standing import Kind

Tell = Callable[[str], object]
DOING, REPORT, PLAN = "doing", "report.json", "engine.plan"
LACKS = EnvironmentLacksError.exit_code
SHOWN_ERRORS = 3

_PARENT_DEATH_SIGNAL = 1
"""Of prctl(2)."""

ARCHIVE = b"trt"
"""What TensorRT's own files have behind their first byte."""


def _own(path: Path) -> tuple[()] | None:
    try:
        head = read_regular(path, 1 + len(ARCHIVE), cut=True)
    except InputError:
        return None
    return () if head[1:] == ARCHIVE or not head else None


CACHE = Kind("a timing cache", _own, folder=False)
"""TensorRT reads any file as one, and what is none as an empty one."""

TRIES = 50
"""Times, a fifth of a second apart, that a cache which another build is writing is asked for."""


def main() -> None:
    """Build in the folder that is named on the command line, behind it the process that asks."""
    folder = Path(sys.argv[1])
    _end_with(int(sys.argv[2]))
    request = json.loads((folder / "request.json").read_text())

    def tell(text: str) -> None:
        with contextlib.suppress(OSError):  # a build is worth more than its progress
            (folder / DOING).write_text(text)

    try:
        report = build(folder, request, tell)
        unfinished = folder / f"{REPORT}.tmp"
        unfinished.write_text(json.dumps(report))
        unfinished.replace(folder / REPORT)
    except OSError as error:
        (folder / PLAN).unlink(missing_ok=True)  # which makes room for the reason
        with contextlib.suppress(OSError):
            os.write(2, str(error).encode())
        sys.exit(LACKS)


def _end_with(parent: int) -> None:
    """End when that process does, by whatever; TensorRT would go on for minutes."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it has ended already
            sys.exit(1)


def build(folder: Path, request: dict[str, Any], tell: Tell) -> dict[str, Any]:
    """Parse and build; the report."""
    trt = importlib.import_module(request["package"])
    errors: list[str] = []
    logger = make_logger(trt, errors.append)
    builder = trt.Builder(logger)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    tell("parsing the graph")
    if not parser.parse_from_file(str(folder / "model.onnx")):
        return {"failed": _parse_errors(parser) or errors, "step": "parse"}
    config = builder.create_builder_config()
    # TF32 keeps 10 bits of a float32's fraction: fp32 would not be what it says.
    config.clear_flag(trt.BuilderFlag.TF32)
    config.progress_monitor = make_monitor(trt, tell)
    if request["workspace"]:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request["workspace"] << 20)
    if request["version_compatible"]:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if request["hardware_compatible"]:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if request["sm"]:
        config.num_compute_capabilities = len(request["sm"])
        for index, sm in enumerate(request["sm"]):
            config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{sm}"), index)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        rest = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, *((batch, *rest) for batch in request["batch"]))
    config.add_optimization_profile(profile)
    timings = Path(request["timing_cache"]) if request["timing_cache"] else None
    if timings is not None:
        known = config.create_timing_cache(_read(timings))
        if not config.set_timing_cache(known, ignore_mismatch=False):
            # Of another device or version: one is begun anew.
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return {"failed": errors or ["it does not say why"], "step": "build"}
    (folder / PLAN).write_bytes(plan)
    # A plan is worth more than its timings: what fails from here on is only told.
    return {"done": True, "timings": timings and save_timings(config, timings)}


def save_timings(config: Any, path: Path) -> str | None:
    """Add what was timed to the cache, as others have it by now; why it cannot be, or None."""
    cache = config.get_timing_cache()
    if cache is None:
        return "TensorRT gives none"
    for tried in range(TRIES):
        time.sleep(0.2 if tried else 0)
        try:
            return _add_timings(config, cache, path)
        except UsageError as error:
            reason = str(error)
    return reason


def _add_timings(config: Any, cache: Any, path: Path) -> str | None:
    """As `save_timings`; a UsageError where another run holds the place."""
    if not path.parent.is_dir():
        return "its folder is gone"
    try:
        with reserve(path, CACHE, replace=True) as place:
            cache.combine(config.create_timing_cache(_read(path)), ignore_mismatch=False)
            place.write(bytes(cache.serialize()))
    except (EnvironmentLacksError, OSError) as error:
        return str(error)
    return None


def _read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def make_monitor(trt: Any, tell: Tell) -> Any:
    """A progress monitor that tells what is being done."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the package is known only now
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._steps[phase] = steps
            tell(phase)

        def phase_finish(self, phase: str) -> None:
            self._steps.pop(phase, None)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self._steps:
                tell(f"{phase}, {step + 1} of {self._steps[phase]}")
            return True  # go on

    return Monitor()


def _parse_errors(parser: Any) -> list[str]:
    """What the parser complains of, node by node; the first few say enough."""
    out = []
    for index in range(min(parser.num_errors, SHOWN_ERRORS)):
        error = parser.get_error(index)
        node = f"node {error.node_name()} ({error.node_operator()}): " if error.node_name() else ""
        out.append(f"{node}{getattr(error.code(), 'name', error.code())}, {error.desc()}")
    if parser.num_errors > SHOWN_ERRORS:
        out.append(f"and {parser.num_errors - SHOWN_ERRORS} more")
    return out


if __name__ == "__main__":
    main()
