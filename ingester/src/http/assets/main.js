// Asks once a second how things are, as long as somebody looks.
import { $, number, say } from "./dom.js";
import { Problem, ask, lock, tellWhether, unlocked } from "./api.js";
import { showDelays, showVerdicts } from "./charts.js";
import { refreshLetters, showParked, startLetters } from "./letters.js";
import { showPartitions } from "./partitions.js";

const INTERVAL_MS = 1_000;
// Dead letters are asked for when their number changes, and this often.
const LETTERS_MS = 10_000;

let parked = null;
let lettersAt = 0;
let lastAnswer = Date.now();
let waitsForToken = false;

async function look() {
  try {
    const state = await ask("/api/state");
    lastAnswer = Date.now();
    say($("problem"), "");
    show(state);
    const now = JSON.stringify(state.parked);
    if (now !== parked || Date.now() - lettersAt > LETTERS_MS) {
      parked = now;
      lettersAt = Date.now();
      await refreshLetters();
    }
  } catch (problem) {
    if (problem.status === 401 && !waitsForToken) {
      waitsForToken = true;
      unlocked().then(() => (waitsForToken = false));
    }
    const seconds = number((Date.now() - lastAnswer) / 1_000);
    const old = problem.status === 0 ? `; what you see is ${seconds} s old` : "";
    say($("problem"), `${problem.message}${old}`);
    if (!(problem instanceof Problem)) console.error(problem);
  }
}

function show(state) {
  say($("instance"), `${state.service_id}, version ${state.version}`);
  say($("health"), state.status);
  $("health").className = `state ${state.status}`;
  say($("last-processed"), state.last_processed_event ? `last event processed at ${state.last_processed_event}` : "");
  const troubles = [
    state.kafka_connected ? "" : "Kafka does not answer",
    state.database_connected ? "" : "PostgreSQL does not answer",
    state.trouble ? `PostgreSQL: ${state.trouble}` : "",
    state.redis_connected === false ? "Redis does not answer" : "",
    state.missing_topics.length ? `no topic ${state.missing_topics.join(", ")}` : "",
    state.other_writers.length ? `others may write Sluice's tables: ${state.other_writers.join(", ")}` : "",
  ];
  say($("troubles"), troubles.filter(Boolean).join("; "));
  const age = state.seen_s_ago === null ? "PostgreSQL was not seen yet" : `seen in PostgreSQL ${number(state.seen_s_ago)} s ago`;
  say($("stale"), `What other instances lead is as ${age}: ${state.trouble ?? "no news"}.`);
  $("stale").hidden = !state.stale;
  showPartitions(state.partitions);
  showVerdicts(state.history);
  showDelays(state.history);
  showParked(state.parked);
}

async function watch() {
  for (;;) {
    if (!document.hidden) await look();
    await new Promise((next) => setTimeout(next, INTERVAL_MS));
  }
}

$("unlock").onclick = unlocked;
$("lock").onclick = () => {
  lock();
  $("unlock").focus();
};
tellWhether();
startLetters();
watch();
