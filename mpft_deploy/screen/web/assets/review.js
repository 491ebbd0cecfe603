"use strict";

// Events: the newest beside the tiles, all of them in pages with filters, and their review.

const RECENT = 30; // beside the tiles
const KEYS = { y: "confirmed", n: "dismissed", m: "unclear", o: "open" };

let listed = []; // of the events view, newest first
let following = null; // `before` of its next page
let loading = null; // a page that is under way
let asked = 0; // how many pages were
let current = null; // number of the event that keys act on
let opened = null; // the event that the dialog shows, which may be none of those listed
let user = { name: "", role: "admin" };

const mayReview = () => user.role !== "viewer";

// Rows

function describe(event) {
  if (event.event === "stream") {
    const reason = event.reason === "evidence" ? `evidence ${signed(event.evidence)}` : REASONS[event.reason];
    return element("div", "why", element("b", "", event.verdict),
      ` was ${event.previous} · ${reason} · ${looks(event.independent ?? 0)} in ${span(event.seconds * 1000)}`);
  }
  const more = [event.reason, event.retry_in && `next try in ${span(event.retry_in * 1000)}`].filter(Boolean);
  return element("div", "why", element("b", "", event.state), [` was ${event.previous}`, ...more].join(" · "));
}

function toneOf(event) {
  if (event.event === "stream") return verdictTone(event.verdict);
  return isBroken(event) ? "generated" : event.state === "live" ? "clear" : "none";
}

function makeRow(stored) {
  const { event, state } = stored;
  const what = element("div", "what", element("span", "", streamName(event)));
  const text = element("div", "text", what, describe(event));
  const row = element("li", `event ${toneOf(event)}`, element("i", "mark"), text);
  row.dataset.number = stored.id;
  const picture = snapshotOf(stored, true);
  if (picture) {
    const thumb = shape("svg", { class: "scene thumb", "aria-hidden": "true" });
    drawScene(thumb, picture, false);
    $("image", thumb).addEventListener("error", () => thumb.remove()); // it is to come, or has just grown too old
    row.prepend(thumb);
  }
  if (state) {
    const title = stored.by ? `by ${stored.by}, ${moment(stored.reviewed_at)}` : "";
    what.append(element("span", { className: `state ${state}`, title }, state));
    if (stored.note) text.append(element("div", "note", stored.note));
    const ariaLabel = `${streamName(event)}: ${event.verdict}, ${moment(event.time)}, ${state}; review`;
    row.append(element("button", { className: "look", ariaLabel, onclick: () => openEvent(stored) }));
  }
  what.append(timeElement(event.time));
  return row;
}

// The newest, beside the tiles

async function drawRecent() {
  const { events } = await call("/events", { limit: RECENT });
  $("#events").replaceChildren(...events.map(makeRow));
  $("#no-events").hidden = events.length > 0;
}

// The events view

function filters() {
  const chosen = Object.fromEntries(new FormData($("#filters")));
  const day = (text, later) => {
    const date = new Date(`${text}T00:00`);
    return text && date.setDate(date.getDate() + later) / 1000;
  };
  return { ...chosen, since: day(chosen.since, 0), until: day(chosen.until, 1) };
}

function loadEvents(more = false) {
  if (!(more && loading)) {
    const mine = load(more).finally(() => { if (loading === mine) loading = null; });
    loading = mine;
  }
  return loading;
}

async function load(more) {
  const turn = ++asked;
  const page = await call("/events", { ...filters(), before: more ? following : null });
  if (turn !== asked) return; // other filters were chosen meanwhile
  listed = more ? [...listed, ...page.events] : page.events;
  following = page.next;
  const list = $("#all-events");
  if (!more) list.replaceChildren();
  list.append(...page.events.map(makeRow));
  $("#more").hidden = following === null;
  $("#none-listed").hidden = listed.length > 0;
  if (!listed.some((one) => one.id === current)) current = null;
  mark();
}

async function offerSources() { // of events, whether they are screened still or not
  offer($("#filters [name=source]"), await call("/events/sources"));
}

async function drawPrecision() {
  const { source, since, until } = filters();
  const { confirmed, dismissed, unclear, open } = await call("/precision", { source, since, until });
  const decided = confirmed + dismissed;
  const share = decided
    ? [element("b", "", percent(confirmed / decided)), ` of ${several(decided, "reviewed verdict", "reviewed verdicts")} “generated” confirmed`]
    : ["No verdict “generated” was confirmed or dismissed yet"];
  const label = "Show the open verdicts “generated”";
  const rest = open ? button(`${open} open`, label, showOpen) : "0 open";
  $("#precision").replaceChildren(...share, unclear ? ` · ${unclear} unclear` : "", " · ", rest);
}

function showOpen() {
  const { verdict, state } = $("#filters").elements;
  [verdict.value, state.value] = ["generated", "open"];
  loadEvents();
}

// Shows the current row, to screen readers too, unless the focus is wanted elsewhere.
function mark() {
  const list = $("#all-events");
  const free = document.activeElement === document.body || list.contains(document.activeElement);
  for (const row of $$(".event", list)) {
    const here = Number(row.dataset.number) === current;
    row.classList.toggle("current", here);
    if (!here) continue;
    row.scrollIntoView({ block: "nearest" });
    if (free) $(".look", row).focus({ preventScroll: true });
  }
}

