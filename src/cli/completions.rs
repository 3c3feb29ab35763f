//! `backlot completions`: what a shell needs to complete verbs and flags, made from the command line's own description.

use clap::{Command, ValueEnum};
use clap_complete::{generate, shells};

use super::error::Exit;

/// Prints what a shell needs to complete verbs and flags with the Tab key.
///
/// The package brings it along for all three. By hand: bash, `source <(backlot completions bash)` in ~/.bashrc; zsh,
/// `backlot completions zsh > DIR/_backlot` with DIR in $fpath; fish, `backlot completions fish >
/// ~/.config/fish/completions/backlot.fish`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The shell.
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

pub(super) fn run(args: &Args, command: Command) -> Exit {
    // Into memory first: what writes it to a pipe that is closed would panic.
    out!("{}", made(args.shell, command));
    Exit::Ok
}

fn made(shell: Shell, mut command: Command) -> String {
    let (name, mut text) = ("backlot", Vec::new());
    let hidden = hidden(&command);
    match shell {
        Shell::Bash => generate(shells::Bash, &mut command, name, &mut text),
        Shell::Zsh => generate(shells::Zsh, &mut command, name, &mut text),
        Shell::Fish => generate(shells::Fish, &mut command, name, &mut text),
    }
    // The generators list what is hidden, too: as words in bash, as lines of their own elsewhere.
    let text = String::from_utf8_lossy(&text);
    let is_shown = |line: &&str| {
        !hidden.iter().any(|flag| match shell {
            Shell::Bash => false,
            Shell::Zsh => ["[", "=["]
                .iter()
                .any(|end| line.trim_start().starts_with(&format!("'--{flag}{end}"))),
            Shell::Fish => line.contains(&format!(" -l {flag} ")),
        })
    };
    let mut shown: String = text.split_inclusive('\n').filter(is_shown).collect();
    if matches!(shell, Shell::Bash) {
        for flag in &hidden {
            shown = shown.replace(&format!(" --{flag} "), " ");
        }
    }
    shown
}

/// Flags that are hidden wherever they are.
fn hidden(command: &Command) -> Vec<String> {
    let mut all = vec![command];
    let mut at = 0;
    while let Some(&command) = all.get(at) {
        all.extend(command.get_subcommands());
        at += 1;
    }
    let longs = |is_hidden: bool| {
        let flags = all.iter().flat_map(|command| command.get_arguments());
        let flags = flags.filter(move |flag| flag.is_hide_set() == is_hidden);
        flags
            .filter_map(|flag| flag.get_long().map(str::to_owned))
            .collect::<Vec<_>>()
    };
    let shown = longs(false);
    longs(true).into_iter().filter(|flag| !shown.contains(flag)).collect()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::cli::Cli;

    /// Every verb that people are shown, with the words that lead to it.
    fn verbs(command: &Command, before: &[String], all: &mut Vec<(Vec<String>, Command)>) {
        for verb in command
            .get_subcommands()
            .filter(|verb| !verb.is_hide_set() && verb.get_name() != "help")
        {
            let words = [before, &[verb.get_name().to_owned()]].concat();
            verbs(verb, &words, all);
            all.push((words, verb.clone()));
        }
    }

    fn all_verbs() -> Vec<(Vec<String>, Command)> {
        let mut all = Vec::new();
        verbs(&Cli::command(), &[], &mut all);
        assert!(all.len() > 30, "the verbs are found");
        all
    }

    #[test]
    fn the_command_line_is_well_made() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_shell_completes_every_verb_and_flag() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let text = made(shell, Cli::command());
            assert!(
                !text.contains("--detached") && !text.contains("-l detached"),
                "{shell:?}"
            );
            for (words, verb) in all_verbs() {
                let last = words.last().expect("a word");
                assert!(text.contains(last.as_str()), "{shell:?}: {words:?}");
                for flag in verb.get_arguments().filter(|a| !a.is_hide_set()) {
                    let Some(long) = flag.get_long() else { continue };
                    assert!(text.contains(long), "{shell:?}: {words:?} --{long}");
                }
            }
        }
    }

    /// Verbs that print no facts: a show, texts for other programs, a service (`sync status` tells of that).
    const NO_JSON: &[&str] = &["demo", "completions", "man", "sync"];

    #[test]
    fn every_verb_that_does_something_speaks_json() {
        let silent: Vec<_> = all_verbs()
            .into_iter()
            .filter(|(_, verb)| !verb.is_subcommand_required_set())
            .filter(|(words, _)| !NO_JSON.contains(&words.join(" ").as_str()))
            .filter(|(_, verb)| !verb.get_arguments().any(|flag| flag.get_long() == Some("json")))
            .map(|(words, _)| words.join(" "))
            .collect();
        assert!(silent.is_empty(), "without --json: {silent:?}");
    }
}
