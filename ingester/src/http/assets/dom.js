// Elements of the page, made and kept without any HTML from strings.

export const $ = (id) => document.getElementById(id);

// What is not seen, or changes the order of what is: shown as its code, so that a text cannot pose as another one.
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;
const code = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, "0")}`;
export const visible = (text) => String(text).replace(UNSEEN, code);

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) if (value !== null) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

export function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  return made;
}

// A text from elsewhere, whose direction is its own.
export const foreign = (text, className = null) => element("bdi", { class: className }, visible(text));

// Only what is new: a live page must not touch what somebody reads, selects or has the focus on.
export function say(place, text) {
  const shown = visible(text);
  if (place.textContent !== shown) place.textContent = shown;
}

// The same of a text from elsewhere, with all of it where it is cut off.
export function sayForeign(place, text) {
  if (!(place.firstElementChild instanceof HTMLElement)) place.replaceChildren(element("bdi"));
  say(place.firstElementChild, text);
  if (place.title !== place.textContent) place.title = place.textContent;
}

export function set(place, attribute, value) {
  if (place.getAttribute(attribute) === value) return;
  if (value === null) place.removeAttribute(attribute);
  else place.setAttribute(attribute, value);
}

// One row for each item, kept from look to look.
export function rows(body, items, key, make, update) {
  const known = new Map([...body.children].map((row) => [row.dataset.key, row]));
  let place = body.firstElementChild;
  for (const item of items) {
    const row = known.get(key(item)) ?? make(item);
    row.dataset.key = key(item);
    known.delete(key(item));
    update(row, item);
    if (row === place) place = place.nextElementSibling;
    else moveBefore(body, row, place);
  }
  for (const row of known.values()) row.remove();
}

// A row that is moved keeps the focus.
function moveBefore(body, row, place) {
  const focused = row.contains(document.activeElement) ? document.activeElement : null;
  body.insertBefore(row, place);
  focused?.focus({ preventScroll: true });
}

export function cell(name, label, className, ...children) {
  const roles = name === "th" ? { role: "rowheader", scope: "row" } : { role: "cell" };
  return element(name, { ...roles, "data-label": label, class: className || null }, ...children);
}

// One stop for the Tab key in a whole table: the arrow keys move on from there. Whoever's row is gone is taken to the
// next one.
export function roam(table, controls) {
  const body = table.tBodies[0];
  let current = null;
  let row = 0;
  const lines = () => {
    const usable = (line) => [...line.querySelectorAll(controls)].filter((one) => !one.disabled && !one.hidden);
    return [...body.rows].map(usable).filter((line) => line.length > 0);
  };
  const choose = (one) => {
    if (current !== null && current !== one) current.tabIndex = -1;
    current = one;
    if (one !== null) one.tabIndex = 0;
  };
  const settle = () => {
    const all = lines().flat();
    for (const one of all) if (one !== current) one.tabIndex = -1;
    if (!all.includes(current)) choose(all[0] ?? null);
  };
  body.addEventListener("focusin", ({ target }) => {
    if (!target.matches(controls)) return;
    choose(target);
    row = lines().findIndex((line) => line.includes(target));
  });
  body.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const all = lines();
    const at = all.findIndex((line) => line.includes(event.target));
    if (at < 0) return;
    const across = all[at].indexOf(event.target);
    const to = {
      ArrowDown: [all[at + 1], across],
      ArrowUp: [all[at - 1], across],
      Home: [all[0], across],
      End: [all.at(-1), across],
      ArrowRight: [all[at], across + 1],
      ArrowLeft: [all[at], across - 1],
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    const [line, place] = to;
    line?.[Math.min(Math.max(place, 0), line.length - 1)].focus();
  });
  // Where the focus was lost with its row.
  const restore = (otherwise) => {
    const all = lines();
    (all[Math.min(Math.max(row, 0), all.length - 1)]?.at(-1) ?? otherwise).focus();
  };
  return { settle, restore };
}

// A dialog that closes by its own buttons; the browser keeps the focus in it and brings it back.
export function openDialog(dialog) {
  for (const button of dialog.querySelectorAll("[data-close]")) button.onclick = () => dialog.close();
  for (const place of dialog.querySelectorAll(".error, .done")) say(place, "");
  if (!dialog.open) dialog.showModal();
}

// What a form does: once at a time, and its failure is said where the reader is.
export function onSubmit(dialog, act) {
  const form = dialog.querySelector("form");
  form.onsubmit = async (event) => {
    event.preventDefault();
    const button = form.querySelector("[type=submit]");
    if (button.disabled) return;
    button.disabled = true;
    say(dialog.querySelector(".error"), "");
    try {
      if ((await act()) !== "stay") dialog.close();
    } catch (problem) {
      say(dialog.querySelector(".error"), problem.message);
    } finally {
      button.disabled = false;
    }
  };
}

const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const number = (value) => (value === null || value === undefined ? "–" : numbers.format(value));
export const plural = (count, one, many = `${one}s`) => `${number(count)} ${count === 1 ? one : many}`;

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 10_000) return `${numbers.format(ms)} ms`;
  return ms < 600_000 ? `${numbers.format(ms / 1_000)} s` : `${numbers.format(ms / 60_000)} min`;
}

export function age(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 120) return `${numbers.format(seconds)} s`;
  return seconds < 7_200 ? `${numbers.format(seconds / 60)} min` : `${numbers.format(seconds / 3_600)} h`;
}

// Times: in UTC, as everywhere in Sluice, or in the reader's own zone, and always with the zone.
const isLocal = () => localStorage.getItem("zone") === "local";
const two = (value) => String(value).padStart(2, "0");

export function timeText(text) {
  const at = new Date(text);
  if (Number.isNaN(at.getTime())) return String(text);
  if (!isLocal()) return `${at.toISOString().slice(0, 19).replace("T", " ")} UTC`;
  const day = [at.getFullYear(), two(at.getMonth() + 1), two(at.getDate())].join("-");
  const offset = -at.getTimezoneOffset();
  const zone = `${offset < 0 ? "-" : "+"}${two(Math.floor(Math.abs(offset) / 60))}:${two(Math.abs(offset) % 60)}`;
  return `${day} ${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())} ${zone}`;
}

export const time = (text) => element("time", { datetime: text }, timeText(text));

// What a field for a time holds, as the API takes it: in UTC unless it names a zone, or the reader's own is chosen.
export function zoned(field) {
  const at = new Date(field);
  return field === "" || !isLocal() || Number.isNaN(at.getTime()) ? field : at.toISOString();
}

export function startTimes(select) {
  select.value = isLocal() ? "local" : "utc";
  select.onchange = () => {
    localStorage.setItem("zone", select.value);
    for (const shown of document.querySelectorAll("time[datetime]")) say(shown, timeText(shown.dateTime));
  };
}
