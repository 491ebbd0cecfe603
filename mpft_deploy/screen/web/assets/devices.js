"use strict";

// Notifications on this device: the browser gives an address for them, by which the screener sends.

const PATIENCE = 30000; // ms for the browser's maker to give an address
const HERE = "device"; // in localStorage: how the screener calls this browser

// Why this browser cannot be notified.
function hindrance() {
  if (!window.isSecureContext) return "Notifications work on https or localhost only, and this page came by http.";
  if (!("serviceWorker" in navigator && "PushManager" in window && "Notification" in window)) {
    return "This browser cannot be notified. On an iPhone or iPad add this page to the Home Screen, and open it from there.";
  }
  return Notification.permission === "denied" ? "This browser blocks notifications of this page: allow them in its settings." : "";
}

async function subscription() {
  const worker = await navigator.serviceWorker.getRegistration();
  return worker?.pushManager.getSubscription();
}

function deviceRow({ id, user: name, since, agent, service }) {
  const whose = name || "somebody";
  const { row, add } = listRow(whose, browserOf(agent), `by ${service}, since ${moment(since)}`);
  add("Remove", `Notify this device of ${whose} no more: ${browserOf(agent)}`, changing(drawDevices, "DELETE", `/push/${id}`));
  return row;
}

let notified = false; // this device

async function drawDevices() {
  const devices = await call("/push");
  $("#devices").replaceChildren(...devices.map(deviceRow));
  const why = hindrance();
  const known = devices.some(({ id }) => id === localStorage.getItem(HERE));
  notified = !why && known && Boolean(await subscription());
  setText(document, "#notified", why || (notified ? "On: this device is notified." : "Off: this device is not notified."));
  setText(document, "#notify", notified ? "Stop on this device" : "Notify me on this device");
  $("#notify").hidden = Boolean(why);
  $("#try-notify").hidden = !notified;
}

async function begin() {
  if ((await Notification.requestPermission()) !== "granted") throw new Error("The browser was not allowed to show notifications.");
  await navigator.serviceWorker.register("/worker.js");
  const worker = await navigator.serviceWorker.ready;
  await (await worker.pushManager.getSubscription())?.unsubscribe(); // it may be for another key
  const key = await call("/push/key");
  const late = new Promise((_, refuse) => { setTimeout(refuse, PATIENCE, new Error("This browser's push service does not answer.")); });
  const asked = worker.pushManager.subscribe({ userVisibleOnly: true, applicationServerKey: key });
  const made = await Promise.race([asked, late]);
  const { endpoint, keys } = made.toJSON();
  const { id } = await call("/push", {}, JSON_BODY({ endpoint, keys }));
  localStorage.setItem(HERE, id);
}

async function end() {
  await (await subscription())?.unsubscribe();
  await call(`/push/${localStorage.getItem(HERE)}`, {}, { method: "DELETE" });
}

async function tryIt() {
  await call(`/push/${localStorage.getItem(HERE)}/test`, {}, { method: "POST" });
  return "It was sent.";
}

const then = (work) => saying($("#notify-said"), () => work().finally(drawDevices));
$("#notify").addEventListener("click", () => then(notified ? end : begin));
$("#try-notify").addEventListener("click", () => then(tryIt));
