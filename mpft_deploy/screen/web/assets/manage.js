"use strict";

// What admins do with sources, who is logged in, and who did what.

const ORIGINS = {
  file: "of the configuration file",
  store: "added here",
  both: "of the configuration file, whose settings count; added here too",
};

const ENOUGH = 600; // seconds with frames that a camera can be taught by

const JSON_BODY = (body) => ({ method: "POST", body: JSON.stringify(body) });

// What came of something, in words; without a screener only that it does not answer.
async function saying(output, work) {
  output.className = "said";
  output.textContent = "…";
  try {
    output.textContent = (await work()) ?? "";
  } catch (error) {
    output.classList.add("refused");
    output.textContent = error.message;
  }
}

function describeFound(found) {
  const parts = [`${found.codec} ${found.width} × ${found.height}`];
  if (found.fps !== null) parts.push(`${found.fps} frames a second`);
  parts.push(`first picture after ${found.after.toFixed(1)} s`);
  return parts.join(", ");
}

function describeLesson({ minutes, left, seconds, learnt, problem }) {
  if (problem) return problem;
  if (left) return `${Math.floor(minutes - left / 60)} of ${minutes} minutes; ${count(seconds)} seconds had frames`;
  return Object.entries(learnt).map(([stream, one]) =>
    `${stream}: log odds ${signed(one.offset)} ± ${one.error.toFixed(2)} from ${count(one.seconds)} seconds; a frame is generated from ${one.threshold.toFixed(3)}`).join("\n");
}

// What has something changed or deleted, and shows that.
const changing = (redraw, method, path, parameters = {}, body = null) => async () => {
  await call(path, parameters, { method, body: body && JSON.stringify(body) });
  await redraw();
};

// A row of a list: what it is, buttons, and what came of them; `add` makes one that does some work.
function listRow(name, ...lines) {
  const what = element("div", "what", element("b", "", name), ...lines.map((line) => element("span", "quiet", line)));
  const output = element("p", { className: "said", role: "status" });
  const buttons = element("div", "buttons");
  const add = (word, label, work) => buttons.append(button(word, label, () => saying(output, work)));
  return { row: element("li", "managed", what, buttons, output), what, buttons, output, add };
}

// A list in a section that is shown while there is something in it.
async function drawList(list, path, makeRow) {
  const rows = (await call(path)).map(makeRow);
  list.replaceChildren(...rows);
  list.closest("section").hidden = !rows.length;
}

function managedRow(managed) {
  const { source, lesson } = managed;
  const path = `/sources/${encodeURIComponent(source)}`;
  const state = managed.paused ? "paused" : sources.get(source)?.status.state ?? "not screened";
  const { row, what, buttons, output, add } = listRow(source, managed.address,
    [managed.group, state, ...managed.hours, ORIGINS[managed.origin]].filter(Boolean).join(" · "));
  row.dataset.source = source;
  if (managed.taught) what.append(element("span", "quiet", `taught ${moment(managed.taught)}`));
  if (managed.problem) what.append(element("span", "problem", managed.problem));
  const send = (method, more, body) => changing(drawManaged, method, path + more, {}, body);
  const addAsking = (word, text, addChoices) => buttons.append(button(word, `${word} ${source}`, () => {
    row.dataset.asked = "";
    output.textContent = text;
    buttons.replaceChildren();
    addChoices();
    buttons.append(button("Cancel", `Keep ${source}`, drawManaged));
    buttons.lastElementChild.focus();
  }));
  if (lesson) {
    const max = 60 * lesson.minutes;
    what.append(
      element("progress", { max, value: max - lesson.left, ariaLabel: `Teaching ${source}` }),
      element("span", lesson.problem ? "problem" : "quiet", describeLesson(lesson)),
    );
    if (lesson.seconds >= ENOUGH) add("Accept", `Accept what ${source} was taught`, send("POST", "/lesson/accept"));
    add("Discard", `Discard what ${source} was taught`, send("DELETE", "/lesson"));
  }
  if (!managed.problem) {
    const word = managed.paused ? "Resume" : "Pause";
    add(word, `${word} ${source}`, send("POST", `/${word.toLowerCase()}`));
    add("Test", `Test ${source}`, async () => describeFound(await call(`${path}/test`, {}, { method: "POST" })));
    if (!lesson) {
      const text = "It learns what this camera's real frames look like: teach it what it will show, while it shows nothing generated. An hour is good.";
      addAsking("Teach", text, () => {
        const minutes = element("input", { type: "number", min: 10, max: 240, value: 60 });
        if (managed.accepted) add("Take the last back", `Take back what ${source} was taught last`, send("DELETE", "/baseline"));
        buttons.append(element("label", "minutes", "Minutes ", minutes));
        add("Begin", `Begin to teach ${source}`, () => send("POST", "/lesson", { minutes: Number(minutes.value) })());
      });
    }
  }
  if (managed.origin !== "file") {
    buttons.append(button("Change", `Change ${source}`, () => edit(managed)));
    addAsking("Remove", "Its events stay; its settings and what it was taught go.", () => {
      add("Remove it", `Remove ${source} for good`, send("DELETE", ""));
    });
  }
  return row;
}

