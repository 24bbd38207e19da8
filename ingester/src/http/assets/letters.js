// Dead letters: those that match, page by page, and what is done with those that are chosen.
import { $, cell, element, foreign, number, plural, roam, rows, say, sayForeign, time, zoned } from "./dom.js";
import { ask } from "./api.js";
import { actOnAll, actOnSome } from "./deeds.js";
import { showLetter } from "./letter.js";
import { isShown, link, onRoute, place, replace } from "./route.js";

const PAGE = 50;
// Asked for again when the number of parked ones changes, and this often.
const REFRESH_MS = 10_000;
const FIELDS = { text: "which-text", status: "which-status", topic: "which-topic", code: "which-code", since: "which-since", until: "which-until" };

let chosen = new Set();
let page = { letters: [], matching: 0, newer: 0 };
let askedAt = 0;
let parkedThen = null;
let keys;

const where = (letter) => `${letter.topic}/${letter.partition} @ ${letter.offset ?? letter.kafka_offset}`;

export function showParked(parked) {
  const total = parked.reduce((sum, { letters }) => sum + letters, 0);
  const entries = parked.map(({ topic, code, letters }) => [`${topic} ${code}`, `${topic}: ${number(letters)} ${code}`, link("letters", { topic, code })]);
  const all = [["", `${number(total)} parked`, link("letters")], ...entries];
  const make = ([, , href]) => element("li", {}, element("a", { href }, foreign("")));
  rows($("parked"), all, ([key]) => key, make, (item, [, text]) => say(item.firstChild.firstChild, text));
  offer($("which-topic"), parked.map(({ topic }) => topic));
  offer($("which-code"), parked.map(({ code }) => code));
}

function offer(select, values) {
  const known = new Set([...select.options].map((option) => option.value));
  for (const value of values) {
    if (!known.has(value)) select.add(new Option(value, value));
    known.add(value);
  }
}

export function lettersMayHaveChanged(parked) {
  const now = JSON.stringify(parked);
  if (!isShown("letters") || (now === parkedThen && Date.now() - askedAt < REFRESH_MS)) return;
  parkedThen = now;
  refresh();
}

// What the address asks for; parked ones unless it says otherwise.
function filter(query) {
  const given = Object.fromEntries(["text", "topic", "code", "event_id", "key"].map((name) => [name, query.get(name) ?? ""]));
  const status = query.get("status") ?? "PARKED";
  const times = Object.fromEntries(["since", "until"].map((name) => [name, zoned(query.get(name) ?? "")]));
  const all = { ...given, ...times, status: status === "ANY" ? "" : status };
  return Object.fromEntries(Object.entries(all).filter(([, value]) => value !== ""));
}

async function refresh() {
  askedAt = Date.now();
  const { query } = place();
  const asked = new URLSearchParams({ ...filter(query), limit: PAGE });
  for (const name of ["before", "after"]) if (query.has(name)) asked.set(name, query.get(name));
  let notice = "";
  try {
    const answer = await ask(`/api/dead-letters?${asked}`);
    // Meanwhile somebody may have asked for others.
    if (place().query.toString() !== query.toString()) return;
    page = answer;
  } catch (problem) {
    notice = problem.message;
  }
  show(notice);
}

function show(notice) {
  const { letters, matching, newer } = page;
  const ids = new Set(letters.map(({ id }) => id));
  chosen = new Set([...chosen].filter((id) => ids.has(id)));
  const hadFocus = $("letters").contains(document.activeElement);
  rows($("letters").tBodies[0], letters, ({ id }) => String(id), make, update);
  keys.settle();
  if (hadFocus && document.activeElement === document.body) keys.restore($("letters-title"));
  say($("letters-notice"), notice);
  $("letters-notice").hidden = notice === "";
  $("no-letters").hidden = letters.length > 0 || notice !== "";
  const span = letters.length ? `${number(newer + 1)} to ${number(newer + letters.length)} of ${plural(matching, "letter")}` : plural(matching, "letter");
  say($("letters-count"), notice === "" ? span : "");
  $("letters-newer").disabled = $("letters-latest").disabled = newer === 0;
  $("letters-older").disabled = newer + letters.length >= matching;
  tellChosen();
}

