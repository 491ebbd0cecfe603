"use strict";

// The live view: a tile for each source, and its details.

const HISTORY = 300; // points of evidence, one a second
const LATE = 2000; // ms of frame age that are worth a colour
const MANY = 100; // events that wait, which are worth a word

const sources = new Map(); // name → { status, history, picture, near, shown, fetched, tile, visible }
let detailed = null;

const isOn = (name) => $(`#${name}`).ariaPressed === "true"; // of the switches in the bar

// From "no sign" to "generated", with the two thresholds; a decided stream may be beyond them.

const BEYOND = 1.3; // ends of the bar, in thresholds

function place(status, evidence) {
  const bound = evidence < 0 ? -status.no_sign_from : status.generated_from;
  return 50 + (50 * Math.max(-1, Math.min(1, evidence / bound / BEYOND)));
}

function putMeter(root) {
  $(".meter", root).replaceWith($("#meter").content.firstElementChild.cloneNode(true));
}

function drawMeter(meter, status) {
  const known = status.generated_from !== null;
  meter.classList.toggle("unknown", !known || status.probability === null);
  const now = $(".now", meter);
  if (!known) return;
  const at = place(status, status.evidence);
  now.style.left = `${at}%`;
  const fill = $(".fill", meter);
  fill.style.left = `${Math.min(50, at)}%`;
  fill.style.width = `${Math.abs(at - 50)}%`;
  $(".low", meter).style.left = `${place(status, status.no_sign_from)}%`;
  $(".high", meter).style.left = `${place(status, status.generated_from)}%`;
  meter.setAttribute("aria-label", `evidence ${signed(status.evidence)}: no sign from ${signed(status.no_sign_from)} down, generated from ${signed(status.generated_from)} up`);
  meter.title = status.undecided || meter.getAttribute("aria-label");
}

// Whether no generated stream of the average kind could ever be called that here.
const outOfReach = (status) => status.reach !== null && status.reach < status.generated_from;

// How long, and by how much: never a verdict without what it rests on.
function restsOn(status, now) {
  if (status.state === "connecting" || status.probability === null) return "nothing seen yet";
  if (status.generated_from === null || (status.verdict === "unsure" && !status.looking)) return status.undecided;
  const since = status.looking
    ? `for ${span(1000 * status.looked_for)}`
    : status.since ? `since ${moment(status.since)}` : "";
  const taught = status.drifted ? "camera drifted" : outOfReach(status) ? "camera not taught" : "";
  return [since, looks(status.independent), taught].filter(Boolean).join(" · ");
}

