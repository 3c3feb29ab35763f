// The views but for the tree: what comes and goes, what is kept, what is set, what is said.

import { act, ago, bytes, clock, count, date, get, h, many, post, rate, replace, span, sure, svg, throttled } from "/lib.js";

const SVG_WIDTH = 100;

function bar(parts, whole, label) {
  const shapes = [];
  let at = 0;
  for (const [value, kind] of parts) {
    const width = whole > 0 ? Math.min(SVG_WIDTH - at, (value / whole) * SVG_WIDTH) : 0;
    shapes.push(svg("rect", { x: at, y: 0, width: Math.max(0, width), height: 10, class: kind }));
    at += width;
  }
  return svg("svg", { class: "bar", viewBox: `0 0 ${SVG_WIDTH} 10`, preserveAspectRatio: "none", role: "img", "aria-label": label }, ...shapes);
}

function spark(values, label) {
  const top = Math.max(1, ...values);
  const point = (value, at) => `${(at / Math.max(1, values.length - 1)) * SVG_WIDTH},${39 - (value / top) * 36}`;
  const line = values.map(point).join(" ");
  return svg("svg", { class: "spark", viewBox: `0 0 ${SVG_WIDTH} 40`, preserveAspectRatio: "none", role: "img", "aria-label": label },
    svg("polygon", { class: "area", points: `0,40 ${line} ${SVG_WIDTH},40` }),
    svg("polyline", { class: "stroke-main", points: line }));
}

const term = (name, value, kind) => [h("dt", {}, name), h("dd", { class: kind }, value)];
const card = (title, note, ...content) => h("section", { class: "card" }, h("h2", {}, h("span", {}, title), note && h("span", { class: "dim" }, note)), ...content);
const canChange = (state) => state.role === "admin";
const forAdmins = (state) => (canChange(state) ? null : "needs the admin's token");

// ---------------------------------------------------------------- overview

