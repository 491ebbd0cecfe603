"use strict";

// What admins do with sources, who is logged in, and who did what.

const ORIGINS = {
  file: "of the configuration file",
  store: "added here",
  both: "of the configuration file, whose settings count; added here too",
};

const ENOUGH = 600; // seconds with frames that a camera can be taught by

const JSON_BODY = (body) => ({ method: "POST", body: JSON.stringify(body) });

function button(word, label, act) {
  const made = element("button", "", word);
  made.type = "button";
  made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

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

function managedRow(managed) {
  const { source } = managed;
  const path = `/sources/${encodeURIComponent(source)}`;
  const row = element("li", "managed");
  row.dataset.source = source;
  const what = element("div", "what");
  what.append(element("b", "", source), element("span", "quiet", managed.address));
  const state = managed.paused ? "paused" : sources.get(source)?.status.state ?? "not screened";
  what.append(element("span", "quiet", [state, ORIGINS[managed.origin]].join(" · ")));
  const { lesson } = managed;
  if (managed.taught) what.append(element("span", "quiet", `taught ${moment(managed.taught)}`));
  if (managed.problem) what.append(element("span", "problem", managed.problem));
  const output = element("p", "said");
  output.setAttribute("role", "status");
  const buttons = element("div", "buttons");
  const send = (method, more, body) => saying(output, async () => {
    await call(path + more, {}, body ? JSON_BODY(body) : { method });
    await drawManaged();
  });
  const ask = (text, ...choices) => {
    row.dataset.asked = "";
    buttons.replaceChildren(...choices, button("Cancel", `Keep ${source}`, () => drawManaged()));
    output.textContent = text;
    buttons.lastElementChild.focus();
  };
  const remove = () => ask(
    "Its events stay; its settings and what it was taught go.",
    button("Remove it", `Remove ${source} for good`, () => send("DELETE", "")),
  );
  const teach = () => {
    const minutes = element("input");
    Object.assign(minutes, { type: "number", min: 10, max: 240, value: 60 });
    const label = element("label", "minutes", "Minutes ");
    label.append(minutes);
    ask(
      "It learns what this camera's real frames look like: teach it what it will show, while it shows nothing generated. An hour is good.",
      label,
      button("Begin", `Begin to teach ${source}`, () => send("POST", "/lesson", { minutes: Number(minutes.value) })),
    );
    if (managed.kept) {
      buttons.prepend(button("Take the last back", `Take back what ${source} was taught last`, () => send("DELETE", "/baseline")));
    }
  };
  if (lesson) {
    const progress = element("progress");
    Object.assign(progress, { max: 60 * lesson.minutes, value: 60 * lesson.minutes - lesson.left });
    progress.setAttribute("aria-label", `Teaching ${source}`);
    what.append(progress, element("span", lesson.problem ? "problem" : "quiet", describeLesson(lesson)));
    if (lesson.seconds >= ENOUGH) {
      buttons.append(button("Accept", `Accept what ${source} was taught`, () => send("POST", "/lesson/accept")));
    }
    buttons.append(button("Discard", `Discard what ${source} was taught`, () => send("DELETE", "/lesson")));
  }
  if (!managed.problem) {
    const act = managed.paused ? "resume" : "pause";
    const word = managed.paused ? "Resume" : "Pause";
    buttons.append(
      button(word, `${word} ${source}`, () => send("POST", `/${act}`)),
      button("Test", `Test ${source}`, () => saying(output, async () =>
        describeFound(await call(`${path}/test`, {}, { method: "POST" })))),
    );
    if (!lesson) buttons.append(button("Teach", `Teach ${source}`, teach));
  }
  if (managed.origin !== "file") buttons.append(button("Remove", `Remove ${source}`, remove));
  row.append(what, buttons, output);
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

// Who is logged in

function sessionRow({ id, user: name, began, agent }) {
  const row = element("li", "managed");
  const what = element("div", "what");
  const since = element("span", "quiet", "since ");
  since.append(timeElement(began));
  what.append(element("b", "", name), element("span", "quiet", agent || "unknown browser"), since);
  const output = element("p", "said");
  output.setAttribute("role", "status");
  const buttons = element("div", "buttons");
  buttons.append(button("Log out", `Log out ${name}, ${agent}`, () => saying(output, async () => {
    await call(`/sessions/${id}`, {}, { method: "DELETE" });
    row.remove();
  })));
  row.append(what, buttons, output);
  return row;
}

async function drawSessions() {
  $("#sessions").replaceChildren(...(await call("/sessions")).map(sessionRow));
}

// Who did what

let earlier = null; // `before` of the next page

async function drawAudit(more = false) {
  const page = await call("/audit", { before: more ? earlier : null });
  const rows = page.entries.map(({ time, user: name, role, action, object }) => {
    const row = element("li", "audited");
    row.append(timeElement(time), element("b", "", name), element("span", "", `${action} ${object}`));
    row.title = role;
    return row;
  });
  if (!more) $("#audit").replaceChildren();
  $("#audit").append(...rows);
  earlier = page.next;
  $("#older").hidden = earlier === null;
}
$("#older").addEventListener("click", () => drawAudit(true));

function drawManage() {
  const admin = user.role === "admin";
  for (const part of $$(".of-sources")) part.hidden = !user.manages;
  $(".of-people").hidden = !user.name;
  $(".of-admins").hidden = !admin;
  if (user.manages) drawManaged();
  if (user.name) drawSessions();
  if (admin) drawAudit();
}

function newSource() {
  const form = new FormData($("#add"));
  const given = { name: form.get("name").trim(), address: form.get("address").trim() };
  const decode = form.get("decode").trim();
  if (decode) given.decode = Number(decode) || decode;
  return given;
}

$("#add").addEventListener("submit", (event) => {
  event.preventDefault();
  saying($("#add-said"), async () => {
    const { source } = await call("/sources", {}, JSON_BODY(newSource()));
    $("#add").reset();
    await drawManaged();
    return `${source} is screened now.`;
  });
});
$("#try").addEventListener("click", () => {
  if ($("#add [name=address]").reportValidity()) {
    saying($("#add-said"), async () => {
      const { name, ...given } = newSource();
      return describeFound(await call("/sources/test", {}, JSON_BODY(given)));
    });
  }
});
