"""What a search tries and measures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mpft_deploy.bundle import Certificate, Comparison, Latency
from mpft_deploy.engine import BACKENDS, find_backend, get_backend
from mpft_deploy.errors import UsageError
from mpft_deploy.export.pipeline import Made
from mpft_deploy.export.recipes import precision_of, recipe_of
from mpft_deploy.export.request import Request
from mpft_deploy.export.sensitivity import Layers
from mpft_deploy.profile.latency import Stopwatch
from mpft_deploy.spec import Record

AUTO = "auto"
TARGETS = {"auto": tuple(BACKENDS), "cpu": ("native", "onnxruntime", "openvino")}
"""Target → the backends that are tried for it."""


@dataclass(frozen=True)
class LatencyLimit:
    """Milliseconds that a view may take, such as `p90<=20ms`."""

    quantile: str
    milliseconds: float

    @classmethod
    def parse(cls, limit: str) -> LatencyLimit:
        """Read `QUANTILE<=MILLISECONDSms`; a UsageError otherwise."""
        match = re.fullmatch(r"\s*(p50|p90|mean|max)\s*<=\s*(\d+(?:\.\d*)?)\s*ms\s*", limit)
        if not match:
            raise UsageError(
                f"latency {limit!r} is not understood: write p50, p90, mean or max and a limit, "
                "for example p90<=20ms. For p99 a search takes too few samples: gate it with "
                "`mpft profile --slo`."
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
    """How a candidate's engine compared on images, whatever the budget."""

    engine_sha256: str
    smoke_test: Comparison
    smoke_faults: list[str]
    images: Comparison


class Sensitivity(Record, frozen=True):
    """Mean logit error of a candidate on calibration views; None if it is not finite."""

    mean_error: float | None


@dataclass
class Candidate:
    """One way to build the detector, and what is known of it.

    Attributes:
        timed: `remembered` if that was an earlier search.
        tried: on the images to choose by.
        certificate: by the images to judge by, on which only what was chosen is run.
        why_lost: why it was not written; None for the winner.
    """

    request: Request
    ladder: list[Layers] | None = None
    timed: Timed | None = None
    remembered: bool = False
    tried: Proven | None = None
    certificate: Certificate | None = None
    why_lost: str | None = None
    made: Made | None = field(default=None, repr=False)
    watch: Stopwatch | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Backend and precision, with the layers left in float and a keep rule of its own."""
        keep = f", {self.request.keep}" if self.request.keep else ""
        precision = precision_of(self.request.precision, self.request.float_layers)
        return f"{self.request.backend} {precision}{keep}"

    @property
    def p50(self) -> float:
        """Median milliseconds of a view; it must have been timed."""
        assert self.timed is not None
        return self.timed.latency.total_ms["p50"]

    @property
    def samples(self) -> int:
        """How many views it was timed on."""
        return self.timed.latency.samples if self.timed else 0

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
        # What runs twice takes as long as pictures make it: no latency can be told.
        whole = tuple(name for name in taken if not recipe_of(name).precision.again)
        wanted = whole if request.precision == AUTO else (request.precision,)
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
    if recipe_of(out[0].precision).precision.again:
        raise UsageError(
            f"--precision {out[0].precision} goes without a search: it takes as long as pictures "
            "make it, so no latency can be told"
        )
    return out