export function overview(main, state) {
  const draw = (status) => {
    const { cache, hydration, publishing, pins, native_reads: native } = status;
    const { pending } = publishing;
    const came = state.rates.map((at) => at.came);
    const went = state.rates.map((at) => at.went);
    const left = pending.files + pending.writing + pending.deletes;
    const troubles = [
      ...publishing.failures.map((row) => h("li", {}, h("span", { class: "bad" }, `${many(row.tasks, "task")} fail: `), `${row.error} (${row.path})`)),
      publishing.conflicts > 0 && h("li", {}, h("span", { class: "bad" }, many(publishing.conflicts, "conflict")), ": `backlot conflict ls` shows them; both sides are kept"),
      pins.failed > 0 && h("li", {}, h("span", { class: "bad" }, `${many(pins.failed, "pinned file")} could not be fetched: `), pins.failures[0]?.why || ""),
      pins.unfitting_files > 0 && h("li", {}, h("span", { class: "warn" }, `${many(pins.unfitting_files, "pinned file")} do not fit into the cache`)),
      publishing.put_aside > 0 && h("li", {}, h("span", { class: "warn" }, `${many(publishing.put_aside, "object")} put aside: `), "`backlot recover` writes them out"),
      ...publishing.refusals.slice(0, 5).map((row) => h("li", {}, h("span", { class: "warn" }, "refused: "), `${row.path}: ${row.why}`)),
    ].filter(Boolean);
    const look = card("Needs a look", null, troubles.length ? h("ul", { class: "plain" }, troubles) : h("p", { class: "dim" }, "Nothing does."));
    replace(main, h("h1", { class: "skip" }, "Overview"), h("div", { class: "cards" },
      troubles.length > 0 && look,
      card("Not at its site yet", left > 0 && pending.oldest_ms ? `oldest ${ago(pending.oldest_ms)}` : null,
        left === 0
          ? h("div", { class: "figure good" }, "Nothing", h("small", {}, "  everything made here is at its site"))
          : [h("div", { class: "figure" }, bytes(pending.bytes - pending.done_bytes), h("small", {}, `  in ${many(pending.files, "file")}`)),
            h("p", {}), h("progress", { max: Math.max(1, pending.bytes), value: pending.done_bytes, "aria-label": "sent of the files under way" })],
        h("dl", {},
          term("sent since the start", `${many(publishing.sent_files, "file")}, ${bytes(publishing.sent_bytes)}`),
          pending.writing > 0 && term("still open", many(pending.writing, "file")),
          pending.deletes > 0 && term("to be removed", many(pending.deletes, "entry", "entries")),
          pending.stuck.tasks > 0 && term("needs somebody", `${many(pending.stuck.tasks, "file")}, ${bytes(pending.stuck.bytes)}`, "bad"),
          term("made here in all", `${many(publishing.own_files, "file")}, ${bytes(publishing.own_bytes)}`))),
      card("Links", null, h("ul", { class: "plain" }, status.sites.map((site) =>
        h("li", {}, h("div", { class: "row" },
          h("span", { class: `dot ${site.link}` }, site.name),
          h("span", { class: site.link === "down" ? "bad" : "dim" }, site.link === "unknown" ? "not asked yet" : site.link)),
          site.reason && h("div", { class: "dim" }, site.reason),
          site.fetching[0] + site.fetching[1] > 0 && h("div", { class: "dim" }, `${count(site.fetching[0])} requests run, ${count(site.fetching[1])} wait`)))),
        h("dl", {}, status.projects.map((project) =>
          term(project.name, project.scanning ? "being scanned" : `looked through ${ago(project.scanned_at_ms)}`)))),
      card("Cache", `${bytes(cache.bytes)} of ${bytes(cache.max_bytes)}`,
        bar([[cache.pinned_bytes, "fill-pin"], [cache.bytes - cache.pinned_bytes, "fill-main"]], cache.max_bytes, `the cache holds ${bytes(cache.bytes)} of ${bytes(cache.max_bytes)}, ${bytes(cache.pinned_bytes)} of it pinned`),
        h("dl", {},
          term("files", count(cache.contents)),
          term("pinned", bytes(cache.pinned_bytes)),
          term("evicted since the start", bytes(cache.evicted_bytes)),
          cache.bad_granules > 0 && term("bad granules, fetched again", count(cache.bad_granules), "warn"),
          native && term("read by the kernel itself", native.state === "on" ? "yes" : `no${native.reason ? `: ${native.reason}` : ""}`))),
      card("Coming in", came.length ? rate(came.at(-1)) : null,
        spark(came, "bytes per second from the sites, lately"),
        h("dl", {}, term("since the start", bytes(hydration.fetched_bytes)),
          term("open files", count(hydration.open_handles)),
          hydration.failed > 0 && term("requests that failed", count(hydration.failed), "warn")),
        h("ul", { class: "plain" }, hydration.in_flight.slice(0, 6).map((flight) =>
          h("li", {}, h("div", { class: "row" }, h("span", { title: flight.path }, flight.path), h("span", { class: "dim" }, `${bytes(flight.resident_bytes)} of ${bytes(flight.size)}`)),
            h("progress", { class: "thin", max: Math.max(1, flight.size), value: flight.resident_bytes, "aria-label": flight.path }))))),
      card("Going out", rate(pending.bytes_per_second),
        spark(went, "bytes per second to the sites, lately"),
        h("ul", { class: "plain" }, publishing.queues.map((queue) =>
          h("li", { class: "row" }, h("span", {}, queue.project, queue.paused && h("span", { class: "warn" }, "  paused")),
            h("span", { class: "dim" }, `${count(queue.waiting.tasks)} wait, ${count(queue.running.tasks)} run`,
              queue.blocked.tasks > 0 && h("span", { class: "bad" }, `, ${count(queue.blocked.tasks)} blocked`)))))),
      card("Kept here", `${bytes(pins.resident_bytes)} of ${bytes(pins.bytes)}`,
        h("progress", { max: Math.max(1, pins.bytes), value: pins.resident_bytes, "aria-label": "pinned bytes that are here" }),
        h("dl", {}, term("rules", count(pins.rules)), term("files here", `${count(pins.resident_files)} of ${count(pins.files)}`),
          term("room for pins", bytes(pins.room_bytes)),
          pins.waiting_for.length > 0 && term("waiting for", pins.waiting_for.join(", "), "warn"))),
      status.sequences.active.length > 0 && card("Played now", null, h("ul", { class: "plain" }, status.sequences.active.map((row) =>
        h("li", {}, h("div", { class: "row" }, h("span", { title: row.path }, row.path), h("span", { class: "dim" }, `${row.state}, ${count(row.frames_ahead)} ahead`)))))),
      troubles.length === 0 && look,
      card("This drive", `up ${span(status.uptime_seconds)}`, h("dl", {},
        term("mounted at", status.mount_point), term("files", `${count(status.files)}, ${bytes(status.bytes)}`),
        term("site id", status.site_id), term("version", status.version), term("process", String(status.pid))))));
  };
  return { status: draw };
}

