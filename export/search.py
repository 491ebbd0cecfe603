"""Find the fastest engine that keeps the budget, by building, timing and proving candidates here.

A candidate is a backend, a precision and a set of layers left in float. All that can be built are
timed briefly, and the fastest of them fully, in turns, so that what else the machine does disturbs
all alike. From the fastest on, each is tried on half of the images, and one that seems to keep the
budget there is judged on the other half, which chose nothing. The first that keeps it is written. A
quantised candidate that does not comes back with its most sensitive layers in float.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from mpft_deploy.bundle import Comparison, Device
from mpft_deploy.engine import find_backend
from mpft_deploy.engine.certificate import certify, run_views
from mpft_deploy.errors import EnvironmentLacksError, GateError, InputError, MpftError, UsageError
from mpft_deploy.export.candidates import (
    AUTO,
    Candidate,
    LatencyLimit,
    Proven,
    Sensitivity,
    Timed,
    combinations,
)
from mpft_deploy.export.materials import FLOAT32, Materials, Say, Views
from mpft_deploy.export.notebook import Notebook, code_digest
from mpft_deploy.export.pipeline import LATENCY_SAMPLES, Made, Result, gather, make, silent, write
from mpft_deploy.export.recipes import recipe_of
from mpft_deploy.export.request import Request, budget_of, hold
from mpft_deploy.export.search_report import TITLE, as_text, write_picture
from mpft_deploy.export.sensitivity import Layers, float_layer_ladder
from mpft_deploy.files import absolute, sha256
from mpft_deploy.outputs import reserve
from mpft_deploy.profile.latency import Stopwatch
from mpft_deploy.signing import load_signer
from mpft_deploy.standing import marked_folder
from mpft_deploy.statistics import CONFIDENCE

TILES = (63, 95, 127, 191)
"""Counts of cells that fill a GPU's matmul tiles together with the class token."""

PAUSE_SECONDS = 0.1
ROUND, BRIEF_ROUNDS = 5, 3  # samples in a row; turns of the first timing
CLEARLY = 1.25
"""How many times slower, timed briefly, a candidate must be not to be timed beside the fastest."""

HOPELESS = 10
"""How many times slower than another the first runs must be for a candidate to be given up."""

FIRST_RUNS, FIRST_SECONDS = 4, 2.0
"""After one to warm up: so many, or as many as begin in that time; the quickest counts."""

SENSITIVITY_VIEWS = 32


CANDIDATES, PICTURE = "candidates.jsonl", "search.svg"


NOTES = marked_folder(
    "the notes of a search",
    {CANDIDATES: b'{"key":', PICTURE: TITLE.encode()},
    (CANDIDATES, PICTURE),
)


@dataclass(frozen=True)
class Outcome:
    """The bundle that was written, the candidate that it is, and all of them."""

    result: Result
    winner: Candidate
    candidates: list[Candidate]


def notes_of(out: Path) -> Path:
    """The folder beside a bundle with the measurements and the picture of its search."""
    whole = absolute(out)
    return whole.with_name(whole.name + ".search")


def search(
    request: Request,
    target: str = AUTO,
    limit: LatencyLimit | None = None,
    say: Say = silent,
    *,
    keeps: Sequence[str] = (),
) -> Outcome:
    """Write the fastest engine that keeps the budget and the latency limit.

    Args:
        request: whose backend and precision may be `auto`.
        target: where `auto` takes backends from, one of TARGETS.
        limit: what a view may take at most.
        keeps: keep rules to try; a number is a count of the detector's own kind, `auto` the
            detector's own rule and smaller counts; none for the request's. Verdicts are always
            compared with those in float32 at the detector's own rule.

    Raises:
        GateError: no candidate keeps them; the message has all candidates.
        UsageError: nothing to choose from, or an option that does not go with choosing.
    """
    if not request.images:
        raise UsageError("a search chooses and judges by verdicts: add --images FOLDER")
    notes = notes_of(request.out)
    with hold(request), reserve(notes, NOTES, replace=True, inputs=request.inputs):
        signer = load_signer(request.sign) if request.sign else None
        run = _Search(request, target, limit, keeps, say)
        winner = run.find()
        write_picture(notes / PICTURE, run.candidates, winner, limit)
        if winner is None:
            raise GateError(
                "no candidate keeps what was asked for, and nothing was written:\n"
                + as_text(run.candidates)
                + "\nGive more --images where it is undecided, a larger --budget or --latency, "
                "fewer cells (--keep of `mpft train`), or a detector of fewer blocks."
            )
        assert winner.made is not None
        assert winner.certificate is not None
        assert winner.timed is not None
        built = winner.made.certified(winner.certificate, winner.made.run_golden())
        result = write(winner.request, built, winner.timed.latency, signer)
        return Outcome(result, winner, run.candidates)


