// What became of an event: every record that carried it, the money it moved, its dead letter.
import { $, element, foreign, plural, say, time } from "./dom.js";
import { ask } from "./api.js";
import { moneyText } from "./deeds.js";
import { showLetter } from "./letter.js";
import { link, onRoute, place } from "./route.js";

let asked = "";

async function find(query) {
  const [event_id, source] = [query.get("event_id") ?? "", query.get("source") ?? ""];
  $("event-id").value = event_id;
  $("event-source").value = source;
  asked = query.toString();
  $("event-found").replaceChildren();
  if (event_id === "") {
    say($("event-summary"), "");
    return;
  }
  say($("event-summary"), "Looking…");
  try {
    const wanted = new URLSearchParams({ event_id, ...(source === "" ? {} : { source }) });
    const answer = await ask(`/api/events?${wanted}`);
    if (asked === query.toString()) show(answer, source);
  } catch (problem) {
    if (asked === query.toString()) say($("event-summary"), problem.message);
  }
}

function show({ event_id, sources, records, dead_letters: letters }, source) {
  if (source === "") $("sources").replaceChildren(...sources.map((name) => element("option", { value: name })));
  const told = new Set(records.map(({ dead_letter }) => dead_letter?.id));
  const others = letters.filter(({ id }) => !told.has(id));
  const tried = source !== "" ? "" : sources.length ? ` It was looked up without a source and as of ${sources.join(", ")}.` : " It was looked up without a source.";
  const nothing = `No committed record carried the event ${event_id}, or it was pruned.${tried}`;
  say($("event-summary"), records.length + others.length === 0 ? nothing : `${plural(records.length, "record")} carried it${others.length ? `, ${plural(others.length, "dead letter")} more of this id` : ""}.`);
  $("event-found").replaceChildren(...records.map(recordOf), ...others.map(letterOf));
}

function fact(name, ...value) {
  return [element("dt", {}, name), element("dd", {}, ...value)];
}

function recordOf(record) {
  const became = record.reason ? `${record.verdict}, ${record.reason}` : record.verdict;
  const name = `${record.topic}/${record.partition} @ ${record.kafka_offset}`;
  const changes = record.changes.map((change) => element("li", { class: "money" }, moneyText(change, record.verdict)));
  const letter = record.dead_letter;
  return element(
    "section",
    { "aria-label": name },
    element("h3", {}, element("span", { class: `verdict ${record.verdict.toLowerCase()}` }, became), " ", foreign(name)),
    element(
      "dl",
      {},
      ...fact("Source", foreign(record.source ?? "none")),
      ...fact("Identity", record.is_first ? "this record owns the event's identity" : "another record owns the event's identity"),
      ...fact("Event time", record.event_time ? time(record.event_time) : "–"),
      ...fact("Committed", record.created_at ? time(record.created_at) : "–"),
      ...(record.result_told === null ? [] : fact("Result", record.result_told ? "told in RESULTS_TOPIC" : "not told yet")),
      ...(letter ? fact("Dead letter", letterButton(letter.id), ` ${letter.status}, ${letter.error_code}: `, foreign(letter.error_message)) : []),
    ),
    ...(changes.length ? [element("ul", {}, ...changes)] : []),
  );
}

function letterButton(id) {
  const button = element("button", { type: "button", "aria-label": `Look at dead letter ${id}` }, `${id}…`);
  button.onclick = () => showLetter(id, () => find(place().query).then(() => document.activeElement === document.body && $("event-title").focus()));
  return button;
}

function letterOf(letter) {
  return element(
    "section",
    { "aria-label": `Dead letter ${letter.id}` },
    element("h3", {}, `Dead letter, ${letter.status.toLowerCase()}`),
    element("dl", {}, ...fact("Letter", letterButton(letter.id)), ...fact("Record", foreign(`${letter.topic}/${letter.partition} @ ${letter.offset}`)), ...fact("Reason", foreign(`${letter.code}: ${letter.message}`))),
  );
}

export function startEvents() {
  $("event-form").onsubmit = (event) => {
    event.preventDefault();
    const address = link("event", { event_id: $("event-id").value.trim(), source: $("event-source").value.trim() });
    if (location.hash === address) find(place().query);
    else location.hash = address;
  };
  onRoute("event", find);
}
