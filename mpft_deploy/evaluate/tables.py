"""Tables of the figures: as the papers lay them out, in full, as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from itertools import chain

import msgspec

from mpft_deploy.benchmarks import BENCHMARKS, plain
from mpft_deploy.evaluate.metadata import FOLDS, LEAST
from mpft_deploy.evaluate.metrics import METRICS, RESAMPLES
from mpft_deploy.evaluate.predictions import Header
from mpft_deploy.evaluate.protocols import ALIGNED, BASIC, RAW
from mpft_deploy.evaluate.streams import STREAMS, Streams
from mpft_deploy.evaluate.summary import MEAN, METADATA, Group
from mpft_deploy.files import canonical_json, printable

NONE = "–"


@dataclass(frozen=True)
class Table:
    """A titled table of text; `note` stands below it. The first column names the row.

    brief: whether a terminal shows it.
    """

    title: str
    columns: list[str]
    rows: list[list[str]]
    note: str = ""
    brief: bool = False


class Published(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Figures of others on one benchmark.

    Attributes:
        source: where they come from.
        rows: method → one figure for each set in the order of `benchmarks.BENCHMARKS`, then the
            mean; or the mean alone.
    """

    source: str
    rows: dict[str, list[float | None]]


@cache
def published() -> dict[str, Published]:
    """Benchmark → figures of others."""
    text = resources.files(__package__).joinpath("published.json").read_bytes()
    return msgspec.json.decode(text, type=dict[str, Published])


def tables(header: Header, groups: Sequence[Group], streams: Sequence[Streams] = ()) -> list[Table]:
    """All tables of a report, in order."""
    out = [
        _by_set(header, groups, "balanced_accuracy", "Balanced accuracy, %"),
        _by_set(header, groups, "auc", "AUC, %"),
        *_beside_published(header, groups),
    ]
    out += [
        _full(header, [g for g in groups if g.keep == keep and g.protocol in BASIC], keep)
        for keep in header.keeps
    ]
    if len(header.protocols) > len(BASIC):
        out += [_robustness(groups, keep) for keep in header.keeps]
    return [*out, _of_streams(header, streams)] if streams else out


def _sets(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(g.name for g in groups if g.kind == "set"))


def _by_set(header: Header, groups: Sequence[Group], metric: str, title: str) -> Table:
    """One row a keep rule and protocol, sets as columns."""
    sets = sorted(_sets(groups))
    told = OF_METADATA if any(g.keep == METADATA for g in groups) else ""
    note = " ".join(filter(None, [_lacking(groups), told]))
    return Table(title, ["", *sets, "mean"], _ours(header, groups, sets, metric), note, True)


def _ours(
    header: Header, groups: Sequence[Group], sets: Sequence[str], metric: str
) -> list[list[str]]:
    """The rows of the detector that was evaluated: a figure for each set, then the mean."""
    found = {(g.keep, g.protocol, g.name): g for g in groups if g.kind in ("set", "mean")}
    names = [*sets, MEAN if len(sets) > 1 else sets[0]]
    kinds = [(keep, protocol) for keep in header.keeps for protocol in BASIC]
    if any(keep == METADATA for keep, _, _ in found):
        kinds.append((METADATA, RAW))
    # Of metadata a set may have no figure, and then there is no mean over the same sets.
    known = {name for keep, _, name in found if keep == METADATA}
    return [
        [
            f"**{METADATA}**" if keep == METADATA else f"**{keep}, {protocol}**",
            *(
                NONE
                if keep == METADATA and not known >= ({*sets} if name == MEAN else {name})
                else _percent(found[keep, protocol, name], metric)
                for name in names
            ),
        ]
        for keep, protocol in kinds
    ]


OF_METADATA = (
    f"{METADATA.capitalize()}: a logistic regression that sees size, format, bytes a pixel, JPEG "
    f"quality and what EXIF says of shrinking, and no picture, in {FOLDS} folds of each set of "
    f"{LEAST} or more images of each class. What it tells apart, a detector may have learnt in "
    "place of pictures."
)


