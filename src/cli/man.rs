//! `backlot man`: manual pages, made from the command line's own description.

use std::path::{Path, PathBuf};

use clap::Command;
use clap_mangen::Man;

use super::error::{CliError, Exit};

/// Prints the manual page, or writes the pages of all verbs into a folder.
///
/// The package brings them along: `man backlot`, `man backlot-mount`, `man backlot-queue-ls`. By hand: `backlot man
/// ~/.local/share/man/man1`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder to write to; it is made if it is missing. Left out, the page of the program itself is printed.
    dir: Option<PathBuf>,
}

pub(super) fn run(args: &Args, command: Command) -> Result<Exit, CliError> {
    let pages = pages(command).map_err(|e| CliError::failed("make the manual pages", &e))?;
    let Some(dir) = &args.dir else {
        let main = pages.first().map(|(_, page)| String::from_utf8_lossy(page));
        out!("{}", main.unwrap_or_default());
        return Ok(Exit::Ok);
    };
    let count = pages.len();
    write(dir, pages).map_err(|e| {
        CliError::failed(&format!("write the manual pages to {}", dir.display()), &e).hint("name another folder")
    })?;
    outln!("wrote {count} pages to {}", dir.display());
    Ok(Exit::Ok)
}

fn write(dir: &Path, pages: Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    for (name, page) in pages {
        std::fs::write(dir.join(name), page)?;
    }
    Ok(())
}

/// Every page by its file's name, the program's own first.
fn pages(command: Command) -> std::io::Result<Vec<(String, Vec<u8>)>> {
    let mut command = command.disable_help_subcommand(true);
    command.build();
    let mut pages = Vec::new();
    add(&command, &mut pages)?;
    Ok(pages)
}

fn add(command: &Command, pages: &mut Vec<(String, Vec<u8>)>) -> std::io::Result<()> {
    let man = Man::new(command.clone());
    let mut page = Vec::new();
    man.render(&mut page)?;
    pages.push((man.get_filename(), page));
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        add(verb, pages)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    fn names(command: &Command, before: &str, all: &mut BTreeSet<String>) {
        all.insert(format!("{before}.1"));
        for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
            names(verb, &format!("{before}-{}", verb.get_name()), all);
        }
    }

    #[test]
    fn every_verb_has_a_page_with_its_flags() {
        let mut wanted = BTreeSet::new();
        names(&Cli::command(), "backlot", &mut wanted);
        let pages = pages(Cli::command()).expect("made");
        let made: BTreeSet<_> = pages.iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(made, wanted);
        let (_, mount) = pages.iter().find(|(name, _)| name == "backlot-mount.1").expect("there");
        let mount = String::from_utf8_lossy(mount);
        assert!(
            mount.contains("allow\\-other") && mount.contains("Where to mount"),
            "{mount}"
        );
        assert!(!mount.contains("detached"), "what is hidden is not shown: {mount}");
    }
}
