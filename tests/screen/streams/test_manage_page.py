"""Sources and regions on the page: in a real browser, with mouse, keys and fingers."""

from __future__ import annotations

import json
from collections.abc import Callable
from urllib.parse import quote

import pytest
from headless import DESKTOP, PHONE, Browser
from managed import CAMERA, SECRET, TOML, Service
from onvif_network import PASSWORD, USER, Device, match, network
from pages import SIZES, open_page, too_wide
from telling import frame_event, stream_event
from visits import TOKEN

from mpft_deploy.screen.streams.config import read_config
from mpft_deploy.screen.tell.config import Http, User


@SIZES
def test_the_page_adds_tests_pauses_and_removes(
    service: Callable[..., Service], browser: Browser, size: tuple[int, int]
) -> None:
    one = service()
    page = one.serve(Http(address="127.0.0.1:0"))
    open_page(browser, page.url, size)
    browser.tap("nav [href='#manage']")
    browser.wait_for("document.querySelectorAll('.managed').length === 1")

    def write(name: str, text: str) -> None:
        browser.write(f"#add [name={name}]", text)

    def click(word: str) -> None:
        browser.tap(f"#manage [aria-label='{word}']")

    said = "document.querySelector('#add-said').textContent"
    write("name", "dock")
    write("address", "/etc/passwd")
    browser.press("Enter")  # a phone's keyboard has it, too
    browser.wait_for(f"{said}.includes('file: may stand in the configuration file alone')")
    write("address", CAMERA["address"])
    browser.tap("#try")
    browser.wait_for(f"{said}.includes('64 × 48, ')")
    browser.tap("#add .send")
    browser.wait_for(f"{said} === 'dock is screened now.'")
    assert SECRET not in browser.ask("document.documentElement.outerHTML")
    click("Pause dock")
    browser.wait_for("sources.get('dock')?.status.state === 'paused'")
    browser.wait_for("document.activeElement.textContent === 'Resume'")
    click("Resume dock")
    browser.wait_for("sources.get('dock').status.state === 'live'")
    # It is taught: begun, told how far it is, accepted; taken back; begun again, and discarded.
    click("Teach dock")
    assert too_wide(browser) == []
    click("Begin to teach dock")
    row = "document.querySelector('.managed[data-source=dock]').textContent"
    browser.wait_for(f"{row}.includes('0 of 60 minutes')")
    assert browser.ask("document.querySelector('progress').max") == 3600
    for second in range(601):
        one.teacher.send(frame_event(second, "dock", captured=float(second)))
    browser.wait_for(
        "document.querySelector('[aria-label=\"Accept what dock was taught\"]') !== null"
    )
    assert too_wide(browser) == []
    click("Accept what dock was taught")
    browser.wait_for(f"{row}.includes('taught ')")
    assert one.teacher.history("dock")[0].frames > 600
    click("Teach dock")
    click("Take back what dock was taught last")
    browser.wait_for(f"!{row}.includes('taught ')")
    assert one.teacher.history("dock") == []
    click("Teach dock")
    assert not browser.ask(f"{row}.includes('Take the last back')")
    click("Begin to teach dock")
    click("Discard what dock was taught")
    browser.wait_for("document.querySelector('[aria-label=\"Teach dock\"]') !== null")
    assert one.teacher.lesson("dock") is None
    # It is changed: an empty address stays as it is.
    click("Change dock")
    assert browser.ask("document.querySelector('#add-title').textContent") == "Change dock"
    write("group", "yard")
    write("hours", "00:00-12:00; 12:00-24:00")
    browser.tap("#add .send")
    browser.wait_for(f"{said} === 'dock is changed.'")
    assert browser.ask("document.querySelector('#add .send').textContent") == "Add"
    kept = json.loads(one.store.settings("source")["dock"])
    assert kept == {**CAMERA, "group": "yard", "hours": ["00:00-12:00", "12:00-24:00"]}
    browser.wait_for("!document.querySelector('#group').hidden")
    tiles = "document.querySelectorAll('.tile').length"
    pick = "const pick = document.querySelector('#group'); pick.value = {}; "
    browser.ask("{" + pick.format("'yard'") + "pick.dispatchEvent(new Event('input')); }")
    assert browser.ask(tiles) == 1
    browser.ask("{" + pick.format("''") + "pick.dispatchEvent(new Event('input')); }")
    assert browser.ask(tiles) == 2
    click("Remove dock")
    click("Keep dock")
    click("Remove dock")
    assert too_wide(browser) == []
    click("Remove dock for good")
    browser.wait_for("document.querySelectorAll('.managed').length === 1")
    assert one.states().keys() == {"hall"}


