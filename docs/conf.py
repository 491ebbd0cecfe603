"""One site of the pages in this repository, where they lie: `make site`.

The sources are the repository itself, so that links work here as they do where the files are read,
and a link to anything that is no page offers the file.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

project = "mpft-deploy"
author = "the authors of mpft-deploy"
copyright = ""
extensions = ["myst_parser"]
root_doc = "README"
include_patterns = [
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/*.md"),
    *("kernels/*/README.md", "models/*/MODEL_CARD.md"),
]
exclude_patterns = [".*", "build", "demo", "tests", "mpft_deploy"]
myst_heading_anchors = 3
suppress_warnings = ["myst.header"]  # a model card's tables follow its title
html_theme = "furo"
html_title = project
html_copy_source = html_show_sourcelink = html_show_sphinx = html_show_copyright = False

READERS = {
    "Deploy": ("docs/deploy", "docs/jetson", "docs/recompute"),
    "Operate": ("docs/operate", "docs/streams", "docs/telling"),
    "Performance": (
        *("docs/performance", "docs/benchmarks", "kernels/texture_patchify/README"),
        *("kernels/encoder/README", "kernels/jpeg_window/README"),
    ),
    "Research": (
        *("docs/research", "docs/method", "models/mpft-vit-b16/MODEL_CARD"),
        "models/demo-decoder/MODEL_CARD",
    ),
    "Contribute": ("CONTRIBUTING", "CHANGELOG"),
}
"""Who reads which pages, in the order in which the site shows them."""


def add_contents(app: Any, name: str, text: list[str]) -> None:
    """Give the first page what the others are found by."""
    if name == root_doc:
        text[0] += "".join(
            f"\n```{{toctree}}\n:hidden:\n:caption: {reader}\n\n" + "\n".join(pages) + "\n```\n"
            for reader, pages in READERS.items()
        )


def add_index(app: Any, failure: Exception | None) -> None:
    """The first page under the name that servers look for."""
    if failure is None:
        shutil.copy(Path(app.outdir) / f"{root_doc}.html", Path(app.outdir) / "index.html")


def setup(app: Any) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", add_contents)
    app.connect("build-finished", add_index)
    return {"parallel_read_safe": True}
