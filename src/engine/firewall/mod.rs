//! The hydration firewall: which program may have bytes fetched, and what was fetched for whom
//! (docs/design/0009-firewall.md).
//!
//! `process` says who asks, `programs` what holds for it by name, `looks` finds out who only looks into files, `ledger`
//! counts. `gate` asks all of them where files are opened and read.
//! Owns: the processes met lately. Refuses to know: files, the cache. Invariants: what is here is served to everybody; who is
//! held back waits for nothing, and nothing is remembered of what it was refused; nothing here waits for the process in
//! question, which may be waiting for us.

mod gate;
mod ledger;
mod looks;
mod process;
mod programs;

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use lru::LruCache;
use tracing::info;

use super::handles::OpenFile;
use super::report::ProgramsReport;
pub(super) use gate::Grant;
use ledger::Ledger;
pub(super) use ledger::Payer;
pub(super) use ledger::{Account, Cause};
use looks::{Looks, is_read};
use process::{Facts, facts, script};
use programs::{Lists, ProgramNames, Standing};

/// Threads that are remembered. A busy machine has some hundred that use files.
const THREADS: NonZeroUsize = NonZeroUsize::new(2048).unwrap();
/// Programs whose looks are counted.
const FAMILIES: NonZeroUsize = NonZeroUsize::new(512).unwrap();
/// A thread is taken for what it was so long ago; a process may have become another program since.
const FRESH: Duration = Duration::from_millis(100);
/// Whom a process was started by counts so many generations up: `rsnapshot` has `rsync` do its work.
const GENERATIONS: usize = 3;
/// The arguments of a process that do not come within this time are not waited for.
const PATIENCE: Duration = Duration::from_millis(100);

/// A process that uses files.
#[derive(Debug)]
pub(super) struct Process {
    account: Arc<Account>,
    standing: Standing,
    looks: Arc<Mutex<Looks>>,
}

impl Process {
    /// Who pays for what it has fetched.
    pub(super) fn account(&self) -> &Arc<Account> {
        &self.account
    }

    fn looks(&self) -> MutexGuard<'_, Looks> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A thread that was met.
#[derive(Debug)]
struct Met {
    facts: Facts,
    process: Arc<Process>,
    at: Instant,
}

/// Program and name of a process, and whose child it is, so that a loop that starts a process a file is one program.
type Family = (String, Option<String>, u32);

/// The firewall of a drive.
#[derive(Debug)]
pub(super) struct Firewall {
    /// `None`: switched off.
    lists: Option<Lists>,
    budget: u64,
    ledger: Ledger,
    met: Mutex<LruCache<u32, Met>>,
    families: Mutex<LruCache<Family, Arc<Mutex<Looks>>>>,
    unknown: Arc<Process>,
}

impl Firewall {
    /// Sets it up by the settings.
    ///
    /// # Errors
    /// When a name is no pattern: never for loaded settings.
    pub(super) fn new(settings: &backlot_config::Firewall) -> Result<Self, globset::Error> {
        let ledger = Ledger::new();
        let unknown = Process {
            account: Arc::clone(ledger.unknown()),
            standing: Standing::Allowed,
            looks: Arc::new(Mutex::new(Looks::new())),
        };
        Ok(Self {
            lists: settings.enabled.then(|| Lists::new(settings)).transpose()?,
            budget: settings.budget.bytes(),
            ledger,
            met: Mutex::new(LruCache::new(THREADS)),
            families: Mutex::new(LruCache::new(FAMILIES)),
            unknown: Arc::new(unknown),
        })
    }

    fn met(&self) -> MutexGuard<'_, LruCache<u32, Met>> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Who pays for what the drive does by itself.
    pub(super) fn own(&self) -> &Arc<Account> {
        self.ledger.own()
    }

    /// Who pays where nobody can be told.
    pub(super) fn unknown(&self) -> &Arc<Account> {
        self.ledger.unknown()
    }

    /// Returns who pays for what a thread caused that was met a moment ago.
    pub(super) fn payer_of(&self, thread: u32) -> Payer {
        let met = self.met();
        let account = met.peek(&thread).map_or(self.unknown(), |met| &met.process.account);
        Payer::by_priority(account)
    }

