//! `backlot queue`.

mod follow;

use std::ffi::OsString;

use backlot_config::Loaded;

use super::client::Client;
use super::error::{CliError, Exit};
use super::{paths, text};
use crate::api::types::{PauseRequest, QueuePriorityRequest, TaskPriorityRequest};
use crate::engine::report::{
    Changed, JobQuery, JobReport, QueueReport, Selection, TallyReport, TaskKind, TaskPage, TaskQuery, TaskReport,
    TaskWord,
};

/// Shows what goes up to sites, and steers it.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    list: List,
}

/// What to list.
#[derive(Debug, clap::Args)]
struct List {
    /// The queue of this project alone.
    #[arg(long)]
    project: Option<String>,
    /// Tasks that stand so alone.
    #[arg(long, value_enum)]
    state: Option<State>,
    /// Show how it goes on until nothing moves any more; on a terminal as a live view.
    #[arg(long, conflicts_with = "state")]
    follow: bool,
    /// Print JSON; with --follow a line whenever something changed.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum State {
    /// For its turn.
    Waiting,
    /// Bytes go up.
    Uploading,
    /// Something is being removed.
    Deleting,
    /// Failed, and tried again by itself.
    Retrying,
    /// In need of a person.
    Blocked,
    /// Held back by one.
    Held,
    /// Bytes go from one site to another.
    Copying,
    /// Left out of what is copied.
    Excluded,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Lists the queues and their tasks.
    Ls(List),
    /// Stops queues: what is under way is gone on with once they are resumed.
    Pause(Whole),
    /// Lets queues go on.
    Resume(Whole),
    /// Tries again now what failed or needs a person.
    ///
    /// Files that were cancelled are put into the queue again where their paths name them.
    Retry(Named),
    /// Takes tasks out of the queue.
    ///
    /// The files stay on this machine, as `local`, and go up when they are saved again, or by `queue retry PATH`.
    Cancel(Named),
    /// Holds tasks back.
    Hold(Named),
    /// Lets tasks go that were held back.
    Release(Named),
    /// Leaves files out of what is copied between sites.
    ///
    /// They stay out when their folder is pushed again on the same day; named again, they are copied.
    Exclude(Named),
    /// Lists the jobs of copies between sites.
    Jobs {
        /// Those of this project alone.
        #[arg(long)]
        project: Option<String>,
        /// Those that are done too.
        #[arg(long)]
        all: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Gives a queue, or a task within its queue, a priority.
    Set {
        /// A project, or the number of a task.
        #[arg(value_name = "PROJECT|ID")]
        what: String,
        /// 0 to 1000, higher goes first; or `default`.
        #[arg(long, value_name = "N", value_parser = priority)]
        priority: Priority,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// Which queues.
#[derive(Debug, clap::Args)]
struct Whole {
    /// The project; all if left out.
    project: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Which tasks.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("which").required(true).args(["what", "all"])))]
struct Named {
    /// Numbers of tasks, or paths of the drive or below its mount point; a folder is all below it.
    #[arg(value_name = "ID|PATH")]
    what: Vec<OsString>,
    /// All tasks.
    #[arg(long)]
    all: bool,
    /// All tasks of a job of copies.
    #[arg(long, value_name = "ID")]
    job: Option<u64>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// A priority; `None` is the default.
#[derive(Clone, Copy, Debug)]
struct Priority(Option<u16>);

fn priority(text: &str) -> Result<Priority, String> {
    if text == "default" {
        return Ok(Priority(None));
    }
    let number = text.parse().ok().filter(|number| *number <= 1000);
    number
        .map(|number| Priority(Some(number)))
        .ok_or_else(|| "expected a number from 0 to 1000, or `default`".to_owned())
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let client = Client::new(&loaded.config)?;
    match args.verb {
        None => list(&client, &args.list).await?,
        Some(Verb::Ls(what)) => list(&client, &what).await?,
        Some(Verb::Pause(which)) => pause(&client, "queues/pause", which).await?,
        Some(Verb::Resume(which)) => pause(&client, "queues/resume", which).await?,
        Some(Verb::Retry(named)) => {
            let Some(done) = named.change(&client, "retry", loaded).await? else {
                return Ok(Exit::Ok);
            };
            if done.queued > 0 {
                outln!("{} put into the queue again", text::counted_u64(done.queued, "file"));
            }
            outln!("{} tried again now", text::counted_u64(done.tasks, "task"));
        }
        Some(Verb::Cancel(named)) => {
            let Some(done) = named.change(&client, "cancel", loaded).await? else {
                return Ok(Exit::Ok);
            };
            outln!("{} taken out of the queue", text::counted_u64(done.tasks, "task"));
            if done.tasks > 0 {
                outln!("  files stay on this machine, as `local`; `backlot queue retry PATH` puts them in again");
            }
        }
        Some(Verb::Hold(named)) => {
            if let Some(done) = named.change(&client, "hold", loaded).await? {
                outln!("{} held back", text::counted_u64(done.tasks, "task"));
            }
        }
        Some(Verb::Release(named)) => {
            if let Some(done) = named.change(&client, "release", loaded).await? {
                outln!("{} let go", text::counted_u64(done.tasks, "task"));
            }
        }
        Some(Verb::Exclude(named)) => {
            if let Some(done) = named.change(&client, "exclude", loaded).await? {
                outln!("{} left out", text::counted_u64(done.tasks, "task"));
            }
        }
        Some(Verb::Jobs { project, all, json }) => {
            let jobs: Vec<JobReport> = client.get("jobs", &JobQuery { project, all }).await?;
            if json {
                text::json(&jobs)?;
            } else if jobs.is_empty() {
                outln!("no jobs");
            }
            jobs.iter().filter(|_| !json).for_each(show_job);
        }
        Some(Verb::Set { what, priority, json }) => set(&client, what, priority, json, loaded).await?,
    }
    Ok(Exit::Ok)
}

impl Named {
    /// Does something to the tasks; returns what came of it, if that is not printed already.
    async fn change(&self, client: &Client, how: &str, loaded: &Loaded) -> Result<Option<Changed>, CliError> {
        let done: Changed = client.post(&format!("tasks/{how}"), &self.selection(loaded)?).await?;
        if self.json {
            text::json(&done)?;
            return Ok(None);
        }
        Ok(Some(done))
    }