// --------------------------------------------------------------- transfers

const STATES = ["waiting", "uploading", "deleting", "retrying", "blocked", "held", "copying", "excluded"];
const TASKS_SHOWN = 500;

export function transfers(main, state) {
  let queues = [];
  let page = null;
  const filter = h("select", { "aria-label": "State of the tasks shown", "data-k": "filter", onchange: () => load() },
    h("option", { value: "" }, "all states"), STATES.map((word) => h("option", { value: word }, word)));
  const change = async (path, body, done) => {
    await act(() => post(path, body), done);
    load();
  };
  const changed = (word) => (answer) => `${word}: ${many(answer.tasks + answer.queued, "task")}`;
  const button = (k, title, onclick, kind = "small") =>
    h("button", { type: "button", class: kind, "data-k": k, onclick, disabled: !canChange(state), title: forAdmins(state) }, title);
  const tally = (of, kind) => h("td", { class: `num ${of.tasks > 0 ? kind : "dim"}` }, count(of.tasks), of.tasks > 0 && h("span", { class: "dim" }, ` (${bytes(of.bytes)})`));

  const queueRow = (queue) => h("tr", {},
    h("td", {}, queue.project, queue.paused && h("span", { class: "warn" }, "  paused")),
    tally(queue.waiting, ""), tally(queue.running, ""), tally(queue.retrying, "warn"), tally(queue.blocked, "bad"), tally(queue.held, "warn"),
    h("td", { class: "num" }, String(queue.priority)),
    h("td", { class: "acts" },
      queue.paused
        ? button(`resume-${queue.project}`, "Resume", () => change("/v1/queues/resume", { project: queue.project }, `${queue.project} goes on`))
        : button(`pause-${queue.project}`, "Pause", () => change("/v1/queues/pause", { project: queue.project }, `${queue.project} is paused`)),
      button(`retry-${queue.project}`, "Retry all", () => change("/v1/tasks/retry", { project: queue.project }, changed("tried again")))));

  const cancel = async (task) => {
    const text = task.what === "delete" ? "What was to be removed at the site stays there, and is shown again." : "The file stays on this machine and does not go to its site.";
    if (await sure("Take it out of the queue?", `${task.path}. ${text}`, "Take it out")) change("/v1/tasks/cancel", { tasks: [task.id] }, changed("taken out"));
  };
  const taskRow = (task) => h("tr", {},
    h("td", { class: "path" }, h("div", {}, task.path),
      task.error && h("div", { class: task.state === "blocked" ? "bad" : "dim" }, task.error),
      (task.state === "uploading" || task.state === "copying") && h("progress", { class: "thin", max: Math.max(1, task.size), value: task.done_bytes, "aria-label": `${task.path}: sent` })),
    h("td", {}, h("span", { class: `state ${task.state}` }, task.state)),
    h("td", {}, task.what),
    h("td", { class: "num" }, task.what === "publish" ? bytes(task.size) : ""),
    h("td", { class: "num" }, task.tries > 0 ? many(task.tries, "try", "tries") : ""),
    h("td", { class: "num dim" }, task.due_ms && task.due_ms > Date.now() ? `in ${span((task.due_ms - Date.now()) / 1000)}` : ""),
    h("td", { class: "acts" },
      button(`t-${task.id}`, "Retry", () => change("/v1/tasks/retry", { tasks: [task.id] }, changed("tried again"))),
      task.state === "held"
        ? button(`h-${task.id}`, "Release", () => change("/v1/tasks/release", { tasks: [task.id] }, changed("released")))
        : button(`h-${task.id}`, "Hold", () => change("/v1/tasks/hold", { tasks: [task.id] }, changed("held"))),
      button(`c-${task.id}`, "Cancel", () => cancel(task), "small danger")));

  const head = (...titles) => h("thead", {}, h("tr", {}, titles.map(([title, kind]) => h("th", { scope: "col", class: kind }, title))));
  const draw = () => replace(main, h("h1", { class: "skip" }, "Transfers"), h("div", { class: "stack" },
    h("section", { class: "card" }, h("h2", {}, "Queues"),
      h("table", { id: "queues" }, head(["Project"], ["Waiting", "num"], ["Running", "num"], ["Retrying", "num"], ["Blocked", "num"], ["Held", "num"], ["Priority", "num"], [""]),
        h("tbody", {}, queues.map(queueRow)))),
    state.status?.publishing.failures.length > 0 && h("section", { class: "card" }, h("h2", {}, "Why tasks fail"),
      h("ul", { class: "plain" }, state.status.publishing.failures.map((row) =>
        h("li", {}, h("span", { class: "bad" }, `${many(row.tasks, "task")}: `), row.error, h("div", { class: "dim" }, row.path))))),
    h("section", { class: "card" }, h("h2", {}, "Tasks", filter),
      page.tasks.length === 0
        ? h("p", { class: "empty" }, filter.value ? `No task is ${filter.value}.` : "No tasks: everything is where it belongs.")
        : h("table", { id: "tasks" }, head(["File"], ["State"], ["What"], ["Size", "num"], ["Tries", "num"], ["Next try", "num"], [""]), h("tbody", {}, page.tasks.map(taskRow))),
      page.next && h("p", { class: "dim" }, `The first ${count(page.tasks.length)} are shown; choose a state to see fewer.`))));

  const load = throttled(async () => {
    try {
      const query = { limit: TASKS_SHOWN };
      if (filter.value) query.state = filter.value;
      [queues, page] = await Promise.all([get("/v1/queues"), get("/v1/tasks", query)]);
      draw();
    } catch (error) {
      if (error.status !== 401) replace(main, h("p", { class: "bad" }, error.message));
    }
  }, 300);
  load();
  return {
    change: (what) => (what.has("tree") || what.has("publishing")) && load(),
    // Why tasks fail is told with the status, which comes later than the tasks.
    status: () => page && draw(),
  };
}

