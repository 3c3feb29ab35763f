// The tree: one folder at a time, only the rows in sight as elements, so that a folder of 100,000 is as fast as one of ten.

import { act, bytes, count, date, get, h, many, post, replace, throttled, whenReleased } from "/lib.js";

const ROW = 28;
const MARGIN = 12;
/** The first answer is small, so that something is on the screen at once. */
const FIRST = 400;
const PAGE = 10000;
/** Rows are looked at again by ranges of the listing, so many rows each at most. */
const RANGE = 600;
const ORDER = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
const KINDS = { dir: 0, symlink: 1, file: 1 };

const byName = (a, b) => KINDS[a.kind] - KINDS[b.kind] || ORDER.compare(a.name, b.name) || a.cookie - b.cookie;
const join = (path, name) => (path ? `${path}/${name}` : name);
const link = (path) => `#/browse/${path.split("/").map(encodeURIComponent).join("/")}`;

export function browse(main, state) {
  let path = null;
  let rows = [];
  let shown = [];
  let chosen = new Set();
  let at = 0;
  let anchor = 0;
  let load = 0;
  let whole = false;

  const crumbs = h("nav", { class: "crumbs grow", "aria-label": "Folder" });
  const filter = h("input", { type: "search", placeholder: "filter this folder", "aria-label": "Filter this folder", oninput: () => arrange() });
  const told = h("span", { class: "dim", role: "status" });
  const button = (key, title, hint, onclick) => h("button", { type: "button", id: `do-${key}`, title: hint, onclick }, title);
  const buttons = [
    button("pin", "Pin", "keep here, now and later (P)", () => change("pin")),
    button("unpin", "Unpin", "no longer keep here (U)", () => change("unpin")),
    button("hydrate", "Make available", "bring here now (H)", () => change("hydrate")),
    button("evict", "Free space", "drop from the cache what is at its site (E)", () => change("evict")),
  ];
  const space = h("div", { class: "space" });
  const body = h("div", { class: "body", tabIndex: 0, role: "grid", "aria-label": "Files", "aria-multiselectable": "true", "aria-colcount": "5", onscroll: () => draw(), onkeydown: keys }, space);
  main.className = "fill";
  main.append(h("h1", { class: "skip" }, "Browse"),
    h("div", { class: "tools" }, crumbs, filter),
    h("div", { class: "tools" }, h("div", { class: "buttons", role: "toolbar", "aria-label": "What to do with the chosen" }, buttons), told),
    h("div", { class: "grid" },
      h("div", { class: "head", "aria-hidden": "true" }, ["", "Name", "State", "Here", "Size", "Changed"].map((title, column) => h("div", { class: column > 3 ? "cell num" : "cell" }, title))),
      body));
  const resized = new ResizeObserver(() => draw());
  resized.observe(body);

  function arrange() {
    const wanted = filter.value.toLowerCase();
    shown = wanted ? rows.filter((row) => row.name.toLowerCase().includes(wanted)) : rows;
    at = Math.min(at, Math.max(0, shown.length - 1));
    space.style.height = `${shown.length * ROW}px`;
    body.setAttribute("aria-rowcount", String(shown.length));
    draw();
  }

  function say(text) {
    const some = chosen.size > 0;
    buttons.forEach((node) => (node.disabled = !some || state.role !== "admin"));
    if (text) told.textContent = text;
    else if (some) told.textContent = `${count(chosen.size)} chosen`;
    else told.textContent = `${many(shown.length, "entry", "entries")}${whole ? "" : ", more to come"}`;
  }

  function here(row) {
    if (row.kind !== "file") return "";
    const share = row.size > 0 ? (row.cached_bytes || 0) / row.size : 1;
    if (share >= 1) return "all";
    if (share <= 0) return h("span", { class: "dim" }, "–");
    return [h("progress", { class: "thin", max: 1, value: share, "aria-label": `${Math.floor(share * 100)} % here` })];
  }

  function line(row, index) {
    const word = row.kind === "file" ? row.state : row.pinned ? "pinned" : "";
    const node = h("div", { class: `line${chosen.has(row.name) ? " chosen" : ""}${index === at ? " at" : ""}`, role: "row", id: `row-${index}`, "aria-rowindex": String(index + 1), "aria-selected": String(chosen.has(row.name)),
      onclick: (event) => pick(index, event) },
      h("div", { class: "cell box" }, h("input", { type: "checkbox", tabIndex: -1, checked: chosen.has(row.name), "aria-label": `choose ${row.name}`, onclick: (event) => { event.stopPropagation(); toggle(index); } })),
      h("div", { class: `cell name ${row.kind}`, role: "gridcell", title: row.name, onclick: row.kind === "dir" ? (event) => { event.stopPropagation(); open(row); } : null }, row.name),
      h("div", { class: "cell", role: "gridcell" }, word && h("span", { class: `state ${word}` }, word),
        row.pinned && word !== "pinned" && h("span", { class: "kept", title: "pinned" }, "pin")),
      h("div", { class: "cell", role: "gridcell" }, here(row)),
      h("div", { class: "cell num", role: "gridcell" }, row.kind === "file" ? bytes(row.size) : ""),
      h("div", { class: "cell num dim", role: "gridcell" }, row.kind === "dir" ? "" : date(row.mtime_ns / 1e6)));
    node.style.top = `${index * ROW}px`;
    return node;
  }

  const sight = () => {
    const first = Math.max(0, Math.floor(body.scrollTop / ROW) - MARGIN);
    return [first, Math.min(shown.length, Math.ceil((body.scrollTop + body.clientHeight) / ROW) + MARGIN)];
  };

  const draw = () => whenReleased(space, drawNow);

  function drawNow() {
    const [first, end] = sight();
    space.replaceChildren(...shown.slice(first, end).map((row, index) => line(row, first + index)));
    if (shown.length > 0) body.setAttribute("aria-activedescendant", `row-${at}`);
    else {
      body.removeAttribute("aria-activedescendant");
      if (whole) space.replaceChildren(h("p", { class: "empty cell" }, filter.value ? "Nothing of that name here." : "This folder is empty."));
    }
    say();
  }

  function toggle(index) {
    const { name } = shown[index];
    if (!chosen.delete(name)) chosen.add(name);
    at = anchor = index;
    draw();
  }

  function pick(index, event) {
    if (event.shiftKey) chosen = new Set(shown.slice(Math.min(anchor, index), Math.max(anchor, index) + 1).map((row) => row.name));
    else if (event.ctrlKey || event.metaKey) return toggle(index);
    else chosen = new Set([shown[index].name]);
    at = index;
    if (!event.shiftKey) anchor = index;
    draw();
    return undefined;
  }

  function open(row) {
    if (row.kind === "dir") location.hash = link(join(path, row.name));
  }

  function move(to, extend) {
    if (shown.length === 0) return;
    at = Math.max(0, Math.min(shown.length - 1, to));
    if (extend) chosen = new Set(shown.slice(Math.min(anchor, at), Math.max(anchor, at) + 1).map((row) => row.name));
    else anchor = at;
    if (at * ROW < body.scrollTop) body.scrollTop = at * ROW;
    else if ((at + 1) * ROW > body.scrollTop + body.clientHeight) body.scrollTop = (at + 1) * ROW - body.clientHeight;
    draw();
  }

  function keys(event) {
    if (event.altKey || (event.ctrlKey && event.key !== "a") || event.metaKey) return;
    const page = Math.max(1, Math.floor(body.clientHeight / ROW) - 1);
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, PageDown: at + page, PageUp: at - page, Home: 0, End: shown.length - 1 };
    const deeds = { p: "pin", u: "unpin", h: "hydrate", e: "evict" };
    const key = event.key;
    if (key in moves) move(moves[key], event.shiftKey);
    else if (key === "Enter" || key === "ArrowRight") shown[at] && open(shown[at]);
    else if (key === "Backspace" || key === "ArrowLeft") path && (location.hash = link(path.split("/").slice(0, -1).join("/")));
    else if (key === " ") shown[at] && toggle(at);
    else if (event.ctrlKey && key === "a") chosen = new Set(shown.map((row) => row.name));
    else if (key === "Escape") chosen.clear();
    else if (key in deeds && state.role === "admin") {
      if (chosen.size === 0 && shown[at]) chosen.add(shown[at].name);
      change(deeds[key]);
    } else return;
    event.preventDefault();
    draw();
  }

  async function change(deed) {
    const paths = [...chosen].map((name) => join(path, name));
    if (paths.length === 0) return;
    if (deed === "pin") await act(() => post("/v1/pins", { paths, note: null, who: "dashboard" }), `pinned: ${many(paths.length, "entry", "entries")}`);
    if (deed === "unpin") await act(() => post("/v1/pins/remove", { what: paths }), `unpinned: ${many(paths.length, "entry", "entries")}`);
    if (deed === "hydrate") await act(() => post("/v1/hydrations", { paths }), (job) => `on its way: ${many(job.progress.files - job.progress.resident_files, "file")}`);
    if (deed === "evict") {
      await act(() => post("/v1/cache/evict", { paths }), (kept) =>
        `freed ${bytes(kept.evicted_bytes)}${kept.kept_files > 0 ? `; ${many(kept.kept_files, "file")} kept: ${kept.kept.slice(0, 2).map((row) => row.why).join(", ")}` : ""}`);
    }
    again();
  }

  /** Loads a folder: a little at once, then the rest. */
  async function fill() {
    const mine = ++load;
    let cursor = 0;
    const all = [];
    whole = false;
    try {
      do {
        const page = await get("/v1/ls", { path, cursor, limit: cursor === 0 ? FIRST : PAGE });
        if (mine !== load) return;
        all.push(...page.entries);
        cursor = page.next;
        // While more is to come, what is in sight stays where it is.
        rows = cursor ? all : all.sort(byName);
        if (all.length === page.entries.length || !cursor) arrange();
        else say(`${count(all.length)} so far`);
      } while (cursor);
      whole = true;
      arrange();
    } catch (error) {
      if (mine !== load || error.status === 401) return;
      rows = [];
      whole = true;
      arrange();
      space.replaceChildren(h("p", { class: "bad cell" }, error.message));
    }
  }

  /** Looks again at the rows in sight, by the ranges of the listing that they are in. */
  const look = throttled(async () => {
    if (path === null || !whole) return;
    const mine = load;
    const before = rows.length;
    const cookies = shown.slice(...sight()).map((row) => row.cookie).sort((a, b) => a - b);
    const news = new Map();
    while (cookies.length > 0) {
      const first = cookies.shift();
      const page = await get("/v1/ls", { path, cursor: first - 1, limit: before <= RANGE ? RANGE : Math.min(RANGE, cookies.length + 8) }).catch(() => null);
      if (!page || mine !== load) return;
      page.entries.forEach((row) => news.set(row.cookie, row));
      const last = page.entries.at(-1)?.cookie ?? first;
      while (cookies.length > 0 && cookies[0] <= last) cookies.shift();
      if (news.size > RANGE * 4) break;
    }
    const [top, end] = sight();
    for (let index = top; index < end; index += 1) {
      const fresh = shown[index] && news.get(shown[index].cookie);
      if (fresh) Object.assign(shown[index], fresh);
    }
    draw();
  }, 250);

  /** Small folders are listed again: names may have come or gone. Large ones only now and then. */
  const list = throttled(async () => {
    if (path === null || !whole) return;
    const mine = load;
    const all = [];
    let cursor = 0;
    do {
      const page = await get("/v1/ls", { path, cursor, limit: PAGE }).catch(() => null);
      if (!page || mine !== load) return;
      all.push(...page.entries);
      cursor = page.next;
    } while (cursor);
    const name = shown[at]?.name;
    rows = all.sort(byName);
    arrange();
    const moved = shown.findIndex((row) => row.name === name);
    if (moved >= 0 && moved !== at) {
      at = anchor = moved;
      draw();
    }
  }, 400);
  const relist = throttled(() => list(), 15000);

  function again() {
    if (rows.length <= 2000) list();
    else look();
  }

  return {
    path(next) {
      if (next === path) return;
      path = next;
      rows = [];
      chosen = new Set();
      [at, anchor] = [0, 0];
      filter.value = "";
      body.scrollTop = 0;
      const parts = path ? path.split("/") : [];
      replace(crumbs, h("a", { href: link(""), "data-k": "root", "aria-current": parts.length === 0 ? "page" : null }, state.status?.name || "drive"),
        parts.map((name, index) => [h("span", {}, "/"), h("a", { href: link(parts.slice(0, index + 1).join("/")), "data-k": `c${index}`, "aria-current": index === parts.length - 1 ? "page" : null }, name)]));
      arrange();
      say("…");
      fill();
      if (document.activeElement === document.body || main.contains(document.activeElement)) body.focus();
    },
    change(what) {
      if (rows.length <= 2000) {
        if (what.size > 0) list();
        return;
      }
      if (what.has("tree")) relist();
      look();
    },
    end() {
      load += 1;
      resized.disconnect();
    },
  };
}