class _Search:
    """The state of one search."""

    def __init__(
        self,
        request: Request,
        target: str,
        limit: LatencyLimit | None,
        keeps: Sequence[str],
        say: Say,
    ) -> None:
        self._request, self._limit, self._say = request, limit, say
        self._materials: Materials = gather(request, say)
        self._notebook = Notebook(notes_of(request.out) / CANDIDATES)
        self._device = msgspec.to_builtins(Device.here())
        own = self._materials.detector.spec.keep
        rules = [None if keep == own else keep for keep in self._rules(keeps)] or [request.keep]
        self.candidates = [Candidate(one) for one in combinations(request, target, rules)]
        # Read now: an image that cannot be read is no candidate's fault.
        self._choosing, self._judging = self._materials.halves
        needed = budget_of(request).images_needed(_confidence(1))
        judging = len(self._judging.names)
        if judging < needed and not request.allow_unproven:
            raise InputError(
                f"--images: half of the {len(self._choosing.names) + judging} images choose, and "
                f"the others are to show {budget_of(request)}, which takes {needed} of them at "
                f"least: give {2 * needed} or more, allow a larger --budget, or take what is "
                "undecided with --allow-unproven"
            )
        self._judged = 0
        self._first_runs: dict[str, float] = {}
        self._calibration = sha256(self._materials.calibration_views.tobytes())

    def _rules(self, keeps: Sequence[str]) -> list[str]:
        """Keep rules by what was asked for: a rule, a count of the detector's own kind, or auto."""
        spec = self._materials.detector.spec
        auto = [spec.keep, *(str(count) for count in TILES if count < spec.tokens)]
        out = [rule for keep in keeps for rule in (auto if keep == AUTO else [keep])]
        return list(dict.fromkeys(self._materials.spec_at(rule).keep for rule in out))

    def find(self) -> Candidate | None:
        """The fastest candidate that keeps budget and limit, with its engine in memory."""
        queue = self._time_briefly()
        while queue:
            queue.sort(key=lambda one: one.p50)
            if self._time_the_first(queue):
                continue  # another may be the first now
            candidate = queue.pop(0)
            reason = self._over_limit(candidate) or self._keep_costs(candidate)
            if reason is None:
                reason = self._over_budget(candidate)
                if reason is None:
                    self._make(candidate)
                    for one in queue:
                        one.lose(f"slower than {candidate.name}")
                    return candidate
                queue += self._with_more_in_float(candidate)
            candidate.lose(reason)
        return None

    def _over_limit(self, candidate: Candidate) -> str | None:
        assert candidate.timed is not None
        return self._limit.misses(candidate.timed.latency) if self._limit else None

    def _keep_costs(self, candidate: Candidate) -> str | None:
        """Why the candidate's keep rule is over the budget whatever the precision, if it is."""
        request = candidate.request
        if request.keep is None:
            return None
        exact = Candidate(Request(request.detector, request.out, keep=request.keep))
        key = {**self._key(exact), "images": self._choosing.fingerprint, "what": "keep"}
        known = self._notebook.get(key, Comparison)
        if known is None:
            self._say(f"comparing {request.keep} with the detector's own rule in float32")
            engine = self._materials.reference
            spec = self._materials.spec_at(request.keep)
            known = self._materials.compare_images(engine, spec, self._choosing)
            self._notebook.put(key, known)
        over = budget_of(request).exceeded(known)
        return f"{request.keep} even in float32: {'; '.join(over)}" if over else None

    def _over_budget(self, candidate: Candidate) -> str | None:
        """Why a candidate has not kept the budget, or None.

        One that seems to, on the images to choose by, is judged on the others. Each that is judged
        there after one that failed takes half of the risk that is left, so that all together err
        no more often than one would.
        """
        candidate.tried = self._compare(candidate, self._choosing)
        budget = budget_of(candidate.request)
        over = candidate.tried.smoke_faults + budget.exceeded(candidate.tried.images)
        if over:
            return "; ".join(over)
        self._judged += 1
        found = self._compare(candidate, self._judging)
        certificate = candidate.certificate = certify(
            self._materials.detector.spec,
            found.smoke_test,
            found.smoke_faults,
            found.images,
            budget,
            _confidence(self._judged),
        )
        allowed = ("kept", "undecided") if self._request.allow_unproven else ("kept",)
        return None if certificate.answer in allowed else "; ".join(certificate.reasons)

    def _time_briefly(self) -> list[Candidate]:
        """Time all candidates that can be built in turns; those are returned."""
        open_ = [one for one in self.candidates if self._find_time(one) or self._start(one)]
        fastest = min(self._first_runs.values(), default=0.0)
        for one in open_:
            if (seconds := self._first_runs.get(one.name, 0.0)) > HOPELESS * fastest:
                one.lose(f"{seconds / fastest:.0f} times as slow as the fastest, in its first runs")
        fresh = [one for one in open_ if one.timed is None and one.why_lost is None]
        watches = [self._watch(one) for one in fresh]
        for turn in range(BRIEF_ROUNDS):
            for one, watch in zip(fresh, watches, strict=True):
                self._say(f"timing {one.name}, turn {turn + 1} of {BRIEF_ROUNDS}")
                _take_turn(watch)
        for one in fresh:
            self._keep_time(one)
        return [one for one in open_ if one.timed is not None]

    def _time_the_first(self, queue: Sequence[Candidate]) -> bool:
        """Time the first of a queue and those that are not clearly slower, all anew and in turns.

        Nothing is done, and False returned, if all of these have LATENCY_SAMPLES.
        """
        rivals = [one for one in queue if one.p50 <= CLEARLY * queue[0].p50]
        if all(one.samples >= LATENCY_SAMPLES for one in rivals):
            return False
        for one in rivals:
            one.watch, one.remembered = None, False
        watches = [self._watch(one) for one in rivals]
        self._say(f"timing {', '.join(one.name for one in rivals)} in turns")
        while watches[0].samples < LATENCY_SAMPLES:
            for watch in watches:
                _take_turn(watch)
        for one in rivals:
            self._keep_time(one)
        return True

    def _compare(self, candidate: Candidate, views: Views) -> Proven:
        """Compare a candidate on views and by its smoke test, unless that was done before."""
        assert candidate.timed is not None
        digest = candidate.timed.engine_sha256
        key = {**self._key(candidate), "images": views.fingerprint, "what": "comparison"}
        known = self._notebook.get(key, Proven)
        if known is not None and known.engine_sha256 == digest:
            return known
        self._say(f"comparing {candidate.name}")
        made = self._make(candidate)
        assert made.engine is not None
        smoke, faults = made.smoke(made.run_golden())
        found = Proven(
            engine_sha256=digest,
            smoke_test=smoke,
            smoke_faults=faults,
            images=self._materials.compare_images(made.engine, made.spec, views),
        )
        self._notebook.put(key, found)
        return found

    def _with_more_in_float(self, candidate: Candidate) -> list[Candidate]:
        """The candidate with more layers in float, timed briefly; empty if there is none."""
        request = candidate.request
        if candidate.ladder is None:
            quantised = recipe_of(request.precision).quantised
            ladder = self._ladder(candidate) if quantised and not request.float_layers else []
        else:
            ladder = candidate.ladder
        if not ladder:
            return []
        following = Candidate(replace(request, float_layers=ladder[0]), ladder[1:])
        self.candidates.append(following)
        if self._find_time(following):
            return [following]
        if not self._start(following):
            return []
        self._watch(following).time(ROUND * BRIEF_ROUNDS)
        self._keep_time(following)
        return [following]

    def _ladder(self, candidate: Candidate) -> list[Layers]:
        """Sets of float layers by the error that they remove on calibration views."""
        views = self._materials.calibration_views[:SENSITIVITY_VIEWS, None]
        exact: list[Any] = []

        def error(layers: Layers) -> float:
            one = Candidate(replace(candidate.request, float_layers=layers))
            key = {**self._key(one), "what": "sensitivity"}
            known = self._notebook.get(key, Sensitivity)
            if known is None:
                name = f"{candidate.name} with {', '.join(layers)} in float"
                if not exact:
                    reference = self._materials.reference
                    spec = self._materials.detector.spec
                    exact.append(self._materials.run(FLOAT32, reference, views, spec))
                made = make(one.request, self._materials)
                assert made.engine is not None
                logits = self._materials.run(name, made.engine, views, made.spec)
                mean = float(np.abs(logits - exact[0]).mean())
                known = Sensitivity(mean_error=mean if math.isfinite(mean) else None)
                self._notebook.put(key, known)
            return math.inf if known.mean_error is None else known.mean_error

        return float_layer_ladder(error, self._materials.detector.spec.depth)

    def _start(self, candidate: Candidate) -> bool:
        """Build and run once; False, with the reason kept, where that cannot be done here."""
        try:
            if reason := find_backend(candidate.request.backend).why_not():
                raise EnvironmentLacksError(reason)
            made = self._make(candidate)
            if made.engine is None:
                raise EnvironmentLacksError(str(made.not_run))
        except MpftError as error:
            candidate.lose(f"cannot be used here: {error}")
            return False
        taken: list[float] = []
        while len(taken) <= FIRST_RUNS and sum(taken) < FIRST_SECONDS:
            begin = time.perf_counter()
            run_views(made.engine, made.spec, made.golden.crops[:1])
            taken.append(time.perf_counter() - begin)
        self._first_runs[candidate.name] = min(taken)
        return True

    def _make(self, candidate: Candidate) -> Made:
        """The candidate's engine, built if it is not in memory; the one that was timed, if any."""
        if candidate.made is None:
            self._say(f"building {candidate.name}")
            candidate.made = make(candidate.request, self._materials)
            digest = sha256(candidate.made.engine_bytes)
            if candidate.timed is not None and candidate.timed.engine_sha256 != digest:
                raise InputError(
                    f"{candidate.name} came out another engine than the one that was measured; "
                    f"delete {notes_of(self._request.out).name} and search again"
                )
        return candidate.made

    def _watch(self, candidate: Candidate) -> Stopwatch:
        if candidate.watch is None:
            made = self._make(candidate)
            assert made.engine is not None
            candidate.watch = Stopwatch(
                made.engine, made.spec, made.golden.crops, self._request.threads
            )
        return candidate.watch

    def _find_time(self, candidate: Candidate) -> bool:
        """Whether an earlier search timed it, with the same versions on this device."""
        if find_backend(candidate.request.backend).why_not():
            return False
        candidate.timed = self._notebook.get(self._key(candidate), Timed)
        candidate.remembered = candidate.timed is not None
        return candidate.remembered

    def _keep_time(self, candidate: Candidate) -> None:
        made = self._make(candidate)
        candidate.timed = Timed(
            engine_sha256=sha256(made.engine_bytes),
            engine_bytes=len(made.engine_bytes),
            latency=self._watch(candidate).latency(),
        )
        self._notebook.put(self._key(candidate), candidate.timed)

    def _key(self, candidate: Candidate) -> Mapping[str, Any]:
        """All that an engine and its speed depend on."""
        request = candidate.request
        fitted = recipe_of(request.precision).quantised
        return {
            "detector": self._materials.detector.seal,
            "backend": request.backend,
            "precision": request.precision,
            "float_layers": list(request.float_layers),
            "keep": request.keep,
            "options": repr(request.options),
            "calibration": self._calibration if fitted else None,
            "threads": request.threads,
            "device": self._device,
            "code": code_digest(),
            "versions": {
                "numpy": np.__version__,
                **find_backend(request.backend).versions(),
            },
        }


def _confidence(judged: int) -> float:
    """That the so-many-th candidate is judged at: all together err in 1 − CONFIDENCE."""
    return 1 - math.ldexp(1 - CONFIDENCE, -judged)


def _take_turn(watch: Stopwatch) -> None:
    """Time a round once the engine before has let go of the cores: its threads spin for a while."""
    time.sleep(PAUSE_SECONDS)
    watch.time(ROUND)
