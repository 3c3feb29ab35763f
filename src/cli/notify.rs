//! `backlot notify`.

use std::time::Duration;

use backlot_config::Loaded;

use super::client::Client;
use super::error::{CliError, Exit};
use super::text;
use crate::api::types::{NotifyRetried, NotifyRetryRequest, NotifyTestRequest};
use crate::notify::report::{MessageReport, MessageWord, NotifyReport, TestReport};

/// A test lasts as long as the slowest receiver may take: 10 minutes, and what the daemon takes besides.
const PATIENCE: Duration = Duration::from_secs(630);

/// Shows who is told what became of jobs, and what of it has not arrived.
///
/// Who is told is said by the sections [receivers.NAME] of the settings; docs/notifications.md describes them. A job is
/// told about once, when nothing of it is left to do and [notify] `quiet` is over, also where something failed.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Lists the receivers, and the messages: those that wait, that were given up and why, and that were told lately.
    Ls {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Sends a test message to each receiver at once and says what came of it; 4 if one was not told.
    Test {
        /// Only this receiver.
        #[arg(value_name = "RECEIVER")]
        receiver: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Tries messages again now that wait or were given up.
    Retry {
        /// Only this message, by its number.
        #[arg(value_name = "MESSAGE")]
        message: Option<u64>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let client = Client::at(loaded.config.drive.socket_path(), PATIENCE)?;
    match args.verb {
        Verb::Ls { json } => list(&client, json).await,
        Verb::Test { receiver, json } => test(&client, receiver, json).await,
        Verb::Retry { message, json } => {
            let done: NotifyRetried = client.post("notify/retry", &NotifyRetryRequest { message }).await?;
            if json {
                text::json(&done)?;
            } else {
                outln!("to be sent now: {}", text::counted_u64(done.messages, "message"));
            }
            Ok(Exit::Ok)
        }
    }
}

async fn test(client: &Client, receiver: Option<String>, json: bool) -> Result<Exit, CliError> {
    let tests: Vec<TestReport> = client.post("notify/test", &NotifyTestRequest { receiver }).await?;
    let all_told = tests.iter().all(|test| test.told);
    if json {
        text::json(&tests)?;
    } else if tests.is_empty() {
        outln!("the settings name no receiver: add a section [receivers.NAME]");
    } else {
        for test in &tests {
            let said = test.why.as_deref().map_or_else(
                || "told".to_owned(),
                |why| format!("NOT told: {}", text::printable(why)),
            );
            outln!("{}: {}: {said}", test.receiver, text::printable(&test.way));
        }
    }
    Ok(if all_told { Exit::Ok } else { Exit::Partial })
}

async fn list(client: &Client, json: bool) -> Result<Exit, CliError> {
    let report: NotifyReport = client.get("notify", &()).await?;
    if json {
        text::json(&report)?;
        return Ok(Exit::Ok);
    }
    if report.receivers.is_empty() {
        outln!("the settings name no receiver, so nobody is told anything: add a section [receivers.NAME]");
    }
    for receiver in &report.receivers {
        let mut of = Vec::new();
        if receiver.on != "all" {
            of.push(format!("on {} only", receiver.on));
        }
        for (what, names) in [("projects", &receiver.projects), ("to sites", &receiver.sites)] {
            if !names.is_empty() {
                of.push(format!("{what} {}", names.join(", ")));
            }
        }
        let of = if of.is_empty() {
            String::new()
        } else {
            format!(" ({})", of.join("; "))
        };
        outln!("{}: {}{of}", receiver.name, text::printable(&receiver.way));
    }
    for message in &report.messages {
        show(message);
    }
    outln!(
        "{} not told yet, {} given up",
        text::counted_u64(report.waiting, "message"),
        text::count(report.given_up)
    );
    Ok(Exit::Ok)
}

fn show(message: &MessageReport) {
    let state = match message.state {
        MessageWord::Waiting if message.tries == 0 => "waiting".to_owned(),
        MessageWord::Waiting => format!("tried {}, again {}", times(message.tries), text::when(message.at_ms)),
        MessageWord::Sending => "being sent".to_owned(),
        MessageWord::Told => format!("told {}", text::when(message.at_ms)),
        MessageWord::GivenUp => format!("GIVEN UP {}", text::when(message.at_ms)),
    };
    let to = if message.address.is_empty() {
        &message.receiver
    } else {
        &message.address
    };
    outln!(
        "{:>5} {} job {} round {} ({}) to {}: {state}",
        message.id,
        text::printable(&message.project),
        message.job,
        message.round,
        message.outcome,
        text::printable(to)
    );
    if let Some(error) = &message.error {
        outln!("      because {}", text::printable(error));
    }
    if message.lost > 0 {
        outln!(
            "      no answer came to {}: it may have arrived more than once",
            tries(message.lost)
        );
    }
}

fn tries(n: u32) -> String {
    match n {
        1 => "1 try".to_owned(),
        n => format!("{n} tries"),
    }
}

fn times(n: u32) -> String {
    match n {
        1 => "once".to_owned(),
        n => format!("{n} times"),
    }
}
