// What is done with dead letters: a dry run that shows the money, then the deed, its outcome, and the way back.
import { $, element, foreign, number, onSubmit, openDialog, plural, say, visible } from "./dom.js";
import { ask, by, unlocked } from "./api.js";
import { jobText, makeJob, updateJob, watchJob } from "./jobs.js";
import { difference, indented } from "./payload.js";

const WORDS = { replay: ["Replay", "replayed"], discard: ["Discard", "discarded"], restore: ["Restore", "restored"] };
const letters = (count) => plural(count, "dead letter");

// One that is left out has no verdict, and the reason.
const isDone = ({ verdict }) => verdict !== null;
let hasSucceeded = false;
let unwatch = null;

// A correction is kept in this tab until it is replayed, whatever closes the dialog.
const draftOf = (id) => `correction of ${id}`;

function prepare(action, title, closed) {
  const dialog = $("deed-dialog");
  const [word] = WORDS[action];
  hasSucceeded = false;
  unwatch?.();
  unwatch = null;
  say($("deed-title"), title);
  say($("deed-go"), word);
  $("deed-go").className = action === "discard" ? "danger" : "";
  $("deed-why").value = "";
  $("deed-job").replaceChildren();
  for (const place of ["deed-go", "deed-reason", "outcome-title", "outcome-summary", "outcomes"]) $(place).hidden = false;
  $("deed-undo").hidden = true;
  say($("deed-close"), "Cancel");
  openDialog(dialog);
  dialog.onclose = () => closed(hasSucceeded);
  dialog.onkeydown = null;
  return dialog;
}

// The deed is done: what is left in the dialog is its outcome, and the focus is on it.
function succeed(dialog, text) {
  hasSucceeded = true;
  for (const place of ["deed-go", "deed-reason", "correction"]) $(place).hidden = true;
  say($("outcome-title"), "Outcome");
  say(dialog.querySelector(".done"), text);
  say($("deed-close"), "Close");
  dialog.querySelector(".done").focus();
}

export async function actOnSome(action, ids, original, closed) {
  if (!(await unlocked())) return;
  const [word, past] = WORDS[action];
  const dialog = prepare(action, `${word} ${letters(ids.length)}`, closed);
  const correction = startCorrection(dialog, action === "replay" && ids.length === 1 && original !== null ? ids[0] : null, original);
  let tried;
  let isPossible = false;
  const tellWhetherPossible = () => ($("deed-go").disabled = !isPossible || correction.given().payload !== tried);
  const dryRun = async () => {
    isPossible = false;
    tellWhetherPossible();
    say(dialog.querySelector(".error"), "");
    say($("outcome-title"), "Dry run: what would happen");
    say($("outcome-summary"), "Trying…");
    $("outcomes").replaceChildren();
    tried = correction.given().payload;
    try {
      const { outcomes } = await ask(`/api/dead-letters/${action}`, { ids, ...correction.given() });
      tell(action, outcomes, true);
      isPossible = outcomes.some(isDone);
      tellWhetherPossible();
    } catch (problem) {
      say($("outcome-summary"), "");
      say(dialog.querySelector(".error"), problem.message);
    }
  };
  $("try").onclick = dryRun;
  correction.onChange(tellWhetherPossible);
  onSubmit(dialog, async () => {
    const why = $("deed-why").value;
    const { outcomes } = await ask(`/api/dead-letters/${action}`, { ids, dry_run: false, by: by(), why, ...correction.given() });
    correction.forget();
    const done = outcomes.filter(isDone);
    tell(action, outcomes, false);
    succeed(dialog, `${done.length} of ${letters(ids.length)} ${past}: ${counts(outcomes)}`);
    if (action === "discard" && done.length) offerUndo(dialog, done.map(({ id }) => id), why);
    return "stay";
  });
  await dryRun();
}

function offerUndo(dialog, ids, why) {
  const undo = $("deed-undo");
  undo.hidden = false;
  undo.onclick = async () => {
    undo.disabled = true;
    try {
      const body = { ids, dry_run: false, by: by(), why: `undone: ${why}`.slice(0, 1_000) };
      const { outcomes } = await ask("/api/dead-letters/restore", body);
      undo.hidden = true;
      tell("restore", outcomes, false);
      succeed(dialog, `${outcomes.filter(isDone).length} of ${letters(ids.length)} parked again`);
    } catch (problem) {
      say(dialog.querySelector(".error"), problem.message);
    } finally {
      undo.disabled = false;
    }
  };
}

