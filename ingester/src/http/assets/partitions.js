// The table of partitions, and what an operator does with one.
import { $, cell, duration, element, number, onSubmit, openDialog, rows, say } from "./dom.js";
import { ask, by, unlocked } from "./api.js";

const ACTIONS = {
  pause: ["Pause", "Nothing of it is committed until it is resumed; its records wait in Kafka. It waits for the batch in flight."],
  resume: ["Resume", "It goes on where it stopped."],
  "step-down": ["Step down", "Another instance takes over, if there is one."],
};

const name = (partition) => `${partition.topic}/${partition.partition}`;

export function showPartitions(partitions) {
  const sorted = [...partitions].sort((a, b) => a.topic.localeCompare(b.topic) || a.partition - b.partition);
  rows($("partitions").tBodies[0], sorted, name, make, update);
  $("no-partitions").hidden = partitions.length > 0;
}

function make(partition) {
  const button = (action) => {
    const [word] = ACTIONS[action];
    const made = element("button", { type: "button", "data-action": action, "aria-label": `${word} ${name(partition)}` }, word);
    made.onclick = () => act(partition, action);
    return made;
  };
  const resume = button("resume");
  resume.hidden = true;
  const state = cell("td", "State", "", element("span"), element("span", { class: "reason" }));
  return element(
    "tr",
    { role: "row" },
    cell("th", "Partition", "", name(partition)),
    state,
    cell("td", "Leader", ""),
    cell("td", "Waiting", "number"),
    cell("td", "Records/s", "number"),
    cell("td", "Offset", "number"),
    cell("td", "Last batch", "wide"),
    cell("td", "Actions", "buttons", button("pause"), resume, " ", button("step-down")),
  );
}

function update(row, partition) {
  const [, state, leader, lag, rate, offset, batch, buttons] = row.children;
  const [word, reason] = state.children;
  say(word, partition.state);
  word.className = `state ${partition.state.replace(" ", "-")}`;
  say(reason, partition.reason ?? "");
  say(leader, partition.leader_svc_id ?? "nobody");
  say(lag, number(partition.lag));
  say(rate, number(partition.records_per_second));
  say(offset, number(partition.commit_offset));
  say(batch, lastBatch(partition));
  // By hand: a handler that is paused is resumed in SQL.
  const isPaused = partition.state === "paused" && (partition.reason ?? "").startsWith("paused by hand");
  swap(buttons.querySelector("[data-action=pause]"), buttons.querySelector("[data-action=resume]"), isPaused);
  buttons.querySelector("[data-action=step-down]").disabled = !partition.leader_svc_id;
}

// Whoever has just paused goes on at the button that resumes.
function swap(first, second, isSecond) {
  const hadFocus = document.activeElement === first || document.activeElement === second;
  if (first.hidden === isSecond) return;
  first.hidden = isSecond;
  second.hidden = !isSecond;
  if (hadFocus) (isSecond ? second : first).focus();
}

function lastBatch(partition) {
  if (typeof partition.last_batch_records !== "number") return "–";
  const phases = ["copy", "apply", "commit"].map((phase) => `${phase} ${duration((partition[`last_${phase}_us`] ?? 0) / 1_000)}`);
  return `${number(partition.last_batch_records)} rows: ${phases.join(", ")}`;
}

async function act(partition, action) {
  if (!(await unlocked())) return;
  const [word, text] = ACTIONS[action];
  const dialog = $("action-dialog");
  say($("action-title"), `${word} ${name(partition)}`);
  say($("action-text"), text);
  say($("action-go"), word);
  $("action-why").value = "";
  openDialog(dialog);
  onSubmit(dialog, async () => {
    const path = `/api/partitions/${encodeURIComponent(partition.topic)}/${partition.partition}/${action}`;
    const answer = await ask(path, { by: by(), why: $("action-why").value });
    say($("done"), answer.said);
  });
}
