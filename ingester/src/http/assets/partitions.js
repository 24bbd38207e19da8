// The table of partitions, and what an operator does with one.
import { $, age, cell, duration, element, foreign, number, openDialog, plural, roam, rows, say, sayForeign, set, time } from "./dom.js";
import { ask, by, unlocked } from "./api.js";
import { isShown, onRoute, replace } from "./route.js";

// The order of their trouble; what is not named comes last.
const ORDER = ["halted", "no leader", "stalled", "retrying", "paused", "starting", "running"];
const CALM = ["running", "starting"];
const UNHEARD = "not heard of";
// Leaders report every two seconds, and the page asks once a second.
const OLD_S = 8;

const name = (partition) => `${partition.topic}/${partition.partition}`;
const byName = (a, b) => (a.topic < b.topic ? -1 : a.topic > b.topic ? 1 : a.partition - b.partition);

// What nobody has heard of lately is not known to run: the view itself forgets a report after ten seconds.
export const isUnheard = (partition) => partition.state === "starting" && partition.reported_at === null;
export const tooOld = (partition) => partition.age_s === null || partition.age_s > OLD_S;
const isOld = (partition) => tooOld(partition) || isUnheard(partition);
const isTroubled = (partition) => isOld(partition) || !CALM.includes(partition.state);

const rank = (partition) => {
  const at = ORDER.indexOf(partition.state);
  return isOld(partition) && CALM.includes(partition.state) ? ORDER.indexOf("starting") - 0.5 : at < 0 ? ORDER.length : at;
};
const SORTS = {
  "": (a, b) => rank(a) - rank(b) || byName(a, b),
  name: byName,
  waiting: (a, b) => (b.lag ?? -1) - (a.lag ?? -1) || byName(a, b),
  oldest: (a, b) => (b.waiting_s ?? -1) - (a.waiting_s ?? -1) || byName(a, b),
  rate: (a, b) => (b.records_per_second ?? -1) - (a.records_per_second ?? -1) || byName(a, b),
};

let all = [];
let open = null;
const expanded = new Set();
let keys;

function wanted(partition) {
  const state = $("partition-state").value;
  const text = $("partition-name").value.trim().toLowerCase();
  const fits = {
    "": true,
    troubled: isTroubled(partition),
    unheard: isOld(partition),
  }[state] ?? partition.state === state;
  return fits && (text === "" || `${name(partition)} ${partition.leader_svc_id ?? ""}`.toLowerCase().includes(text));
}

export function showPartitions(partitions) {
  all = partitions;
  offerStates();
  const found = all.filter(wanted).sort(SORTS[$("partition-sort").value] ?? SORTS[""]);
  const isGrouped = $("partition-group").checked;
  const lines = isGrouped ? grouped(found) : found.map((partition) => ({ key: name(partition), partition }));
  rows($("partitions").tBodies[0], lines, ({ key }) => key, make, update);
  keys.settle();
  say($("partition-count"), found.length === all.length ? plural(all.length, "partition") : `${number(found.length)} of ${plural(all.length, "partition")}`);
  say($("no-partitions"), all.length === 0 ? "No partition is known yet." : "No partition matches.");
  $("no-partitions").hidden = found.length > 0;
  const shown = open === null ? undefined : all.find((partition) => name(partition) === open);
  if (shown) tell(shown);
}

function offerStates() {
  const select = $("partition-state");
  const known = new Set([...select.options].map(({ value }) => value));
  for (const state of [...ORDER, "unheard"]) {
    if (known.has(state)) continue;
    select.add(new Option(state === "unheard" ? "Not heard of" : state[0].toUpperCase() + state.slice(1), state));
  }
}

// A row for each topic, in the order of its first partition, and those of its partitions where it is unfolded.
function grouped(found) {
  const topics = Map.groupBy(found, ({ topic }) => topic);
  return [...topics].flatMap(([topic, partitions]) => {
    const own = expanded.has(topic) ? partitions.map((partition) => ({ key: name(partition), partition })) : [];
    return [{ key: topic, topic, partitions }, ...own];
  });
}

