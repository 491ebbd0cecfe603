"use strict";

// Regions and masks on pictures; admins draw them in a source's close view, with mouse or touch, or
// by numbers. Places are [left, top, width, height] in fractions of the picture.

const LEAST = 0.01;
const thousandth = (value) => Math.round(1000 * value) / 1000;
const within = (value, low, high) => Math.min(Math.max(value, low), high);

let draft = null; // while somebody draws: [{ kind, name, box }]
let chosen = 0;

function areasOf(status) {
  return [
    ...status.regions.map(({ region, box, verdict }) => ({ kind: "region", name: region, box, verdict })),
    ...status.masks.map((box) => ({ kind: "mask", name: "", box })),
  ];
}

// In a picture of width × height; a unit is a pixel of the screen.
function areaShapes(areas, width, height, unit) {
  return areas.flatMap(({ kind, name, box: [left, top, wide, tall], verdict }) => {
    const place = { x: left * width, y: top * height, width: wide * width, height: tall * height };
    const tone = verdict ? ` ${verdictTone(verdict)}` : "";
    const parts = [shape("rect", { class: `${kind}${tone}`, ...place })];
    if (name) {
      const label = shape("text", { x: place.x + 5 * unit, y: place.y + 16 * unit, "font-size": 13 * unit });
      label.textContent = name;
      parts.push(label);
    }
    return parts;
  });
}

const unitOf = (svg, width) => width / (svg.clientWidth || width);

function drawAreas(svg, picture, status) {
  if (picture) svg.append(...areaShapes(areasOf(status), picture.width, picture.height, unitOf(svg, picture.width)));
}

// The close view

const areasSection = $("#detail .areas");
const overlay = $("#detail .overlay");

function pictureSize() {
  const { picture, status } = detailed;
  return picture ? [picture.width, picture.height] : [status.width ?? 1280, status.height ?? 720];
}

function drawOverlay() {
  const [width, height] = pictureSize();
  overlay.setAttribute("viewBox", `0 0 ${width} ${height}`);
  overlay.classList.toggle("drawing", draft !== null);
  const unit = unitOf(overlay, width);
  const parts = areaShapes(draft ?? areasOf(detailed.status), width, height, unit);
  overlay.replaceChildren(...parts);
  if (!draft?.length) return;
  parts.filter((part) => part.tagName === "rect").forEach((rect, index) => {
    rect.dataset.index = index;
    rect.classList.toggle("chosen", index === chosen);
  });
  const [left, top, wide, tall] = draft[chosen].box;
  overlay.append(shape("circle", { class: "corner", cx: (left + wide) * width, cy: (top + tall) * height, r: 9 * unit }));
}

function regionRow(region) {
  const tone = verdictTone(region.verdict);
  const row = element("li", `region ${tone}`,
    element("b", "", region.region),
    element("span", `chip ${tone}`, verdictWord(region)),
    element("div", "meter"),
    element("span", "quiet", region.undecided || looks(region.independent)));
  putMeter(row);
  drawMeter($(".meter", row), region);
  return row;
}

function drawAreasOfDetail() {
  drawOverlay();
  if (draft) return;
  const { regions, masks } = detailed.status;
  $(".regions", areasSection).replaceChildren(...regions.map(regionRow));
  const seen = regions.length
    ? `Judged and decided each by itself; the source has the strongest verdict, that of ${detailed.status.region}.`
    : "The whole picture is judged.";
  const hidden = masks.length ? ` ${several(masks.length, "mask hides", "masks hide")} a part of it.` : "";
  setText(areasSection, ".how", seen + hidden);
  $(".edit", areasSection).hidden = !user.manages;
}

// Drawing

function choose(index) {
  chosen = index;
  $$(".draft", areasSection).forEach((row, number) => row.classList.toggle("chosen", number === index));
  drawOverlay();
}

function numberField(item, place, word) {
  const change = (event) => put(item, item.box.with(place, Number(event.target.value) / 100));
  const value = thousandth(100 * item.box[place]);
  return element("label", "", word, element("input", { type: "number", min: 0, max: 100, step: 0.1, value, onchange: change }));
}

function draftRow(item, index) {
  const rename = (event) => { item.name = event.target.value; drawOverlay(); };
  const name = item.kind === "region"
    ? element("label", "long", "Name", element("input", { value: item.name, maxLength: 60, required: true, oninput: rename }))
    : element("b", "long", "Mask");
  const row = element("li", index === chosen ? "draft chosen" : "draft",
    name,
    ...["Left %", "Top %", "Width %", "Height %"].map((word, place) => numberField(item, place, word)),
    button("Remove", `Remove ${item.name || "the mask"}`, () => remove(index)));
  row.addEventListener("focusin", () => choose(index));
  return row;
}

function drawDraft() {
  $(".drafts", areasSection).replaceChildren(...draft.map(draftRow));
  drawOverlay();
}

// Keep a place within the picture, and the fields as they are but for its numbers.
function put(item, [left, top, wide, tall]) {
  wide = within(wide || 0, LEAST, 1);
  tall = within(tall || 0, LEAST, 1);
  item.box = [within(left || 0, 0, 1 - wide), within(top || 0, 0, 1 - tall), wide, tall].map(thousandth);
  const row = $$(".draft", areasSection)[draft.indexOf(item)];
  if (row) $$("input[type=number]", row).forEach((field, place) => { field.value = thousandth(100 * item.box[place]); });
  drawOverlay();
}

