"""A summary for a pull request."""

from __future__ import annotations

from mpft_deploy.files import printable
from mpft_deploy.profile.html import answer
from mpft_deploy.profile.records import Profile
from mpft_deploy.profile.wording import (
    environment_rows,
    estimate_cells,
    harness_line,
    layer_rows,
    number,
    run_notes,
    title,
)

SHOWN_LAYERS = 12
MARKS = {"pass": "✅", "fail": "❌", "undecided": "❔"}


def render_markdown(profile: Profile) -> str:
    """GitHub's Markdown, environment and layers folded away."""
    parts = [f"### Latency of `{profile.subject.name}`: {answer(profile)[1]}", ""]
    parts += [
        f"- {MARKS[gate.verdict]} **{gate.verdict}** `{gate.gate}`: {gate.reason}"
        for gate in profile.gates
    ]
    for run in profile.runs:
        parts += ["", f"**{title(run)}**", ""]
        parts += _table(
            ["figure", "ms", "95 % interval"],
            [[name, *estimate_cells(one)] for name, one in run.latency_ms.items()],
        )
        stages = " → ".join(f"{stage.name} {number(stage.mean_ms)}" for stage in run.stages)
        parts += ["", f"Stages, mean ms: {stages}", "", *run_notes(run)]
    if profile.layers is not None:
        rows = sorted(layer_rows(profile.layers)[:-2], key=lambda row: -float(row[1]))
        parts += ["", "<details><summary>Slowest layers</summary>", ""]
        parts += _table(
            ["layer", "ms", "share", "GFLOP/s", "GB/s", "bound by", "of the roof"],
            [*rows[:SHOWN_LAYERS], *layer_rows(profile.layers)[-2:]],
        )
        parts += ["", "</details>"]
    parts += ["", "<details><summary>Environment</summary>", ""]
    parts += _table(["what", "is"], environment_rows(profile))
    parts += ["", harness_line(profile), "", "</details>", ""]
    return "\n".join(parts)


def _table(columns: list[str], rows: list[list[str]]) -> list[str]:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(printable(cell).replace("|", "\\|") for cell in cells) + " |"

    return [line(columns), line(["---"] * len(columns)), *map(line, rows)]