async function drawManaged() {
  const list = $("#managed");
  const held = document.activeElement;
  const [name, word] = [held?.closest?.(".managed")?.dataset.source, held?.textContent];
  list.replaceChildren(...(await call("/sources/settings")).map(managedRow));
  const row = $$(".managed", list).find((one) => one.dataset.source === name);
  if (!row) return;
  const buttons = $$("button", row);
  (buttons.find((one) => one.textContent === word) ?? buttons[0])?.focus();
}

// Lessons go on by themselves.
setInterval(() => {
  const waits = $("#managed progress") && !$("#managed [data-asked]");
  if (waits && !$("#manage").hidden) drawManaged().catch(() => {});
}, 3000);

// What can be ended or deleted with one button: who is logged in, and evidence that no event names

function sessionRow({ id, user: name, began, agent }) {
  const { row, add } = listRow(name, browserOf(agent), `since ${moment(began)}`);
  add("Log out", `Log out ${name}, ${browserOf(agent)}`, changing(() => row.remove(), "DELETE", `/sessions/${id}`));
  return row;
}

function keptRow({ name, verdict, bytes }) {
  const line = `${verdict} · ${(bytes / 1e6).toFixed(1)} MB`;
  const { row, buttons, add } = listRow(name, line);
  buttons.append(element("a", { href: packageAt(name), download: name }, "Download"));
  if (user.role === "admin") add("Delete", `Delete ${name}, ${line}`, changing(() => row.remove(), "DELETE", `/evidence/${encodeURIComponent(name)}`));
  return row;
}

// What receivers refused

const LISTED = 200; // of a receiver, at most: deliveries.SHOWN

function refusedRow({ receiver, event, source, time, what, error, attempts }) {
  const { row, add } = listRow(`${receiver}: ${source} ${what}`, `${moment(time)} · ${error} · tried ${several(attempts, "time", "times")}`);
  for (const [word, method] of [["Send again", "POST"], ["Forget", "DELETE"]]) {
    add(word, `${word}: event ${event}, ${receiver}`, changing(drawRefused, method, "/refused", { receiver, event }));
  }
  return row;
}

const drawRefused = () => drawList($("#refused"), "/refused", refusedRow);

// Counts are compared with the list, not with counts before: between two of these an event may have
// been sent again, listed no more, and refused again.
function followRefused(sinks) {
  const total = sinks.reduce((sum, sink) => sum + Math.min(sink.refused, LISTED), 0);
  if (total !== $("#refused").children.length && user.role === "admin" && !$("#manage").hidden) drawRefused().catch(() => {});
}
$("#all-again").addEventListener("click", () => saying($("#refused-said"), changing(drawRefused, "POST", "/refused")));

// Who did what

let earlier = null; // `before` of the next page

async function drawAudit(more = false) {
  const page = await call("/audit", { before: more ? earlier : null });
  const rows = page.entries.map(({ time, user: name, role, action, object }) =>
    element("li", { className: "audited", title: role }, timeElement(time), element("b", "", name), element("span", "", `${action} ${object}`)));
  if (!more) $("#audit").replaceChildren();
  $("#audit").append(...rows);
  earlier = page.next;
  $("#older").hidden = earlier === null;
}
$("#older").addEventListener("click", () => drawAudit(true));

