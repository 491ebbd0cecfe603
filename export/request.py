"""What is asked of an export."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from mpft_deploy.bundle import OUTPUT
from mpft_deploy.detector_folder import read_spec
from mpft_deploy.engine.budget import Budget, default_budget
from mpft_deploy.export.builders import BuildOptions
from mpft_deploy.outputs import Place, reserve
from mpft_deploy.weights import detector_shapes

NATIVE = "native"
NARROWEST = "narrowest"
"""In place of a precision of the backend native: the narrowest that is known to keep the budget."""


@dataclass(frozen=True)
class Request:
    """What to export, how, and by which budget.

    precision: one of the backend's, or NARROWEST.
    keep: cells seen at inference, in place of the detector's own rule. Verdicts are still compared
        with those at its own rule.
    budget: to judge by on `images`; None takes the precision's default.
    allow_unproven: write it whatever the answer is.
    sign: a private key to sign the bundle with; see `mpft_deploy.signing`.
    """

    detector: Path
    out: Path
    backend: str = NATIVE
    precision: str = "wide"
    float_layers: tuple[str, ...] = ()
    keep: str | None = None
    options: BuildOptions = field(default_factory=BuildOptions)
    budget: Budget | None = None
    images: tuple[Path, ...] = ()
    calibrate: tuple[Path, ...] = ()
    threads: int = 0
    overwrite: bool = False
    allow_unproven: bool = False
    sign: Path | None = None

    @property
    def inputs(self) -> tuple[Path, ...]:
        """Files and folders that the export reads."""
        others = (self.sign, self.options.timing_cache)
        return (self.detector, *self.images, *self.calibrate, *filter(None, others))

    @property
    def room(self) -> int:
        """Bytes that a bundle takes at least: no engine stores a weight in less than one."""
        shapes = detector_shapes(read_spec(self.detector)).values()
        return (4 if self.precision == "fp32" else 1) * sum(map(math.prod, shapes))


def hold(request: Request) -> AbstractContextManager[Place]:
    """Try the place of the bundle and hold it; errors as of `reserve`."""
    return reserve(
        request.out, OUTPUT, replace=request.overwrite, inputs=request.inputs, room=request.room
    )


def budget_of(request: Request) -> Budget:
    """The budget that was asked for, or the precision's default."""
    return request.budget or default_budget(request.precision)