@SIZES
def test_cameras_are_found_and_put_into_the_form(
    service: Callable[..., Service],
    browser: Browser,
    monkeypatch: pytest.MonkeyPatch,
    size: tuple[int, int],
) -> None:
    one = service()
    page = one.serve(Http(address="127.0.0.1:0"))
    camera, second = Device(), Device("127.0.0.2")
    second.name = 90 * "W"
    second.streams |= {str(number): "rtsp://192.0.2.9/" for number in range(8)}
    name = "<img src=x onerror=document.title=1>" + 60 * "W"
    rows = "document.querySelectorAll('#cameras .managed')"
    said = "document.querySelector('#find-said').textContent"

    def find(user: str, password: str) -> None:
        browser.ask("document.querySelector('#find-said').textContent = '…'")
        browser.write("#find [name=user]", user)
        browser.write("#find [name=password]", password)
        if size == PHONE:
            browser.tap("#find button")
        else:
            browser.press("Enter")
        browser.wait_for(f"{said} !== '…'")

    def field(name: str) -> str:
        return str(browser.ask(f"document.querySelector('#add [name={name}]').value"))

    with network(monkeypatch) as net:
        browser.show(page.url + "#manage", size)
        browser.wait_for("document.querySelectorAll('#managed .managed').length === 1")
        find("", "")
        assert browser.ask(said).startswith("No camera answered: ")
        net.answers.append((camera.host, camera.match))
        scopes = "onvif://www.onvif.org/name/" + quote(name)
        net.answers.append((second.host, lambda q: match(q, second.url, scopes)))
        find("", "")
        assert browser.ask(said) == "2 cameras answered."
        assert browser.ask("document.querySelectorAll('#cameras img').length") == 0
        browser.tap("#cameras .managed:nth-child(2) button")
        browser.wait_for("document.activeElement.name === 'address'")
        assert (field("name"), field("address")) == (name, "rtsp://127.0.0.2/")
        find(USER, PASSWORD)
        assert "not at its own address" in browser.ask(f"{rows}[1].textContent")
        assert browser.ask(f"{rows}[1].querySelectorAll('button').length") == 1
        assert too_wide(browser) == []
    camera.close()
    second.close()
    browser.tap("[aria-label='Add Dock ä Main 2560 × 1440']")
    browser.wait_for("document.querySelector('#add [name=name]').value === 'Dock ä'")
    login = f"{quote(USER, safe='')}:{quote(PASSWORD, safe='')}"
    address = f"rtsp://{login}@127.0.0.1:8554/live?channel=1&subtype=0"
    assert (field("name"), field("address")) == ("Dock ä", address)
    browser.tap("#add .send")
    browser.wait_for(
        "document.querySelector('#add-said').textContent === 'Dock ä is screened now.'"
    )
    assert json.loads(one.store.settings("source")["Dock ä"])["address"] == address
    assert PASSWORD not in browser.ask("document.documentElement.outerHTML")
    with network(monkeypatch) as net:
        net.answers.append((camera.host, camera.match))
        find("", "")
    assert "added as Dock ä" in browser.ask(f"{rows}[0].textContent")


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["mouse", "touch"])
def test_a_region_is_drawn_on_the_page(
    service: Callable[..., Service], browser: Browser, size: tuple[int, int]
) -> None:
    one = service()
    page = one.serve(Http(address="127.0.0.1:0"))
    page.send(one.running.frame("hall"))
    browser.show(page.url + "#source=hall", size)
    browser.wait_for("document.querySelectorAll('#detail figure image').length === 2")
    browser.tap("#detail .edit")
    browser.wait_for("document.querySelector('.overlay').classList.contains('drawing')")
    browser.ask("document.querySelector('.canvas').scrollIntoView({block: 'center'})")
    left, top, width, height = browser.ask(
        "(() => { const m = document.querySelector('.overlay').getScreenCTM(); "
        "return [m.e, m.f, 64 * m.a, 48 * m.d]; })()"  # of pictures of 64 × 48
    )

    def drag(*places: tuple[float, float]) -> None:
        kinds = ("mousePressed", "mouseMoved", "mouseReleased")
        if size == PHONE:
            kinds = ("touchStart", "touchMove", "touchEnd")
        x = y = 0.0
        for kind, place in zip(kinds, (*places, places[-1]), strict=True):
            x, y = left + place[0] * width, top + place[1] * height
            if size == PHONE:
                points = [] if kind == "touchEnd" else [{"x": x, "y": y}]
                browser.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)
            else:
                browser.call(
                    "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
                )

    def boxes() -> list[list[float]]:
        return list(browser.ask("draft.map(({ box }) => box)"))

    drag((0.1, 0.1), (0.6, 0.9))
    assert boxes() == [pytest.approx([0.1, 0.1, 0.5, 0.8], abs=0.02)]
    drag((0.3, 0.5), (0.5, 0.5))  # moves it
    drag((0.8, 0.9), (0.9, 0.8))  # by its corner
    assert boxes() == [pytest.approx([0.3, 0.1, 0.6, 0.7], abs=0.03)]
    drag((0.05, 0.05), (0.05, 0.05))  # a mere click draws nothing
    assert len(boxes()) == 1
    # By numbers.
    browser.ask(
        "for (const [place, value] of [[0, 25], [1, 0], [2, 75], [3, 90]]) { "
        "const field = document.querySelectorAll('.drafts input[type=number]')[place]; "
        "field.value = value; field.dispatchEvent(new Event('change')); }"
    )
    assert boxes() == [[0.25, 0, 0.75, 0.9]]
    browser.press("ArrowLeft")  # would show another source, and end the drawing
    assert browser.ask("detailed.status.source") == "hall"
    browser.write(".drafts .long input", " <i>wall ")
    browser.tap(".add-mask")
    browser.wait_for("draft.length === 2")
    browser.tap(".add-region")
    browser.tap(".draft:nth-child(3) button")
    browser.wait_for("draft.length === 2")
    assert too_wide(browser) == []
    browser.tap(".areas .save")
    browser.wait_for("document.querySelectorAll('.regions .region').length === 1")
    [region] = one.running.status().regions
    assert (region.region, region.box) == ("<i>wall", (0.25, 0.0, 0.75, 0.9))
    assert one.running.status().masks == ((0.0, 0.0, 0.25, 0.1),)
    browser.wait_for("document.querySelectorAll('.tile rect').length === 2")
    assert browser.ask("document.querySelector('.tile text').textContent") == "<i>wall"
    assert browser.ask("document.querySelectorAll('.regions i.x, .tile text i').length") == 0
    # What the file names is only shown.
    one.path.write_text(TOML + "mask = [[0, 0.9, 1, 0.1]]\n")
    one.manager.reload(read_config(one.path, {}))
    browser.wait_for("detailed.status.masks[0]?.[1] === 0.9")
    browser.tap("#detail .edit")
    browser.wait_for("document.querySelector('.areas .said').textContent.includes('change them')")
    assert browser.ask("draft") is None


def test_reviewers_review_and_are_offered_nothing_else(
    service: Callable[..., Service], browser: Browser
) -> None:
    one = service()
    ann = User(name="Ann", role="reviewer", token="ann-" + TOKEN)
    page = one.serve(Http(address="127.0.0.1:0", token=TOKEN, users=(ann,)))
    page.sinks.send(stream_event(1, source="hall"))
    browser.show(page.url)
    browser.write("#token", ann.token)
    browser.press("Enter")
    browser.tap("#events .look")
    browser.tap("#event [value=unclear]")
    browser.wait_for("document.querySelector('#events .state').textContent === 'unclear'")
    assert one.store.events()[0].by == "Ann"
    browser.tap(".tile .screen")
    browser.wait_for("document.querySelector('#detail').open")
    assert browser.ask("document.querySelector('#detail .edit').hidden")
    browser.tap("#detail .close")
    browser.tap("nav [href='#manage']")
    browser.wait_for("document.querySelectorAll('#sessions .managed').length === 1")
    shown = "[...document.querySelectorAll('#manage section:not([hidden])')]"
    assert browser.ask(f"{shown}.map((one) => one.className)") == ["of-people"]
