//! `GET /metrics`: the drive's figures in Prometheus' text format, version 0.0.4.
//!
//! Owns: the names, units and labels; this is the one file of them. Refuses to know: where figures come from. Invariants:
//! names begin with `backlot_`, units are seconds and bytes, what only grows ends in `_total`; labels take few values
//! (projects, sites, fixed words), never paths. The format is a few lines, so it is written here by hand; an outside parser
//! checks it in `tests/faces`.

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Face;
use super::openapi::{Answers, Told};
use super::problem::Problem;
use super::requests::Requests;
use super::routes::aside;
use crate::engine::histogram::{BOUNDS_US, Distribution};
use crate::engine::pulse::Counters;
use crate::engine::report::{CacheStat, QueueReport, Status};

const KIND: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The page as an answer.
pub(super) struct Figures(String);

impl IntoResponse for Figures {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, KIND)], self.0).into_response()
    }
}

impl Answers for Figures {
    fn tell(told: &mut Told) {
        told.answers_text("text/plain");
    }
}

pub(super) async fn metrics(State(api): State<Face>) -> Result<Figures, Problem> {
    let text = aside(move || {
        let status = api.drive.status()?;
        let now_ms = jiff::Timestamp::now().as_millisecond();
        let (cache, counters) = (api.drive.cache_stat(), api.drive.counters());
        Ok::<_, Problem>(page(&status, &cache, &counters, &api.requests, now_ms))
    })
    .await??;
    Ok(Figures(text))
}

/// The text, family by family.
#[derive(Debug, Default)]
struct Page(String);

impl Page {
    /// Begins a family.
    fn family(&mut self, name: &'static str, kind: &str, help: &str) -> Family<'_> {
        self.line(format_args!("# HELP {name} {help}"));
        self.line(format_args!("# TYPE {name} {kind}"));
        Family { page: self, name }
    }

    fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, "gauge", help).sample(&[], value);
    }

    fn counter(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(name, "counter", help).sample(&[], value);
    }

    fn line(&mut self, line: impl Display) {
        // Writing into a String does not fail.
        let _written = writeln!(self.0, "{line}");
    }
}

struct Family<'p> {
    page: &'p mut Page,
    name: &'static str,
}

impl Family<'_> {
    fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.suffixed("", labels, value);
    }

    fn suffixed(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let label = |(name, value): &(&str, &str)| format!("{name}=\"{}\"", escaped(value));
        let labels: Vec<String> = labels.iter().map(label).collect();
        let labels = match labels.join(",") {
            none if none.is_empty() => none,
            some => format!("{{{some}}}"),
        };
        let name = self.name;
        self.page.line(format_args!("{name}{suffix}{labels} {value}"));
    }

    fn histogram(&mut self, labels: &[(&str, &str)], times: &Distribution) {
        let bounds = BOUNDS_US.iter().map(|micros| seconds(*micros));
        let mut sum = 0;
        for (count, bound) in times.counts.iter().zip(bounds.chain(["+Inf".to_owned()])) {
            sum += count;
            self.suffixed("_bucket", &[labels, &[("le", &bound)]].concat(), sum);
        }
        self.suffixed("_sum", labels, seconds(times.micros));
        self.suffixed("_count", labels, sum);
    }
}

