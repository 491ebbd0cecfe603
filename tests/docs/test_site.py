"""The site builds without a warning: every link to a page, a heading or a file leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_site_builds_without_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sphinx.cmd.build import build_main

    arguments = [
        "-q",
        "-W",
        "--keep-going",
        "-c",
        str(ROOT / "docs"),
        "-d",
        str(tmp_path / "trees"),
    ]
    code = build_main([*arguments, str(ROOT), str(tmp_path / "site")])
    assert code == 0, capsys.readouterr().err
    first = (tmp_path / "site" / "index.html").read_text(encoding="utf-8")
    shown = re.findall(r'<a class="reference internal" href="([\w./-]+\.html)"', first)
    assert {"docs/deploy.html", "docs/operate.html", "docs/research.html"} <= set(shown)
    for link in shown:
        assert (tmp_path / "site" / link).is_file()


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150
