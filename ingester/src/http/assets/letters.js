// Dead letters: look, replay after a dry run, discard, restore.
import { $, cell, element, number, onSubmit, openDialog, rows, say, time } from "./dom.js";
import { ask, by, unlocked } from "./api.js";

const WORDS = { replay: ["Replay", "replayed"], discard: ["Discard", "discarded"], restore: ["Restore", "restored"] };
const plural = (count) => `${count} dead letter${count === 1 ? "" : "s"}`;
const place = (letter) => `${letter.topic}/${letter.partition} @ ${letter.offset ?? letter.kafka_offset}`;

let chosen = new Set();
let shown = [];

export function showParked(parked) {
  const total = parked.reduce((sum, { letters }) => sum + letters, 0);
  const entries = parked.map(({ topic, code, letters }) => [`${topic} ${code}`, `${topic}: ${number(letters)} ${code}`]);
  const all = [["", `${number(total)} parked`], ...entries];
  rows($("parked"), all, ([key]) => key, () => element("li"), (item, [, text]) => say(item, text));
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

export async function refreshLetters() {
  const which = { status: $("which-status").value, topic: $("which-topic").value, code: $("which-code").value };
  const query = new URLSearchParams(Object.entries(which).filter(([, value]) => value !== ""));
  let answer = { letters: [], limit: 0 };
  let notice = "";
  try {
    answer = await ask(`/api/dead-letters?${query}`);
    if (answer.letters.length === answer.limit) notice = `The latest ${answer.limit}: choose a topic or a reason to see others.`;
  } catch (problem) {
    notice = problem.message;
  }
  shown = answer.letters;
  const ids = new Set(shown.map(({ id }) => id));
  chosen = new Set([...chosen].filter((id) => ids.has(id)));
  rows($("letters").tBodies[0], shown, ({ id }) => String(id), make, update);
  say($("letters-notice"), notice);
  $("letters-notice").hidden = notice === "";
  $("no-letters").hidden = shown.length > 0 || notice !== "";
  tellChosen();
}

function make(letter) {
  const box = element("input", { type: "checkbox", "aria-label": `Choose dead letter ${letter.id}` });
  box.onchange = () => {
    if (box.checked) chosen.add(letter.id);
    else chosen.delete(letter.id);
    tellChosen();
  };
  const look = element("button", { type: "button", "aria-label": `Look at dead letter ${letter.id}` }, "Look…");
  look.onclick = () => open(letter.id);
  return element(
    "tr",
    { role: "row" },
    cell("td", "Choose", "", box),
    cell("th", "Record", "", place(letter)),
    cell("td", "Event", "", letter.event_id ?? "–"),
    cell("td", "Reason", "wide", element("strong"), element("span", { class: "reason" })),
    cell("td", "Tries", "number"),
    cell("td", "First failed", "", time(letter.first_failed_at)),
    cell("td", "Look", "buttons", look),
  );
}

function update(row, letter) {
  const [choice, , , reason, tries] = row.children;
  choice.firstChild.disabled = letter.status !== "PARKED";
  choice.firstChild.checked = chosen.has(letter.id);
  say(reason.children[0], letter.status === "PARKED" ? letter.code : `${letter.code}, ${letter.status.toLowerCase()}`);
  say(reason.children[1], letter.message);
  say(tries, number(letter.attempts));
}

function parkedIds() {
  return shown.filter(({ status }) => status === "PARKED").map(({ id }) => id);
}

function tellChosen() {
  $("replay-chosen").disabled = $("discard-chosen").disabled = chosen.size === 0;
  say($("replay-chosen"), `Replay ${chosen.size || "chosen"}…`);
  say($("discard-chosen"), `Discard ${chosen.size || "chosen"}…`);
  const all = parkedIds();
  $("choose-all").disabled = all.length === 0;
  $("choose-all").checked = all.length > 0 && chosen.size === all.length;
  $("choose-all").indeterminate = chosen.size > 0 && chosen.size < all.length;
}

export function startLetters() {
  $("which").onsubmit = (event) => event.preventDefault();
  $("which").onchange = refreshLetters;
  $("choose-all").onchange = () => {
    chosen = new Set($("choose-all").checked ? parkedIds() : []);
    refreshLetters();
  };
  $("replay-chosen").onclick = () => act("replay", [...chosen]);
  $("discard-chosen").onclick = () => act("discard", [...chosen]);
}

async function open(id) {
  const dialog = $("letter-dialog");
  openDialog(dialog);
  say($("letter-title"), `Dead letter ${id}`);
  $("letter-facts").replaceChildren();
  $("letter-actions").replaceChildren();
  say($("payload"), "");
  $("letter-replay").disabled = $("letter-discard").disabled = $("letter-restore").disabled = true;
  let letter;
  try {
    letter = await ask(`/api/dead-letters/${id}`);
  } catch (problem) {
    say(dialog.querySelector(".error"), problem.message);
    return;
  }
  const facts = {
    Record: place(letter),
    Reason: letter.error_code,
    Message: letter.error_message,
    Status: letter.status,
    Tries: number(letter.attempts),
    Event: letter.event_id ?? "–",
    Key: letter.key ?? "–",
    Headers: letter.headers ? JSON.stringify(letter.headers) : "–",
    "First failed": time(letter.first_failed_at),
  };
  $("letter-facts").append(...Object.entries(facts).flatMap(([fact, value]) => [element("dt", {}, fact), element("dd", {}, value)]));
  // What was corrected and failed again is what is tried next.
  const next = letter.retry_payload ?? letter.payload;
  const text = textOf(next);
  say($("payload-title"), payloadTitle(next, text) + (letter.retry_payload === null ? "" : ", as it was corrected"));
  say($("payload"), text ?? next ?? "");
  const actions = letter.actions.map((done) => {
    const became = done.reason ? `${done.verdict} ${done.reason}` : done.verdict;
    return element("li", {}, `${time(done.acted_at)}: ${done.action} by ${done.by_user}, ${done.why ?? "no reason given"}: ${became}`);
  });
  $("letter-actions").append(...(actions.length ? actions : [element("li", {}, "Nothing yet.")]));
  const isParked = letter.status === "PARKED";
  $("letter-replay").disabled = $("letter-discard").disabled = !isParked;
  $("letter-restore").disabled = letter.status !== "DISCARDED";
  for (const action of Object.keys(WORDS)) {
    $(`letter-${action}`).onclick = () => {
      dialog.close();
      act(action, [id], text ?? "");
    };
  }
}

function payloadTitle(payload, text) {
  if (payload === null) return "No payload";
  return text === null ? "Payload, not text: in base64" : "Payload";
}

// The payload as the text that it is, byte for byte, if it is one.
function textOf(base64) {
  if (base64 === null) return null;
  const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

async function act(action, ids, original) {
  if (!(await unlocked())) return;
  const [word, past] = WORDS[action];
  const dialog = $("deed-dialog");
  say($("deed-title"), `${word} ${plural(ids.length)}`);
  say($("deed-go"), word);
  $("deed-why").value = "";
  $("corrected").value = original ?? "";
  $("correction").hidden = action !== "replay" || ids.length !== 1 || original === undefined;
  openDialog(dialog);
  // As the field has it, which keeps no carriage returns.
  const unchanged = $("corrected").value;
  const corrected = () => ($("correction").hidden || $("corrected").value === unchanged ? {} : { payload: $("corrected").value });
  let tried;
  let isPossible = false;
  const tellWhetherPossible = () => ($("deed-go").disabled = !isPossible || corrected().payload !== tried);
  const dryRun = async () => {
    isPossible = false;
    tellWhetherPossible();
    say(dialog.querySelector(".error"), "");
    say($("outcome-summary"), "Trying…");
    $("outcomes").replaceChildren();
    tried = corrected().payload;
    try {
      const { outcomes } = await ask(`/api/dead-letters/${action}`, { ids, ...corrected() });
      tell(action, outcomes);
      isPossible = outcomes.some(isDone);
      tellWhetherPossible();
    } catch (problem) {
      say($("outcome-summary"), "");
      say(dialog.querySelector(".error"), problem.message);
    }
  };
  $("try").onclick = dryRun;
  $("corrected").oninput = tellWhetherPossible;
  onSubmit(dialog, async () => {
    const asked = { ids, dry_run: false, by: by(), why: $("deed-why").value, ...corrected() };
    const { outcomes } = await ask(`/api/dead-letters/${action}`, asked);
    say($("done"), `${outcomes.filter(isDone).length} of ${plural(ids.length)} ${past}: ${counts(outcomes)}`);
    chosen.clear();
    await refreshLetters();
  });
  await dryRun();
}

// One that is left out has no verdict, and the reason.
const isDone = ({ verdict }) => verdict !== null;

function tell(action, outcomes) {
  const done = outcomes.filter(isDone);
  const missing = outcomes.length - done.length;
  const left = missing > 0 ? `; ${missing} left out` : "";
  const would = { replay: `would become ${counts(done)}`, discard: "would be given up", restore: "would be parked again" }[action];
  say($("outcome-summary"), `${plural(done.length)} ${would}${left}. Nothing is changed yet.`);
  const lines = outcomes.map((outcome) => {
    const reason = [outcome.reason, outcome.message].filter(Boolean).join(": ");
    const where = outcome.topic === null ? "" : ` (${place(outcome)})`;
    const became = isDone(outcome) ? [(action === "replay" ? "" : "stays ") + outcome.verdict] : [];
    return element("li", {}, `${outcome.id}${where}: ${[...became, reason].filter(Boolean).join(", ")}`);
  });
  $("outcomes").replaceChildren(...lines);
}

function counts(outcomes) {
  const found = new Map();
  for (const { verdict } of outcomes.filter(isDone)) found.set(verdict, (found.get(verdict) ?? 0) + 1);
  return [...found].map(([verdict, count]) => `${count} ${verdict}`).join(", ") || "nothing";
}
