"""Tables of the figures: as the papers lay them out, in full, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import msgspec

from mpft_deploy.evaluate.metrics import METRICS, RESAMPLES
from mpft_deploy.evaluate.predictions import Header
from mpft_deploy.evaluate.protocols import ALIGNED, BASIC
from mpft_deploy.evaluate.summary import MEAN, Group
from mpft_deploy.files import canonical_json, printable

NONE = "–"


@dataclass(frozen=True)
class Table:
    """A titled table of text; `note` stands below it. The first column names the row."""

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Figures of others on one benchmark.

    Attributes:
        source: where they come from.
        columns: title → the names, in lower-case letters and digits, that a set of it may have.
        rows: method → one figure a column, then the mean; or the mean alone.
    """

    source: str
    columns: dict[str, list[str]]
    rows: dict[str, list[float | None]]


@cache
def published() -> dict[str, Published]:
    """Benchmark → figures of others."""
    text = resources.files(__package__).joinpath("published.json").read_bytes()
    return msgspec.json.decode(text, type=dict[str, Published])


def tables(header: Header, groups: Sequence[Group]) -> list[Table]:
    """All tables of a report, in order."""
    out = [
        _by_set(header, groups, "balanced_accuracy", "Balanced accuracy, %"),
        _by_set(header, groups, "auc", "AUC, %"),
    ]
    out += [
        _full(header, [g for g in groups if g.keep == keep and g.protocol in BASIC], keep)
        for keep in header.keeps
    ]
    if len(header.protocols) > len(BASIC):
        out += [_robustness(groups, keep) for keep in header.keeps]
    return out


def _benchmark(names: Sequence[str]) -> tuple[str, dict[str, str]]:
    """The benchmark that most of the sets belong to, and set → its column; "" if none does."""
    best: tuple[str, dict[str, str]] = ("", {})
    for name, benchmark in published().items():
        known = {alias: title for title, all_ in benchmark.columns.items() for alias in all_}
        found = {
            one: known[plain]
            for one in names
            if (plain := re.sub(r"[^a-z0-9]", "", one.lower())) in known
        }
        if len(found) > len(best[1]) and len(set(found.values())) == len(found):
            best = name, found
    return best


def _by_set(header: Header, groups: Sequence[Group], metric: str, title: str) -> Table:
    """One row a keep rule and protocol, sets as columns; beside it what others published."""
    sets = list(dict.fromkeys(g.name for g in groups if g.kind == "set"))
    benchmark, columns = _benchmark(sets)
    order = list(published()[benchmark].columns) if benchmark else []
    ours = sorted(sets, key=lambda s: (order.index(columns[s]) if s in columns else len(order), s))
    rows = []
    note = ""
    if benchmark and metric == "balanced_accuracy":
        note = f"{benchmark}: {published()[benchmark].source}"
        for method, figures in published()[benchmark].rows.items():
            by_title = dict(zip(order, figures[:-1], strict=False))
            cells = [by_title.get(columns.get(one, "")) for one in ours]
            rows.append([method, *(_plain(cell) for cell in cells), _plain(figures[-1])])
        aligned = published().get(f"{benchmark}, aligned")
        if aligned:
            note += f" {aligned.source}"
            rows += [
                [f"{method}, aligned", *[NONE] * len(ours), _plain(figures[-1])]
                for method, figures in aligned.rows.items()
            ]
    found = {(g.keep, g.protocol, g.name): g for g in groups}
    for keep in header.keeps:
        for protocol in BASIC:
            names = [*ours, MEAN if len(sets) > 1 else sets[0]]
            rows.append(
                [
                    f"**{keep}, {protocol}**",
                    *(_percent(found[keep, protocol, name], metric) for name in names),
                ]
            )
    return Table(title, ["", *(columns.get(one, one) for one in ours), "mean"], rows, note)