def _lacking(groups: Sequence[Group]) -> str:
    """Why sets have no figure that needs both classes."""
    out = []
    for name in _sets(groups):
        one = next(g for g in groups if g.kind == "set" and g.name == name)
        if not (one.real and one.generated):
            counts = {"real": one.real, "generated": one.generated}
            missing = " or ".join(kind for kind, count in counts.items() if not count)
            verdict = " with a verdict" if one.unsure_real + one.unsure_generated else ""
            out.append(f"{name} has no {missing} images{verdict}")
    return f"{NONE}: {'; '.join(out)}." if out else ""


def _beside_published(header: Header, groups: Sequence[Group]) -> list[Table]:
    """What others published, where the images are laid out as that benchmark, by their metric."""
    if header.benchmark not in published():
        return []
    known = BENCHMARKS[header.benchmark].sets
    titles = {alias: title for title, names in known.items() for alias in names}
    ours = {titles[plain(name)]: name for name in _sets(groups) if plain(name) in titles}
    there = [title for title in known if title in ours]
    whole = len(there) == len(known)
    rows, sources = [], []
    for name, mark in ((header.benchmark, ""), (f"{header.benchmark}, aligned", ", aligned")):
        if name not in published():
            continue
        sources.append(published()[name].source)
        for method, figures in published()[name].rows.items():
            by_title = dict(zip(known, figures[:-1], strict=False))
            cells = [*(by_title.get(title) for title in there), figures[-1] if whole else None]
            if any(cell is not None for cell in cells):
                rows.append([f"{method}{mark}", *map(_plain, cells)])
    if not rows or len(ours) != len(_sets(groups)):
        return []
    rows += _ours(header, groups, [ours[title] for title in there], "accuracy_half")
    counts = [g for g in groups if g.kind == "set" and g.protocol == BASIC[0]]
    fewest = min(g.real + g.generated for g in counts)
    note = (
        f"{' '.join(sources)} The last rows are of the detector evaluated here, by the same "
        "metric, accuracy at a probability of one half. What differs: what each was trained on, "
        f"how many images there are (here {fewest} or more of each set), and what is seen of them "
        f"(here views `{header.views}`, at their own pixels)."
    )
    if not whole:
        note += f" Means stand only beside all {len(known)} sets."
        rows = [row if not row[0].startswith("**") else [*row[:-1], NONE] for row in rows]
    return [Table(f"{header.benchmark}: accuracy at 0.5, %", ["", *there, "mean"], rows, note)]


def _full(header: Header, groups: Sequence[Group], keep: str) -> Table:
    """Every group and metric under `raw` and `aligned`, with intervals."""
    rows = []
    by_protocol = [[g for g in groups if g.protocol == name] for name in BASIC]
    for group in chain.from_iterable(zip(*by_protocol, strict=True)):
        name = f"↳ {group.name}" if group.kind == "generator" else group.name
        cells = [_with_interval(group, metric) for metric in METRICS]
        counts = (group.real, group.generated, group.unsure_real + group.unsure_generated)
        rows.append([name, group.protocol, *map(str, counts), *cells])
    note = (
        "In %, with 95 % intervals: exact ones of the accuracies on real and on generated, else of "
        f"{RESAMPLES} bootstrap samples, which have no width where nothing was decided wrongly. A "
        "generator marked ↳ is held against all real images of its set. Resampling raises the "
        "calibration error of few images: its interval leans upward."
    )
    if keep != header.calibrated_keep:
        note += (
            f" The threshold belongs to {header.calibrated_keep}: under {keep} only AUC, AP, EER "
            "and detection are fair."
        )
    columns = ["set", "protocol", "real", "generated", "no verdict", *METRICS.values()]
    return Table(f"All figures, keep {keep}", columns, rows, note)


