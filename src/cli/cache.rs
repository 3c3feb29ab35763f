//! `backlot cache`.

use std::io::{BufRead, IsTerminal};
use std::time::Duration;

use backlot_config::Loaded;

use super::client::Client;
use super::error::{CliError, Exit};
use super::evict;
use super::pin::PATIENCE;
use super::{programs, text};
use crate::api::types::TopQuery;
use crate::engine::report::{CacheStat, CacheTop, EvictReport, VerifyProgress};

/// How often the progress is asked for.
const ASK_EVERY: Duration = Duration::from_millis(200);

/// Shows what the cache holds, looks for damage, empties it.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Subcommand)]
enum Verb {
    /// Shows its figures.
    Stat {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows which folders hold how much of it, or which programs had how much fetched.
    Top {
        /// Put folders together by their first so many names; 1 is the projects. Left out: each folder by itself.
        #[arg(long, value_name = "N")]
        depth: Option<usize>,
        /// Show so many.
        #[arg(long, value_name = "N", default_value_t = 20)]
        limit: usize,
        /// By the folders that bytes are in, or by the programs that had them fetched since the daemon started.
        #[arg(long, value_enum, default_value_t = By::Folder)]
        by: By,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Holds all of it against its checksums. What is damaged is dropped, and fetched again when it is wanted.
    ///
    /// Exits with 0 when nothing is damaged, with 4 when something was and is dropped.
    Verify {
        /// Print JSON when it has ended.
        #[arg(long)]
        json: bool,
    },
    /// Drops all of it that is neither pinned nor in use.
    Clear {
        /// Don't ask.
        #[arg(long)]
        yes: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

/// What `cache top` counts by.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
enum By {
    Folder,
    Process,
}

pub(super) async fn run(args: Args, loaded: &Loaded) -> Result<Exit, CliError> {
    let client = Client::at(loaded.config.drive.socket_path(), PATIENCE)?;
    match args.verb {
        Verb::Stat { json } => stat(&client, json).await,
        Verb::Top {
            by: By::Process,
            limit,
            json,
            ..
        } => programs::top(&client, limit, json).await,
        Verb::Top { depth, limit, json, .. } => {
            top(
                &client,
                TopQuery {
                    depth,
                    limit: Some(limit),
                },
                json,
            )
            .await
        }
        Verb::Verify { json } => verify(&client, json).await,
        Verb::Clear { yes, json } => clear(&client, yes, json).await,
    }
}

async fn stat(client: &Client, json: bool) -> Result<Exit, CliError> {
    let s: CacheStat = client.get("cache", &()).await?;
    if json {
        text::json(&s)?;
        return Ok(Exit::Ok);
    }
    outln!("{}", s.dir.display());
    outln!(
        "  {} of {} in {}",
        text::bytes(s.bytes),
        text::bytes(s.max_bytes),
        text::counted_u64(s.contents, "file")
    );
    outln!(
        "  {} pinned, of {} that pins may take",
        text::bytes(s.pinned_bytes),
        text::bytes(s.pin_room_bytes)
    );
    outln!(
        "  {} in use, {} promised to fetches",
        text::counted_u64(s.contents_in_use, "file"),
        text::bytes(s.reserved_bytes)
    );
    outln!(
        "  its disk has {} free, {} are to stay so",
        text::bytes(s.disk_free_bytes),
        text::bytes(s.min_free_bytes)
    );
    if s.max_head_bytes > 0 {
        outln!(
            "  beside that {} of {} with the beginnings and ends of {}",
            text::bytes(s.head_bytes),
            text::bytes(s.max_head_bytes),
            text::counted_u64(s.heads, "media file")
        );
    }
    outln!(
        "  since the start: {} evicted, {} damaged, {} without room",
        text::bytes(s.evicted_bytes),
        text::counted_u64(s.bad_granules, "piece"),
        text::counted_u64(s.refused_fills, "request")
    );
    outln!("  {}", scrubbed(&s));
    Ok(Exit::Ok)
}

/// How far the look through it in the background is.
fn scrubbed(s: &CacheStat) -> String {
    let scrub = &s.scrub;
    let Some(every) = scrub.every_ms else {
        return "never looked through by itself: `scrub = \"off\"` in [cache]".to_owned();
    };
    let oldest = match scrub.oldest_ms {
        None => String::new(),
        Some(0) => "; some were never looked at".to_owned(),
        Some(at) => format!("; the longest ago {}", text::when(at)),
    };
    let going = if scrub.running { " (under way)" } else { "" };
    format!(
        "looked through every {}{going}: {} with {} due{oldest}; since the start {} in {}, {} damaged",
        text::span(every / 1000),
        text::counted_u64(scrub.due_contents, "file"),
        text::bytes(scrub.due_bytes),
        text::bytes(scrub.bytes),
        text::counted_u64(scrub.contents, "file"),
        text::counted_u64(scrub.bad_granules, "piece")
    )
}

async fn top(client: &Client, query: TopQuery, json: bool) -> Result<Exit, CliError> {
    let top: CacheTop = client.get("cache/top", &query).await?;
    if json {
        text::json(&top)?;
        return Ok(Exit::Ok);
    }
    for row in &top.rows {
        let pinned = match row.pinned_bytes {
            0 => String::new(),
            bytes => format!(", {} pinned", text::bytes(bytes)),
        };
        outln!(
            "{:>12} {} ({}{pinned})",
            text::bytes(row.bytes),
            text::printable(&row.path),
            text::counted_u64(row.files, "file")
        );
    }
    outln!(
        "{:>12} in {}; {} of versions that were replaced",
        text::bytes(top.bytes),
        text::counted_u64(top.folders, "folder"),
        text::bytes(top.other_bytes)
    );
    Ok(Exit::Ok)
}

async fn verify(client: &Client, json: bool) -> Result<Exit, CliError> {
    let mut progress: VerifyProgress = client.post("cache/verify", &()).await?;
    while progress.running {
        tokio::time::sleep(ASK_EVERY).await;
        progress = client.get("cache/verify", &()).await?;
    }
    if json {
        text::json(&progress)?;
    } else {
        outln!(
            "{} of {}, and {} of beginnings and ends, verified: {} damaged and dropped",
            text::bytes(progress.bytes),
            text::counted_u64(progress.verified_contents, "file"),
            text::bytes(progress.head_bytes),
            text::counted_u64(progress.bad_granules, "piece")
        );
        if progress.unreadable > 0 {
            errln!(
                "error: {} could not be looked at",
                text::counted_u64(progress.unreadable, "file")
            );
        }
    }
    Ok(if progress.bad_granules + progress.unreadable == 0 {
        Exit::Ok
    } else {
        Exit::Partial
    })
}

async fn clear(client: &Client, yes: bool, json: bool) -> Result<Exit, CliError> {
    if !yes {
        let stat: CacheStat = client.get("cache", &()).await?;
        if !std::io::stdin().is_terminal() {
            return Err(CliError::usage("nobody is there to say that the cache is to be cleared").hint("give --yes"));
        }
        let unpinned = stat.bytes.saturating_sub(stat.pinned_bytes);
        err!("drop {} from {}? [y/N] ", text::bytes(unpinned), stat.dir.display());
        let mut answer = String::new();
        std::io::stdin()
            .lock()
            .read_line(&mut answer)
            .map_err(|e| CliError::failed("read the answer", &e))?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            outln!("nothing changed");
            return Ok(Exit::Ok);
        }
    }
    let report: EvictReport = client.post("cache/clear", &()).await?;
    if json {
        text::json(&report)?;
    } else {
        evict::show(&report);
    }
    Ok(Exit::Ok)
}
