"""What a search tries and measures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mpft_deploy.bundle import Certificate, Comparison, Latency
from mpft_deploy.engine import BACKENDS, find_backend, get_backend
from mpft_deploy.errors import UsageError
from mpft_deploy.export.pipeline import Made, Request, precision_name
from mpft_deploy.export.sensitivity import Layers
from mpft_deploy.profile.latency import Stopwatch
from mpft_deploy.spec import Record

AUTO = "auto"
TARGETS = {"auto": tuple(BACKENDS), "cpu": ("onnxruntime", "openvino")}
"""Target → the backends that are tried for it."""


@dataclass(frozen=True)
class LatencyLimit:
    """Milliseconds that a view may take, such as `p90<=20ms`."""

    quantile: str
    milliseconds: float

    @classmethod
    def parse(cls, limit: str) -> LatencyLimit:
        """Read `QUANTILE<=MILLISECONDSms`; a UsageError otherwise."""
        match = re.fullmatch(r"\s*(p50|p90|p99|mean|max)\s*<=\s*(\d+(?:\.\d*)?)\s*ms\s*", limit)
        if not match:
            raise UsageError(
                f"latency {limit!r} is not understood: write p50, p90, p99, mean or max and a "
                "limit, for example p90<=20ms"
            )
        return cls(match[1], float(match[2]))

    def __str__(self) -> str:
        return f"{self.quantile}<={self.milliseconds:g}ms"

    def misses(self, latency: Latency) -> str | None:
        """Why the latency is over the limit, or None."""
        value = latency.total_ms[self.quantile]
        if value <= self.milliseconds:
            return None
        return f"latency {self.quantile} is {value:.2f} ms, allowed {self.milliseconds:g} ms"


class Timed(Record, frozen=True):
    """A candidate's engine and how long it took."""

    engine_sha256: str
    engine_bytes: int
    latency: Latency


class Proven(Record, frozen=True):
    """How a candidate's engine compared, whatever the budget."""

    engine_sha256: str
    golden: Comparison
    images: Comparison | None


class Sensitivity(Record, frozen=True):
    """Mean logit error of a candidate on calibration views."""

    mean_error: float


@dataclass
class Candidate:
    """One way to build the detector, and what is known of it.

    why_lost: why it was not written; None for the winner. `unavailable`: it could not be built.
    """

    request: Request
    ladder: list[Layers] | None = None
    timed: Timed | None = None
    proven: Proven | None = None
    certificate: Certificate | None = None
    why_lost: str | None = None
    unavailable: bool = False
    made: Made | None = field(default=None, repr=False)
    watch: Stopwatch | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Backend and precision, with the layers left in float and a keep rule of its own."""
        keep = f", {self.request.keep}" if self.request.keep else ""
        return f"{self.request.backend} {precision_name(self.request)}{keep}"

    @property
    def p50(self) -> float:
        """Median milliseconds of a view; it must have been timed."""
        assert self.timed is not None
        return self.timed.latency.total_ms["p50"]

    def lose(self, reason: str) -> None:
        """Say why it is not taken, and free its memory."""
        self.why_lost, self.made, self.watch = reason, None, None


def combinations(request: Request, target: str, keeps: Sequence[str | None]) -> list[Request]:
    """One request for each backend, precision and keep rule that go together."""
    backends = TARGETS[target] if request.backend == AUTO else (request.backend,)
    if request.backend != AUTO:
        get_backend(request.backend)
    out = []
    for backend in backends:
        taken = find_backend(backend).PRECISIONS
        wanted = taken if request.precision == AUTO else (request.precision,)
        out += [
            replace(request, backend=backend, precision=precision, keep=keep)
            for precision in wanted
            if precision in taken
            for keep in keeps
        ]
    if not out:
        raise UsageError(
            f"none of the backends {', '.join(backends)} takes precision {request.precision}"
        )
    if request.float_layers and request.precision == AUTO:
        raise UsageError("--float-layers goes with one --precision; auto finds the layers itself")
    return out