const reviewable = () => listed.filter((stored) => stored.state);

async function move(by) {
  if (!listed.length) await loadEvents(); // an event was opened beside the tiles
  const all = reviewable();
  const index = all.findIndex((stored) => stored.id === current);
  let next = index < 0 ? 0 : index + by;
  if (next >= all.length && following !== null) {
    await loadEvents(true);
    return move(by);
  }
  next = Math.max(0, Math.min(next, all.length - 1));
  if (!all.length) return;
  current = reviewable()[next].id;
  mark();
  if ($("#event").open) openEvent(reviewable()[next]);
}

// Review

function openEvent(stored) {
  const { event } = stored;
  opened = stored;
  current = stored.id;
  const dialog = $("#event");
  dialog.className = toneOf(event);
  dialog.dataset.number = stored.id;
  setText(dialog, "#event-name", streamName(event));
  drawChip(dialog, toneOf(event), event.verdict);
  const picture = snapshotOf(stored, false);
  drawScene($(".scene", dialog), picture, false);
  $("figure", dialog).hidden = !picture;
  $("image", dialog)?.addEventListener("error", () => { $("figure", dialog).hidden = true; });
  setText(dialog, ".seen", picture?.share ? `The detector looked at the framed ${percent(picture.share)} of the picture.` : "");
  $(".full", dialog).href = picture ? picture.href : "";
  drawEvidence(dialog, stored.package ?? "", event.time);
  const facts = [
    ["when", new Date(event.time * 1000).toLocaleString("en-GB")],
    ["verdict", `${event.verdict}, was ${event.previous}; ${REASONS[event.reason] ?? "for the evidence"}`],
    ["evidence", `${signed(event.evidence)} from ${several(event.frames, "frame", "frames")}, worth ${looks(event.independent ?? 0)}, in ${span(event.seconds * 1000)}`],
    ["review", stored.by || stored.reviewed_at ? `${stored.state}${stored.by ? `, by ${stored.by}` : ""}, ${moment(stored.reviewed_at)}` : stored.state],
  ];
  if (!picture) facts.push(["picture", event.snapshot ? "is kept no longer" : "none was kept; [snapshots] says of which verdicts one is"]);
  drawFacts(dialog, facts);
  for (const button of $$(".review button", dialog)) {
    button.setAttribute("aria-pressed", String(button.value === stored.state));
  }
  $(".review", dialog).hidden = !mayReview();
  $("[name=note]", dialog).value = stored.note;
  $("label.by", dialog).hidden = Boolean(user.name);
  if (!dialog.open) dialog.showModal();
  mark();
}

let said = Promise.resolve();
function review(number, state, note) { // one after the other, or an earlier word might be the last
  said = said.catch(() => {}).then(() => send(number, state, note));
  return said;
}

async function send(number, state, note) {
  const by = localStorage.getItem("reviewer") ?? "";
  const stored = await call(`/events/${number}/review`, {}, { method: "PUT", body: JSON.stringify({ state, note, by }) });
  listed = listed.map((one) => (one.id === number ? stored : one));
  for (const row of $$(`.event[data-number="${number}"]`)) row.replaceWith(makeRow(stored));
  drawPrecision();
  return stored;
}

// What a key or a button says of the current event; then the next one is shown.
async function say(state) {
  if (current === null || !mayReview()) return;
  const dialog = $("#event");
  const number = current;
  const known = listed.find((one) => one.id === number);
  const note = dialog.open ? $("[name=note]", dialog).value : known?.note ?? "";
  try {
    const stored = await review(number, state, note);
    if (dialog.open && !known) dialog.close();
    else if (state !== "open") await move(1);
    if (current === number && dialog.open) openEvent(stored);
  } catch (error) {
    warn(error.message);
  }
  mark();
}

function reviewKey(event) {
  const viewing = !$("#review").hidden;
  if (KEYS[event.key]) say(KEYS[event.key]);
  else if (event.key === "e" && $("#event").open) $("#event [name=note]").focus();
  else if (viewing && ["j", "ArrowDown", "ArrowRight"].includes(event.key)) move(1);
  else if (viewing && ["k", "ArrowUp", "ArrowLeft"].includes(event.key)) move(-1);
  else return;
  event.preventDefault();
}

$("#filters").addEventListener("input", () => {
  loadEvents();
  drawPrecision();
});
$("#filters").addEventListener("submit", (event) => event.preventDefault());
$("#more").addEventListener("click", () => loadEvents(true));
$("#export").addEventListener("click", () => {
  location.href = `${API}/export${query(filters())}`;
});
for (const button of $$("#event .review button")) {
  button.addEventListener("click", () => say(button.value));
}
$("#event [name=by]").value = localStorage.getItem("reviewer") ?? "";
$("#event [name=by]").addEventListener("change", (event) => localStorage.setItem("reviewer", event.target.value.trim()));
$("#event [name=note]").addEventListener("change", (event) => {
  if (mayReview()) review(opened.id, opened.state, event.target.value).catch((error) => warn(error.message));
});