def _robustness(groups: Sequence[Group], keep: str) -> Table:
    """The overall figures under every protocol."""
    overall = [g for g in groups if g.keep == keep and g.kind == "mean"] or [
        g for g in groups if g.keep == keep and g.kind == "set"
    ]
    shown = ("balanced_accuracy", "real_accuracy", "generated_accuracy", "auc", "ece")
    rows = [
        [
            g.protocol,
            str(g.unsure_real + g.unsure_generated),
            *(_with_interval(g, metric) for metric in shown),
        ]
        for g in overall
    ]
    return Table(
        f"Robustness, keep {keep}: {overall[0].name}",
        ["protocol", "no verdict", *(METRICS[metric] for metric in shown)],
        rows,
        "Every protocol but raw changes the aligned image, real and generated alike. In %.",
    )


def _of_streams(header: Header, streams: Sequence[Streams]) -> Table:
    """What is found of streams, against the time between false alarms that is promised."""
    cells: dict[tuple[str, str], list[str]] = {}
    for one in streams:
        row = cells.setdefault((one.protocol, one.promise), [])
        row += [_plain(100 * one.found), _plain(100 * one.alarmed)]
    spans = list(dict.fromkeys(one.span for one in streams))
    columns = [f"{what} in {span}" for span in spans for what in ("found", "false alarms")]
    return Table(
        f"Streams, keep {header.calibrated_keep}",
        ["protocol", "a false alarm in", *columns],
        [[*names, *row] for names, row in cells.items()],
        f"In % of {STREAMS} streams of each class, decided as mpft screen decides them of a camera "
        "that was not taught, with the time looked as patience. A stream is of one generator, "
        "or of one source of real images, and shows another of its images each second: frames of "
        "one video are more alike, and less is found of them.",
        brief=True,
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
    both = f", {len(header.contradicting)} are in both classes" if header.contradicting else ""
    return f"{header.model}: {header.images} images{lost}{both}"


def told_unsure(groups: Sequence[Group]) -> str:
    """What is said of the images, as they are, that have no verdict; "" if all have one."""
    first = [g for g in groups if (g.keep, g.protocol) == _first(groups)]
    # Of several sets all together: one may borrow another's real images.
    first = [g for g in first if g.kind == "pooled"] or [g for g in first if g.kind == "set"]
    real, generated = sum(g.unsure_real for g in first), sum(g.unsure_generated for g in first)
    if not real + generated:
        return ""
    return (
        f"{real} real and {generated} generated images are unsure whatever their logit, too small "
        "or without texture to judge, as mpft screen calls them: no figure counts them. Changed as "
        "a protocol says, others may be."
    )


def _first(groups: Sequence[Group]) -> tuple[str, str]:
    """Keep rule and protocol that the tables begin with."""
    return groups[0].keep, groups[0].protocol


def markdown(header: Header, groups: Sequence[Group], all_tables: Sequence[Table]) -> str:
    """All tables as one Markdown file."""
    lines = ["# Evaluation", "", _cell(subject(header)), ""]
    if unsure := told_unsure(groups):
        lines += [unsure, ""]
    calibration = header.calibration
    lines += [
        f"Threshold {calibration.threshold:.4g}, unsure between {calibration.unsure[0]:.4g} and "
        f"{calibration.unsure[1]:.4g}, calibrated for keep {header.calibrated_keep}. `raw`: images "
        f"as they are; `{ALIGNED}`: both classes re-saved at JPEG 96, 4:2:0. Neither undoes a "
        "difference in size, scale or content between the classes: where there is one, the figures "
        "may be of that.",
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
    if header.contradicting:
        lines += ["## In both classes, not scored", ""]
        lines += [f"- {_cell(path)}" for path in header.contradicting] + [""]
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
    columns = ["keep", "protocol", "kind", "set", "name", "real", "generated"]
    writer.writerow([*columns, "metric", "value", "low", "high"])
    for group in groups:
        known = [getattr(group, column) for column in columns]
        for metric, figure in group.figures.items():
            values = ["", "", ""] if figure is None else [figure.value, figure.low, figure.high]
            writer.writerow([*known, metric, *values])
    return buffer.getvalue()


def as_json(header: Header, groups: Sequence[Group], streams: Sequence[Streams] = ()) -> bytes:
    """Header and all figures as JSON."""
    return canonical_json(
        msgspec.to_builtins({"header": header, "groups": list(groups), "streams": list(streams)})
    )
