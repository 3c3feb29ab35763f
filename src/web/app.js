// The frame: logging in, which view is shown, and what the daemon tells live.

import { act, bytes, count, get, h, many, post, span } from "/lib.js";
import { browse } from "/browse.js";
import { log, overview, pins, settings, transfers } from "/views.js";

const VIEWS = [
  ["overview", "Overview", overview],
  ["browse", "Browse", browse],
  ["transfers", "Transfers", transfers],
  ["pins", "Pins", pins],
  ["settings", "Settings", settings],
  ["log", "Log", log],
];
const KEPT_RATES = 90;

/** What the views show: the last status, what may be done, and how fast bytes came and went lately. */
export const state = { status: null, role: null, rates: [] };

const main = document.getElementById("main");
let shown = null;
let events = null;
let retry = null;
let last = null;

const badge = h("span", { class: "count", title: "failing tasks and conflicts" });
const links = new Map(VIEWS.map(([key, title]) => [key, h("a", { href: `#/${key}` }, title, key === "transfers" && badge)]));
document.getElementById("nav").append(...links.values());

function route() {
  const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/");
  const view = VIEWS.find(([key]) => key === name) || VIEWS[0];
  return [view, rest.map(decodeURIComponent).filter(Boolean).join("/")];
}

function nav() {
  const [[current]] = route();
  const publishing = state.status?.publishing;
  const trouble = publishing ? publishing.failures.reduce((sum, row) => sum + row.tasks, 0) + publishing.conflicts : 0;
  for (const [key, link] of links) {
    if (key === current) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  badge.textContent = trouble > 0 ? count(trouble) : "";
}

function show() {
  const [[key, title, view], path] = route();
  document.title = `${title} – ${state.status?.name || "Backlot"}`;
  if (shown?.key !== key) {
    shown?.view.end?.();
    main.className = "";
    main.replaceChildren();
    main.scrollTop = 0;
    shown = { key, view: view(main, state) };
    if (state.status) shown.view.status?.(state.status);
  }
  shown.view.path?.(path);
  nav();
}

function live(is) {
  const node = document.getElementById("live");
  const text = is ? "live" : "not connected";
  node.className = `live ${is ? "on" : "off"}`;
  if (node.textContent !== text) node.textContent = text;
}

function safe(status) {
  const { pending } = status.publishing;
  const files = pending.files + pending.writing + pending.deletes;
  const node = document.getElementById("safe");
  const eta = pending.eta_seconds ? `, ${span(pending.eta_seconds)} left` : "";
  const stuck = pending.stuck.tasks > 0;
  const text = files === 0 ? "all at its site" : `${many(files, "change")}, ${bytes(pending.bytes - pending.done_bytes)} not at its site yet${eta}`;
  node.className = `pill ${files === 0 ? "good" : stuck ? "bad" : "warn"}`;
  if (node.textContent !== text) node.textContent = text;
}

function take(status) {
  const now = performance.now();
  const sum = { at: now, came: status.hydration.fetched_bytes, went: status.publishing.sent_bytes };
  if (last && now - last.at > 200) {
    const seconds = (now - last.at) / 1000;
    const per = (key) => Math.max(0, (sum[key] - last[key]) / seconds);
    state.rates.push({ came: per("came"), went: per("went") });
    if (state.rates.length > KEPT_RATES) state.rates.shift();
  }
  if (!last || now - last.at > 200) last = sum;
  state.status = status;
  document.getElementById("drive").textContent = status.name;
  safe(status);
  nav();
  shown?.view.status?.(status);
}

function connect() {
  events?.close();
  events = new EventSource("/v1/events");
  events.addEventListener("open", () => live(true));
  events.addEventListener("status", (event) => take(JSON.parse(event.data)));
  events.addEventListener("change", (event) => shown?.view.change?.(new Set(JSON.parse(event.data).what)));
  events.addEventListener("log", (event) => shown?.view.line?.(JSON.parse(event.data)));
  events.addEventListener("error", () => {
    live(false);
    last = null;
    if (events.readyState !== EventSource.CLOSED) return;
    clearTimeout(retry);
    retry = setTimeout(begin, 2000);
  });
}

function login() {
  events?.close();
  clearTimeout(retry);
  shown?.view.end?.();
  shown = null;
  state.role = null;
  document.getElementById("top").hidden = true;
  main.className = "";
  const said = h("p", { class: "bad", role: "alert" });
  const token = h("input", { type: "password", id: "token", name: "token", autocomplete: "current-password", required: true });
  const enter = async (event) => {
    event.preventDefault();
    said.textContent = "";
    try {
      await post("/v1/login", { token: token.value });
      token.value = "";
      begin();
    } catch (error) {
      said.textContent = error.hint ? `${error.message}: ${error.hint}` : error.message;
      token.select();
    }
  };
  main.replaceChildren(
    h("section", { class: "card login" },
      h("h1", {}, "Backlot"),
      h("form", { onsubmit: enter },
        h("label", { for: "token", class: "dim" }, "Token: of the file or variable that api.admin-token or api.viewer-token names"),
        token,
        h("button", { class: "main", type: "submit" }, "Log in"),
        said)),
  );
  token.focus();
}

async function begin() {
  clearTimeout(retry);
  try {
    state.role = (await get("/v1/session")).role;
  } catch (error) {
    if (error.status !== 401) {
      live(false);
      retry = setTimeout(begin, 2000);
    }
    return;
  }
  document.getElementById("top").hidden = false;
  document.getElementById("role").textContent = state.role;
  show();
  connect();
}

document.addEventListener("logged-out", login);
document.getElementById("logout").addEventListener("click", () => act(async () => {
  await post("/v1/logout");
  login();
}));
window.addEventListener("hashchange", () => state.role && show());
// A page that nobody sees costs the daemon nothing.
document.addEventListener("visibilitychange", () => {
  if (!state.role) return;
  if (document.hidden) events?.close();
  else connect();
});
begin();
