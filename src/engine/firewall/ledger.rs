//! What was fetched for whom: bytes by program and by cause, and what was refused.
//!
//! Owns: the accounts. Refuses to know: processes, who may have what. Invariants: every byte that arrives from a site for
//! the cache or for a reader, who may have left meanwhile, is on exactly one account, when it arrives; the number of
//! accounts is bounded, and what is taken off the list is added to a sum.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicI64, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;

use super::programs::{Kind, Standing};
use crate::engine::drive::now_ms;
use crate::engine::report::ProgramReport;
use crate::engine::schedule::Priority;

/// Programs that are told apart; of more, those that fetched last.
const PROGRAMS: NonZeroUsize = NonZeroUsize::new(512).unwrap();

/// Why bytes were fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::engine) enum Cause {
    /// A read waited for them.
    Demand,
    /// They were expected to be read next.
    ReadAhead,
    /// Their file was expected to be opened next.
    Sequence,
    /// A pin covers them.
    Pin,
    /// `hydrate` asked for them.
    Hydrate,
    /// Their file was about to be written to, and copied first.
    Write,
}

const CAUSES: usize = Cause::Write as usize + 1;

/// One program's account.
#[derive(Debug, Default)]
pub(in crate::engine) struct Account {
    name: String,
    exe: Option<String>,
    kind: Option<Kind>,
    is_allowed: bool,
    bytes: [AtomicU64; CAUSES],
    refusals: AtomicU64,
    held_ms: AtomicI64,
    last_pid: AtomicU32,
    last_ms: AtomicI64,
    refused_path: Mutex<Option<String>>,
}

impl Account {
    fn new(name: &str, exe: Option<&str>, standing: Standing) -> Self {
        Self {
            name: name.to_owned(),
            exe: exe.map(str::to_owned),
            kind: match standing {
                Standing::Listed(kind) => Some(kind),
                Standing::Allowed | Standing::Plain => None,
            },
            is_allowed: standing == Standing::Allowed,
            ..Self::default()
        }
    }

    /// The name that it is shown by.
    pub(in crate::engine) fn name(&self) -> &str {
        &self.name
    }

    /// It was met as this process.
    pub(super) fn met(&self, pid: u32) {
        self.last_pid.store(pid, Ordering::Relaxed);
        self.last_ms.store(now_ms(), Ordering::Relaxed);
    }

    /// It is one from now on that only looks into files.
    pub(super) fn held(&self) {
        self.held_ms.store(now_ms(), Ordering::Relaxed);
    }

    /// Something was refused to it. Says how often that has been by now.
    pub(super) fn refused(&self, path: impl FnOnce() -> String) -> u64 {
        let mut last = self.refused_path.lock().unwrap_or_else(PoisonError::into_inner);
        let times = self.refusals.fetch_add(1, Ordering::Relaxed) + 1;
        if times.is_power_of_two() {
            *last = Some(path());
        }
        times
    }