// The field with a corrected payload: its draft, what it changes, and that no key throws it away.
function startCorrection(dialog, id, original) {
  const field = $("corrected");
  const isOffered = id !== null;
  $("correction").hidden = !isOffered;
  field.value = original ?? "";
  // As the field has it, which keeps no carriage returns.
  const unchanged = field.value;
  let listener = () => {};
  const isChanged = () => isOffered && !hasSucceeded && field.value !== unchanged;
  const draft = isOffered ? sessionStorage.getItem(draftOf(id)) : null;
  if (draft !== null) field.value = draft;
  const changed = () => {
    if (isChanged()) sessionStorage.setItem(draftOf(id), field.value);
    else if (isOffered) sessionStorage.removeItem(draftOf(id));
    $("original").disabled = !isChanged();
    $("difference").hidden = !isChanged();
    showDifference(unchanged, field.value);
    listener();
  };
  field.oninput = changed;
  $("original").onclick = () => {
    field.value = unchanged;
    changed();
    field.focus();
  };
  dialog.onkeydown = (event) => {
    if (event.key !== "Escape" || !isChanged()) return;
    event.preventDefault();
    say($("draft"), "Escape does not close a correction. Cancel does, and keeps it in this tab.");
  };
  dialog.oncancel = (event) => {
    if (isChanged()) event.preventDefault();
  };
  changed();
  say($("draft"), draft === null ? "" : "Your correction from before, which was not replayed.");
  return {
    given: () => (isChanged() ? { payload: field.value } : {}),
    onChange: (told) => (listener = told),
    forget: () => isOffered && sessionStorage.removeItem(draftOf(id)),
  };
}

function showDifference(before, after) {
  if ($("difference").hidden) return;
  const lines = difference(indented(before), indented(after));
  const names = { "-": "del", "+": "ins", " ": "span" };
  $("diff").replaceChildren(...lines.flatMap(([sign, text]) => [element(names[sign], {}, `${sign} ${visible(text)}`), "\n"]));
}

function tell(action, outcomes, isTried) {
  const done = outcomes.filter(isDone);
  const missing = outcomes.length - done.length;
  const left = missing > 0 ? `; ${missing} left out` : "";
  const would = { replay: `would become ${counts(done)}`, discard: "would be given up", restore: "would be parked again" }[action];
  const did = { replay: `became ${counts(done)}`, discard: "given up", restore: "parked again" }[action];
  say($("outcome-summary"), isTried ? `${letters(done.length)} ${would}${left}. Nothing is changed yet.` : `${letters(done.length)} ${did}${left}.`);
  $("outcomes").replaceChildren(...outcomes.map((outcome) => outcomeOf(action, outcome)));
}

function outcomeOf(action, outcome) {
  const reason = [outcome.reason, outcome.message].filter(Boolean).join(": ");
  const place = outcome.topic === null ? "" : ` (${outcome.topic}/${outcome.partition} @ ${outcome.kafka_offset})`;
  const became = isDone(outcome) ? [(action === "replay" ? "" : "stays ") + outcome.verdict] : [];
  const text = `${outcome.id}${place}: ${[...became, reason].filter(Boolean).join(", ")}`;
  const changes = (outcome.changes ?? []).map((change) => element("li", { class: "money" }, moneyText(change, outcome.verdict)));
  return element("li", {}, foreign(text), ...(changes.length ? [element("ul", {}, ...changes)] : []));
}

const signed = (delta) => (delta.startsWith("-") || delta === "0" ? delta : `+${delta}`);

export function moneyText(change, verdict) {
  const parts = ["available", "frozen"]
    .map((name) => [name, change[`${name}_delta`], change[`${name}_after`]])
    .filter(([name, delta]) => name === "available" || delta !== "0")
    .map(([name, delta, after]) => `${name} ${signed(delta)} → ${after}`);
  const rejected = verdict === "REJECTED" ? ", not applied: the balance stays" : "";
  return `account ${change.account_id}, shard ${change.shard_id}, ${change.currency_code}: ${parts.join(", ")}${rejected}`;
}

function counts(outcomes) {
  const found = new Map();
  for (const { verdict } of outcomes.filter(isDone)) found.set(verdict, (found.get(verdict) ?? 0) + 1);
  return [...found].map(([verdict, count]) => `${number(count)} ${verdict}`).join(", ") || "nothing";
}

// All that match: a dry run of those on this page, then a job for all of them.
export async function actOnAll(action, filter, matching, sample, closed) {
  if (!(await unlocked())) return;
  const [word] = WORDS[action];
  const dialog = prepare(action, `${word} all ${letters(matching)} that match`, closed);
  startCorrection(dialog, null, null);
  $("deed-go").disabled = true;
  say($("outcome-title"), `Dry run of the ${number(sample.length)} on this page`);
  say($("outcome-summary"), "Trying…");
  $("outcomes").replaceChildren();
  onSubmit(dialog, async () => {
    const all = Object.keys(filter).length === 0;
    const job = await ask("/api/jobs", { action, filter, all, dry_run: false, by: by(), why: $("deed-why").value });
    for (const place of ["outcome-title", "outcome-summary", "outcomes"]) $(place).hidden = true;
    succeed(dialog, "The job runs in this instance: it goes on when this page is closed.");
    const item = makeJob(job);
    $("deed-job").append(element("ul", { "aria-label": "The job" }, item));
    updateJob(item, job);
    unwatch = watchJob(job.id, (now) => {
      updateJob(item, now);
      if (now.ended_ms !== null) say(dialog.querySelector(".done"), jobText(now));
    });
    return "stay";
  });
  try {
    const { outcomes } = await ask(`/api/dead-letters/${action}`, { ids: sample });
    tell(action, outcomes, true);
    $("deed-go").disabled = false;
  } catch (problem) {
    say($("outcome-summary"), "");
    say(dialog.querySelector(".error"), problem.message);
  }
}