    fn selection(&self, loaded: &Loaded) -> Result<Selection, CliError> {
        let mut selection = Selection {
            all: self.all,
            job: self.job,
            ..Selection::default()
        };
        for what in &self.what {
            match number(what.to_str()) {
                Some(id) => selection.tasks.push(id),
                None => selection.paths.push(paths::in_drive(what, loaded)?),
            }
        }
        Ok(selection)
    }
}

/// A text of nothing but digits is a number: a file of such a name can be given as `./123`.
fn number(text: Option<&str>) -> Option<u64> {
    text.filter(|text| text.bytes().all(|b| b.is_ascii_digit()))?
        .parse()
        .ok()
}

async fn pause(client: &Client, route: &str, which: Whole) -> Result<(), CliError> {
    let Whole { project, json } = which;
    let queues: Vec<QueueReport> = client.post(route, &PauseRequest { project }).await?;
    show_queues(&queues, json)
}

fn show_queues(queues: &[QueueReport], json: bool) -> Result<(), CliError> {
    if json {
        return text::json(&queues);
    }
    queues.iter().for_each(show_queue);
    Ok(())
}

async fn set(
    client: &Client,
    what: String,
    Priority(priority): Priority,
    json: bool,
    loaded: &Loaded,
) -> Result<(), CliError> {
    let id = number(Some(&what)).filter(|_| !loaded.config.projects.contains_key(&what));
    let Some(id) = id else {
        let request = QueuePriorityRequest {
            project: what,
            priority,
        };
        let queues: Vec<QueueReport> = client.post("queues/priority", &request).await?;
        return show_queues(&queues, json);
    };
    let of = Selection {
        tasks: vec![id],
        ..Selection::default()
    };
    let done: Changed = client
        .post("tasks/priority", &TaskPriorityRequest { of, priority })
        .await?;
    if json {
        return text::json(&done);
    }
    outln!("{} of another priority now", text::counted_u64(done.tasks, "task"));
    Ok(())
}

async fn list(client: &Client, what: &List) -> Result<(), CliError> {
    if what.follow {
        return follow::run(client, what.project.as_deref(), what.json).await;
    }
    let queues: Vec<QueueReport> = client.get("queues", &()).await?;
    let wanted = |queue: &&QueueReport| what.project.as_ref().is_none_or(|project| *project == queue.project);
    if !what.json {
        queues.iter().filter(wanted).for_each(show_queue);
        let project = what.project.clone();
        let jobs: Vec<JobReport> = client.get("jobs", &JobQuery { project, all: false }).await?;
        jobs.iter().for_each(show_job);
    }
    let mut query = TaskQuery {
        project: what.project.clone(),
        state: what.state.map(word),
        ..TaskQuery::default()
    };
    let mut all = Vec::new();
    let mut first = true;
    loop {
        let page: TaskPage = client.get("tasks", &query).await?;
        if what.json {
            all.extend(page.tasks);
        } else {
            if first && !page.tasks.is_empty() {
                outln!("{:>8}  {:<9} {:>5} {:>10}  PATH", "ID", "STATE", "DONE", "SIZE");
                first = false;
            }
            page.tasks.iter().for_each(show_task);
        }
        let Some(next) = page.next else { break };
        query.cursor = next;
    }
    if what.json {
        text::json(&all)?;
    }
    Ok(())
}

fn word(state: State) -> TaskWord {
    match state {
        State::Waiting => TaskWord::Waiting,
        State::Uploading => TaskWord::Uploading,
        State::Deleting => TaskWord::Deleting,
        State::Retrying => TaskWord::Retrying,
        State::Blocked => TaskWord::Blocked,
        State::Held => TaskWord::Held,
        State::Copying => TaskWord::Copying,
        State::Excluded => TaskWord::Excluded,
    }
}

pub(super) fn show_queue(queue: &QueueReport) {
    let shown = |tally: TallyReport, word: &str| {
        (tally.tasks > 0).then(|| format!("{} {word} ({})", text::count(tally.tasks), text::bytes(tally.bytes)))
    };
    let mut parts: Vec<String> = [
        shown(queue.waiting, "waiting"),
        shown(queue.running, "under way"),
        shown(queue.blocked, "blocked"),
        shown(queue.held, "held"),
    ]
    .into_iter()
    .flatten()
    .collect();
    if queue.is_empty() {
        parts.push("nothing waits".to_owned());
    }
    if queue.retrying.tasks > 0 {
        parts.push(format!(
            "{} of those waiting failed before",
            text::count(queue.retrying.tasks)
        ));
    }
    let set = if queue.priority_set { " (set here)" } else { "" };
    let paused = if queue.paused { "PAUSED, " } else { "" };
    outln!(
        "{}: {paused}priority {}{set}, {}",
        text::printable(&queue.project),
        queue.priority,
        parts.join(", ")
    );
}

/// Shows a job of copies and how far it is.
pub(super) fn show_job(job: &JobReport) {
    let shown = |tally: TallyReport, word: &str| {
        (tally.tasks > 0).then(|| format!("{} {word} ({})", text::count(tally.tasks), text::bytes(tally.bytes)))
    };
    let mut parts: Vec<String> = [
        shown(job.done, "copied"),
        (job.same > 0).then(|| format!("{} there already", text::count(job.same))),
        shown(job.running, "under way"),
        shown(job.waiting, "waiting"),
        shown(job.blocked, "blocked"),
        shown(job.held, "held"),
        shown(job.excluded, "left out"),
        (job.left_out > 0).then(|| format!("{} neither files nor folders", text::count(job.left_out))),
    ]
    .into_iter()
    .flatten()
    .collect();
    if job.folders > 0 {
        parts.push(format!(
            "{} still to be listed",
            text::counted_u64(job.folders, "folder")
        ));
    }
    if parts.is_empty() {
        parts.push("nothing to copy".to_owned());
    }
    outln!(
        "job {} {}: {}, {}",
        job.id,
        text::printable(&job.name),
        job.state,
        parts.join(", ")
    );
}

fn show_task(task: &TaskReport) {
    let share = match (task.what, task.done_bytes, task.size) {
        (TaskKind::Publish | TaskKind::Copy, done, size) if done > 0 && size > 0 => {
            format!("{}%", done.saturating_mul(100) / size)
        }
        _ => String::new(),
    };
    let size = match task.what {
        TaskKind::Publish | TaskKind::Copy => text::bytes(task.size),
        TaskKind::CopyFolder => "folder".to_owned(),
        TaskKind::Delete => "delete".to_owned(),
        TaskKind::Clear => "clear".to_owned(),
    };
    let path = match (&task.from, &task.to) {
        (Some(from), Some(to)) => std::borrow::Cow::Owned(format!("{} ({from} > {to})", text::printable(&task.path))),
        _ => text::printable(&task.path),
    };
    outln!("{:>8}  {:<9} {share:>5} {size:>10}  {path}", task.id, task.state);
    if let Some(error) = &task.error {
        let again = match (task.state, task.due_ms) {
            (TaskWord::Retrying | TaskWord::Blocked, Some(due)) => format!(" (again at {})", text::when(due)),
            _ => String::new(),
        };
        outln!("{:>8}  because {}{again}", "", text::printable(error));
    }
}
