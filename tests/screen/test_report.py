"""The HTML report: whole, alone, and true to the results."""

from __future__ import annotations

import base64
import io
import itertools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from media import encoded, picture, write_video
from PIL import Image

from mpft_deploy.bundle import read_bundle
from mpft_deploy.errors import EnvironmentLacksError, UsageError
from mpft_deploy.kernels import texture_patchify
from mpft_deploy.screen import Screener
from mpft_deploy.screen.pipeline import Screened, screen_items
from mpft_deploy.screen.report import render, write_report
from mpft_deploy.screen.sources import find_items
from mpft_deploy.views import views

VOID = {"meta", "img", "input", "br"}


class Page(HTMLParser):
    """Elements of a page, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str, kind: str = "") -> list[dict[str, str | None]]:
        return [
            attributes
            for name, attributes in self.elements
            if name == tag and kind in ["", *(attributes.get("class") or "").split()]
        ]


@pytest.fixture
def made(tmp_path: Path, bundle: Path) -> tuple[Screener, list[Screened]]:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.png").write_bytes(encoded(picture(90, 120)))
    (folder / "b<i>.png").write_bytes(encoded(picture(20, 20)))
    (folder / "bad.png").write_bytes(b"no")
    write_video(folder / "c.mp4")
    (folder / "d.png").write_bytes(encoded(picture(50, 50)))
    screener = Screener.open(bundle, threads=1, views="five")
    return screener, list(screen_items(find_items([folder]), screener, pictures=4))


def test_the_page_asks_nothing_of_any_network(
    made: tuple[Screener, list[Screened]], bundle: Path
) -> None:
    text = render(made[1], read_bundle(bundle), made[0])
    page = Page(text)
    assert page.open == []
    for tag, attributes in page.elements:
        assert tag not in ("script", "link", "iframe", "object", "base", "i>")
        for name in ("src", "href", "action", "data", "srcset"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert "url(" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert "default-src 'none'" in text


def test_every_item_is_shown(made: tuple[Screener, list[Screened]], bundle: Path) -> None:
    text = render(made[1], read_bundle(bundle), made[0])
    page = Page(text)
    # Four items may have pictures, and one of them could not be read.
    assert len(page.all("article", "card")) == 3
    assert len(page.all("svg", "timeline")) == 1
    assert "1 more, without pictures" in text
    assert "b&lt;i&gt;.png" in text
    assert "bad.png: not an image" in text
    assert len({a["id"] for _, a in page.elements if "id" in a}) == sum(
        "id" in a for _, a in page.elements
    )
    for item in made[1]:
        if item.result.probability is not None and item.picture:
            assert f"{100 * item.result.probability:.1f}\u00a0% generated" in text


def test_pictures_show_the_view_and_the_cells_that_were_seen(
    made: tuple[Screener, list[Screened]], bundle: Path
) -> None:
    screener, items = made
    shown = items[0].picture
    assert shown is not None
    cut = views(picture(90, 120), 32, "five")
    view = np.asarray(Image.open(io.BytesIO(shown.view))).astype(int)
    chosen = cut[shown.number - 1]
    assert np.abs(view - chosen).mean() < 6
    alone = Screener.open(bundle, threads=1)
    logits = [alone(single).logit for single in cut]
    assert shown.logit == pytest.approx(max(logits), abs=1e-5)
    positions = texture_patchify(chosen[None], 8, screener.spec.keep_rule).positions[0]
    assert shown.seen == [(8 * (int(p) // 4), 8 * (int(p) % 4)) for p in positions]
    path = re.search(r'class="unseen" d="([^"]+)"', render(items, read_bundle(bundle), screener))
    assert path is not None
    assert path[1].count("h8v8h-8z") == len(positions)
    assert max(Image.open(io.BytesIO(shown.thumbnail)).size) <= 320


def test_thumbnails_are_small_and_upright(bundle: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "tall.jpg").write_bytes(encoded(picture(600, 1200), "JPEG", exif=exif.tobytes()))
    screener = Screener.open(bundle, threads=1)
    (item,) = screen_items(find_items([tmp_path / "tall.jpg"]), screener, pictures=1)
    page = Page(render([item], read_bundle(bundle), screener))
    data = str(page.all("img")[0]["src"]).partition("base64,")[2]
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (160, 320)


def test_an_engine_over_its_budget_is_named_so(
    made: tuple[Screener, list[Screened]], bundle: Path
) -> None:
    import dataclasses

    from comparing import comparison

    from mpft_deploy.engine.budget import Budget
    from mpft_deploy.engine.certificate import certify

    read = read_bundle(bundle)
    assert "not proven: smoke test passed, no images were given" in render([], read, made[0])
    for flipped, answer, shown in ((0, "kept", "passed"), (9, "broken", "failed")):
        images = comparison([(1, -2)] * flipped + [(1, 1)] * 299)
        certificate = certify(
            read.spec, read.certificate.smoke_test, [], images, Budget.parse("flips<=1%")
        )
        text = render([], dataclasses.replace(read, certificate=certificate), made[0])
        assert f'<dd class="{shown}">flips&lt;=1% {answer}: ' in text


def test_a_place_that_cannot_be_written(
    made: tuple[Screener, list[Screened]], bundle: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="File name too long; name another place"):
        write_report(tmp_path / ("long" * 70), made[1], read_bundle(bundle), made[0])


def test_a_failure_that_nobody_foresaw_costs_one_item(bundle: Path, tmp_path: Path) -> None:
    """Where a picture is made ready, and where it is judged; not what stops all."""
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(encoded(picture()))
    screener = Screener.open(bundle, threads=1)
    prepare, judge = screener.prepare, screener.judge
    prepared, judged = itertools.count(), itertools.count()

    def failing_prepare(*given: Any) -> Any:
        if next(prepared) == 1:
            raise MemoryError("no more")
        return prepare(*given)

    def failing_judge(frames: Any, *given: Any) -> Any:
        if frames and next(judged) == 1:
            raise RuntimeError("the engine stumbled")
        return judge(frames, *given)

    screener.prepare, screener.judge = failing_prepare, failing_judge  # type: ignore[method-assign]
    results = [screened.result for screened in screen_items(find_items([tmp_path]), screener)]
    assert [bool(result.verdict) for result in results] == [True, False, False, True]
    assert results[1].error.endswith("b.png: cannot be screened (MemoryError: no more)")
    assert results[2].error.endswith("(RuntimeError: the engine stumbled)")

    def lacking(*given: Any) -> Any:
        raise EnvironmentLacksError("a package is missing")

    screener.prepare = lacking  # type: ignore[method-assign]
    with pytest.raises(EnvironmentLacksError):
        list(screen_items(find_items([tmp_path]), screener))