    /// Returns who asks, by the id of one of its threads.
    pub(super) async fn who(&self, thread: u32) -> Arc<Process> {
        // The kernel's own doing, or a process in a namespace that is none of ours.
        if thread == 0 {
            return Arc::clone(&self.unknown);
        }
        if let Some(met) = self.met().get(&thread)
            && met.at.elapsed() < FRESH
        {
            return Arc::clone(&met.process);
        }
        let Some(facts) = facts(thread) else {
            // It has ended, or is hidden from us: what was known of it holds.
            let met = self.met();
            return Arc::clone(met.peek(&thread).map_or(&self.unknown, |met| &met.process));
        };
        let known = {
            let mut met = self.met();
            let same = met.get_mut(&thread).filter(|met| met.facts == facts);
            same.map(|met| {
                met.at = Instant::now();
                Arc::clone(&met.process)
            })
        };
        if let Some(process) = known {
            process.account.met(facts.pid);
            return process;
        }
        let process = Arc::new(self.meet(&facts).await);
        process.account.met(facts.pid);
        let met = Met {
            facts,
            process: Arc::clone(&process),
            at: Instant::now(),
        };
        self.met().put(thread, met);
        process
    }

    /// Finds out what a process is that was not met before.
    async fn meet(&self, facts: &Facts) -> Process {
        let program = facts.program();
        let script = match program.filter(|_| facts.is_interpreter()) {
            Some(program) => {
                let (pid, program) = (facts.pid, program.to_owned());
                let read = tokio::task::spawn_blocking(move || script(pid, &program));
                let read = tokio::time::timeout(PATIENCE, read).await;
                read.ok().and_then(Result::ok).flatten()
            }
            None => None,
        };
        let name = script.as_deref().or(program).unwrap_or(&facts.comm);
        let mut shown = name.to_owned();
        let mut standing = None;
        if let Some(lists) = &self.lists {
            standing = lists.standing(&ProgramNames {
                whole: [program, script.as_deref()],
                comm: &facts.comm,
            });
            let mut parent = facts.parent;
            for _ in 0..GENERATIONS {
                if standing.is_some() || parent <= 1 {
                    break;
                }
                let Some(above) = process::facts(parent) else { break };
                standing = lists.standing(&ProgramNames {
                    whole: [above.program(), None],
                    comm: &above.comm,
                });
                if standing.is_some() {
                    shown = format!("{name} (started by {})", above.program().unwrap_or(&above.comm));
                }
                parent = above.parent;
            }
        }
        let standing = standing.unwrap_or(if self.lists.is_some() {
            Standing::Plain
        } else {
            Standing::Allowed
        });
        // What has no parent any more is no one's child, nor everyone's brother.
        let elder = if facts.parent <= 1 { facts.pid } else { facts.parent };
        let looks = {
            let mut families = self.families.lock().unwrap_or_else(PoisonError::into_inner);
            let family = (shown.clone(), facts.exe.clone(), elder);
            Arc::clone(families.get_or_insert(family, || Arc::new(Mutex::new(Looks::new()))))
        };
        Process {
            account: self.ledger.account(&shown, facts.exe.as_deref(), standing),
            standing,
            looks,
        }
    }

    /// A file that had not been here as a whole was closed by who had opened it.
    pub(super) fn closed(&self, process: &Process, file: &OpenFile, len: u64) {
        let asked = file.asked();
        let look = (!is_read(asked, len)).then_some(asked);
        if process.standing == Standing::Plain && process.looks().closed(look, self.budget, Instant::now()) {
            process.account.held();
            info!(
                program = process.account.name(),
                budget = self.budget,
                "it only looks into files: what is fetched for it is limited"
            );
        }
    }

    /// What `status` and `cache top --by process` show.
    pub(super) fn report(&self) -> ProgramsReport {
        let programs = self.ledger.report();
        ProgramsReport {
            on: self.lists.is_some(),
            budget_bytes: self.budget,
            fetched_bytes: programs.iter().map(|program| program.bytes).sum(),
            refusals: programs.iter().map(|program| program.refusals).sum(),
            programs,
        }
    }
}
