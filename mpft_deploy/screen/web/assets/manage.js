"use strict";

// What admins do: sources that are added, tried, paused and removed.

const ORIGINS = {
  file: "of the configuration file",
  store: "added here",
  both: "of the configuration file, whose settings count; added here too",
};

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

function managedRow(managed) {
  const { source } = managed;
  const path = `/sources/${encodeURIComponent(source)}`;
  const row = element("li", "managed");
  row.dataset.source = source;
  const what = element("div", "what");
  what.append(element("b", "", source), element("span", "quiet", managed.address));
  const state = managed.paused ? "paused" : sources.get(source)?.status.state ?? "not screened";
  what.append(element("span", "quiet", [state, ORIGINS[managed.origin]].join(" · ")));
  if (managed.problem) what.append(element("span", "problem", managed.problem));
  const output = element("p", "said");
  output.setAttribute("role", "status");
  const buttons = element("div", "buttons");
  const send = (method, more) => saying(output, async () => {
    await call(path + more, {}, { method });
    await drawManaged();
  });
  const ask = () => {
    buttons.replaceChildren(
      button("Remove it", `Remove ${source} for good`, () => send("DELETE", "")),
      button("Keep it", `Keep ${source}`, () => drawManaged()),
    );
    output.textContent = "Its events stay; its settings go.";
    buttons.firstElementChild.nextElementSibling.focus();
  };
  if (!managed.problem) {
    const act = managed.paused ? "resume" : "pause";
    const word = managed.paused ? "Resume" : "Pause";
    buttons.append(
      button(word, `${word} ${source}`, () => send("POST", `/${act}`)),
      button("Test", `Test ${source}`, () => saying(output, async () =>
        describeFound(await call(`${path}/test`, {}, { method: "POST" })))),
    );
  }
  if (managed.origin !== "file") buttons.append(button("Remove", `Remove ${source}`, ask));
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
