// Questions to the instance that has sent this page. The token stays in this tab.
import { $, onSubmit, openDialog, say } from "./dom.js";

const PATIENCE_MS = 20_000;

export class Problem extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// Whether anybody may change something by this instance.
let isAllowed = false;

export const isUnlocked = () => sessionStorage.getItem("token") !== null;
export const by = () => sessionStorage.getItem("by") ?? "";

export function lock() {
  sessionStorage.removeItem("token");
  tellWhether();
}

export async function ask(path, body, token = sessionStorage.getItem("token")) {
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  const request = { headers, signal: AbortSignal.timeout(PATIENCE_MS) };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    Object.assign(request, { method: "POST", body: JSON.stringify(body) });
  }
  let response;
  try {
    response = await fetch(path, request);
  } catch {
    throw new Problem(0, "this instance does not answer");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  // Somebody else may have changed it.
  if (response.status === 401 && isUnlocked()) lock();
  throw new Problem(response.status, answer.error ?? `HTTP ${response.status}`);
}

// Whether whoever is here may change something; asks for the token where it is not known yet.
export function unlocked() {
  if (isUnlocked()) return Promise.resolve(true);
  const dialog = $("token-dialog");
  $("token").value = "";
  $("by").value = by();
  openDialog(dialog);
  onSubmit(dialog, async () => {
    const token = $("token").value.trim();
    await ask("/api/state", undefined, token);
    sessionStorage.setItem("token", token);
    sessionStorage.setItem("by", $("by").value.trim());
    tellWhether();
  });
  return new Promise((tell) => {
    dialog.addEventListener("close", () => tell(isUnlocked()), { once: true });
  });
}

// Without a token nobody may change anything: then there is no button for it, and a sentence says how to set one.
export function allowChanges(allowed) {
  if (isAllowed === allowed && $("no-token").hidden === allowed) return;
  isAllowed = allowed;
  $("no-token").hidden = allowed;
  document.body.classList.toggle("read-only", !allowed);
  tellWhether();
}

export function tellWhether() {
  $("unlock").hidden = isUnlocked() || !isAllowed;
  $("lock").hidden = !isUnlocked();
  say($("lock"), `Lock (${by()})`);
}
