// What the views share: elements made without markup, figures for people, and the way to the daemon.

/** Makes an element. Text is set as text: names are whatever somebody typed. */
export function h(tag, attrs, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attrs || {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name in node && typeof value !== "string") node[name] = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export function svg(tag, attrs, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attrs || {})) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

let isPressed = false;
const waiting = new Map();

function released() {
  isPressed = false;
  // After the click that this is the end of.
  setTimeout(() => {
    if (isPressed) return;
    const all = [...waiting.values()];
    waiting.clear();
    all.forEach((work) => work());
  });
}

window.addEventListener("pointerdown", () => (isPressed = true), true);
for (const end of ["pointerup", "pointercancel", "blur"]) window.addEventListener(end, released, true);

/** Changes what is shown, but not under a pressed button: its click would be lost. What comes later under a key counts. */
export function whenReleased(key, work) {
  if (isPressed) waiting.set(key, work);
  else work();
}

/** Puts new children in place of the old ones; the focus stays with what has the same `data-k`. */
export function replace(node, ...children) {
  whenReleased(node, () => put(node, children));
}

function put(node, children) {
  const at = node.contains(document.activeElement) ? document.activeElement.dataset.k : undefined;
  node.replaceChildren(...children.flat(3).filter(Boolean));
  if (at) node.querySelector(`[data-k="${CSS.escape(at)}"]`)?.focus({ preventScroll: true });
}

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];

export function bytes(count) {
  let unit = 0;
  let value = count || 0;
  while (value >= 1024 && unit < UNITS.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(value >= 10 ? 1 : 2)} ${UNITS[unit]}`;
}

export const rate = (perSecond) => `${bytes(perSecond)}/s`;
export const count = (number) => (number || 0).toLocaleString("en");
export const many = (number, one, more) => `${count(number)} ${number === 1 ? one : more || `${one}s`}`;

export function span(seconds) {
  if (seconds < 90) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  if (seconds < 129600) return `${(seconds / 3600).toFixed(1)} h`;
  return `${Math.round(seconds / 86400)} days`;
}

export const ago = (ms) => (ms ? `${span((Date.now() - ms) / 1000)} ago` : "never");

const pad = (number) => String(number).padStart(2, "0");

export function date(ms) {
  const at = new Date(ms);
  return `${at.getFullYear()}-${pad(at.getMonth() + 1)}-${pad(at.getDate())} ${pad(at.getHours())}:${pad(at.getMinutes())}`;
}

export function clock(ms) {
  const at = new Date(ms);
  return `${pad(at.getHours())}:${pad(at.getMinutes())}:${pad(at.getSeconds())}`;
}

export class Failed extends Error {
  constructor(status, problem) {
    super(problem?.title || `the daemon answered ${status}`);
    this.status = status;
    this.hint = problem?.hint;
  }
}

async function ask(method, path, body) {
  const options = { method, credentials: "same-origin", headers: { "X-Backlot": "1" } };
  if (body !== undefined) {
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Failed(0, { title: "the daemon does not answer", hint: "is the drive still mounted?" });
  }
  const json = await answer.json().catch(() => null);
  if (!answer.ok) {
    if (answer.status === 401 && path !== "/v1/login") document.dispatchEvent(new CustomEvent("logged-out"));
    throw new Failed(answer.status, json);
  }
  return json;
}

export const get = (path, query) => ask("GET", query ? `${path}?${new URLSearchParams(query)}` : path);
export const post = (path, body = {}) => ask("POST", path, body);

export function toast(text, isBad) {
  const node = h("div", { class: isBad ? "toast bad" : "toast" }, text);
  document.getElementById("toasts").append(node);
  setTimeout(() => node.remove(), isBad ? 9000 : 4000);
}

/** Does something that may fail, and says how it went. */
export async function act(work, done) {
  try {
    const answer = await work();
    if (done) toast(typeof done === "function" ? done(answer) : done);
    return answer;
  } catch (error) {
    toast(error.hint ? `${error.message} – ${error.hint}` : error.message, true);
    return undefined;
  }
}

/** Asks before something is done that can't be taken back. */
export function sure(title, text, yes) {
  const dialog = document.getElementById("confirm");
  document.getElementById("confirm-title").textContent = title;
  document.getElementById("confirm-text").textContent = text;
  document.getElementById("confirm-yes").textContent = yes;
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((answer) => dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), { once: true }));
}

/** At most one run at a time, and one more after it if it was asked for meanwhile; `pause` ms between two. */
export function throttled(work, pause) {
  let running = false;
  let again = false;
  return async function run() {
    if (running) {
      again = true;
      return;
    }
    running = true;
    try {
      await work();
    } finally {
      setTimeout(() => {
        running = false;
        if (again) {
          again = false;
          run();
        }
      }, pause);
    }
  };
}
