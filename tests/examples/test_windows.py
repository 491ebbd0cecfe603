"""The tables of docs/method.md on large windows are what their logits say."""

from __future__ import annotations

from click.testing import CliRunner
from conftest import ROOT
from windows import cli


def test_the_tables_are_drawn_again_from_the_logits() -> None:
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    drawn = CliRunner().invoke(cli, ["draw", str(ROOT / "docs" / "windows.parquet")])
    assert drawn.exit_code == 0
    tables = [line for line in drawn.output.splitlines() if line.startswith("|")]
    assert len(tables) == 10
    assert [line for line in tables if line not in page] == []
    assert drawn.output.rstrip().splitlines()[-1] in page
