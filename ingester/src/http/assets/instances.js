// All instances of the cluster, those that have gone without a word included.
import { $, age, cell, element, foreign, number, rows, say, sayForeign, set } from "./dom.js";

// The session of an instance is named `sluice/VERSION NAME`.
const version = (session) => /^sluice\/(\d\S*) /.exec(session ?? "")?.[1] ?? null;

export function showInstances(state) {
  const led = Map.groupBy(state.partitions, ({ leader_svc_id }) => leader_svc_id);
  const known = state.instances.map((one) => {
    const own = led.get(one.service_id) ?? [];
    const heard = own.map(({ age_s }) => age_s).filter((seconds) => seconds !== null);
    return { ...one, own, heard_s: heard.length ? Math.min(...heard) : null, is_this: one.service_id === state.service_id, state };
  });
  rows($("instances").tBodies[0], known, ({ service_id }) => service_id, make, update);
}

const make = ({ service_id }) =>
  element(
    "tr",
    { role: "row" },
    cell("th", "Instance", "", foreign(service_id)),
    cell("td", "State", "", element("span", { class: "state" })),
    cell("td", "Version", "clip"),
    cell("td", "Leads", "number"),
    cell("td", "Waiting", "number"),
    cell("td", "Records/s", "number"),
    cell("td", "Heard of", ""),
  );

function update(row, one) {
  const [, state, of, leads, lag, rate, heard] = row.children;
  const add = (column) => one.own.reduce((sum, partition) => sum + (partition[column] ?? 0), 0);
  const isOld = !one.is_live || one.state.stale || (one.own.length > 0 && !(one.heard_s < 10));
  set(row, "class", isOld ? "old" : null);
  const word = state.firstChild;
  const text = !one.is_live ? "gone without a word" : isOld ? "not heard of" : one.is_this ? one.state.status : one.own.length ? "leading" : "standby";
  say(word, text);
  set(word, "class", `state ${isOld ? "old" : one.is_this ? one.state.status : "good"}`);
  sayForeign(of, one.is_this ? one.state.version : (version(one.session) ?? "–"));
  say(leads, number(one.own.length));
  say(lag, number(add("lag")));
  say(rate, number(add("records_per_second")));
  say(heard, one.is_live ? (one.heard_s === null ? "now" : `${age(one.heard_s)} ago`) : `${age(one.overdue_s)} ago`);
}