const COLUMNS = [["State"], ["Leader"], ["Waiting", "number"], ["Records/s", "number"], ["Offset", "number"], ["Last batch", "number"]];

function make(line) {
  const isTopic = line.topic !== undefined;
  const button = element("button", { type: "button", class: isTopic ? "fold" : "name" }, foreign(""));
  button.onclick = () => (isTopic ? fold(line.topic) : look(line.key));
  const cells = COLUMNS.map(([label, className]) => cell("td", label, className));
  cells[0].append(element("span", { class: "state" }), element("span", { class: "reason" }));
  cells[1].classList.add("clip");
  return element("tr", { role: "row", class: isTopic ? "topic" : null }, cell("th", "Partition", "", button), ...cells);
}

function fold(topic) {
  if (!expanded.delete(topic)) expanded.add(topic);
  showPartitions(all);
}

const sum = (partitions, column) => partitions.reduce((total, partition) => total + (partition[column] ?? 0), 0);

function update(row, { topic, partitions, partition }) {
  const [head, state, leader, lag, rate, offset, batch] = row.children;
  const [word, reason] = state.children;
  if (topic !== undefined) {
    sayForeign(head.firstChild, topic);
    set(head.firstChild, "aria-expanded", String(expanded.has(topic)));
    const states = Map.groupBy(partitions, (one) => (isOld(one) ? UNHEARD : one.state));
    const counts = [...ORDER, UNHEARD].filter((name) => states.has(name)).map((name) => `${states.get(name).length} ${name}`);
    say(word, counts.join(", "));
    set(word, "class", `state ${partitions.some(isTroubled) ? (partitions.some((one) => ORDER.indexOf(one.state) < 3) ? "bad" : "warn") : "good"}`);
    say(leader, plural(new Set(partitions.map((one) => one.leader_svc_id).filter(Boolean)).size, "leader"));
    say(lag, number(sum(partitions, "lag")));
    say(rate, number(sum(partitions, "records_per_second")));
    say(batch, plural(partitions.length, "partition"));
    return;
  }
  sayForeign(head.firstChild, name(partition));
  set(row, "class", isOld(partition) ? "old" : null);
  say(word, stateText(partition));
  set(word, "class", `state ${isOld(partition) ? "old" : partition.state.replace(" ", "-")}`);
  sayForeign(reason, partition.reason ?? "");
  sayForeign(leader, partition.leader_svc_id ?? "nobody");
  say(lag, waiting(partition));
  say(rate, number(partition.records_per_second));
  say(offset, number(partition.commit_offset));
  say(batch, lastBatch(partition));
}

function stateText(partition) {
  if (isUnheard(partition)) return "no report";
  return tooOld(partition) ? `${partition.state}, ${age(partition.age_s)} ago` : partition.state;
}

function waiting(partition) {
  const since = partition.lag > 0 && partition.waiting_s >= 1 ? ` (${age(partition.waiting_s)})` : "";
  return `${number(partition.lag)}${since}`;
}

const PHASES = ["copy", "apply", "commit"];
const phase = (partition, name) => (partition[`last_${name}_us`] ?? 0) / 1_000;

function lastBatch(partition) {
  if (typeof partition.last_batch_records !== "number") return "–";
  const took = PHASES.reduce((total, name) => total + phase(partition, name), 0);
  return `${number(partition.last_batch_records)} in ${duration(took)}`;
}

function look(key) {
  open = key;
  $("partition-why").value = "";
  openDialog($("partition-dialog"));
  tell(all.find((partition) => name(partition) === key));
}

