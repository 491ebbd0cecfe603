"""Every figure of a page has a result behind it, of the detector that is shipped.

    python benchmarks/figures.py    # exit code 1, and what is wrong, unless it is so

docs/figures.toml says what pages claim, with a path into a result for each figure. A figure with a
unit that nothing there covers is a fault, and so is a result of other weights than the shipped.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from turns import SHIPPED, shipped

from mpft_deploy.detector_folder import read_detector
from mpft_deploy.engine.native import PRECISIONS
from mpft_deploy.engine.published import find_published

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
CLAIMS = ROOT / "docs" / "figures.toml"
RESULTS = ROOT / "benchmarks" / "results"
PAGES = ("README.md", "docs/*.md")

FIGURE = re.compile(
    r"(?<![\w.,])\d[\d,]*(?:\.\d+)? ?(?:ms|µs|%|[KMG]B|GMAC/s|verdicts/s)(?!\w)"
    r"|AUC (?:of )?[01]\.\d+|(?<![\w.])[01]\.\d{3,4}(?!\d)"
)
"""A number with a unit of what is measured, or with three digits behind the point, as AUC has."""

WITHOUT = ("archive-", "gpu-", "texture_patchify-")
"""How names of results begin that know no detector: of a kernel, or of all but the network."""

CODE = re.compile(
    r"```.*?```|^ {4}.*?$|`[^`]*`|<!-- \w+: begin -->.*?<!-- \w+: end -->", re.S | re.M
)
"""What is no claim, nor are blocks that a command draws (`<!-- faults: begin -->`)."""

VERDICTS = ("detector", "certificate", "folds", "windows", "stream_promises")
"""Results that depend on all of the detector's weights; the others are of its tower."""

Json = Mapping[str, Any]


def read_results() -> dict[str, Json]:
    """All results by their names, and what the shipped detector says of itself: `detector`, its
    spec, and `certificate`, what its engines change."""
    found = {path.stem: json.loads(path.read_bytes()) for path in sorted(RESULTS.glob("*.json"))}
    detector = read_detector(SHIPPED)
    published, _ = find_published(detector, detector.spec.keep)
    compared = {one: published.compare(detector, one) for one in PRECISIONS} if published else {}
    return {
        **found,
        "detector": {**msgspec.to_builtins(detector.spec), **shipped()},
        "certificate": {**msgspec.to_builtins(compared), **shipped()},
    }


def read_pages() -> dict[str, str]:
    """The text of each page; docs/benchmarks.md is drawn whole, and checked by page.py."""
    paths = sorted(path for pattern in PAGES for path in ROOT.glob(pattern))
    pages = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    del pages["docs/benchmarks.md"]
    return pages


def faults(pages: Mapping[str, str], results: Mapping[str, Json], claims: Json) -> Iterator[str]:
    """What is not so, in a line each.

    Args:
        pages: text by path.
        results: by name, as benchmarks write them; `weights` is the hash of the detector's, `tower`
            that of what times and memory depend on.
        claims: docs/figures.toml.
    """
    ours = shipped()
    for name, result in results.items():
        of = "weights" if name in VERDICTS else "tower"
        if not name.startswith(WITHOUT) and result.get(of) != ours[of]:
            yield f"benchmarks/results/{name}.json is not of the shipped detector: measure again"
    covering: dict[str, list[str]] = {page: [] for page in pages}
    for claim in claims["claim"]:
        covering[claim["page"]].append(filled(claim["text"], results[claim["result"]]))
    for drawn in claims["drawn"]:
        covering[drawn["page"]] += table_rows(drawn["command"])
    for stated in claims["stated"]:
        for page in covering if stated["page"] == "*" else [stated["page"]]:
            text = stated["text"] if "text" in stated else section(pages[page], stated["section"])
            if stated["page"] != "*" or text in pages[page]:
                covering[page].append(text)
    for page, text in pages.items():
        yield from uncovered(page, text, covering[page])


def filled(text: str, result: Json) -> str:
    """A claim with the figures of a result in place of `{path/into/it:format}`."""

    def figure(hole: re.Match[str]) -> str:
        path, _, form = hole[1].rpartition(":")
        value: Any = result
        for key in path.split("/"):
            value = value[int(key) if isinstance(value, (list, tuple)) else key]
        return format(value, form)

    return re.sub(r"\{([^{}]+)\}", figure, text)


@functools.cache
def table_rows(command: str) -> list[str]:
    """The rows of the tables that a command prints."""
    done = subprocess.run(
        [sys.executable, *command.split()], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return [line for line in done.stdout.splitlines() if line.startswith("|")]


def section(page: str, title: str) -> str:
    """What stands between a heading and the next one; a text that is nowhere if there is none."""
    found = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^#|\Z)", page, re.S | re.M)
    return found[1] if found else f"a section {title!r}"


def uncovered(page: str, text: str, covering: list[str]) -> Iterator[str]:
    """Claims that a page does not make so, and its figures that no claim covers."""
    masked = CODE.sub(lambda code: re.sub(r"\S", "x", code[0]), text)
    text, masked = (re.sub(r"\s+", " ", one) for one in (text, masked))
    for claim in covering:
        claim = re.sub(r"\s+", " ", claim.strip())
        begin = text.find(claim)
        if begin < 0:
            yield f"{page} does not say: {claim}"
        while begin >= 0:
            end = begin + len(claim)
            masked = masked[:begin] + "x" * len(claim) + masked[end:]
            begin = text.find(claim, end)
    for figure in FIGURE.finditer(masked):
        around = masked[max(0, figure.start() - 60) : figure.end() + 20]
        yield f"{page} has a figure without a result: {figure[0]} (… {around} …)"


def main() -> None:
    claims = tomllib.loads(CLAIMS.read_text(encoding="utf-8"))
    if found := list(faults(read_pages(), read_results(), claims)):
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
