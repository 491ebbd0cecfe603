"use strict";

// The page of a screener: one live connection brings states and events, pictures are fetched one at
// a time and only where someone looks.

const SVG = "http://www.w3.org/2000/svg";
const HISTORY = 300; // points of evidence, one a second
const EVENTS = 200; // shown
const PICTURE_PERIOD = 2000; // ms between two pictures of a source
const SILENCE = 5000; // ms after which the connection counts as lost
const LATE = 2000; // ms of frame age that are worth a colour

const $ = (selector, root = document) => root.querySelector(selector);
const sources = new Map(); // name → { status, history, picture, near, shown, fetched, tile, visible }
const events = [];
const known = new Set();
let showCells = false;
let urgentFirst = false;
let detailed = null;
let heard = 0;

// Formats

const clock = (seconds) =>
  new Date(seconds * 1000).toLocaleTimeString("en-GB", { hour12: false });
const signed = (value) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(1);
const rate = (value) => (value >= 9.95 ? value.toFixed(0) : value.toFixed(1)) + "/s";
const count = (value) => value.toLocaleString("en-US");
function span(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.round(ms)}\u00a0ms`;
  return ms < 60000 ? `${(ms / 1000).toFixed(1)}\u00a0s` : `${Math.round(ms / 60000)}\u00a0min`;
}
function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}
function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
const nextTry = (status) =>
  status.retry_in === null ? "" : `next try in ${Math.ceil(status.retry_in)}\u00a0s`;
const BROKEN = new Set(["stalled", "frozen", "down"]);
const isBroken = (status) => BROKEN.has(status.state);
const isIdle = (status) => isBroken(status) || status.state === "connecting";
const verdictTone = (verdict) => (verdict === "no sign" ? "clear" : verdict);
const tone = (status) => (isIdle(status) ? "none" : verdictTone(status.verdict));
const urgency = (status) =>
  status.state === "live" && status.verdict === "generated" ? 0 : isBroken(status) ? 1 : 2;

// Pictures

function drawScene(svg, picture, withCells) {
  if (!picture) {
    svg.replaceChildren();
    return;
  }
  const { width, height, cells } = picture;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const parts = [
    shape("image", { href: `data:image/jpeg;base64,${picture.jpeg}`, width, height }),
  ];
  if (withCells && cells.length) {
    const squares = cells.map(([r, c, s]) => `M${c} ${r}h${s}v${s}h${-s}z`).join("");
    const top = Math.min(...cells.map((cell) => cell[0]));
    const left = Math.min(...cells.map((cell) => cell[1]));
    const bottom = Math.max(...cells.map((cell) => cell[0] + cell[2]));
    const right = Math.max(...cells.map((cell) => cell[1] + cell[2]));
    parts.push(
      shape("path", { class: "unseen", d: `M0 0h${width}v${height}h${-width}z${squares}` }),
      shape("path", { class: "frame", d: `M${left} ${top}H${right}V${bottom}H${left}z` }),
    );
  }
  svg.replaceChildren(...parts);
}

async function fetchPicture(name, near) {
  const query = new URLSearchParams({ source: name });
  if (near) query.set("near", "1");
  const answer = await fetch(`/api/picture?${query}`);
  return answer.ok ? answer.json() : null;
}

// Whose picture is oldest among those that someone sees, and has a newer one.
function nextPicture() {
  const now = performance.now();
  let chosen = null;
  for (const source of sources.values()) {
    const time = source.status.picture_time;
    const fresh = source.shown === time;
    const inDetail = source === detailed;
    if (time === null || fresh || !(source.visible || inDetail)) continue;
    if (now - source.fetched < PICTURE_PERIOD) continue;
    if (!chosen || inDetail || source.fetched < chosen.fetched) chosen = source;
    if (inDetail) break;
  }
  return chosen;
}

async function pictureLoop() {
  for (;;) {
    const source = document.hidden ? null : nextPicture();
    if (!source) {
      await new Promise((resolve) => setTimeout(resolve, 250));
      continue;
    }
    const time = source.status.picture_time;
    source.fetched = performance.now();
    try {
      const picture = await fetchPicture(source.status.source, false);
      source.shown = time;
      if (picture) source.picture = picture;
      if (source === detailed) {
        const near = await fetchPicture(source.status.source, true);
        if (near) source.near = near;
        drawDetailPictures();
      }
      source.tile.classList.toggle("has-picture", Boolean(source.picture));
      drawScene($(".scene", source.tile), source.picture, showCells);
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

// Evidence over time

function drawLine(svg, history, width, height) {
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const middle = height / 2;
  const parts = [shape("path", { class: "zero", d: `M0 ${middle}H${width}` })];
  if (history.length > 1) {
    const largest = Math.max(3, ...history.map((point) => Math.abs(point[1])));
    const end = history[history.length - 1][0];
    const length = Math.max(60, end - history[0][0]);
    const points = history.map(([time, evidence]) => {
      const x = width - ((end - time) / length) * width;
      const y = middle - (evidence / largest) * (middle - 2);
      return `${x.toFixed(1)} ${y.toFixed(1)}`;
    });
    const first = points[0].split(" ")[0];
    parts.push(
      shape("path", { class: "area", d: `M${first} ${middle}L${points.join("L")}L${width} ${middle}z` }),
      shape("path", { class: "curve", d: `M${points.join("L")}` }),
    );
  }
  svg.replaceChildren(...parts);
}

function remember(source, now) {
  const { status, history } = source;
  if (status.probability === null) return;
  const last = history[history.length - 1];
  if (last && now - last[0] < 0.9) return;
  history.push([now, status.evidence, status.probability]);
  if (history.length > HISTORY) history.shift();
}

// Tiles

const seen = new IntersectionObserver(
  (entries) => {
    for (const entry of entries) {
      const source = sources.get(entry.target.dataset.source);
      if (source) source.visible = entry.isIntersecting;
    }
  },
  { rootMargin: "80px" },
);

function makeTile(name) {
  const tile = $("#tile").content.firstElementChild.cloneNode(true);
  tile.dataset.source = name;
  $(".name span", tile).textContent = name;
  $(".name span", tile).title = name;
  $(".grade", tile).append(element("i"), element("i"), element("i"));
  $(".screen", tile).addEventListener("click", () => openDetail(name));
  seen.observe(tile);
  return tile;
}

function setText(root, selector, text) {
  const found = $(selector, root);
  if (found.textContent !== text) found.textContent = text;
}

function drawTile(source, now) {
  const { status, tile } = source;
  const broken = isBroken(status);
  const idle = isIdle(status);
  tile.classList.remove("generated", "clear", "unsure", "none");
  tile.classList.add(tone(status));
  tile.classList.toggle("broken", broken);
  tile.classList.toggle("idle", idle);
  setText(tile, ".chip", status.state === "ended" ? `${status.verdict}, ended` : status.verdict);
  if (idle) {
    const parts = [status.reason, nextTry(status)];
    if (status.picture_time) parts.push(`last frame ${span(1000 * (now - status.picture_time))} ago`);
    const words = parts.filter(Boolean).join(" · ");
    $(".banner", tile).replaceChildren(element("b", "", status.state), ` ${words}`);
  }
  const grade = $(".grade", tile);
  grade.dataset.grade = status.grade;
  grade.title = `quality: ${status.grade}`;
  $(".screen", tile).setAttribute(
    "aria-label",
    `${status.source}: ${idle ? status.state : status.verdict}, quality ${status.grade}; details`,
  );
  const line = $(".line", tile);
  line.setAttribute("aria-label", `evidence ${signed(status.evidence)}`);
  drawLine(line, source.history, 240, 44);
  const evidence = $(".evidence", tile);
  setText(tile, ".evidence", status.probability === null ? "–" : signed(status.evidence));
  evidence.title = status.undecided || "evidence: log-likelihood ratio, above 0 for generated";
  setText(tile, ".screened", rate(status.fps_screened));
  setText(tile, ".received", rate(status.fps_in));
  setText(tile, ".age", idle ? "–" : span(status.frame_age_ms));
  $(".age", tile).classList.toggle("late", !idle && (status.frame_age_ms ?? 0) > LATE);
  setText(tile, ".reconnects", count(status.reconnects));
}

function arrange() {
  const wanted = [...sources.values()];
  if (urgentFirst) wanted.sort((a, b) => urgency(a.status) - urgency(b.status));
  const box = $("#tiles");
  const same =
    box.children.length === wanted.length &&
    wanted.every((source, index) => box.children[index] === source.tile);
  if (same) return;
  const focused = document.activeElement;
  box.replaceChildren(...wanted.map((source) => source.tile));
  if (box.contains(focused)) focused.focus({ preventScroll: true });
}

function drawSummary(overview) {
  const statuses = overview.sources;
  const live = statuses.filter((one) => one.state === "live").length;
  const broken = statuses.filter(isBroken).length;
  const connecting = statuses.filter((one) => one.state === "connecting").length;
  const generated = statuses.filter((one) => urgency(one) === 0).length;
  const oldest = Math.max(-1, ...statuses.filter((s) => s.state === "live").map((s) => s.frame_age_ms ?? -1));
  const parts = [];
  const add = (value, words, className) => {
    const part = element("span", className);
    part.append(element("b", "", String(value)), ` ${words}`);
    parts.push(part);
  };
  add(live, `of ${statuses.length} live`);
  if (generated) add(generated, "generated", "alarm");
  if (broken) add(broken, broken === 1 ? "fault" : "faults", "alarm");
  if (connecting) add(connecting, "connecting");
  if (oldest >= 0) add(span(oldest), "oldest frame at verdict");
  $("#summary").replaceChildren(...parts);
  const notice = $("#notice");
  notice.hidden = overview.alive;
  notice.textContent = "The screener has stopped judging: what is shown here is old. Restart it.";
  document.title = (generated ? `(${generated}) ` : "") + "mpft screen";
}

function update(overview) {
  const names = new Set(overview.sources.map((status) => status.source));
  for (const [name, source] of sources) {
    if (!names.has(name)) {
      seen.unobserve(source.tile);
      sources.delete(name);
      if (source === detailed) $("#detail").close();
    }
  }
  const ordered = [];
  for (const status of overview.sources) {
    let source = sources.get(status.source);
    if (!source) {
      source = { history: [], picture: null, near: null, shown: null, fetched: -Infinity, visible: false };
      source.tile = makeTile(status.source);
    }
    source.status = status;
    ordered.push([status.source, source]);
    remember(source, overview.time);
    drawTile(source, overview.time);
  }
  sources.clear(); // in the order of the configuration, which may have been re-read
  for (const [name, source] of ordered) sources.set(name, source);
  arrange();
  drawSummary(overview);
  if (detailed) drawDetail();
}

// Events

function describe(event) {
  const item = element("li", event.event === "stream" ? verdictTone(event.verdict) : "none");
  const what = element("div", "what");
  const time = element("time", "", clock(event.time));
  time.dateTime = new Date(event.time * 1000).toISOString();
  what.append(element("span", "", event.source), time);
  const why = element("div", "why");
  if (event.event === "stream") {
    const frames = event.frames === 1 ? "1 frame" : `${count(event.frames)} frames`;
    why.append(
      element("b", "", event.verdict),
      ` was ${event.previous} · ${event.reason} ${signed(event.evidence)} · ${frames}, worth ${(event.independent ?? 0).toFixed(1)}, in ${span(event.seconds * 1000)}`,
    );
    if (event.snapshot) {
      const link = element("a", "", "snapshot");
      link.href = `/api/snapshot?${new URLSearchParams({ name: event.snapshot })}`;
      link.target = "_blank";
      link.rel = "noopener";
      why.append(" · ", link);
    }
  } else {
    if (isBroken(event)) item.className = "generated";
    else if (event.state === "live") item.className = "clear";
    why.append(element("b", "", event.state), ` was ${event.previous}`);
    if (event.reason) why.append(` · ${event.reason}`);
    if (event.retry_in) why.append(` · next try in ${span(event.retry_in * 1000)}`);
  }
  item.append(element("i", "mark"), what, why);
  return item;
}

function told(event) {
  if (known.has(event.id)) return;
  known.add(event.id);
  events.unshift(event);
  const list = $("#events");
  list.prepend(describe(event));
  while (list.children.length > EVENTS) {
    list.lastElementChild.remove();
    known.delete(events.pop().id);
  }
  $("#no-events").hidden = true;
  if (detailed && detailed.status.source === event.source) drawDetailEvents();
}

// Details

function openDetail(name) {
  detailed = sources.get(name) ?? null;
  if (!detailed) return;
  detailed.fetched = -Infinity;
  detailed.shown = null;
  detailed.near = null;
  const dialog = $("#detail");
  drawDetail();
  drawDetailPictures();
  drawDetailEvents();
  if (!dialog.open) dialog.showModal();
  fetchPicture(name, true).then((near) => {
    if (near && detailed && detailed.status.source === name) {
      detailed.near = near;
      drawDetailPictures();
    }
  }, () => {});
}

function step(by) {
  const names = [...$("#tiles").children].map((tile) => tile.dataset.source);
  const index = names.indexOf(detailed.status.source);
  openDetail(names[(index + by + names.length) % names.length]);
}

function drawDetailPictures() {
  const dialog = $("#detail");
  const { picture, near } = detailed;
  drawScene($(".whole", dialog), picture, true);
  drawScene($(".near", dialog), near, true);
  setText(dialog, "figcaption time", picture ? `at ${clock(picture.time)}` : "");
  setText(dialog, ".seen", near ? `${near.cells.length} cells` : "nothing yet");
}

function drawDetailEvents() {
  const own = events.filter((event) => event.source === detailed.status.source).slice(0, 12);
  $("#detail .events").replaceChildren(...own.map(describe));
}

function drawDetail() {
  const { status, history } = detailed;
  const dialog = $("#detail");
  dialog.classList.remove("generated", "clear", "unsure", "none");
  dialog.classList.add(tone(status));
  setText(dialog, "#detail-name", status.source);
  const chip = $(".chip", dialog);
  chip.className = `chip ${tone(status)}`;
  chip.textContent = isIdle(status) ? status.state : status.verdict;
  drawLine($(".line", dialog), history, 960, 120);
  setText(dialog, ".scale", status.probability === null ? "" : `${signed(status.evidence)} now, of ${status.independent.toFixed(1)} independent frames; above the line speaks for generated${status.undecided ? ` · unsure: ${status.undecided}` : ""}`);
  const dropped = Object.entries(status.dropped).filter((entry) => entry[1]);
  const size = status.width ? `${status.width} × ${status.height}` : "–";
  const facts = [
    ["address", status.address],
    ["state", [status.state, status.reason, nextTry(status)].filter(Boolean).join(" · ")],
    ["quality", status.grade],
    ["picture", status.codec ? `${size}, ${status.codec}` : size],
    ["last frame", status.probability === null ? "–" : `probability of generated ${status.probability.toFixed(3)}`],
    ["frame age", span(status.frame_age_ms)],
    ["screened", `${count(status.screened)}, now ${rate(status.fps_screened)}`],
    ["received", `${count(status.received)}, now ${rate(status.fps_in)}`],
    ["gated", `${count(status.gated)} had not changed`],
    ["dropped", dropped.length ? dropped.map(([cause, n]) => `${count(n)} ${cause}`).join(", ") : "0"],
    ["reconnects", count(status.reconnects)],
  ];
  $(".facts", dialog).replaceChildren(
    ...facts.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]),
  );
}

// Controls

function toggle(button, on) {
  button.setAttribute("aria-pressed", String(on));
}
function setCells(on) {
  showCells = on;
  toggle($("#cells"), on);
  for (const source of sources.values()) drawScene($(".scene", source.tile), source.picture, on);
}
function setUrgent(on) {
  urgentFirst = on;
  toggle($("#urgent"), on);
  arrange();
}
$("#cells").addEventListener("click", () => setCells(!showCells));
$("#urgent").addEventListener("click", () => setUrgent(!urgentFirst));
$("#detail .close").addEventListener("click", () => $("#detail").close());
$("#detail .previous").addEventListener("click", () => step(-1));
$("#detail .next").addEventListener("click", () => step(1));
$("#detail").addEventListener("close", () => { detailed = null; });
$("#detail").addEventListener("click", (event) => {
  if (event.target === event.currentTarget) event.currentTarget.close();
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "c") setCells(!showCells);
  else if (event.key === "u") setUrgent(!urgentFirst);
  else if (detailed && event.key === "ArrowLeft") step(-1);
  else if (detailed && event.key === "ArrowRight") step(1);
});

// The live connection

function setLink(on) {
  const link = $("#link");
  link.classList.toggle("on", on);
  link.classList.toggle("off", !on);
  setText(document, "#link", on ? "live" : "no connection");
  document.body.classList.toggle("stale", !on);
}

function connect() {
  const stream = new EventSource("/api/stream");
  stream.addEventListener("overview", (message) => {
    heard = performance.now();
    setLink(true);
    update(JSON.parse(message.data));
  });
  stream.addEventListener("told", (message) => told(JSON.parse(message.data)));
  stream.addEventListener("error", async () => {
    if (stream.readyState !== EventSource.CLOSED) return; // the browser tries again by itself
    setLink(false);
    const answer = await fetch("/api/events?after=999999999").catch(() => null);
    if (answer && answer.status === 401) location.reload();
    else setTimeout(connect, 3000);
  });
}

setInterval(() => {
  if (heard && performance.now() - heard > SILENCE) setLink(false);
}, 1000);

async function start() {
  const hash = new URLSearchParams(location.hash.slice(1));
  try {
    const [overview, history] = await Promise.all(
      ["/api/sources", "/api/history"].map(async (path) => (await fetch(path)).json()),
    );
    update(overview);
    for (const [name, points] of Object.entries(history)) {
      const source = sources.get(name);
      if (source) {
        source.history = points;
        drawTile(source, overview.time);
      }
    }
    // A wall display can be told what to show: /#cells&urgent&source=NAME
    if (hash.has("cells")) setCells(true);
    if (hash.has("urgent")) setUrgent(true);
    if (hash.has("source")) openDetail(hash.get("source"));
  } catch {
    // the live connection says so
  }
  connect();
  pictureLoop();
}
start();