// -------------------------------------------------------------------- pins

export function pins(main, state) {
  let report = null;
  const what = h("input", { id: "pin-path", class: "grow", placeholder: "show/sq010 or show/**/publish/*.usd", "data-k": "pin-path", required: true, disabled: !canChange(state) });
  const note = h("input", { id: "pin-note", placeholder: "why, for people", "data-k": "pin-note", disabled: !canChange(state) });
  const add = async (event) => {
    event.preventDefault();
    const paths = [what.value.trim()];
    if (await act(() => post("/v1/pins", { paths, note: note.value.trim() || null, who: "dashboard" }), `pinned: ${paths[0]}`)) [what.value, note.value] = ["", ""];
    load();
  };
  const form = h("form", { class: "tools", onsubmit: add },
    h("label", { for: "pin-path", class: "dim" }, "Keep here"), what, h("label", { for: "pin-note", class: "skip" }, "Note"), note,
    h("button", { type: "submit", class: "main", disabled: !canChange(state), title: forAdmins(state) }, "Pin"));
  const remove = async (rule) => {
    await act(() => post("/v1/pins/remove", { what: [String(rule.id)] }), `unpinned: ${rule.what}`);
    load();
  };
  const row = (rule) => h("tr", {},
    h("td", { class: "path" }, rule.what, rule.note && h("div", { class: "dim" }, rule.note)),
    h("td", {}, rule.project),
    h("td", {}, rule.id === null ? h("span", { class: "dim" }, "settings") : rule.who || ""),
    h("td", { class: "num" }, rule.at_ms ? date(rule.at_ms) : ""),
    h("td", { class: "num" }, `${count(rule.resident_files)} of ${count(rule.files)}`),
    h("td", {}, h("progress", { class: "thin", max: Math.max(1, rule.bytes), value: rule.resident_bytes, "aria-label": `${rule.what}: here` }),
      h("span", { class: "dim" }, `${bytes(rule.resident_bytes)} of ${bytes(rule.bytes)}`)),
    h("td", { class: "acts" }, rule.id !== null && h("button", { type: "button", class: "small", "data-k": `p-${rule.id}`, disabled: !canChange(state), title: forAdmins(state), onclick: () => remove(rule) }, "Unpin")));
  const draw = () => replace(main, h("h1", { class: "skip" }, "Pins"), h("section", { class: "card" },
    h("h2", {}, "Pins", h("span", { class: "dim" }, `${bytes(report.total.resident_bytes)} of ${bytes(report.total.bytes)} here, room for ${bytes(report.total.room_bytes)}`)),
    form,
    report.total.failures.length > 0 && h("ul", { class: "plain" }, report.total.failures.map((row) => h("li", {}, h("span", { class: "bad" }, `${row.path}: `), row.why))),
    report.rules.length === 0
      ? h("p", { class: "empty" }, "Nothing is pinned: what is not used for long makes room for what is.")
      : h("table", { id: "pins" }, h("thead", {}, h("tr", {}, ["What", "Project", "Who", "Since", "Files here", "Bytes here", ""].map((title, at) => h("th", { scope: "col", class: at === 3 || at === 4 ? "num" : "" }, title)))),
        h("tbody", {}, report.rules.map(row)))));
  const load = throttled(async () => {
    report = (await act(() => get("/v1/pins"))) || report;
    if (report) draw();
  }, 700);
  load();
  return { change: (what) => (what.has("pins") || what.has("tree") || what.has("cache")) && load() };
}

