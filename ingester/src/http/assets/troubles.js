// What is wrong, in words and numbers, each with the way to it; and how the cluster is.
import { $, age, element, foreign, number, plural, rows, say, set, visible } from "./dom.js";
import { link } from "./route.js";
import { tooOld } from "./partitions.js";

// States that wait for a person, the worst first.
export const TROUBLED = ["halted", "no leader", "stalled", "retrying", "paused"];
// Longer than a busy minute: somebody should look.
const LATE_S = 60;
// For so long an instance that has gone without a word is news.
const GONE_S = 600;

const bad = (text, href = null) => ({ text, href, level: "bad" });
const warn = (text, href = null) => ({ text, href, level: "warn" });

export function troublesOf(state) {
  const found = [];
  if (!state.kafka_connected) found.push(bad("Kafka does not answer"));
  if (!state.database_connected || state.trouble) found.push(bad(`PostgreSQL: ${state.trouble ?? "does not answer"}`));
  if (state.redis_connected === false) found.push(warn("Redis does not answer"));
  if (state.cannot_lead) found.push(bad(`this instance cannot lead: ${state.cannot_lead}`, link("instances")));
  for (const name of TROUBLED) {
    const count = state.partitions.filter((partition) => partition.state === name).length;
    const words = name === "no leader" ? `${plural(count, "partition")} without a leader` : `${plural(count, "partition")} ${name}`;
    if (count) found.push((TROUBLED.indexOf(name) < 3 ? bad : warn)(words, link("partitions", { state: name })));
  }
  const silent = state.partitions.filter(tooOld).length;
  if (silent) found.push(warn(`${plural(silent, "partition")} not heard of for a while`, link("partitions", { state: "unheard" })));
  const parked = state.parked.reduce((sum, { letters }) => sum + letters, 0);
  if (parked) found.push(warn(`${plural(parked, "dead letter")} parked`, link("letters")));
  const oldest = oldestOf(state);
  if (oldest?.waiting_s > LATE_S) {
    found.push(warn(`oldest record has waited for ${age(oldest.waiting_s)} in ${oldest.topic}/${oldest.partition}`, link("partitions", { sort: "oldest" })));
  }
  const gone = state.instances.filter((one) => !one.is_live && one.overdue_s < GONE_S);
  if (gone.length) found.push(warn(`${plural(gone.length, "instance")} gone without a word: ${gone.map((one) => one.service_id).join(", ")}`, link("instances")));
  if (state.missing_topics.length) found.push(warn(`no topic ${state.missing_topics.join(", ")}`));
  if (state.other_writers.length) found.push(warn(`others may write Sluice's tables: ${state.other_writers.join(", ")}`));
  return found;
}

const oldestOf = (state) =>
  state.partitions.reduce((oldest, one) => ((one.waiting_s ?? 0) > (oldest?.waiting_s ?? 0) ? one : oldest), null);

function factsOf(state) {
  const running = state.partitions.filter(({ state: name }) => name === "running").length;
  const waiting = state.partitions.reduce((sum, { lag }) => sum + (lag ?? 0), 0);
  const oldest = oldestOf(state);
  const since = oldest ? `, the oldest for ${age(oldest.waiting_s)}` : "";
  const live = state.instances.filter((one) => one.is_live).length;
  const jobs = state.jobs.filter(({ ended_ms }) => ended_ms === null);
  return [
    [`${number(running)} of ${plural(state.partitions.length, "partition")} running`, link("partitions")],
    [`${plural(waiting, "record")} waiting${since}`, link("partitions", { sort: "oldest" })],
    [plural(live, "instance"), link("instances")],
    ...jobs.map((job) => [`job: ${job.action} ${number(job.seen)} of ${number(job.total)}`, link("letters")]),
  ];
}

export function showTroubles(state) {
  const troubles = troublesOf(state);
  const isBad = troubles.some(({ level }) => level === "bad");
  const health = troubles.length === 0 ? "ok" : plural(troubles.length, "thing is wrong", "things are wrong");
  say($("health"), health);
  set($("health"), "class", `state ${troubles.length === 0 ? "good" : isBad ? "bad" : "warn"}`);
  list($("troubles"), troubles.map(({ text, href, level }) => [text, href, level]));
  list($("facts"), factsOf(state));
  title(troubles.map(({ text }) => text));
}

export function title(troubles) {
  const news = troubles.length === 0 ? "ok" : troubles.join(", ");
  const text = visible(`${news} – Sluice`);
  if (document.title !== text) document.title = text;
}

function list(place, entries) {
  rows(
    place,
    entries.map((entry, at) => ({ entry, key: `${at} ${entry[1] !== null}` })),
    ({ key }) => key,
    ({ entry: [, href] }) => element("li", {}, element(href === null ? "span" : "a", {}, foreign(""))),
    (item, { entry: [text, href, level = ""] }) => {
      say(item.firstChild.firstChild, text);
      if (href !== null) set(item.firstChild, "href", href);
      set(item, "class", level);
    },
  );
}
