// Rates and backlogs of all instances, verdicts and delays of this one: the last ten minutes.
import { $, duration, element, number, say, shape } from "./dom.js";

const WIDTH = 600;
const HEIGHT = 150;
const VERDICTS = ["applied", "rejected", "duplicate", "dead"];
const INTERVALS = 300;

// The newest interval is at the right edge, however few there are yet.
const across = (at, count) => WIDTH - ((count - 1 - at) * WIDTH) / (INTERVALS - 1);
const sum = (values) => values.reduce((total, value) => total + value, 0);

function legend(list, entries) {
  if (list.children.length !== entries.length) {
    list.replaceChildren(...entries.map(([name]) => element("li", { class: name })));
  }
  entries.forEach(([, text], at) => say(list.children[at], text));
}

export function showVerdicts(history) {
  const count = history.applied.length;
  const seconds = history.interval_ms / 1_000;
  const below = new Array(count).fill(0);
  const layers = VERDICTS.map((verdict) => {
    const lower = [...below];
    history[verdict].forEach((records, at) => (below[at] += records));
    return [verdict, lower, [...below]];
  });
  const top = Math.max(1, ...below);
  const up = (value) => HEIGHT - (value * HEIGHT) / top;
  const point = (values) => (_, at) => `${across(at, count).toFixed(1)},${up(values[at]).toFixed(1)}`;
  const areas = layers.map(([verdict, lower, upper]) => {
    const edge = [...upper.map(point(upper)), ...lower.map(point(lower)).reverse()];
    return shape("path", { class: verdict, d: count > 1 ? `M${edge.join("L")}Z` : "" });
  });
  $("verdicts").replaceChildren(...areas);
  say($("verdicts-top"), `top: ${number(top / seconds)}/s`);
  const now = (verdict) => (history[verdict].at(-1) ?? 0) / seconds;
  legend($("verdicts-legend"), VERDICTS.map((verdict) => [verdict, `${verdict} ${number(now(verdict))}/s`]));
  const totals = VERDICTS.map((verdict) => `${number(sum(history[verdict]))} ${verdict}`);
  say($("verdicts-summary"), `In ten minutes: ${totals.join(", ")}.`);
}

export function showDelays(history) {
  const lines = [
    ["half", "half within", history.delay_p50_ms],
    ["most", "99 % within", history.delay_p99_ms],
  ];
  const count = history.delay_p50_ms.length;
  const top = Math.max(1, ...history.delay_p99_ms);
  const drawn = lines.flatMap(([name, , values]) =>
    stretches(values).map((stretch) => {
      const points = stretch.map(([at, ms]) => `${across(at, count).toFixed(1)},${(HEIGHT - (ms * HEIGHT) / top).toFixed(1)}`);
      return shape("polyline", { class: name, points: points.join(" ") });
    }),
  );
  $("delays").replaceChildren(...drawn);
  say($("delays-top"), `top: ${duration(top)}`);
  const last = (values) => values.findLast((ms) => ms !== null);
  legend($("delays-legend"), lines.map(([name, text, values]) => [name, `${text} ${duration(last(values))}`]));
  const longest = history.delay_max_ms.filter((ms) => ms !== null);
  const most = longest.length ? `The longest of ten minutes: ${duration(Math.max(...longest))}.` : "Nothing was committed in ten minutes.";
  say($("delays-summary"), most);
}

// Where nothing was committed there is no delay, and no line.
function stretches(values) {
  const found = [];
  let open = null;
  values.forEach((ms, at) => {
    if (ms === null) open = null;
    else if (open === null) found.push((open = [[at, ms]]));
    else open.push([at, ms]);
  });
  return found.map((stretch) => (stretch.length > 1 ? stretch : [[stretch[0][0] - 0.5, stretch[0][1]], [stretch[0][0] + 0.5, stretch[0][1]]]));
}

const MINUTES = 10;

// One line over all instances, from the database's samples: each at its time.
function showLine(name, trend, values, texts) {
  const times = trend.at_ms;
  const [now, span] = [times.at(-1) ?? 0, MINUTES * 60_000];
  const top = Math.max(1, ...values);
  const points = times.map((at, index) => `${(WIDTH - ((now - at) * WIDTH) / span).toFixed(1)},${(HEIGHT - (values[index] * HEIGHT) / top).toFixed(1)}`);
  $(name).replaceChildren(shape("polyline", { class: "half", points: points.length > 1 ? points.join(" ") : "" }));
  say($(`${name}-top`), `top: ${texts.top(top)}`);
  say($(`${name}-summary`), values.length ? texts.summary(values.at(-1), top) : "Nothing was seen yet.");
}

export function showTrend(trend) {
  const [first, last] = [trend.at_ms[0], trend.at_ms.at(-1)];
  for (const place of document.querySelectorAll(".chart-start")) say(place, first === undefined ? "" : `${MINUTES} min ago`);
  const minutes = first === undefined ? 0 : Math.min(MINUTES, Math.ceil((last - first) / 60_000));
  showLine("rates", trend, trend.records_per_second, {
    top: (top) => `${number(top)}/s`,
    summary: (now, top) => `Now ${number(now)} records per second; the most of ${minutes} min: ${number(top)}.`,
  });
  showLine("lags", trend, trend.lag, {
    top: number,
    summary: (now, top) => `Now ${number(now)} records wait; the most of ${minutes} min: ${number(top)}.`,
  });
}
