//! The `backlot` program: parses the command line and hands over to [`backlot::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    backlot::cli::main()
}
