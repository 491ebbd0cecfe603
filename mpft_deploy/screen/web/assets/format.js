"use strict";

// Words, numbers and elements: what every part of the page uses.

const API = "/api/v1";
const SVG = "http://www.w3.org/2000/svg";

const $ = (selector, root = document) => root.querySelector(selector);
const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

// given: a class, or properties.
function element(tag, given = "", ...children) {
  const made = document.createElement(tag);
  Object.assign(made, typeof given === "string" ? { className: given } : given);
  made.append(...children.filter((child) => child !== null));
  return made;
}
function button(word, label, onclick) {
  return element("button", { type: "button", ariaLabel: label, onclick }, word);
}
function shape(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}
function setText(root, selector, text) {
  const found = $(selector, root);
  if (found.textContent !== text) found.textContent = text;
}

function drawFacts(root, facts) {
  $(".facts", root).replaceChildren(
    ...facts.flatMap(([name, value]) => [element("dt", "", name), element("dd", "", value)]),
  );
}
function drawChip(root, tone, text) {
  const chip = $(".chip", root);
  chip.className = `chip ${tone}`;
  chip.textContent = text;
}
function setTone(root, tone) {
  root.classList.remove("generated", "clear", "unsure", "none");
  root.classList.add(tone);
}
// The first option stands for all of them.
function offer(select, names) {
  const have = [...select.options].slice(1).map((option) => option.value);
  if (names.join("\n") === have.join("\n")) return;
  const chosen = select.value;
  select.replaceChildren(select.options[0], ...names.map((name) => element("option", "", name)));
  select.value = names.includes(chosen) ? chosen : "";
}

class Unreachable extends Error {}

// Of those parameters that are given.
function query(parameters) {
  const given = Object.entries(parameters).filter((entry) => entry[1] !== "" && entry[1] !== null);
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

async function call(path, parameters = {}, options = {}) {
  const answer = await fetch(API + path + query(parameters), options).catch(() => {
    throw new Unreachable("the screener does not answer");
  });
  const said = await answer.json();
  if (!answer.ok) throw new Error(said.error);
  return said;
}

const TIME = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" };
const clock = (seconds) => new Date(seconds * 1000).toLocaleTimeString("en-GB", TIME);
function moment(seconds) {
  const date = new Date(seconds * 1000);
  if (date.toDateString() === new Date().toDateString()) return clock(seconds);
  return `${date.toLocaleDateString("en-GB", { day: "numeric", month: "short" })}, ${clock(seconds).slice(0, 5)}`;
}
function timeElement(seconds) {
  const date = new Date(seconds * 1000);
  return element("time", { dateTime: date.toISOString(), title: date.toLocaleString("en-GB") }, moment(seconds));
}
const signed = (value) => (value >= 0 ? "+" : "−") + Math.abs(value).toFixed(1);
const rate = (value) => (value >= 9.95 ? value.toFixed(0) : value.toFixed(1)) + "/s";
const count = (value) => value.toLocaleString("en-US");
const several = (value, one, many) => `${count(value)} ${value === 1 ? one : many}`;
const short = (value) => (value < 9.95 ? value.toFixed(1).replace(/\.0$/, "") : value.toFixed(0));
const percent = (share) => `${short(100 * share)}\u00a0%`;
function span(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 1000) return `${Math.round(ms)}\u00a0ms`;
  if (ms < 60000) return `${(ms / 1000).toFixed(1)}\u00a0s`;
  if (ms < 5400000) return `${Math.round(ms / 60000)}\u00a0min`;
  return ms < 129600000 ? `${Math.round(ms / 3600000)}\u00a0h` : `${Math.round(ms / 86400000)}\u00a0days`;
}

const BROKEN = new Set(["stalled", "frozen", "down"]);
const isBroken = (status) => BROKEN.has(status.state);
const isIdle = (status) => isBroken(status) || ["connecting", "paused"].includes(status.state);
const streamName = ({ source, region }) => (region ? `${source}/${region}` : source);
const verdictTone = (verdict) => (verdict === "no sign" ? "clear" : verdict);
const tone = (status) => (isIdle(status) ? "none" : verdictTone(status.verdict));
const urgency = (status) =>
  status.state === "live" && status.verdict === "generated" ? 0 : isBroken(status) ? 1 : 2;
const verdictWord = (status) => (status.looking ? "looking…" : status.verdict);
const nextTry = (status) =>
  status.retry_in === null ? "" : `next try in ${Math.ceil(status.retry_in)}\u00a0s`;
const looks = (value) => `${short(value)} independent ${short(value) === "1" ? "look" : "looks"}`;

// "Chrome 120 on Android", of what a browser calls itself: that names others, too, in this order.
const BROWSERS = { Edg: "Edge", OPR: "Opera", Firefox: "Firefox", Chrome: "Chrome", Version: "Safari" };
function browserOf(agent) {
  const word = Object.keys(BROWSERS).find((one) => agent.includes(`${one}/`));
  const system = ["iPhone", "iPad", "Android", "Windows", "Mac OS", "Linux"].find((one) => agent.includes(one));
  if (!word || !system) return agent || "unknown browser";
  return `${BROWSERS[word]} ${parseInt(agent.split(`${word}/`)[1])} on ${system}`;
}

const REASONS = {
  "scene change": "the picture has another size",
  "reconnect": "the camera was away",
  "nothing to judge": "there was nothing to judge",
  "restart": "settings changed",
  "drift": "the camera does not show what it was taught by: teach it again",
};

const CAUSES = {
  overload: "the machine had no time",
  superseded: "a newer one came first",
  stale: "too old when its turn came",
  behind: "the decoder was behind",
  rate: "more than are wanted a second",
  damaged: "damaged",
};
