"""Build plans for TensorRT and TensorRT for RTX, in a process of their own.

Their parser ends the whole process over some faults of a graph, so it never runs in ours. Networks
are strongly typed: what the graph says is what is built, and no flag lowers a precision.

TensorRT builds for the device that it runs on, by timing kernels there. TensorRT for RTX needs no
device: it writes a plan for the capabilities it is told, and the rest is compiled where it is
loaded; the same graph and options give the same bytes.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from mpft_deploy.engine import cuda
from mpft_deploy.engine import tensorrt as engine
from mpft_deploy.errors import EnvironmentLacksError, InputError, UsageError
from mpft_deploy.export.builders import BuildOptions, Plan
from mpft_deploy.export.tensorrt_worker import CACHE, DOING, LACKS, PLAN, REPORT
from mpft_deploy.files import display, explain_unwritable
from mpft_deploy.outputs import reserve

QUIET_SECONDS = 2.0
"""A build that is over by then says nothing; a longer one tells its progress as often."""

START = (
    "import sys; sys.path = [place for place in sys.path if place];"
    "from mpft_deploy.export.tensorrt_worker import main; main()"
)
"""Starts the worker; what lies where the command is given is not taken for a package."""

OLDEST = {"bf16": "8.0", "fp8+fp16": "8.9"}
"""First compute capability with matmuls of a precision."""

RTX_TARGETS = ("8.0", "8.6", "8.9", "12.0", "12.1")
"""What TensorRT for RTX 1.7 builds for; in one plan, unless told."""

RTX_REFUSES = {
    "7.5": "it has no float32 matmul there, which the patch embedding is",
    "8.7": "it does not know Jetson Orin: export on the device with --backend tensorrt",
    "9.0": "it does not know Hopper: export on the device with --backend tensorrt",
    "11.0": "it does not know Jetson Thor: export on the device with --backend tensorrt",
}

KILLED = 9
"""The signal that Linux ends a process with when memory runs out."""


@dataclass(frozen=True)
class TensorRTBuilder:
    """See `mpft_deploy.export.builders.Builder`."""

    backend: str
    runtime: engine.TensorRT

    def plan(self, precision: str, options: BuildOptions) -> Plan:
        """See `Builder`."""
        targets = self._targets(precision, options)
        cache = options.timing_cache
        if cache is not None and (cache.is_dir() or not cache.absolute().parent.is_dir()):
            raise UsageError(f"--timing-cache {display(cache)} is no file in an existing folder")
        low, usual, high = options.batch
        rows = {
            "built with": f"{self.runtime.title} {self.runtime.version()}, strongly typed",
            "built for": f"SM {', '.join(targets)}",
            "profile": f"batch of {low} to {high}, fastest at {usual}",
            "workspace": f"{options.workspace} MiB" if options.workspace else "as it likes",
        }
        if not self.runtime.ahead:
            rows["timing cache"] = display(cache) if cache else "none"
            rows["version compatible"] = "yes" if options.version_compatible else "no"
        return Plan(targets, rows)

    def build(
        self,
        take_model: Callable[[], bytes],
        plan: Plan,
        options: BuildOptions,
        say: Callable[[str], None],
    ) -> tuple[str, bytes]:
        """See `Builder`.

        Raises:
            InputError: the graph cannot be parsed or built; the message names the node.
            EnvironmentLacksError: memory or disk ran out while building.
        """
        cache = options.timing_cache
        if cache is not None:
            with reserve(cache, CACHE, replace=True):
                pass  # it can be written
        with tempfile.TemporaryDirectory(prefix="mpft-", dir=_on_disk()) as name:
            folder = Path(name)
            request = {
                "package": self.runtime.package,
                "batch": options.batch,
                "workspace": options.workspace,
                "version_compatible": options.version_compatible,
                "hardware_compatible": options.hardware_compatible,
                "sm": [one.replace(".", "") for one in plan.compute_capability]
                if self.runtime.ahead
                else [],
                "timing_cache": str(cache.absolute()) if cache else None,
            }
            with explain_unwritable(folder):
                (folder / "model.onnx").write_bytes(take_model())
                (folder / "request.json").write_text(json.dumps(request))
            self._run(folder, say)
            return PLAN, (folder / PLAN).read_bytes()

    def _targets(self, precision: str, options: BuildOptions) -> tuple[str, ...]:
        """Compute capabilities that the plan will be for."""
        if self.runtime.ahead:
            if reason := self.runtime.why_no_package():
                raise EnvironmentLacksError(f"{self.runtime.title} cannot build here: {reason}")
            options.refuse(
                self.backend, "timing_cache", "hardware_compatible", "version_compatible"
            )
            targets = options.sm or RTX_TARGETS
            for target in targets:
                if target not in RTX_TARGETS:
                    known = ", ".join(one.replace(".", "") for one in RTX_TARGETS)
                    reason = RTX_REFUSES.get(target, f"it knows {known}")
                    raise UsageError(
                        f"{self.runtime.title} builds no engine for SM {target}: {reason}"
                    )
            targets = tuple(sorted(set(targets), key=engine.as_numbers))
        else:
            if reason := self.runtime.why_not():
                raise EnvironmentLacksError(
                    f"{self.runtime.title} builds on the device that will run it: {reason}"
                )
            options.refuse(self.backend, "sm")
            targets = (cuda.facts().capability,)
            if options.hardware_compatible and targets[0] in engine.JETSONS:
                raise UsageError(
                    f"--hardware-compatible is not for a Jetson (SM {targets[0]}): leave it out"
                )
        refuse_older(precision, targets, "name newer ones with --sm or " * self.runtime.ahead)
        return ("8.0+",) if options.hardware_compatible else targets

    def _run(self, folder: Path, say: Callable[[str], None]) -> None:
        """Run the worker in `folder`, tell its progress, and raise what it failed by."""
        log, told = folder / "log", folder / DOING
        with log.open("wb") as messages, _process(folder, messages) as process:
            begin = time.monotonic()
            while process.poll() is None:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(QUIET_SECONDS)
                    break
                doing = told.read_text() if told.exists() else "starting"
                say(
                    f"{self.runtime.title} has been building for {time.monotonic() - begin:.0f} s: "
                    f"{doing}"
                )
        code, ended = process.returncode, folder / REPORT
        report = json.loads(ended.read_bytes()) if ended.exists() else {}
        if report.get("done"):
            if fault := report.get("timings"):
                say(f"the timing cache was not written: {fault}")
            return
        title = self.runtime.title
        last = log.read_text(errors="replace").strip().splitlines()[-5:]
        reasons = report.get("failed") or last or ["it does not say why"]
        text = "; ".join(reasons)
        if code == -KILLED:
            raise EnvironmentLacksError(
                f"{title} was killed while building, most likely since memory ran out: end what "
                "else runs here, or add swap"
            )
        if code == LACKS:
            raise EnvironmentLacksError(
                f"{title} cannot build here: {text}. If the disk is full, free room on it, or name "
                "a folder on another with TMPDIR"
            )
        if "out of memory" in text.lower() or "OutOfMemory" in text:
            raise EnvironmentLacksError(
                f"{title} ran out of device memory while building: {text}. End what else runs on "
                "the device, or build with a smaller --workspace or --batch"
            )
        if report.get("failed"):
            raise InputError(f"{title} cannot {report['step']} the graph: {text}")
        raise InputError(f"{title} ended with code {code} on this graph; its last words: {text}")


def _on_disk() -> str | None:
    """A folder for a model of hundreds of MB: not in memory, as /tmp may be, unless told so."""
    disk = Path("/var/tmp")
    return None if "TMPDIR" in os.environ or not os.access(disk, os.W_OK) else str(disk)


def refuse_older(precision: str, targets: Sequence[str], choice: str) -> None:
    """A UsageError if a capability is too old for a precision; `choice` is one more way out."""
    needed = OLDEST.get(precision)
    for target in targets:
        if needed and engine.as_numbers(target) < engine.as_numbers(needed):
            raise UsageError(
                f"{precision} needs SM {needed} or later, and SM {target} is older: "
                f"{choice}use --precision fp16 or int8-static+fp16"
            )


@contextlib.contextmanager
def _process(folder: Path, messages: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The worker, which does not outlive the block."""
    with subprocess.Popen(
        [sys.executable, "-c", START, str(folder), str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=messages,
        stderr=messages,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


TENSORRT = TensorRTBuilder("tensorrt", engine.TENSORRT)
RTX = TensorRTBuilder("tensorrt-rtx", engine.RTX)
