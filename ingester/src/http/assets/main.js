// Asks once a second how things are, as long as somebody looks.
import { $, age, say, set, startTimes, time } from "./dom.js";
import { Problem, allowChanges, ask, lock, tellWhether, unlocked } from "./api.js";
import { showDelays, showTrend, showVerdicts } from "./charts.js";
import { startEvents } from "./events.js";
import { showInstances } from "./instances.js";
import { showJobs } from "./jobs.js";
import { lettersMayHaveChanged, showParked, startLetters } from "./letters.js";
import { showPartitions, startPartitions } from "./partitions.js";
import { startRoutes } from "./route.js";
import { showTroubles, title } from "./troubles.js";

const INTERVAL_MS = 1_000;
// An answer takes some milliseconds: whoever needs so long does not answer.
const LATE_MS = 3_000;

let lastAnswer = Date.now();
let last = null;
// When the question was asked that has no answer yet.
let askedAt = null;
let waitsForToken = false;

async function look() {
  try {
    const state = await ask("/api/state");
    lastAnswer = Date.now();
    last = state;
    say($("problem"), "");
    show(last, 0);
    lettersMayHaveChanged(last.parked);
  } catch (problem) {
    if (problem.status === 401 && !waitsForToken) {
      waitsForToken = true;
      unlocked().then(() => (waitsForToken = false));
    }
    if (problem.status === 0) growOld();
    else say($("problem"), problem.message);
    if (!(problem instanceof Problem)) console.error(problem);
  }
}

// The instance does not answer: what is shown grows old, and says so.
function growOld() {
  const seconds = (Date.now() - lastAnswer) / 1_000;
  say($("problem"), `this instance does not answer; what you see is ${age(seconds)} old`);
  if (last !== null) show(last, seconds);
  say($("health"), "nothing known");
  set($("health"), "class", "state old");
  title(["this instance does not answer"]);
}

function tick() {
  if (document.hidden) return;
  if (askedAt === null) {
    askedAt = Date.now();
    look().finally(() => (askedAt = null));
  } else if (Date.now() - askedAt > LATE_MS) growOld();
}

// `late_s`: how long ago the instance said so.
function show(state, late_s) {
  const partitions = state.partitions.map((partition) => ({
    ...partition,
    age_s: partition.age_s === null ? null : partition.age_s + late_s,
  }));
  const aged = { ...state, partitions };
  say($("instance"), `this is ${state.service_id}, version ${state.version}: ${state.status}`);
  $("last-processed").replaceChildren(
    ...(state.last_processed_event ? ["This instance last committed an event at ", time(state.last_processed_event), "."] : []),
  );
  const seen = state.seen_s_ago === null ? "PostgreSQL was not seen yet" : `of ${age(state.seen_s_ago + late_s)} ago`;
  say($("stale"), `What other instances lead is ${seen}: ${state.trouble ?? "no news"}.`);
  $("stale").hidden = !state.stale;
  allowChanges(state.changes_allowed);
  showTroubles(aged);
  showPartitions(partitions);
  showInstances(aged);
  showTrend(state.trend);
  showVerdicts(state.history);
  showDelays(state.history);
  showParked(state.parked);
  showJobs(state.jobs);
}

$("unlock").onclick = unlocked;
$("lock").onclick = () => {
  lock();
  $("unlock").focus();
};
tellWhether();
startTimes($("zone"));
startPartitions();
startLetters();
startEvents();
startRoutes();
tick();
setInterval(tick, INTERVAL_MS);
addEventListener("visibilitychange", tick);
