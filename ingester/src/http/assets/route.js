// Sections with addresses of their own: `#/letters?code=MALFORMED_JSON`.
import { $, set } from "./dom.js";

const listeners = new Map();

export function place() {
  const [view, query] = location.hash.replace(/^#\//, "").split("?");
  const known = document.querySelector(`[data-view="${CSS.escape(view)}"]`) !== null;
  return { view: known ? view : "overview", query: new URLSearchParams(known ? query : "") };
}

export const isShown = (view) => place().view === view;

// What a section does when its address changes.
export const onRoute = (view, listener) => listeners.set(view, listener);

export function link(view, parameters = {}) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== "" && value !== null && value !== undefined));
  return `#/${view}${query.size ? `?${query}` : ""}`;
}

// A filter that is being typed is no page to come back to.
export function replace(view, parameters) {
  history.replaceState(null, "", link(view, parameters));
  route(false);
}

export const go = (view, parameters) => (location.hash = link(view, parameters));

function route(moveFocus = true) {
  const { view, query } = place();
  for (const section of document.querySelectorAll(".view")) section.hidden = section.dataset.view !== view;
  for (const anchor of $("sections").querySelectorAll("a")) {
    set(anchor, "aria-current", anchor.hash === `#/${view}` ? "page" : null);
  }
  listeners.get(view)?.(query);
  if (moveFocus) $(`${view}-title`).focus();
  if (moveFocus && view === "event") $("event-id").focus();
}

export function startRoutes() {
  addEventListener("hashchange", () => route());
  $("skip").onclick = (event) => {
    event.preventDefault();
    $("main").focus();
  };
  // With a modifier, so that nobody's typing or speech input is taken for it.
  addEventListener("keydown", (event) => {
    if (!(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "k" || document.querySelector("dialog[open]")) return;
    event.preventDefault();
    if (isShown("event")) $("event-id").select();
    else go("event");
  });
  route(isShown("event"));
}