fn seconds(micros: u64) -> String {
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

/// As the format wants it in label values.
fn escaped(text: &str) -> String {
    text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Time since something in seconds, 0 for nothing.
fn age(since_ms: Option<i64>, now_ms: i64) -> String {
    let millis = since_ms.map_or(0, |since| now_ms.saturating_sub(since));
    seconds(u64::try_from(millis).unwrap_or(0).saturating_mul(1000))
}

fn page(status: &Status, cache: &CacheStat, counters: &Counters, requests: &Requests, now_ms: i64) -> String {
    let mut page = Page::default();
    page.family(
        "backlot_build_info",
        "gauge",
        "The daemon's version, as a label; always 1.",
    )
    .sample(&[("version", &status.version)], 1);
    page.gauge(
        "backlot_uptime_seconds",
        "Since the daemon started.",
        status.uptime_seconds,
    );
    tree(&mut page, status, now_ms);
    links(&mut page, status);
    cached(&mut page, cache);
    hydration(&mut page, status, counters);
    publishing(&mut page, status, now_ms);
    queues(&mut page, &status.publishing.queues, now_ms);
    pins(&mut page, status);
    native(&mut page, status);
    operations(&mut page, counters);
    asked(&mut page, requests);
    page.0
}

fn tree(page: &mut Page, status: &Status, now_ms: i64) {
    page.gauge("backlot_tree_files", "Files in the tree.", status.files);
    page.gauge("backlot_tree_bytes", "Their bytes, here or not.", status.bytes);
    let help = "Since the last whole scan of a project ended.";
    let mut scans = page.family("backlot_scan_age_seconds", "gauge", help);
    for project in status.projects.iter().filter(|p| p.scanned_at_ms.is_some()) {
        scans.sample(&[("project", &project.name)], age(project.scanned_at_ms, now_ms));
    }
}

fn links(page: &mut Page, status: &Status) {
    let help = "1: the site answers. 0: it does not, or was not asked yet.";
    let mut up = page.family("backlot_link_up", "gauge", help);
    for site in &status.sites {
        up.sample(&[("site", &site.name)], u8::from(site.link == "up"));
    }
    let help = "Requests for bytes at a site, by what they do.";
    let mut fetching = page.family("backlot_fetches", "gauge", help);
    for site in &status.sites {
        fetching.sample(&[("site", &site.name), ("state", "running")], site.fetching.0);
        fetching.sample(&[("site", &site.name), ("state", "waiting")], site.fetching.1);
    }
}

fn cached(page: &mut Page, cache: &CacheStat) {
    for (name, help, value) in [
        ("backlot_cache_bytes", "Bytes in the cache.", cache.bytes),
        (
            "backlot_cache_limit_bytes",
            "The most that the cache may hold.",
            cache.max_bytes,
        ),
        (
            "backlot_cache_reserved_bytes",
            "Bytes promised to fetches under way.",
            cache.reserved_bytes,
        ),
        (
            "backlot_cache_pinned_bytes",
            "Bytes in the cache that are pinned.",
            cache.pinned_bytes,
        ),
        (
            "backlot_cache_contents",
            "Versions of files with bytes in the cache.",
            cache.contents,
        ),
        (
            "backlot_cache_disk_free_bytes",
            "Free on the cache's disk.",
            cache.disk_free_bytes,
        ),
    ] {
        page.gauge(name, help, value);
    }
    for (name, help, value) in [
        (
            "backlot_cache_evicted_bytes_total",
            "Bytes that were evicted.",
            cache.evicted_bytes,
        ),
        (
            "backlot_cache_bad_granules_total",
            "Granules of 64 KiB whose checksum was wrong, and that were dropped.",
            cache.bad_granules,
        ),
        (
            "backlot_cache_refused_fills_total",
            "Times that there was no room for bytes.",
            cache.refused_fills,
        ),
    ] {
        page.counter(name, help, value);
    }
}

fn hydration(page: &mut Page, status: &Status, counters: &Counters) {
    let help =
        "Bytes that arrived from sites, by cause: read (somebody waited), readahead, sequence, pin (and hydrate).";
    let mut fetched = page.family("backlot_hydration_bytes_total", "counter", help);
    for (cause, bytes) in &counters.fetched_by_cause {
        fetched.sample(&[("cause", cause)], bytes);
    }
    let hydration = &status.hydration;
    let help = "Requests for bytes at sites that were begun.";
    page.counter("backlot_fetches_total", help, hydration.fetches);
    let help =
        "Requests for bytes at sites that came to no good end: failed, or cancelled since nobody wanted them any more.";
    let mut ended = page.family("backlot_fetches_unfinished_total", "counter", help);
    ended.sample(&[("result", "failed")], hydration.failed);
    ended.sample(&[("result", "cancelled")], hydration.cancelled);
    let help = "Requests for bytes at sites that failed, by kind of error.";
    let mut failures = page.family("backlot_hydration_errors_total", "counter", help);
    for (kind, count) in &counters.failures {
        failures.sample(&[("kind", kind)], count);
    }
    let help = "Opens and reads that were refused to a program since it would have fetched much, by program.";
    let mut blocked = page.family("backlot_blocked_hydrations_total", "counter", help);
    // Several programs may have one name.
    let mut refusals: BTreeMap<&str, u64> = BTreeMap::new();
    for program in status.programs.programs.iter().filter(|program| program.refusals > 0) {
        *refusals.entry(&program.name).or_default() += program.refusals;
    }
    for (program, count) in refusals {
        blocked.sample(&[("program", program)], count);
    }
    let help = "Bytes that were served past the cache, which could not hold them.";
    page.counter("backlot_uncached_bytes_total", help, hydration.uncached_bytes);
    let help = "Reads that the daemon answered, by where the bytes were: hit (in the cache), miss (at the site). The hit \
                share is hit / (hit + miss); what the kernel reads by itself is not counted.";
    let mut reads = page.family("backlot_cache_reads_total", "counter", help);
    reads.sample(&[("result", "hit")], counters.reads_here);
    reads.sample(&[("result", "miss")], counters.reads_waited);
    let help = "How long reads waited for bytes of a site.";
    page.family("backlot_hydration_wait_seconds", "histogram", help)
        .histogram(&[], &counters.waits);
    page.gauge("backlot_open_files", "Files that are open.", hydration.open_handles);
    let help = "Frames fetched ahead, by whether they were whole when they were opened (hit) or not (late).";
    let mut frames = page.family("backlot_sequence_frames_total", "counter", help);
    frames.sample(&[("result", "hit")], status.sequences.hits);
    frames.sample(&[("result", "late")], status.sequences.late);
}

fn publishing(page: &mut Page, status: &Status, now_ms: i64) {
    let publishing = &status.publishing;
    let pending = &publishing.pending;
    page.counter(
        "backlot_published_files_total",
        "Files that were sent.",
        publishing.sent_files,
    );
    page.counter(
        "backlot_published_bytes_total",
        "Bytes that were sent.",
        publishing.sent_bytes,
    );
    let help = "Files that are to be sent and are not at their site yet.";
    page.gauge("backlot_unsynced_files", help, pending.files);
    let left = pending.bytes.saturating_sub(pending.done_bytes);
    page.gauge("backlot_unsynced_bytes", "Their bytes that have not arrived.", left);
    let help = "Removals that are not done at their site yet.";
    page.gauge("backlot_unsynced_deletes", help, pending.deletes);
    let help = "Age of the oldest change that is not at its site yet; 0 if there is none.";
    page.gauge("backlot_oldest_unsynced_seconds", help, age(pending.oldest_ms, now_ms));
    let help = "Bytes that arrive at sites per second.";
    page.gauge("backlot_publish_bytes_per_second", help, pending.bytes_per_second);
    let help = "Tasks whose last try failed, by kind of error.";
    let mut failing = page.family("backlot_failing_tasks", "gauge", help);
    for failure in &publishing.failures {
        failing.sample(&[("kind", &failure.kind)], failure.tasks);
    }
    page.gauge(
        "backlot_conflicts",
        "Conflicts that nobody has settled.",
        publishing.conflicts,
    );
    let help = "Files whose bytes are this machine's own.";
    page.gauge("backlot_own_files", help, publishing.own_files);
    page.gauge("backlot_own_bytes", "Their bytes.", publishing.own_bytes);
}

fn queues(page: &mut Page, queues: &[QueueReport], now_ms: i64) {
    let states = |queue: &QueueReport| {
        [
            ("waiting", queue.waiting),
            ("retrying", queue.retrying),
            ("running", queue.running),
            ("blocked", queue.blocked),
            ("held", queue.held),
        ]
    };
    let help = "Tasks in a project's queue, by state; those retrying are among those waiting.";
    let mut tasks = page.family("backlot_queue_tasks", "gauge", help);
    for queue in queues {
        for (state, tally) in states(queue) {
            tasks.sample(&[("project", &queue.project), ("state", state)], tally.tasks);
        }
    }
    let mut bytes = page.family("backlot_queue_bytes", "gauge", "Bytes of their files.");
    for queue in queues {
        for (state, tally) in states(queue) {
            bytes.sample(&[("project", &queue.project), ("state", state)], tally.bytes);
        }
    }
    let help = "Age of the oldest change in a project's queue; 0 if there is none.";
    let mut oldest = page.family("backlot_queue_oldest_seconds", "gauge", help);
    for queue in queues {
        oldest.sample(&[("project", &queue.project)], age(queue.oldest_ms, now_ms));
    }
    let mut paused = page.family("backlot_queue_paused", "gauge", "1: nothing of the queue is begun.");
    for queue in queues {
        paused.sample(&[("project", &queue.project)], u8::from(queue.paused));
    }
}

fn pins(page: &mut Page, status: &Status) {
    let pins = &status.pins;
    for (name, help, value) in [
        ("backlot_pin_rules", "Rules by which files are kept here.", pins.rules),
        ("backlot_pin_files", "Files that they cover.", pins.files),
        ("backlot_pin_bytes", "Their bytes.", pins.bytes),
        (
            "backlot_pin_resident_bytes",
            "Those of them that are here.",
            pins.resident_bytes,
        ),
        (
            "backlot_pin_failed_files",
            "Pinned files that could not be fetched.",
            pins.failed,
        ),
        ("backlot_pin_room_bytes", "What pins may take.", pins.room_bytes),
    ] {
        page.gauge(name, help, value);
    }
}

fn native(page: &mut Page, status: &Status) {
    let Some(native) = &status.native_reads else { return };
    let help = "1: the kernel reads resident files by itself.";
    page.gauge("backlot_native_on", help, u8::from(native.state == "on"));
    let help = "Opens whose bytes the kernel reads by itself.";
    page.counter("backlot_native_opens_total", help, native.opens);
    let help = "Reads and writes that came to the daemon rather than to the kernel alone.";
    let mut fuse = page.family("backlot_fuse_operations_total", "counter", help);
    fuse.sample(&[("operation", "read")], native.daemon_reads);
    fuse.sample(&[("operation", "write")], native.daemon_writes);
}

fn operations(page: &mut Page, counters: &Counters) {
    let help = "How long file operations took that came to the daemon, the failed ones too.";
    let mut took = page.family("backlot_fuse_operation_seconds", "histogram", help);
    for operation in &counters.operations {
        took.histogram(&[("operation", operation.name)], &operation.took);
    }
    let help = "File operations that came to the daemon and failed, by kind of error.";
    let mut failed = page.family("backlot_fuse_errors_total", "counter", help);
    for operation in &counters.operations {
        for (kind, count) in &operation.failed {
            failed.sample(&[("operation", operation.name), ("kind", kind)], count);
        }
    }
}

fn asked(page: &mut Page, requests: &Requests) {
    let help = "Requests to the API that were let in, by class of their answer's status.";
    let mut answered = page.family("backlot_api_requests_total", "counter", help);
    for (class, count) in requests.answered() {
        answered.sample(&[("status", class)], count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_reads_figures_asks_for_those_that_there_are() {
        let names = include_str!("metrics.rs");
        let mut met = 0;
        for text in [
            include_str!("../../docs/grafana/backlot.json"),
            include_str!("../../docs/dashboard.md"),
        ] {
            for rest in text.split("backlot_").skip(1) {
                let end = rest
                    .find(|c: char| c != '_' && !c.is_ascii_lowercase())
                    .unwrap_or(rest.len());
                let name = format!("backlot_{}", &rest[..end]);
                let family = ["_bucket", "_sum", "_count"]
                    .iter()
                    .find_map(|suffix| name.strip_suffix(suffix));
                let family = family.unwrap_or(&name);
                assert!(names.contains(&format!("\"{family}\"")), "nobody counts {name}");
                met += 1;
            }
        }
        assert!(met > 25, "{met}");
    }

    #[test]
    fn a_label_can_say_anything() {
        let mut page = Page::default();
        page.family("x", "gauge", "Of x.")
            .sample(&[("a", "q\" b\\ n\n"), ("b", "")], 1);
        let wanted = concat!(
            "# HELP x Of x.\n",
            "# TYPE x gauge\n",
            r#"x{a="q\" b\\ n\n",b=""} 1"#,
            "\n"
        );
        assert_eq!(page.0, wanted);
    }

    #[test]
    fn buckets_are_cumulative_and_in_seconds() {
        let times = crate::engine::histogram::Histogram::default();
        times.note(std::time::Duration::from_micros(1_500));
        times.note(std::time::Duration::from_secs(30));
        let mut page = Page::default();
        page.family("t", "histogram", "Of t.")
            .histogram(&[("a", "b")], &times.now());
        for line in [
            "t_bucket{a=\"b\",le=\"0.001000\"} 0",
            "t_bucket{a=\"b\",le=\"0.002500\"} 1",
            "t_bucket{a=\"b\",le=\"20.000000\"} 1",
            "t_bucket{a=\"b\",le=\"+Inf\"} 2",
            "t_sum{a=\"b\"} 30.001500",
            "t_count{a=\"b\"} 2",
        ] {
            assert!(page.0.lines().any(|l| l == line), "{line} is not in\n{}", page.0);
        }
    }
}