    fn take_over(&self, other: &Self) {
        for (sum, bytes) in self.bytes.iter().zip(&other.bytes) {
            sum.fetch_add(bytes.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        self.refusals
            .fetch_add(other.refusals.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    fn report(&self) -> ProgramReport {
        let of = |cause: Cause| self.bytes.get(cause as usize).map_or(0, |n| n.load(Ordering::Relaxed));
        let when = |ms: &AtomicI64| Some(ms.load(Ordering::Relaxed)).filter(|ms| *ms != 0);
        ProgramReport {
            name: self.name.clone(),
            exe: self.exe.clone(),
            listed: self.kind.map(|kind| kind.word().to_owned()),
            allowed: self.is_allowed,
            bytes: self.bytes.iter().map(|n| n.load(Ordering::Relaxed)).sum(),
            demand_bytes: of(Cause::Demand),
            readahead_bytes: of(Cause::ReadAhead),
            sequence_bytes: of(Cause::Sequence),
            pin_bytes: of(Cause::Pin),
            hydrate_bytes: of(Cause::Hydrate),
            write_bytes: of(Cause::Write),
            refusals: self.refusals.load(Ordering::Relaxed),
            refused_path: self.refused_path.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            held_ms: when(&self.held_ms),
            last_pid: Some(self.last_pid.load(Ordering::Relaxed)).filter(|pid| *pid != 0),
            last_ms: when(&self.last_ms),
        }
    }
}

/// Who is charged for a fetch, and as what.
#[derive(Clone, Debug)]
pub struct Payer {
    account: Arc<Account>,
    cause: Option<Cause>,
}

impl Payer {
    /// Charges an account with fetches by their priority: what is waited for as demand, the rest as read ahead, and so on.
    pub(in crate::engine) fn by_priority(account: &Arc<Account>) -> Self {
        Self {
            account: Arc::clone(account),
            cause: None,
        }
    }

    /// Charges an account with fetches for one cause, whatever their priority.
    pub(in crate::engine) fn of(account: &Arc<Account>, cause: Cause) -> Self {
        Self {
            account: Arc::clone(account),
            cause: Some(cause),
        }
    }

    /// Charges an account that nobody asks about.
    #[cfg(test)]
    pub(in crate::engine) fn nobody() -> Self {
        Self::by_priority(&Arc::default())
    }

    /// Fixes the cause of a fetch.
    pub(in crate::engine) fn at(&self, priority: Priority) -> Self {
        let cause = self.cause.unwrap_or(match priority {
            Priority::Demand => Cause::Demand,
            Priority::ReadAhead => Cause::ReadAhead,
            Priority::Sequence => Cause::Sequence,
            Priority::Pin => Cause::Pin,
        });
        Self {
            account: Arc::clone(&self.account),
            cause: Some(cause),
        }
    }

    /// Bytes have arrived.
    pub(in crate::engine) fn charge(&self, bytes: u64) {
        let cause = self.cause.unwrap_or(Cause::Demand);
        if let Some(sum) = self.account.bytes.get(cause as usize) {
            sum.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

type Key = (String, Option<String>, Option<&'static str>);

/// The accounts of a drive.
#[derive(Debug)]
pub(in crate::engine) struct Ledger {
    accounts: Mutex<LruCache<Key, Arc<Account>>>,
    /// Of those that are not told apart any more.
    others: Account,
    /// Of the daemon's own doing: pins and `hydrate`.
    own: Arc<Account>,
    /// Of nobody that could be told.
    unknown: Arc<Account>,
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self {
            accounts: Mutex::new(LruCache::unbounded()),
            others: Account::new("(others)", None, Standing::Plain),
            own: Arc::new(Account::new("backlot", None, Standing::Allowed)),
            unknown: Arc::new(Account::new("(unknown)", None, Standing::Plain)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, LruCache<Key, Arc<Account>>> {
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(in crate::engine) fn own(&self) -> &Arc<Account> {
        &self.own
    }

    pub(in crate::engine) fn unknown(&self) -> &Arc<Account> {
        &self.unknown
    }

    /// Returns the account of a program.
    pub(super) fn account(&self, name: &str, exe: Option<&str>, standing: Standing) -> Arc<Account> {
        let mut accounts = self.lock();
        let kind = match standing {
            Standing::Listed(kind) => Some(kind.word()),
            Standing::Allowed | Standing::Plain => None,
        };
        let key = (name.to_owned(), exe.map(str::to_owned), kind);
        let account = accounts.get_or_insert(key, || Arc::new(Account::new(name, exe, standing)));
        let account = Arc::clone(account);
        if accounts.len() > PROGRAMS.get() {
            // One that somebody still holds may still be charged: it stays, and another one goes.
            let idle = accounts
                .iter()
                .rev()
                .find(|(_, account)| Arc::strong_count(account) == 1);
            if let Some(key) = idle.map(|(key, _)| key.clone())
                && let Some(gone) = accounts.pop(&key)
            {
                self.others.take_over(&gone);
            }
        }
        account
    }

    /// Returns all accounts with anything on them, the largest first.
    pub(super) fn report(&self) -> Vec<ProgramReport> {
        let accounts = self.lock();
        let all = accounts.iter().map(|(_, account)| account.report());
        let rest = [self.own.report(), self.unknown.report(), self.others.report()];
        let mut rows: Vec<_> = all
            .chain(rest)
            .filter(|row| row.bytes > 0 || row.refusals > 0)
            .collect();
        drop(accounts);
        rows.sort_unstable_by(|a, b| {
            (b.bytes, b.refusals)
                .cmp(&(a.bytes, a.refusals))
                .then_with(|| a.name.cmp(&b.name))
        });
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_byte_is_lost_when_programs_are_more_than_are_told_apart() {
        let ledger = Ledger::new();
        let held = ledger.account("held", None, Standing::Plain);
        let payer = Payer::by_priority(&held);
        for n in 0..2000 {
            let account = ledger.account(&format!("p{n}"), Some("/usr/bin/p"), Standing::Plain);
            Payer::by_priority(&account).at(Priority::Demand).charge(n);
        }
        payer.at(Priority::ReadAhead).charge(7);
        Payer::of(ledger.own(), Cause::Hydrate).at(Priority::Pin).charge(9);
        let rows = ledger.report();
        assert!(rows.len() <= PROGRAMS.get() + 3, "{}", rows.len());
        assert_eq!(
            rows.iter().map(|row| row.bytes).sum::<u64>(),
            (0..2000).sum::<u64>() + 16
        );
        let of = |name: &str| rows.iter().find(|row| row.name == name).cloned().unwrap_or_default();
        assert_eq!(of("held").readahead_bytes, 7);
        assert_eq!((of("backlot").hydrate_bytes, of("backlot").pin_bytes), (9, 0));
        assert_eq!(rows.first().map(|row| row.name.as_str()), Some("(others)"));
    }
}
