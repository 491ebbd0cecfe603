"""The HTML report in a real browser: nothing is asked for, and nothing is cut or overlaps."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from command import MPFT
from headless import PHONE, Browser
from profile_screenshots import WIDE, open_whole

# Texts of a picture that lie over each other or beyond its edge; names of layers are cut to fit.
UNREADABLE = """
(() => {
  const found = [];
  for (const svg of document.querySelectorAll('svg.chart')) {
    const edge = svg.getBoundingClientRect();
    const texts = [...svg.querySelectorAll('text')].map(t => [t, t.getBoundingClientRect()]);
    texts.forEach(([text, box], index) => {
      if (box.left < edge.left - 1 || box.right > edge.right + 1 ||
          box.top < edge.top - 1 || box.bottom > edge.bottom + 1)
        found.push(`beyond the edge: ${text.textContent}`);
      for (const [other, its] of texts.slice(index + 1))
        if (Math.min(box.right, its.right) - Math.max(box.left, its.left) > 1 &&
            Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top) > 4)
          found.push(`${text.textContent} over ${other.textContent}`);
    });
  }
  return found;
})()
"""
WIDER_THAN_THE_WINDOW = "document.documentElement.scrollWidth > innerWidth"


@pytest.fixture(scope="module")
def report(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    options = ("--samples", "350", "--limit", "2", "--scenario", "all", "--layers")
    command = [*MPFT, "profile", str(bundle), *options, "--html", str(path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return path


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["desktop", "phone"])
def test_report_asks_for_nothing_and_can_be_read(
    browser: Browser, report: Path, size: tuple[int, int]
) -> None:
    browser.messages.clear()
    open_whole(browser, report, size)
    asked = {
        message["params"]["request"]["url"]
        for message in browser.messages
        if message["method"] == "Network.requestWillBeSent"
    }
    assert asked - {"about:blank"} == {report.resolve().as_uri()}
    problems = [m for m in browser.messages if m["method"] in ("Log.entryAdded",)]
    assert problems == []
    assert "How long queries take" in browser.ask("document.body.innerText")
    assert not browser.ask(WIDER_THAN_THE_WINDOW)
    assert browser.ask(UNREADABLE) == []
