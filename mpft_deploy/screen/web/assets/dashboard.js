"use strict";

// The page as a whole: one live connection brings states and says when there are new events and
// reviews; views; keys.

const SILENCE = 5000; // ms after which the connection counts as lost

let heard = 0;
let changes = 0;

// That nobody answers is said by the live connection.
window.addEventListener("unhandledrejection", (event) => {
  if (event.reason instanceof Unreachable) event.preventDefault();
});

// Views: /#events is the review of events, /#manage what admins do, all else the live one

function chooseView() {
  const hash = new URLSearchParams(location.hash.slice(1));
  const view = ["events", "manage"].find((name) => hash.has(name)) ?? "";
  $("#live").hidden = $("#choices").hidden = view !== "";
  $("#review").hidden = view !== "events";
  $("#manage").hidden = view !== "manage";
  for (const link of $$("nav a")) link.ariaCurrent = link.hash.slice(1) === view ? "page" : null;
  if (view === "events") refreshEvents();
  if (view === "manage") drawManage();
}

// A wall display can be told what to show: /#cells&urgent&source=NAME; a notification asks for its event.
async function openNamed() {
  const hash = new URLSearchParams(location.hash.slice(1));
  for (const name of Object.keys(SWITCHES)) if (hash.has(name)) turn(name, true);
  if (hash.has("source")) openDetail(hash.get("source"));
  const number = hash.get("event");
  if (number) openEvent(await call(`/events/${Number(number)}`));
}

function refreshEvents() {
  drawRecent();
  if ($("#review").hidden) return;
  drawPrecision();
  offerSources();
  if (listed.length <= 50) loadEvents(); // whoever reads further back is not thrown to the top
}

// Controls

const SWITCHES = { cells: () => sources.forEach(drawTilePicture), urgent: arrange };
function turn(name, on = !isOn(name)) {
  $(`#${name}`).ariaPressed = on;
  SWITCHES[name]();
}
for (const name of Object.keys(SWITCHES)) $(`#${name}`).addEventListener("click", () => turn(name));
$("#group").addEventListener("input", arrange);
$("#detail .previous").addEventListener("click", () => step(-1));
$("#detail .next").addEventListener("click", () => step(1));
$("#detail").addEventListener("close", () => {
  detailed = null;
  leaveAreas();
});
$("#event .previous").addEventListener("click", () => move(-1));
$("#event .next").addEventListener("click", () => move(1));
for (const dialog of $$("dialog")) {
  $(".close", dialog).addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, textarea, select")) {
    if (event.key === "Enter" && !event.target.form) event.target.blur(); // a form is sent by it
    return;
  }
  const looking = detailed && !draft; // a drawing would be lost
  if (looking && event.key === "ArrowLeft") step(-1);
  else if (looking && event.key === "ArrowRight") step(1);
  else if ($("#event").open || !$("#review").hidden) reviewKey(event);
  else if (event.key === "c") turn("cells");
  else if (event.key === "u") turn("urgent");
});
window.addEventListener("hashchange", () => {
  chooseView();
  openNamed().catch((error) => warn(error.message));
});

// The live connection

function setLink(on) {
  const link = $("#link");
  link.classList.toggle("on", on);
  link.classList.toggle("off", !on);
  setText(document, "#link", on ? "live" : "no connection");
  document.body.classList.toggle("stale", !on);
}

let refreshing = null;
function soon() { // many events at once are fetched once
  refreshing ??= setTimeout(() => {
    refreshing = null;
    refreshEvents();
    if (detailed) drawDetailEvents();
  }, 300);
}

function connect() {
  const stream = new EventSource(`${API}/stream`);
  stream.addEventListener("overview", (message) => {
    heard = performance.now();
    setLink(true);
    const overview = JSON.parse(message.data);
    update(overview);
    if (overview.changes !== changes) soon();
    changes = overview.changes;
  });
  stream.addEventListener("open", soon); // on what it missed
  stream.addEventListener("error", async () => {
    if (stream.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    setLink(false);
    const answer = await fetch(`${API}/me`).catch(() => null);
    if (answer && answer.status === 401) location.reload();
    else setTimeout(connect, 3000);
  });
}

setInterval(() => {
  if (heard && performance.now() - heard > SILENCE) setLink(false);
}, 1000);

async function start() {
  try {
    const [overview, history, me] = await Promise.all(["/sources", "/history", "/me"].map((path) => call(path)));
    user = me;
    $("nav [href='#manage']").hidden = !me.name && me.role !== "admin";
    changes = overview.changes;
    update(overview);
    for (const source of sources.values()) { // of its strongest region, as what is added to it
      source.history = history[streamName(source.status)] ?? source.history;
    }
    chooseView();
    await openNamed();
  } catch {
    // the live connection says so
  }
  connect();
  pictureLoop();
}
start();