def _full(header: Header, groups: Sequence[Group], keep: str) -> Table:
    """Every group and metric under `raw` and `aligned`, with intervals."""
    rows = []
    for group in sorted(groups, key=lambda g: _position(groups, g)):
        name = f"↳ {group.name}" if group.kind == "generator" else group.name
        cells = [_with_interval(group, metric) for metric in METRICS]
        rows.append([name, group.protocol, str(group.real), str(group.generated), *cells])
    note = (
        f"In %, with 95 % intervals of {RESAMPLES} bootstrap samples. A generator marked ↳ is held "
        "against all real images of its set. Resampling raises the calibration error of few "
        "images: its interval leans upward."
    )
    if keep != header.calibrated_keep:
        note += (
            f" The threshold belongs to {header.calibrated_keep}: under {keep} only AUC, AP, EER "
            "and detection are fair."
        )
    columns = ["set", "protocol", "real", "generated", *METRICS.values()]
    return Table(f"All figures, keep {keep}", columns, rows, note)


def _position(groups: Sequence[Group], group: Group) -> tuple[int, int]:
    """Places a group's protocols beside each other, in the order that the groups came in."""
    same = [g for g in groups if g.protocol == groups[0].protocol]
    place = [(g.kind, g.name) for g in same].index((group.kind, group.name))
    return place, BASIC.index(group.protocol)


def _robustness(groups: Sequence[Group], keep: str) -> Table:
    """The overall figures under every protocol."""
    overall = [g for g in groups if g.keep == keep and g.kind == "mean"] or [
        g for g in groups if g.keep == keep and g.kind == "set"
    ]
    shown = ("balanced_accuracy", "real_accuracy", "generated_accuracy", "auc", "ece")
    rows = [[g.protocol, *(_with_interval(g, metric) for metric in shown)] for g in overall]
    return Table(
        f"Robustness, keep {keep}: {overall[0].name}",
        ["protocol", *(METRICS[metric] for metric in shown)],
        rows,
        "Every protocol but raw changes the aligned image, real and generated alike. In %.",
    )


def _plain(value: float | None) -> str:
    return NONE if value is None else f"{value:.1f}"


def _percent(group: Group, metric: str) -> str:
    figure = group.figures[metric]
    return _plain(None if figure is None else 100 * figure.value)


def _with_interval(group: Group, metric: str) -> str:
    figure = group.figures[metric]
    if figure is None:
        return NONE
    return f"{100 * figure.value:.1f} [{100 * figure.low:.1f}, {100 * figure.high:.1f}]"


def subject(header: Header) -> str:
    """One line on what was evaluated."""
    lost = f", {len(header.unreadable)} of them could not be decoded" if header.unreadable else ""
    return f"{header.model}: {header.images} images{lost}"


def markdown(header: Header, all_tables: Sequence[Table]) -> str:
    """All tables as one Markdown file."""
    lines = ["# Evaluation", "", _cell(subject(header)), ""]
    calibration = header.calibration
    lines += [
        f"Threshold {calibration.threshold:.4g}, unsure between {calibration.unsure[0]:.4g} and "
        f"{calibration.unsure[1]:.4g}, calibrated for keep {header.calibrated_keep}. `raw`: images "
        f"as they are; `{ALIGNED}`: both classes re-saved at JPEG 96, 4:2:0.",
        "",
    ]
    for table in all_tables:
        lines += [f"## {table.title}", ""]
        lines.append("| " + " | ".join(map(_cell, table.columns)) + " |")
        lines.append("|" + "---|" * len(table.columns))
        lines += ["| " + " | ".join(map(_cell, row)) + " |" for row in table.rows]
        lines.append("")
        if table.note:
            lines += [table.note, ""]
    if header.unreadable:
        lines += ["## Not decoded, not scored", ""]
        lines += [f"- {_cell(bad.path)}: {_cell(bad.reason)}" for bad in header.unreadable]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """Text that cannot end its cell or its line."""
    return printable(text).replace("|", "\\|")


def as_csv(groups: Sequence[Group]) -> str:
    """All figures as CSV: one line a group and metric."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["keep", "protocol", "kind", "name", "real", "generated", "metric", "value", "low", "high"]
    )
    for g in groups:
        for metric, figure in g.figures.items():
            values = ["", "", ""] if figure is None else [figure.value, figure.low, figure.high]
            writer.writerow(
                [g.keep, g.protocol, g.kind, g.name, g.real, g.generated, metric, *values]
            )
    return buffer.getvalue()


def as_json(header: Header, groups: Sequence[Group]) -> bytes:
    """Header and all figures as JSON."""
    return canonical_json(
        {"header": msgspec.to_builtins(header), "groups": msgspec.to_builtins(list(groups))}
    )