function add(kind, box) {
  const names = new Set(draft.map((item) => item.name));
  let number = 1;
  while (names.has(`region ${number}`)) number += 1;
  draft.push({ kind, name: kind === "region" ? `region ${number}` : "", box });
  chosen = draft.length - 1;
  drawDraft();
}

function remove(index) {
  draft.splice(index, 1);
  chosen = Math.max(0, index - 1);
  drawDraft();
  ($$(".drafts input", areasSection)[0] ?? $(".add-region", areasSection)).focus();
}

function setDrawing(items) {
  draft = items;
  chosen = 0;
  $(".viewing", areasSection).hidden = items !== null;
  $(".drawing", areasSection).hidden = items === null;
  $(".said", areasSection).textContent = "";
  if (items) drawDraft();
  else if (detailed) drawAreasOfDetail();
}

async function beginDrawing() {
  const { source } = detailed.status;
  await saying($(".said", areasSection), async () => {
    const managed = (await call("/sources/settings")).find((one) => one.source === source);
    if (managed?.fixed) return "Its settings name its regions and masks, and they count: change them there.";
    setDrawing(areasOf(detailed.status).map(({ kind, name, box }) => ({ kind, name, box: [...box] })));
    return "";
  });
}

function saveDrawn() {
  if (!$(".drawing", areasSection).reportValidity()) return;
  const { source } = detailed.status;
  const body = {
    regions: draft.filter(({ kind }) => kind === "region").map(({ name, box }) => ({ name: name.trim(), box })),
    masks: draft.filter(({ kind }) => kind === "mask").map(({ box }) => box),
  };
  saying($(".said", areasSection), async () => {
    await call(`/sources/${encodeURIComponent(source)}/regions`, {}, { method: "PUT", body: JSON.stringify(body) });
    update(await call("/sources"));
    setDrawing(null);
    return "Kept; all of it is decided afresh. What was taught of a region holds where it was then.";
  });
}

$(".edit", areasSection).addEventListener("click", beginDrawing);
$(".drawing", areasSection).addEventListener("submit", (event) => { event.preventDefault(); saveDrawn(); });
$(".cancel", areasSection).addEventListener("click", () => setDrawing(null));
$(".add-region", areasSection).addEventListener("click", () => add("region", [0.25, 0.25, 0.5, 0.5]));
$(".add-mask", areasSection).addEventListener("click", () => add("mask", [0, 0, 0.25, 0.1]));

// With a pointer: a corner resizes, an area moves, and from elsewhere on a new region is drawn.

function pointOf(event) {
  const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(overlay.getScreenCTM().inverse());
  const [width, height] = pictureSize();
  return [within(x / width, 0, 1), within(y / height, 0, 1)];
}

overlay.addEventListener("pointerdown", (event) => {
  if (!draft || event.button !== 0) return;
  event.preventDefault();
  const [x, y] = pointOf(event);
  const index = event.target.dataset.index;
  let corner = event.target.classList.contains("corner");
  const made = index === undefined && !corner;
  if (index !== undefined) choose(Number(index));
  else if (made) {
    add("region", [within(x, 0, 1 - LEAST), within(y, 0, 1 - LEAST), LEAST, LEAST]);
    corner = true;
  }
  const item = draft[chosen];
  const [left, top, wide, tall] = item.box;
  const [far, low] = corner ? [left, top] : [x, y]; // what stays, or where it was taken
  overlay.setPointerCapture(event.pointerId);
  overlay.onpointermove = (moved) => {
    const [to, down] = pointOf(moved);
    if (corner) put(item, [Math.min(far, to), Math.min(low, down), Math.abs(to - far), Math.abs(down - low)]);
    else put(item, [left + to - far, top + down - low, wide, tall]);
  };
  overlay.onpointerup = overlay.onpointercancel = () => {
    overlay.onpointermove = overlay.onpointerup = overlay.onpointercancel = null;
    if (made && item.box[2] === LEAST && item.box[3] === LEAST) { // a mere click
      draft.pop();
      chosen = 0;
      drawDraft();
    }
  };
});

$("#detail").addEventListener("cancel", (event) => {
  if (!draft) return;
  event.preventDefault();
  setDrawing(null);
});

// The stream as another server shows it

const liveButton = $("#detail .watch");
function setWatching(on) {
  const figure = $("#detail .watched");
  liveButton.setAttribute("aria-pressed", String(on));
  figure.hidden = !on;
  $("iframe", figure)?.remove();
  if (!on) return;
  const frame = element("iframe", { title: "The stream as it is", referrerPolicy: "no-referrer", allow: "autoplay; fullscreen" });
  frame.sandbox = "allow-scripts allow-same-origin"; // of its own server
  frame.src = $(".elsewhere", figure).href = detailed.status.live;
  figure.prepend(frame);
}
liveButton.addEventListener("click", () => setWatching($("#detail .watched").hidden));

// Another source is shown, or none.
function leaveAreas() {
  setDrawing(null);
  setWatching(false);
}
