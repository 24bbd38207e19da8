// One dead letter: all that is known of it, its payload, and what was done with it.
import { $, element, foreign, number, openDialog, say, time, visible } from "./dom.js";
import { ask } from "./api.js";
import { actOnSome } from "./deeds.js";
import { bytesOf, indented, textOf } from "./payload.js";

const where = (letter) => `${letter.topic}/${letter.partition} @ ${letter.kafka_offset}`;

export async function showLetter(id, closed) {
  const dialog = $("letter-dialog");
  openDialog(dialog);
  dialog.onclose = () => closed();
  say($("letter-title"), `Dead letter ${id}`);
  await tell(id);
}

async function tell(id) {
  const dialog = $("letter-dialog");
  for (const place of [$("letter-facts"), $("letter-actions")]) place.replaceChildren();
  say($("payload"), "");
  say($("payload-said"), "");
  const buttons = ["replay", "discard", "restore"].map((action) => $(`letter-${action}`));
  for (const button of buttons) button.hidden = true;
  let letter;
  try {
    letter = await ask(`/api/dead-letters/${id}`);
  } catch (problem) {
    say(dialog.querySelector(".error"), problem.message);
    return;
  }
  const facts = {
    Record: foreign(where(letter)),
    Reason: foreign(letter.error_code),
    Message: foreign(letter.error_message),
    Status: letter.status,
    Tries: number(letter.attempts),
    Event: foreign(letter.event_id ?? "–"),
    Key: foreign(letter.key ?? "–"),
    Headers: foreign(letter.headers ? JSON.stringify(letter.headers) : "–"),
    "First failed": time(letter.first_failed_at),
    "Last change": time(letter.updated_at),
  };
  $("letter-facts").append(...Object.entries(facts).flatMap(([fact, value]) => [element("dt", {}, fact), element("dd", {}, value)]));
  const original = showPayload(letter);
  const actions = letter.actions.map((done) => {
    const became = done.reason ? `${done.verdict} ${done.reason}` : done.verdict;
    const how = done.corrected ? " with a corrected payload" : "";
    return element("li", {}, time(done.acted_at), `: ${done.action}${how} by ${visible(done.by_user)}, `, foreign(done.why ?? "no reason given"), `: ${became}`);
  });
  $("letter-actions").append(...(actions.length ? actions : [element("li", {}, "Nothing yet.")]));
  const can = { replay: letter.status === "PARKED", discard: letter.status === "PARKED", restore: letter.status === "DISCARDED" };
  for (const [action, isPossible] of Object.entries(can)) {
    const button = $(`letter-${action}`);
    button.hidden = !isPossible;
    button.onclick = () =>
      actOnSome(action, [id], original, async () => {
        await tell(id);
        if (!dialog.contains(document.activeElement) || document.activeElement === dialog) $("letter-title").focus();
      });
  }
}

// Answers the text that a correction begins with, if the payload is a text.
function showPayload(letter) {
  // What was corrected and failed again is what is tried next.
  const next = letter.retry_payload ?? letter.payload;
  const text = textOf(next);
  const kind = next === null ? "No payload" : text === null ? "Payload, not text: in base64" : "Payload";
  say($("payload-title"), kind + (letter.retry_payload === null ? "" : ", as it was corrected"));
  const raw = text ?? next ?? "";
  const isJson = text !== null && indented(text) !== text;
  const show = () => say($("payload"), isJson && $("payload-pretty").checked ? indented(text) : raw);
  $("payload-pretty").disabled = !isJson;
  $("payload-pretty").onchange = show;
  show();
  $("payload-copy").disabled = $("payload-download").disabled = next === null;
  $("payload-copy").onclick = () => copy(raw);
  $("payload-download").onclick = () => download(letter.id, next, text !== null);
  return next === null ? "" : text;
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    say($("payload-said"), "Copied as it came.");
  } catch {
    // Browsers give the clipboard to pages by TLS or of this machine only.
    getSelection().selectAllChildren($("payload"));
    say($("payload-said"), "The browser does not let this page copy: the payload is selected.");
  }
}

function download(id, base64, isText) {
  const kind = isText ? "application/json" : "application/octet-stream";
  const href = URL.createObjectURL(new Blob([bytesOf(base64)], { type: kind }));
  element("a", { href, download: `dead-letter-${id}.${isText ? "json" : "bin"}` }).click();
  setTimeout(() => URL.revokeObjectURL(href), 10_000);
  say($("payload-said"), "Downloaded byte for byte.");
}
