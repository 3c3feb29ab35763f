//! The list of cases, and running them over a kind of site.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use backlot::model::{RelPath, Version};
use backlot::providers::layers::Faults;
use backlot::providers::{Capabilities, PartDone, Provider, ProviderError, UploadPlan, UploadToken};
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};

use crate::rig::{Kind, Rig, Wrap};
use crate::{looking, reading, writing};

/// What came of a case that did not fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Ran,
    /// The kind of site can't show this, or the test has no way to bring it about.
    Skipped(&'static str),
}

/// One promise of the trait.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    run: fn(Rig) -> BoxFuture<'static, Outcome>,
}

macro_rules! cases {
    ($($module:ident::$name:ident,)+) => {
        &[$(Case { name: stringify!($name), run: |rig| $module::$name(rig).boxed() },)+]
    };
}

/// All of them.
pub(crate) const CASES: &[Case] = cases![
    looking::stat_tells_what_is_there,
    looking::absence_is_confirmed_and_never_guessed,
    looking::a_root_that_is_away_is_unreachable,
    looking::what_is_refused_is_denied,
    looking::names_are_bytes,
    looking::a_path_too_long_is_invalid,
    looking::links_are_shown_and_not_followed,
    looking::a_listing_is_whole,
    looking::a_large_folder_is_listed,
    looking::space_is_told,
    reading::ranges,
    reading::empty_files_and_ranges,
    reading::beyond_the_end_is_a_mismatch,
    reading::an_old_version_is_a_mismatch,
    reading::a_file_replaced_while_read_is_never_mixed,
    reading::a_file_cut_while_read_ends_with_an_error,
    reading::many_reads_at_once,
    reading::streams_dropped_early_do_no_harm,
    reading::a_hash_that_is_announced_is_given,
    writing::an_upload_arrives_whole_and_dated,
    writing::parts_in_any_order_and_again,
    writing::an_upload_goes_on_after_a_restart,
    writing::an_abort_leaves_nothing,
    writing::a_commit_without_all_parts_is_refused,
    writing::a_commit_that_expects_otherwise_leaves_the_target_alone,
    writing::a_commit_whose_answer_was_lost_can_be_repeated,
    writing::an_upload_that_was_committed_is_known_again,
    writing::readers_never_see_half_a_commit,
    writing::two_uploads_of_one_path_do_not_meet,
    writing::folders_are_made,
    writing::renames,
    writing::deletes,
];

/// What became of one case over one kind of site.
#[derive(Clone, Debug)]
pub(crate) enum Cell {
    Done(Outcome),
    Failed(String),
}

/// One row of the table: a kind of site, and its outcomes by case.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) cells: BTreeMap<&'static str, Cell>,
    /// Faults that struck while it ran.
    pub(crate) faults: u64,
    pub(crate) took: Duration,
}

/// No case takes longer: most take milliseconds.
const LIMIT: Duration = Duration::from_secs(180);

/// Cases at once: much of each is waiting for a server's processes.
const AT_ONCE: usize = 4;

/// Runs all cases, or those whose name has `only` in it, each over a fresh site.
pub(crate) async fn run(name: &'static str, kind: &Kind, wrap: Wrap, only: &str) -> Row {
    let start = Instant::now();
    let jobs = (0..)
        .zip(CASES.iter().filter(|c| c.name.contains(only)))
        .map(|(seed, case)| {
            let faults = Faults::new(seed);
            let kind = kind.clone();
            let run = case.run;
            let reads_by_name = kind.reads_by_name() && case.name == "readers_never_see_half_a_commit";
            async move {
                if reads_by_name {
                    let why = "rclone's store reads by name: what is replaced meanwhile breaks off, or comes mixed";
                    return (case.name, Cell::Done(Outcome::Skipped(why)), 0);
                }
                let job = tokio::spawn({
                    let faults = Arc::clone(&faults);
                    async move { tokio::time::timeout(LIMIT, run(kind.rig(wrap, &faults))).await }
                });
                let cell = match job.await {
                    Ok(Ok(outcome)) => Cell::Done(outcome),
                    Ok(Err(_)) => Cell::Failed(format!("not done after {LIMIT:?}")),
                    Err(panic) => Cell::Failed(panic_text(panic)),
                };
                (case.name, cell, faults.fired())
            }
        });
    let done: Vec<_> = stream::iter(jobs).buffer_unordered(AT_ONCE).collect().await;
    Row {
        name,
        faults: done.iter().map(|(_, _, struck)| struck).sum(),
        cells: done.into_iter().map(|(name, cell, _)| (name, cell)).collect(),
        took: start.elapsed(),
    }
}