function tell(partition) {
  say($("partition-title"), name(partition));
  const batch = typeof partition.last_batch_records === "number";
  const facts = {
    State: [stateText(partition)],
    Reason: [partition.reason ?? "–"],
    Leader: [partition.leader_svc_id ?? "nobody"],
    "Lease left": [partition.lease_left_s > 0 ? age(partition.lease_left_s) : "–"],
    "Next offset": [number(partition.commit_offset)],
    Waiting: [waiting(partition)],
    "Last batch": [batch ? `${number(partition.last_batch_records)} rows: ${PHASES.map((name) => `${name} ${duration(phase(partition, name))}`).join(", ")}` : "–"],
    "Leader's report": [partition.reported_at ?? "–"],
  };
  const list = $("partition-facts");
  if (list.children.length === 0) for (const fact of Object.keys(facts)) list.append(element("dt", {}, fact), element("dd", {}, element("bdi")));
  Object.entries(facts).forEach(([fact, [text]], at) => {
    const place = list.children[2 * at + 1];
    if (fact === "Leader's report" && text !== "–") {
      if (place.firstChild.dateTime !== text) place.replaceChildren(time(text));
    } else if (place.firstChild.localName !== "bdi") place.replaceChildren(foreign(text));
    else say(place.firstChild, text);
  });
  // By hand: a handler that is paused is resumed in SQL.
  const isPaused = partition.state === "paused" && (partition.reason ?? "").startsWith("paused by hand");
  const [pause, resume, down] = ["pause", "resume", "step-down"].map((action) => $("partition-dialog").querySelector(`[data-action=${action}]`));
  swap(pause, resume, isPaused);
  set(down, "disabled", partition.leader_svc_id ? null : "");
}

// Whoever has just paused goes on at the button that resumes.
function swap(first, second, isSecond) {
  const hadFocus = document.activeElement === first || document.activeElement === second;
  if (first.hidden === isSecond && second.hidden !== isSecond) return;
  first.hidden = isSecond;
  second.hidden = !isSecond;
  if (hadFocus) (isSecond ? second : first).focus();
}

async function act(action) {
  const dialog = $("partition-dialog");
  const [error, done] = [dialog.querySelector(".error"), dialog.querySelector(".done")];
  say(error, "");
  say(done, "");
  const why = $("partition-why").value.trim();
  if (why === "") {
    say(error, "Say why: the reason is recorded.");
    $("partition-why").focus();
    return;
  }
  if (!(await unlocked())) return;
  const partition = all.find((one) => name(one) === open);
  try {
    const path = `/api/partitions/${encodeURIComponent(partition.topic)}/${partition.partition}/${action}`;
    const answer = await ask(path, { by: by(), why });
    say(done, answer.said);
  } catch (problem) {
    say(error, problem.message);
  }
}

// The address has what is looked at, so that it can be kept and passed on.
function remember() {
  const which = { name: $("partition-name").value, state: $("partition-state").value, sort: $("partition-sort").value };
  replace("partitions", { ...which, group: $("partition-group").checked ? "topic" : "" });
}

export function startPartitions() {
  keys = roam($("partitions"), "button");
  offerStates();
  const filter = $("partition-filter");
  filter.onsubmit = (event) => event.preventDefault();
  filter.oninput = remember;
  onRoute("partitions", (query) => {
    const values = { "partition-name": "name", "partition-state": "state", "partition-sort": "sort" };
    for (const [field, parameter] of Object.entries(values)) {
      const value = query.get(parameter) ?? "";
      if ($(field).value !== value) $(field).value = value;
    }
    $("partition-group").checked = query.get("group") === "topic";
    showPartitions(all);
  });
  const dialog = $("partition-dialog");
  dialog.addEventListener("close", () => {
    open = null;
    if (isShown("partitions") && document.activeElement === document.body) keys.restore($("partitions-title"));
  });
  dialog.querySelector("form").onsubmit = (event) => event.preventDefault();
  for (const button of dialog.querySelectorAll("[data-action]")) button.onclick = () => act(button.dataset.action);
}
