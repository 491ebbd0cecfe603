"""Everybody can read the page: contrast in both colour schemes, and a name for every control."""

from __future__ import annotations

from collections.abc import Callable

from headless import PHONE, Browser
from managed import CAMERA, Service
from pages import LIVE, too_wide
from pushing import CONTACT, Phone, serving
from telling import Hook, eventually, receiving, source_event, stream_event
from visits import TOKEN

from mpft_deploy.screen.tell.config import Http, Push
from mpft_deploy.screen.web import serve

LEAST = 4.5  # as WCAG 2 asks for, level AA

FAINT = """
(() => {
  const ink = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const paint = (color) => { ink.fillStyle = color; ink.fillRect(0, 0, 1, 1); };
  const light = () => [...ink.getImageData(0, 0, 1, 1).data].slice(0, 3)
    .map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const found = { texts: 0, faint: [] };
  const all = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (all.nextNode()) {
    const text = all.currentNode.textContent.trim();
    const holder = all.currentNode.parentElement;
    if (!text || holder.closest("svg, noscript") || !holder.checkVisibility()) continue;
    const path = [];
    for (let one = holder; one; one = one.parentElement) path.unshift(one);
    ink.clearRect(0, 0, 1, 1);
    for (const one of path) {
      paint(getComputedStyle(one).backgroundColor);
      if (one.matches(".has-picture .screen")) paint("white"); // the worst picture for its words
    }
    const under = light();
    paint(getComputedStyle(holder).color);
    const over = light();
    const contrast = (Math.max(under, over) + 0.05) / (Math.min(under, over) + 0.05);
    found.texts += 1;
    if (contrast < LEAST) found.faint.push(`${text} (${holder.className}): ${contrast.toFixed(1)}`);
  }
  return found;
})()
""".replace("LEAST", str(LEAST))
"""How many texts can be seen, and those that hardly can."""

NAMED = {"button", "link", "textbox", "combobox", "spinbutton", "Date", "image", "dialog"}


def nameless(browser: Browser, seen: set[str]) -> list[str]:
    """What a screen reader cannot call by a name; the roles of all that has one are added."""
    browser.call("Accessibility.enable")
    lacking = []
    for node in browser.call("Accessibility.getFullAXTree")["nodes"]:
        role = node.get("role", {}).get("value", "")
        said = {one["name"]: one["value"].get("value") for one in node.get("properties", [])}
        if node["ignored"] or not (role in NAMED or said.get("focusable")):
            continue
        if node.get("name", {}).get("value", "").strip():
            seen.add(role)
        elif role not in ("RootWebArea", "generic"):  # the page, and where "skip" leads
            lacking.append(f"{role} {node.get('properties')}")
    browser.call("Accessibility.disable")
    return lacking


def test_contrast_and_names(service: Callable[..., Service], browser: Browser) -> None:
    one = service()
    with receiving() as receiver, serving() as pushes:
        receiver.mode = "refuse"
        hook, push = Hook(receiver), Push(contact=CONTACT, local=True)
        http = Http(address="127.0.0.1:0", token=TOKEN)
        page = serve(one.running.watch, http, hook, manager=one.manager, push=push)
        one.page = page
        for number, name in enumerate(("rested", "dock")):
            assert one.ask("POST", "/sources", {**CAMERA, "name": name, "group": "yard"}, TOKEN)
            hook.send(source_event(number, name, state="down", reason="connection refused"))
        one.ask("POST", "/sources/rested/pause", token=TOKEN)
        one.ask("POST", "/sources/dock/lesson", {}, TOKEN)
        one.ask("POST", "/push", Phone(pushes).subscription, TOKEN)
        page.send(one.running.frame("hall"))
        for number, state in enumerate(("open", "confirmed", "dismissed", "unclear")):
            verdict = "no sign" if number % 2 else "generated"
            hook.send(stream_event(9 + number, "hall", verdict=verdict))
            hook.store.review(3 + number, state, "a poster", "Ann", 1.7e9)
        hook.send(source_event(99, "rested", state="paused"))
        eventually(lambda: hook.stats().refused == 7)

        seen: set[str] = set()

        def look(least: int) -> None:
            browser.wait_for("document.readyState === 'complete'")  # with its style
            found = browser.ask(FAINT)
            assert found["faint"] == []
            assert found["texts"] >= least  # it did look
            assert nameless(browser, seen) == []

        for dark in (False, True):
            if not dark:
                browser.show(page.url)
                browser.wait_for("document.querySelector('#token') !== null")
                look(4)
                browser.write("#token", TOKEN)
                browser.press("Enter")
                browser.wait_for(LIVE)
            browser.show(page.url, dark=dark)
            browser.wait_for("document.querySelectorAll('#events .event').length === 7")
            browser.wait_for("document.querySelectorAll('.tile image').length > 0")
            look(60)
            browser.ask("openDetail('hall')")
            browser.wait_for("document.querySelectorAll('#detail .event').length === 4")
            browser.tap("#detail .edit")
            browser.tap("#detail .add-mask")
            browser.tap("#detail .add-region")
            look(90)
            browser.ask("document.querySelector('#detail').close()")
            browser.tap("nav [href='#events']")
            browser.wait_for("document.querySelectorAll('#all-events .event').length === 7")
            look(50)
            browser.tap("#all-events .look")
            browser.wait_for("document.querySelector('#event').open")
            look(60)
            browser.tap("#event .close")
            browser.tap("nav [href='#manage']")
            browser.wait_for("document.querySelectorAll('#managed .managed').length === 3")
            browser.wait_for("document.querySelectorAll('#refused .managed').length === 7")
            browser.wait_for("document.querySelectorAll('#devices .managed').length === 1")
            browser.wait_for("document.querySelectorAll('#audit .audited').length > 4")
            look(90)
        assert seen >= NAMED
        browser.show(page.url + "#manage", PHONE)
        browser.wait_for("document.querySelectorAll('#refused .managed').length === 7")
        assert too_wide(browser) == []
        hook.close(1)
