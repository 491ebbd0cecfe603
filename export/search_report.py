"""A search for people: the table of its candidates, and a picture of latency against flips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path

from mpft_deploy.bundle import Comparison
from mpft_deploy.export.candidates import Candidate, LatencyLimit
from mpft_deploy.export.pipeline import LATENCY_SAMPLES
from mpft_deploy.export.request import budget_of
from mpft_deploy.files import write_atomic

COLUMNS = ["candidate", "p50 ms", "p90 ms", "MB", "flips (95 %)", "mean error", "ΔAUC", ""]
NONE = "–"


def rows(candidates: Sequence[Candidate]) -> list[list[str]]:
    """Cells of COLUMNS, the fastest candidate first, backends that cannot be used here last."""
    timed = [[one.name, *_measured(one), _result(one)] for one in ordered(candidates)]
    missing = dict.fromkeys(one.request.backend for one in candidates if one.timed is None)
    return timed + [[backend, *[NONE] * 6, "not here"] for backend in missing]


def reasons(candidates: Sequence[Candidate], *, explain: bool) -> list[str]:
    """Why the others lost, a line each; without `explain` only why they cannot be used here."""
    lost = [f"{one.name}: {one.why_lost}" for one in ordered(candidates) if one.why_lost]
    missing: dict[tuple[str, str | None], list[str]] = {}
    for one in candidates:
        if one.timed is None:
            missing.setdefault((one.request.backend, one.why_lost), []).append(
                one.request.precision
            )
    marked = {how_timed(one) for one in candidates} & {"briefly", "remembered"}
    return (
        [MEANING] * bool(marked)
        + (lost if explain else [])
        + [
            f"{backend} ({', '.join(precisions)}): {reason}"
            for (backend, reason), precisions in missing.items()
        ]
    )


def as_text(candidates: Sequence[Candidate]) -> str:
    """Table and reasons as plain lines, for an error message."""
    cells = [COLUMNS, *rows(candidates)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(COLUMNS))]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in cells]
    return "\n".join(f"  {line}" for line in [*lines, *reasons(candidates, explain=True)])


def as_json(one: Candidate) -> dict[str, object]:
    """A candidate as builtins and records."""
    shown = comparison_of(one)
    return {
        "backend": one.request.backend,
        "precision": one.request.precision,
        "float_layers": one.request.float_layers,
        "keep": one.request.keep,
        "latency": one.timed.latency if one.timed else None,
        "engine_bytes": one.timed.engine_bytes if one.timed else None,
        "timed": how_timed(one),
        "comparison": shown,
        "budget": str(budget_of(one.request)),
        "answer": one.certificate.answer if one.certificate else None,
        "why_lost": one.why_lost,
    }


def ordered(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that were timed, the fastest first."""
    return sorted((one for one in candidates if one.timed), key=lambda one: one.p50)


def how_timed(one: Candidate) -> str | None:
    """How far its latency can be compared with the others'."""
    if one.timed is None:
        return None
    if one.remembered:
        return "remembered"
    return "in turns" if one.samples >= LATENCY_SAMPLES else "briefly"


MARKS = {"in turns": "", "briefly": " ~", "remembered": " *"}
MEANING = "~ timed briefly; * timed by an earlier search"