fn panic_text(e: tokio::task::JoinError) -> String {
    let panic = e.into_panic();
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string))
        .unwrap_or_else(|| "a panic".to_owned())
}

/// The table: a line per case, a column per kind of site.
pub(crate) struct Table<'a>(pub &'a [Row]);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, row) in self.0.iter().enumerate() {
            writeln!(f, "{:width$}{} ({:.1?})", "", row.name, row.took, width = 66 + i * 3)?;
        }
        let mut reasons = BTreeMap::new();
        for case in CASES {
            if self.0.iter().all(|row| !row.cells.contains_key(case.name)) {
                continue;
            }
            write!(f, "{:66}", case.name)?;
            for row in self.0 {
                let mark = match row.cells.get(case.name) {
                    Some(Cell::Done(Outcome::Ran)) => "ok ",
                    Some(Cell::Done(Outcome::Skipped(why))) => {
                        reasons.insert(*why, ());
                        "-  "
                    }
                    Some(Cell::Failed(_)) => "XX ",
                    None => "   ",
                };
                f.write_str(mark)?;
            }
            writeln!(f)?;
        }
        for why in reasons.keys() {
            writeln!(f, "-: {why}")?;
        }
        Ok(())
    }
}

// What cases say often.

/// Bytes that tell which file they are of, and where in it.
pub(crate) fn content(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|i| u8::try_from((i / 7 + i / 65_536 + usize::from(seed) * 31) % 251).unwrap())
        .collect()
}

/// Reads a range to its end.
pub(crate) async fn read(
    p: &dyn Provider,
    at: &RelPath,
    version: &Version,
    range: std::ops::Range<u64>,
) -> Result<Vec<u8>, ProviderError> {
    let chunks: Vec<Bytes> = p.read(at, version, range).try_collect().await?;
    Ok(chunks.concat())
}

/// Enlarges a file and its parts, where a site takes no parts as small as these: as many parts as before.
pub(crate) fn fit(p: &dyn Provider, size: usize, part_size: u64) -> (usize, u64) {
    let least = p.capabilities().min_part;
    let (whole, rest) = (size as u64 / part_size, size as u64 % part_size);
    if part_size >= least || size as u64 <= part_size {
        return (size, part_size);
    }
    (usize::try_from(whole * least + rest).unwrap(), least)
}

/// A plan whose time is no whole second.
pub(crate) fn plan(at: &RelPath, size: usize, part_size: u64) -> UploadPlan {
    UploadPlan {
        path: at.clone(),
        size: size as u64,
        mtime_ns: 1_234_567_890_123_456_789,
        perm: Some(0o640),
        part_size,
        nonce: uuid::Uuid::new_v4().to_string(),
    }
}

/// Cuts a file's part out of it.
pub(crate) fn part(plan: &UploadPlan, bytes: &[u8], index: u32) -> Bytes {
    let range = plan.part_range(index).unwrap();
    Bytes::copy_from_slice(&bytes[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()])
}

/// Begins an upload and sends all its parts.
pub(crate) async fn send(p: &dyn Provider, plan: &UploadPlan, bytes: &[u8]) -> (UploadToken, Vec<PartDone>) {
    let token = p.begin_upload(plan).await.unwrap();
    let mut done = Vec::new();
    for index in 0..u32::try_from(plan.part_count()).unwrap() {
        done.push(p.upload_part(&token, index, part(plan, bytes, index)).await.unwrap());
    }
    (token, done)
}

/// Uploads a file.
pub(crate) async fn upload(p: &dyn Provider, at: &RelPath, bytes: &[u8]) -> Version {
    let (token, done) = send(p, &plan(at, bytes.len(), 1 << 20), bytes).await;
    p.commit(token, &done, None).await.unwrap()
}

/// What the site makes of a time.
pub(crate) fn as_kept(caps: &Capabilities, mtime_ns: i64) -> i64 {
    let step = i64::try_from(caps.mtime_step_ns).unwrap();
    mtime_ns.div_euclid(step) * step
}
