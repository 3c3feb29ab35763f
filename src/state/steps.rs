//! How much of the database a question reads, counted: for tests that demand that it is not all of it.
//!
//! Owns: the count of the thread that asks. Refuses to know: what was asked. Invariant: what is counted depends on the
//! statement and the rows, never on the machine.

use std::cell::Cell;

use rusqlite::{Statement, StatementStatus};

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// Adds the instructions of SQLite's machine that a statement took since it was added last: several for each row it met.
pub(super) fn add(statement: &Statement<'_>) {
    let steps = statement.reset_status(StatementStatus::VmStep);
    STEPS.set(STEPS.get() + u64::try_from(steps).unwrap_or(0));
}

/// Runs something and returns how many instructions its statements took on this thread.
pub(super) fn of<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = STEPS.get();
    let out = work();
    (STEPS.get() - before, out)
}