def comparison_of(one: Candidate) -> Comparison | None:
    """What is known of its verdicts: on the images to judge by, or else on those to choose by."""
    if one.certificate is not None:
        return one.certificate.images
    return one.tried.images if one.tried is not None else None


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Points that no other is as good as in one measure and better in the other, by the first."""
    front: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def _measured(one: Candidate) -> list[str]:
    assert one.timed is not None
    latency, shown = one.timed.latency.total_ms, comparison_of(one)
    cells = [
        f"{latency['p50']:.2f}{MARKS[str(how_timed(one))]}",
        f"{latency['p90']:.2f}" if "p90" in latency else NONE,
        f"{one.timed.engine_bytes / 1e6:.1f}",
    ]
    if shown is None:
        return [*cells, NONE, NONE, NONE]
    low, high = shown.flip_bounds
    mean = shown.logit_difference["mean"]
    return [
        *cells,
        f"{shown.flip_share:.1%} ({100 * low:.1f}–{100 * high:.1f})",
        "not finite" if mean is None else f"{mean:.4f}",
        NONE if shown.auc_change is None else f"{shown.auc_change:+.4f}",
    ]


def _result(one: Candidate) -> str:
    if one.why_lost is None:
        return "chosen" if one.certificate is None else f"chosen: {one.certificate.answer}"
    if one.certificate is not None:
        return one.certificate.answer
    return "not tried" if one.tried is None else "over budget"


TITLE = "Decisions changed against median latency of a view"
WIDTH, HEIGHT = 860, 420
LEFT, RIGHT, TOP, BOTTOM = 64, 300, 40, 52
LONGEST = 36  # characters of a name beside the picture
INK, GREY, FAINT, GOOD, BAD = "#222222", "#777777", "#dddddd", "#00707a", "#b3402f"


def write_picture(
    path: Path,
    candidates: Sequence[Candidate],
    winner: Candidate | None,
    limit: LatencyLimit | None,
) -> None:
    """Write the picture as SVG; without any candidate that was proven, it says so."""
    write_atomic(path, draw(candidates, winner, limit).encode())


def draw(
    candidates: Sequence[Candidate], winner: Candidate | None, limit: LatencyLimit | None
) -> str:
    """SVG of flips against median latency, of what was proven, with the Pareto front.

    Bars are exact bounds, each at 95 %. Numbers lead to the names on the right; those in grey at
    the upper edge were timed and not tried.
    """
    numbered = list(enumerate(ordered(candidates), 1))
    shown = [
        (number, one, comparison)
        for number, one in numbered
        if (comparison := comparison_of(one)) is not None
    ]
    slowest = max([one.p50 for _, one in numbered] + [limit.milliseconds if limit else 0.0]) or 1.0
    most = max([comparison.flip_bounds[1] for _, _, comparison in shown], default=0.01)
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(milliseconds: float) -> float:
        return LEFT + milliseconds / (1.08 * slowest) * (right - LEFT)

    def y(share: float) -> float:
        return bottom - share / (1.08 * most) * (bottom - TOP)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="12" fill="{INK}">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _words(LEFT, 22, TITLE, size=14),
        _words((LEFT + right) / 2, HEIGHT - 12, "latency p50, ms", anchor="middle"),
    ]
    for step in range(5):
        share, milliseconds = most * step / 4, slowest * step / 4
        parts += [
            _line(LEFT, y(share), right, y(share), FAINT),
            _words(LEFT - 8, y(share) + 4, f"{100 * share:.3g} %", anchor="end"),
            _words(x(milliseconds), bottom + 18, f"{milliseconds:.3g}", anchor="middle"),
        ]
    if limit:
        parts.append(_line(x(limit.milliseconds), TOP, x(limit.milliseconds), bottom, BAD, dash=4))
        parts.append(_words(x(limit.milliseconds) - 4, TOP + 10, str(limit), anchor="end"))
    front = pareto_front([(one.p50, comparison.flip_share) for _, one, comparison in shown])
    steps = " ".join(f"{x(ms):.1f},{y(share):.1f}" for ms, share in front)
    parts.append(f'<polyline points="{steps}" fill="none" stroke="{GOOD}" stroke-width="1.5"/>')
    for number, one, comparison in shown:
        parts += _point(number, one, winner, x(one.p50), comparison, y)
    untried = [(number, one) for number, one in numbered if one.tried is None]
    for rank, (number, one) in enumerate(untried):
        parts.append(_words(x(one.p50), TOP + 12 * (rank % 3), str(number), colour=GREY))
    parts += _legend(candidates, winner, right + 24)
    return "\n".join([*parts, "</svg>"]) + "\n"


def _point(
    number: int,
    one: Candidate,
    winner: Candidate | None,
    across: float,
    comparison: Comparison,
    y: Callable[[float], float],
) -> list[str]:
    """A numbered disc with its interval, filled for the winner."""
    low, high = comparison.flip_bounds
    colour = GOOD if one.certificate and one.certificate.answer == "kept" else BAD
    fill, ink = (colour, "white") if one is winner else ("white", INK)
    at = y(comparison.flip_share)
    return [
        _line(across, y(low), across, y(high), colour),
        f'<circle cx="{across:.1f}" cy="{at:.1f}" r="9" fill="{fill}" stroke="{colour}" '
        'stroke-width="1.5"/>',
        f'<text x="{across:.1f}" y="{at + 4:.1f}" text-anchor="middle" font-size="11" '
        f'fill="{ink}">{number}</text>',
    ]


def _legend(candidates: Sequence[Candidate], winner: Candidate | None, left: float) -> list[str]:
    """Names by number, and what the colours mean."""
    out = []
    for number, one in enumerate(ordered(candidates), 1):
        state = _result(one)
        name = one.name if len(one.name) <= LONGEST else one.name[: LONGEST - 1] + "…"
        out.append(_words(left, TOP + 18 * number, f"{number}  {name}: {state}", size=11))
    out.append(_words(left, HEIGHT - 30, "budget kept", colour=GOOD))
    out.append(_words(left + 84, HEIGHT - 30, "not kept", colour=BAD))
    out.append(_words(left + 180, HEIGHT - 30, "not tried", colour=GREY))
    return out


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, dash: int = 0) -> str:
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" '
        f'stroke-dasharray="{dash or "none"}"/>'
    )


def _words(
    x: float, y: float, words: str, *, size: int = 12, anchor: str = "start", colour: str = INK
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" '
        f'fill="{colour}">{escape(words)}</text>'
    )