// ------------------------------------------------------------ settings, log

export function settings(main) {
  let rows = [];
  const filter = h("input", { class: "grow", type: "search", placeholder: "filter", "aria-label": "Filter settings", oninput: () => draw() });
  const list = h("tbody", {});
  const draw = () => {
    const wanted = filter.value.toLowerCase();
    replace(list, rows.filter((row) => `${row.key} ${row.value} ${row.origin}`.toLowerCase().includes(wanted)).map((row) =>
      h("tr", {}, h("td", { class: "mono" }, row.key), h("td", { class: "mono path" }, row.value), h("td", { class: row.origin.startsWith("default") ? "dim" : "" }, row.origin))));
  };
  main.append(h("h1", { class: "skip" }, "Settings"), h("section", { class: "card" }, h("h2", {}, "Settings in force", h("span", { class: "dim" }, "a secret shows where it is kept")),
    h("div", { class: "tools" }, filter),
    h("table", { id: "settings" }, h("thead", {}, h("tr", {}, ["Key", "Value", "Comes from"].map((title) => h("th", { scope: "col" }, title)))), list)));
  act(async () => {
    rows = await get("/v1/settings");
    draw();
  });
  return {};
}

const LINES_SHOWN = 500;

export function log(main) {
  const list = h("div", { role: "log", "aria-label": "Log of the daemon" });
  const kinds = { error: "bad", warn: "warn", info: "dim" };
  const line = (row) => {
    list.prepend(h("div", { class: "logline" }, h("span", { class: "dim" }, clock(row.at_ms)), h("span", { class: kinds[row.level] }, row.level), h("span", {}, row.text)));
    while (list.childElementCount > LINES_SHOWN) list.lastElementChild.remove();
  };
  main.append(h("h1", { class: "skip" }, "Log"), h("section", { class: "card" }, h("h2", {}, "Log", h("span", { class: "dim" }, "the newest first")), list));
  act(async () => (await get("/v1/log")).forEach(line));
  return { line };
}
