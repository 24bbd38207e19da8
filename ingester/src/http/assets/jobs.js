// Jobs: what is done with all dead letters that match. They go on in the instance when this page is closed.
import { $, element, foreign, number, plural, rows, say, set } from "./dom.js";
import { ask, by, unlocked } from "./api.js";

const WORDS = { replay: "Replay", discard: "Discard", restore: "Restore" };
let shown = [];
const watchers = new Set();

// Tells of a job whenever there is news, until it has ended.
export function watchJob(id, tell) {
  const watcher = (jobs) => {
    const job = jobs.find((one) => one.id === id);
    if (job) tell(job);
    if (job && job.ended_ms !== null) watchers.delete(watcher);
  };
  watchers.add(watcher);
  watcher(shown);
  return () => watchers.delete(watcher);
}

export function showJobs(jobs) {
  shown = jobs;
  rows($("jobs"), jobs, ({ id }) => String(id), makeJob, updateJob);
  for (const watcher of watchers) watcher(jobs);
}

const counts = (found) => Object.entries(found).map(([name, count]) => `${number(count)} ${name}`).join(", ");

export function jobText(job) {
  const would = job.dry_run ? "dry run: " : "";
  const verdicts = counts(job.verdicts);
  const left = counts(job.left_out);
  return [
    `${would}${job.state}, ${number(job.seen)} of ${job.total === null ? "…" : plural(job.total, "letter")}`,
    verdicts && (job.dry_run ? `would become ${verdicts}` : job.action === "replay" ? `became ${verdicts}` : `${number(job.done)} ${job.action === "discard" ? "discarded" : "restored"}`),
    left && `left out: ${left}`,
    job.worn_out > 0 && `${number(job.worn_out)} that failed 20 times are left out: replay them one by one`,
    job.trouble,
  ].filter(Boolean).join("; ");
}

export function makeJob(job) {
  const stop = element("button", { type: "button", "data-stop": "" }, "Stop");
  stop.onclick = () => change(job.id, "stop", "stopped on the page", item);
  const undo = element("button", { type: "button", "data-undo": "" }, "Undo");
  undo.onclick = () => change(job.id, "undo", "the discard is undone", item);
  const name = `${WORDS[job.action]} ${job.which}`;
  const item = element(
    "li",
    { class: "job" },
    element("strong", {}, foreign(name)),
    " ",
    element("progress", { "aria-label": `Progress of: ${name}`, max: "1" }),
    " ",
    element("span", { class: "said" }),
    " ",
    stop,
    " ",
    undo,
    element("span", { class: "error", role: "alert" }),
  );
  return item;
}

export function updateJob(item, job) {
  const bar = item.querySelector("progress");
  if (job.total === null) bar.removeAttribute("value");
  else bar.value = job.total === 0 ? 1 : job.seen / job.total;
  say(item.querySelector(".said"), jobText(job));
  const [stop, undo] = [item.querySelector("[data-stop]"), item.querySelector("[data-undo]")];
  const hadFocus = document.activeElement === stop;
  stop.hidden = job.ended_ms !== null;
  set(stop, "disabled", job.state === "stopping" ? "" : null);
  undo.hidden = !job.can_be_undone;
  if (hadFocus && (stop.hidden || stop.disabled)) {
    set(item, "tabindex", "-1");
    item.focus();
  }
}

async function change(id, action, why, item) {
  if (!(await unlocked())) return;
  const error = item.querySelector(".error");
  say(error, "");
  try {
    await ask(`/api/jobs/${id}/${action}`, { by: by(), why });
  } catch (problem) {
    say(error, problem.message);
  }
}
