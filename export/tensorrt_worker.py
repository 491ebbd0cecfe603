"""The process that parses and builds for `mpft_deploy.export.tensorrt`, which starts it.

Given a folder with `model.onnx`, `request.json` and perhaps `timing.cache`, it writes
`engine.plan` and the cache, and tells on standard output, a JSON object a line: `doing` while it
works, and at last `done`, or `failed` with reasons and the step.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mpft_deploy.engine.tensorrt import make_logger

Tell = Callable[..., None]
SHOWN_ERRORS = 3


def main() -> None:
    """Build in the folder that is named on the command line."""
    # Native code prints as it likes; the channel to the parent is ours alone.
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def tell(**message: object) -> None:
        channel.write(json.dumps(message) + "\n")

    folder = Path(sys.argv[1])
    request = json.loads((folder / "request.json").read_text())
    reasons, step = build(folder, request, tell)
    if reasons is None:
        tell(done=True)
    else:
        tell(failed=reasons, step=step)


def build(folder: Path, request: dict[str, Any], tell: Tell) -> tuple[list[str] | None, str]:
    """Parse and build; why it failed, or None, and the step it was at."""
    trt = importlib.import_module(request["package"])
    errors: list[str] = []
    logger = make_logger(trt, errors.append)
    builder = trt.Builder(logger)
    typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = trt.OnnxParser(network, logger)
    tell(doing="parsing the graph")
    if not parser.parse((folder / "model.onnx").read_bytes()):
        return _parse_errors(parser) or errors, "parse"
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
    cache_file = folder / "timing.cache"
    if request["timing_cache"]:
        known = cache_file.read_bytes() if cache_file.exists() else b""
        if not config.set_timing_cache(config.create_timing_cache(known), ignore_mismatch=False):
            # Of another device or version: one is begun anew.
            config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        return errors or ["it does not say why"], "build"
    (folder / "engine.plan").write_bytes(plan)
    cache = config.get_timing_cache() if request["timing_cache"] else None
    if cache is not None:  # a plan is worth more than its timings
        cache_file.write_bytes(cache.serialize())
    return None, "build"


def make_monitor(trt: Any, tell: Tell) -> Any:
    """A progress monitor that tells what is being done."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the package is known only now
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._steps[phase] = steps
            tell(doing=phase)

        def phase_finish(self, phase: str) -> None:
            self._steps.pop(phase, None)

        def step_complete(self, phase: str, step: int) -> bool:
            if phase in self._steps:
                tell(doing=f"{phase}, {step + 1} of {self._steps[phase]}")
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
