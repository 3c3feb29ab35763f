//! `backlot queue --follow`: how the queues go on, as a live view on a terminal and as lines in a pipe.

use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use super::super::client::Client;
use super::super::error::CliError;
use super::super::text;
use crate::engine::report::{QueueReport, Status, TallyReport, TaskPage, TaskQuery, TaskReport, TaskWord};

/// Between two looks.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// The same for a live view.
const ASK_SOON: Duration = Duration::from_millis(300);
/// Files under way that a live view shows.
const SHOWN: usize = 8;

/// How far the queues are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
struct Progress {
    /// Tasks that are under way or will be by themselves.
    going: TallyReport,
    /// Tasks that are under way.
    running: u64,
    /// Tasks that need a person, are held back, or of a paused queue.
    stuck: u64,
    /// Bytes that arrive per second.
    bytes_per_second: u64,
    /// How long the rest takes at that rate.
    eta_seconds: Option<u64>,
}

pub(super) async fn run(client: &Client, project: Option<&str>, json: bool) -> Result<(), CliError> {
    let mut view = (text::is_live(&std::io::stdout()) && !json).then(View::new);
    let mut before = None;
    loop {
        let status: Status = client.get("status", &()).await?;
        let progress = Progress::of(&status, project);
        if let Some(view) = &mut view {
            let query = TaskQuery {
                project: project.map(str::to_owned),
                state: Some(TaskWord::Uploading),
                limit: Some(SHOWN),
                ..TaskQuery::default()
            };
            let page: TaskPage = client.get("tasks", &query).await?;
            view.show(&progress, &page.tasks);
        } else if before.as_ref() != Some(&progress) {
            if json {
                let line = serde_json::to_string(&progress).map_err(|e| CliError::failed("write JSON", &e))?;
                outln!("{line}");
            } else {
                outln!("{}", progress.said());
            }
        }
        if progress.going.tasks == 0 {
            if let Some(view) = view {
                view.end();
                outln!("{}", progress.said());
            }
            return Ok(());
        }
        before = Some(progress);
        tokio::time::sleep(if view.is_some() { ASK_SOON } else { ASK_EVERY }).await;
    }
}

impl Progress {
    fn of(status: &Status, project: Option<&str>) -> Self {
        let publishing = &status.publishing;
        let mut progress = Self {
            going: TallyReport::default(),
            running: 0,
            stuck: 0,
            bytes_per_second: publishing.pending.bytes_per_second,
            eta_seconds: publishing.pending.eta_seconds.filter(|_| project.is_none()),
        };
        let is_wanted = |queue: &&QueueReport| project.is_none_or(|project| project == queue.project);
        for queue in publishing.queues.iter().filter(is_wanted) {
            let moving = [queue.waiting, queue.running];
            progress.stuck += queue.blocked.tasks + queue.held.tasks;
            progress.running += queue.running.tasks;
            for tally in moving {
                if queue.paused {
                    progress.stuck += tally.tasks;
                } else {
                    progress.going.tasks += tally.tasks;
                    progress.going.bytes += tally.bytes;
                }
            }
        }
        progress
    }

    fn said(&self) -> String {
        let stuck = match self.stuck {
            0 => String::new(),
            stuck => format!("; stuck: {}", text::counted_u64(stuck, "task")),
        };
        if self.going.tasks == 0 {
            return format!("nothing is under way{stuck}");
        }
        let left = match self.eta_seconds {
            Some(seconds) => format!(", {} left", text::span(seconds)),
            None => String::new(),
        };
        format!(
            "{} ({}) to go, {} under way, {}{left}{stuck}",
            text::counted_u64(self.going.tasks, "task"),
            text::bytes(self.going.bytes),
            text::count(self.running),
            text::rate(self.bytes_per_second)
        )
    }
}

/// The live view: a line about all, and one for each of the first files under way.
struct View {
    lines: MultiProgress,
    all: ProgressBar,
    files: Vec<ProgressBar>,
}

impl View {
    fn new() -> Self {
        let lines = MultiProgress::new();
        let all = lines.add(ProgressBar::new_spinner());
        all.enable_steady_tick(Duration::from_millis(100));
        Self {
            lines,
            all,
            files: Vec::new(),
        }
    }

    fn show(&mut self, progress: &Progress, tasks: &[TaskReport]) {
        self.all.set_message(progress.said());
        while self.files.len() < tasks.len() {
            let bar = self.lines.add(ProgressBar::new(0));
            if let Ok(style) = ProgressStyle::with_template("  {bar:20} {bytes:>10} of {total_bytes:<10} {msg}") {
                bar.set_style(style);
            }
            self.files.push(bar);
        }
        for bar in self.files.drain(tasks.len()..) {
            bar.finish_and_clear();
            self.lines.remove(&bar);
        }
        for (bar, task) in self.files.iter().zip(tasks) {
            bar.set_length(task.size);
            bar.set_position(task.done_bytes);
            bar.set_message(text::printable(&task.path).into_owned());
        }
    }

    fn end(self) {
        drop(self.lines.clear());
    }
}