function make(letter) {
  const box = element("input", { type: "checkbox", "aria-label": `Choose dead letter ${letter.id}` });
  box.onchange = () => {
    if (box.checked) chosen.add(letter.id);
    else chosen.delete(letter.id);
    tellChosen();
  };
  const look = element("button", { type: "button", class: "name", "aria-label": `Look at dead letter ${letter.id}` }, `${letter.id}…`);
  look.onclick = () => showLetter(letter.id, closed);
  return element(
    "tr",
    { role: "row" },
    cell("td", "Choose", "", box),
    cell("th", "Letter", "", look),
    cell("td", "Record", "", foreign(where(letter))),
    cell("td", "Event", "", foreign(letter.event_id ?? "–")),
    cell("td", "Key", "", foreign(letter.key ?? "–")),
    cell("td", "Reason", "wide", element("strong"), element("span", { class: "reason" })),
    cell("td", "Tries", "number"),
    cell("td", "First failed", "", time(letter.first_failed_at)),
  );
}

function update(row, letter) {
  const [choice, , , , , reason, tries] = row.children;
  choice.firstChild.disabled = letter.status !== workedOn();
  choice.firstChild.checked = chosen.has(letter.id);
  say(reason.children[0], letter.status === "PARKED" ? letter.code : `${letter.code}, ${letter.status.toLowerCase()}`);
  sayForeign(reason.children[1], letter.message);
  say(tries, number(letter.attempts));
}

// What is discarded can be parked again, what is parked replayed or discarded.
const workedOn = () => ($("which-status").value === "DISCARDED" ? "DISCARDED" : "PARKED");

function workable() {
  return page.letters.filter(({ status }) => status === workedOn()).map(({ id }) => id);
}

function tellChosen() {
  const all = workable();
  $("choose-all").disabled = all.length === 0;
  $("choose-all").checked = all.length > 0 && chosen.size === all.length;
  $("choose-all").indeterminate = chosen.size > 0 && chosen.size < all.length;
  const deeds = workedOn() === "DISCARDED" ? ["restore"] : ["replay", "discard"];
  const status = place().query.get("status") ?? "PARKED";
  const isOfOneStatus = status === workedOn();
  const buttons = deeds.flatMap((action) => [
    { action, which: "chosen", count: chosen.size, off: chosen.size === 0 },
    ...(isOfOneStatus ? [{ action, which: "all", count: page.matching, off: page.matching === 0 }] : []),
  ]);
  rows($("letters-actions"), buttons, ({ action, which }) => `${action}-${which}`, makeButton, (button, { action, which, count, off }) => {
    const word = action[0].toUpperCase() + action.slice(1);
    say(button, which === "all" ? `${word} all ${number(count)}…` : `${word} ${count || "chosen"}…`);
    button.disabled = off;
  });
}

function makeButton({ action, which }) {
  const button = element("button", { type: "button", id: `${action}-${which}`, class: action === "discard" ? "danger" : null });
  button.onclick = () => {
    if (which === "chosen") actOnSome(action, [...chosen], null, closed);
    else actOnAll(action, wantedOf(place().query), page.matching, workable(), closed);
  };
  return button;
}

// As a job takes it, whose action says which status it is for.
function wantedOf(query) {
  const { status, ...wanted } = filter(query);
  return wanted;
}

async function closed() {
  chosen.clear();
  await refresh();
  if (document.activeElement === document.body) keys.restore($("letters-title"));
}

// The address has what is looked for, so that it can be kept and passed on.
function search() {
  const values = Object.entries(FIELDS).map(([name, field]) => [name, $(field).value.trim()]);
  const asked = Object.fromEntries(values);
  if (asked.status === "PARKED") asked.status = "";
  chosen.clear();
  replace("letters", asked);
}

function turn(parameters) {
  const kept = Object.fromEntries(place().query);
  delete kept.before;
  delete kept.after;
  location.hash = link("letters", { ...kept, ...parameters });
}

export function startLetters() {
  keys = roam($("letters"), "input, button");
  $("which").onsubmit = (event) => {
    event.preventDefault();
    search();
  };
  for (const field of ["which-status", "which-topic", "which-code"]) $(field).onchange = search;
  $("choose-all").onchange = () => {
    chosen = new Set($("choose-all").checked ? workable() : []);
    show("");
  };
  $("letters-latest").onclick = () => turn({});
  $("letters-newer").onclick = () => turn({ after: page.letters[0]?.id });
  $("letters-older").onclick = () => turn({ before: page.letters.at(-1)?.id });
  onRoute("letters", (query) => {
    for (const [name, field] of Object.entries(FIELDS)) {
      const value = query.get(name) ?? (name === "status" ? "PARKED" : "");
      if (name === "topic" || name === "code") offer($(field), [value]);
      if ($(field).value !== value) $(field).value = value;
    }
    refresh();
  });
}
