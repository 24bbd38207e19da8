// Elements of the page, made and kept without any HTML from strings.

export const $ = (id) => document.getElementById(id);

export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  made.append(...children);
  return made;
}

export function shape(name, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [attribute, value] of Object.entries(attributes)) made.setAttribute(attribute, value);
  return made;
}

// Only what is new: a live page must not touch what somebody reads, selects or has the focus on.
export function say(place, text) {
  if (place.textContent !== text) place.textContent = text;
}

// One row for each item, kept from look to look.
export function rows(body, items, key, make, update) {
  const known = new Map([...body.children].map((row) => [row.dataset.key, row]));
  let place = body.firstElementChild;
  for (const item of items) {
    const row = known.get(key(item)) ?? make(item);
    row.dataset.key = key(item);
    known.delete(key(item));
    update(row, item);
    if (row === place) place = place.nextElementSibling;
    else body.insertBefore(row, place);
  }
  for (const row of known.values()) row.remove();
}

export function cell(name, label, className, ...children) {
  const roles = name === "th" ? { role: "rowheader", scope: "row" } : { role: "cell" };
  return element(name, { ...roles, "data-label": label, class: className }, ...children);
}

// A dialog that closes by its own buttons; the browser keeps the focus in it and brings it back.
export function openDialog(dialog) {
  for (const button of dialog.querySelectorAll("[data-close]")) button.onclick = () => dialog.close();
  say(dialog.querySelector(".error"), "");
  if (!dialog.open) dialog.showModal();
}

// What a form does: once at a time, and its failure is said where the reader is.
export function onSubmit(dialog, act) {
  const form = dialog.querySelector("form");
  form.onsubmit = async (event) => {
    event.preventDefault();
    const button = form.querySelector("[type=submit]");
    button.disabled = true;
    try {
      await act();
      dialog.close();
    } catch (problem) {
      say(dialog.querySelector(".error"), problem.message);
    } finally {
      button.disabled = false;
    }
  };
}

const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
export const number = (value) => (value === null || value === undefined ? "–" : numbers.format(value));

export function duration(ms) {
  if (ms === null || ms === undefined) return "–";
  if (ms < 10) return `${ms.toFixed(1)} ms`;
  if (ms < 10_000) return `${numbers.format(ms)} ms`;
  return ms < 600_000 ? `${numbers.format(ms / 1_000)} s` : `${numbers.format(ms / 60_000)} min`;
}

export const time = (text) => new Date(text).toLocaleString();