function drawManage() {
  const admin = user.role === "admin";
  for (const part of $$(".of-sources")) part.hidden = !user.manages;
  $(".of-devices").hidden = !user.notifies;
  $(".of-admins").hidden = !admin;
  drawList($("#kept"), "/evidence", keptRow);
  if (user.manages) drawManaged();
  if (user.name) drawList($("#sessions"), "/sessions", sessionRow); // whom a proxy names has none
  if (user.notifies) drawDevices();
  if (admin) drawAudit();
  if (admin) drawRefused();
}

// A source that is added, or changed: then an empty address stays as it is, and an empty field is
// taken back.

const form = $("#add");
let editing = "";

function setEditing(name) {
  editing = name;
  form.elements.name.readOnly = Boolean(name);
  form.elements.address.required = !name;
  form.elements.address.placeholder = name ? "as it is" : "rtsp://user:password@camera/stream";
  $(".send", form).textContent = name ? "Save" : "Add";
  setText(document, "#add-title", name ? `Change ${name}` : "Add a source");
  $("#try").hidden = Boolean(name);
  $("[type=reset]", form).hidden = !name;
}

function fill(values) {
  Object.entries(values).forEach(([name, value]) => { form.elements[name].value = value; });
  form.scrollIntoView({ block: "center" });
  form.elements.address.focus();
}

function edit({ source, decode, group, hours }) {
  setEditing(source);
  fill({ name: source, address: "", decode, group, hours: hours.join("; ") });
}

function given() {
  const all = Object.fromEntries([...new FormData(form)].map(([field, text]) => [field, text.trim()]));
  all.decode = Number(all.decode) || all.decode;
  all.hours &&= all.hours.split(";").map((one) => one.trim());
  const rest = Object.entries(all).filter(([key, value]) => value || (editing && key !== "address"));
  return Object.fromEntries(rest.map(([key, value]) => [key, value || null]));
}

form.addEventListener("reset", () => setEditing(""));
form.addEventListener("submit", (event) => {
  event.preventDefault();
  saying($("#add-said"), async () => {
    const path = editing ? `/sources/${encodeURIComponent(editing)}` : "/sources";
    const { source } = await call(path, {}, { ...JSON_BODY(given()), method: editing ? "PATCH" : "POST" });
    const done = editing ? "changed" : "screened now";
    form.reset();
    await drawManaged();
    return `${source} is ${done}.`;
  });
});
$("#try").addEventListener("click", () => {
  if (form.elements.address.reportValidity()) {
    saying($("#add-said"), async () => {
      const { name, ...table } = given();
      return describeFound(await call("/sources/test", {}, JSON_BODY(table)));
    });
  }
});

// Cameras of the local network; an address that is put into the form gets the user they were asked with.

function cameraRow({ host, name, hardware, location: place, address, streams, problem, sources: added }, login) {
  const called = name || host;
  const { row, what, buttons } = listRow(called, [host, hardware, place].filter(Boolean).join(" · "));
  if (added.length) what.append(element("span", "quiet", `added as ${added.join(", ")}`));
  if (problem) what.append(element("span", "problem", problem));
  for (const stream of streams.length ? streams : [{ name: "", address }]) {
    buttons.append(button(`Add ${stream.name}`, `Add ${called} ${stream.name}`, () => {
      form.reset();
      fill({ name: called, address: stream.address.replace("//", `//${login}`) });
    }));
  }
  return row;
}

$("#find").addEventListener("submit", (event) => {
  event.preventDefault();
  const body = Object.fromEntries(new FormData(event.target));
  const login = body.user ? `${encodeURIComponent(body.user)}:${encodeURIComponent(body.password)}@` : "";
  saying($("#find-said"), async () => {
    const found = await call("/sources/discover", {}, JSON_BODY(body));
    $("#cameras").replaceChildren(...found.map((camera) => cameraRow(camera, login)));
    return found.length ? `${several(found.length, "camera", "cameras")} answered.`
      : "No camera answered: is it in the same network, with ONVIF switched on?";
  });
});