function drawLine(svg, status, history, width, height) {
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("preserveAspectRatio", "none");
  const marks = [status.generated_from, status.no_sign_from].filter((mark) => mark !== null);
  const largest = 1.1 * Math.max(3, ...marks.map(Math.abs), ...history.map((point) => Math.abs(point[1])));
  const y = (evidence) => ((1 - evidence / largest) * height) / 2;
  const parts = [shape("path", { class: "zero", d: `M0 ${y(0)}H${width}` })];
  for (const mark of marks) parts.push(shape("path", { class: "mark", d: `M0 ${y(mark)}H${width}` }));
  if (history.length > 1) {
    const end = history[history.length - 1][0];
    const length = Math.max(60, end - history[0][0]);
    const points = history.map(
      ([time, evidence]) => `${(width - ((end - time) / length) * width).toFixed(1)} ${y(evidence).toFixed(1)}`,
    );
    const first = points[0].split(" ")[0];
    parts.push(
      shape("path", { class: "area", d: `M${first} ${y(0)}L${points.join("L")}L${width} ${y(0)}z` }),
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
  setText(tile, ".name span", name);
  $(".name span", tile).title = name;
  putMeter(tile);
  $(".screen", tile).addEventListener("click", () => openDetail(name));
  seen.observe(tile);
  return tile;
}

function drawTilePicture(source) {
  const { tile, picture } = source;
  tile.classList.toggle("has-picture", Boolean(picture));
  drawScene($(".scene", tile), picture, isOn("cells"));
  drawAreas($(".scene", tile), picture, source.status);
  setText(tile, ".share", looksAt(picture));
}

function drawTile(source, now) {
  const { status, tile } = source;
  const idle = isIdle(status);
  setTone(tile, tone(status));
  tile.classList.toggle("broken", isBroken(status));
  tile.classList.toggle("idle", idle);
  const word = verdictWord(status);
  setText(tile, ".chip", status.state === "ended" ? `${word}, ended` : word);
  if (idle) {
    const parts = [status.reason, nextTry(status)];
    if (status.picture_time && status.state !== "frozen") parts.push(`last frame ${span(1000 * (now - status.picture_time))} ago`);
    $(".banner", tile).replaceChildren(element("b", "", status.state), ` ${parts.filter(Boolean).join(" · ")}`);
  }
  $(".screen", tile).setAttribute(
    "aria-label",
    `${status.source}: ${idle ? status.state : word}, ${looksAt(source.picture) || "no picture"}; details`,
  );
  const areas = JSON.stringify(areasOf(status));
  if (areas !== source.areas) { // not with the next picture only
    source.areas = areas;
    drawTilePicture(source);
  }
  drawMeter($(".meter", tile), status);
  setText(tile, ".rests", restsOn(status, now));
  setText(tile, ".screened", rate(status.fps_screened));
  setText(tile, ".received", rate(status.fps_in));
  setText(tile, ".age", idle ? "–" : span(status.frame_age_ms));
  $(".age", tile).classList.toggle("late", !idle && (status.frame_age_ms ?? 0) > LATE);
  setText(tile, ".reconnects", count(status.reconnects));
}

function arrange() {
  const group = $("#group").value;
  const wanted = [...sources.values()].filter(({ status }) => !group || status.group === group);
  if (isOn("urgent")) wanted.sort((a, b) => urgency(a.status) - urgency(b.status));
  const box = $("#tiles");
  const same =
    box.children.length === wanted.length &&
    wanted.every((source, index) => box.children[index] === source.tile);
  if (same) return;
  const focused = document.activeElement;
  box.replaceChildren(...wanted.map((source) => source.tile));
  if (box.contains(focused)) focused.focus({ preventScroll: true });
}

// Screen readers are told of what an operator must know once, not each second with other numbers.
let news = "";
function announce(urgent, broken, notice) {
  const names = (word, all) => all.length ? `${word}: ${all.map((one) => one.source).join(", ")}. ` : "";
  const words = names("Generated", urgent) + names("Faults", broken);
  const now = words + notice.replace(/\d[\d.,:]*/g, "");
  if (now !== news) $("#news").textContent = words + notice;
  news = now;
}

// Where telling fails, in words.
function drawSink({ name, waiting, refused, problem, since }) {
  const more = [waiting && count(waiting), since && `since ${moment(since)}`].filter(Boolean).join(", ");
  const parts = [];
  if (problem) parts.push(`${problem}${more && ` (${more})`}.`);
  else if (waiting > MANY) parts.push(`${name}: ${count(waiting)} events wait.`);
  if (refused) parts.push(`${name} refused ${several(refused, "event", "events")}${user.role === "admin" ? ": see Manage" : ""}.`);
  return parts.join(" ");
}

let warned = { text: "", until: 0 };
function warn(text) { // with the next overview
  warned = { text: `Not done: ${text}.`, until: performance.now() + 10000 };
}

function drawSummary(overview, statuses) {
  const of = (state) => statuses.filter((one) => one.state === state);
  const faults = statuses.filter(isBroken);
  const urgent = statuses.filter((one) => urgency(one) === 0);
  const [broken, generated] = [faults.length, urgent.length];
  const oldest = Math.max(-1, ...of("live").map((one) => one.frame_age_ms ?? -1));
  const parts = [];
  const add = (value, words, className) => parts.push(element("span", className, element("b", "", value), ` ${words}`));
  if (statuses.length) add(of("live").length, `of ${statuses.length} live`);
  else add("No source", user.manages ? "yet: add one under Manage" : "yet");
  if (generated) add(generated, "generated", "alarm");
  if (broken) add(broken, broken === 1 ? "fault" : "faults", "alarm");
  for (const state of ["connecting", "paused"]) if (of(state).length) add(of(state).length, state);
  if (oldest >= 0) add(span(oldest), "oldest frame at verdict");
  $("#summary").replaceChildren(...parts);
  const dead = !overview.alive;
  const overload = overview.sources.map((status) => status.overload).find(Boolean);
  const lost = overview.lost_events
    ? `${several(overview.lost_events, "event was", "events were")} lost before anybody could be told.`
    : "";
  const away = overview.nodes.filter((one) => one.problem).map((one) => `${one.node}: ${one.problem}.`);
  const told = overview.sinks.map(drawSink).filter(Boolean);
  const warning = performance.now() < warned.until ? warned.text : "";
  const notice = $("#notice");
  const text = dead
    ? "The screener has stopped judging: what is shown here is old. Restart it."
    : [warning, overload && `This machine is too slow for its sources: ${overload}.`, ...told, lost, ...away].filter(Boolean).join(" ");
  notice.hidden = !text;
  notice.classList.toggle("grave", dead);
  setText(document, "#notice", text);
  announce(urgent, faults, text);
  document.title = (generated ? `(${generated}) ` : "") + "mpft screen";
}

// Of another node: shown under its name, with details on its own page.
const theirs = ({ node, url, sources: all }) => all.map((status) => ({
  ...status,
  node,
  named: status.source,
  source: `${node}: ${status.source}`,
  page: `${url}#source=${encodeURIComponent(status.source)}`,
}));

function update(overview) {
  $("#keep").hidden = !overview.evidence || !mayReview();
  const all = [...overview.sources, ...overview.nodes.flatMap(theirs)];
  const before = new Map(sources);
  sources.clear(); // in the order of the configuration, which may have been re-read
  for (const status of all) {
    const source = before.get(status.source) ??
      { history: [], picture: null, near: null, shown: null, fetched: -Infinity, visible: false, tile: makeTile(status.source) };
    before.delete(status.source);
    sources.set(status.source, source);
    source.status = status;
    remember(source, overview.time);
    drawTile(source, overview.time);
  }
  for (const gone of before.values()) {
    seen.unobserve(gone.tile);
    if (gone === detailed) $("#detail").close();
  }
  const groups = new Set(all.map((status) => status.group).filter(Boolean));
  offer($("#group"), [...groups].sort());
  $("#group").hidden = !groups.size;
  followRefused(overview.sinks);
  arrange();
  drawSummary(overview, all);
  if (detailed) drawDetail();
}

// Details

putMeter($("#detail"));

function openDetail(name) {
  detailed = sources.get(name) ?? null;
  leaveAreas();
  if (detailed?.status.page) {
    window.open(detailed.status.page, "_blank", "noopener");
    detailed = null;
  }
  if (!detailed) return;
  detailed.fetched = -Infinity;
  detailed.shown = null;
  detailed.near = null;
  const dialog = $("#detail");
  drawEvidence(dialog, "", 0);
  drawDetail();
  drawDetailPictures();
  drawDetailEvents();
  if (!dialog.open) dialog.showModal();
  fetchPicture(detailed.status, true).then((near) => {
    if (near && detailed && detailed.status.source === name) {
      detailed.near = near;
      drawDetailPictures();
    }
  }, () => {});
}

function step(by) {
  const names = [...$("#tiles").children].map((tile) => tile.dataset.source)
    .filter((name) => !sources.get(name).status.page);
  const index = names.indexOf(detailed.status.source);
  openDetail(names[(index + by + names.length) % names.length]);
}

function drawDetailPictures() {
  const dialog = $("#detail");
  const { picture, near } = detailed;
  drawScene($(".whole", dialog), picture, false);
  drawOverlay();
  drawScene($(".near", dialog), near, true);
  setText(dialog, "figcaption time", picture ? `at ${clock(picture.time)}` : "");
  setText(dialog, ".seen", near ? `${percent(near.share)} of the picture, ${near.cells.length} cells` : "nothing yet");
}

async function drawDetailEvents() {
  const { source } = detailed.status;
  const { events } = await call("/events", { source, limit: 8 });
  if (detailed && detailed.status.source === source) {
    $("#detail .events").replaceChildren(...events.map(makeRow));
  }
}

function drawDetail() {
  const { status, history } = detailed;
  const dialog = $("#detail");
  setTone(dialog, tone(status));
  setText(dialog, "#detail-name", status.source);
  drawChip(dialog, tone(status), isIdle(status) ? status.state : verdictWord(status));
  drawMeter($(".meter", dialog), status);
  setText(dialog, ".rests", restsOn(status, Date.now() / 1000));
  drawLine($(".line", dialog), status, history, 960, 120);
  drawAreasOfDetail();
  $(".watch", dialog).hidden = !status.live;
  const dropped = Object.entries(status.dropped).filter((entry) => entry[1]);
  const size = status.width ? `${status.width} × ${status.height}` : "–";
  const facts = [
    ["address", status.address],
    ["state", [status.state, status.reason, nextTry(status)].filter(Boolean).join(" · ")],
    ["picture", status.codec ? `${size}, ${status.codec}` : size],
    ["evidence", (status.region ? `${status.region}: ` : "") + (status.undecided || `${signed(status.evidence)}, generated from ${signed(status.generated_from)}, no sign from ${signed(status.no_sign_from)}`)],
    ["camera", status.drifted
      ? "does not show what it was taught by, and generated streams may go unseen: teach it again (Manage, or mpft calibrate --camera)"
      : outOfReach(status)
      ? `not taught: evidence of an average generated stream ends at ${signed(status.reach)} here, below the threshold of ${signed(status.generated_from)}; an hour of known-real frames mends that (Manage, or mpft calibrate --camera)`
      : "average generated streams can be found"],
    ["last frame alone", status.probability === null ? "–" : `generated with probability ${status.probability.toFixed(3)}`],
    ["its age at verdict", span(status.frame_age_ms)],
    ["judged", `${several(status.screened, "frame", "frames")}, now ${rate(status.fps_screened)}`],
    ["received", `${several(status.received, "frame", "frames")}, now ${rate(status.fps_in)}`],
    ["passed over", `${count(status.gated)} that had not changed`],
    ["not judged", dropped.length ? dropped.map(([cause, n]) => `${count(n)}: ${CAUSES[cause] ?? cause}`).join("; ") : "none"],
    ["reconnects", count(status.reconnects)],
  ];
  drawFacts(dialog, facts);
}
