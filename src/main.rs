//! The `backlot` program: parses the command line and hands over to [`backlot::cli`].

use std::process::ExitCode;

/// A daemon lives for weeks, and its threads allocate and free what others do: glibc keeps more and more of that, step by step;
/// this one gives it back (measured: docs/design/0016-memory.md).
#[cfg(not(windows))]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    backlot::cli::main()
}
