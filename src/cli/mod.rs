//! The command line: one file per verb, each a client of the daemon's API; and the words for what went wrong.
//!
//! Owns: arguments, text for people, exit codes. Refuses to know: stores, caches, providers.

/// Prints to standard output. Unlike `print!` it survives that nobody listens any more (`| head`, a closed terminal).
macro_rules! out {
    ($($text:tt)*) => {
        drop(std::io::Write::write_fmt(&mut std::io::stdout(), format_args!($($text)*)))
    };
}

/// Prints a line to standard output; see [`out`].
macro_rules! outln {
    ($($text:tt)*) => { out!("{}\n", format_args!($($text)*)) };
}

/// Prints to standard error; see [`out`].
macro_rules! err {
    ($($text:tt)*) => {
        drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!($($text)*)))
    };
}

/// Prints a line to standard error; see [`out`].
macro_rules! errln {
    ($($text:tt)*) => { err!("{}\n", format_args!($($text)*)) };
}

mod abort;
mod cache;
mod client;
mod completions;
mod config;
mod conflict;
mod demo;
mod doctor;
mod error;
mod evict;
mod hydrate;
mod limit;
mod local;
mod ls;
mod man;
mod mount;
mod mount_helper;
mod path;
mod paths;
mod pin;
mod programs;
mod push;
mod queue;
mod recover;
mod scan;
mod status;
mod support;
mod text;
mod top;
mod unmount;
mod unpin;
mod wait;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use backlot_config::{Loaded, Loader};
use clap::{Args, CommandFactory as _, Parser, Subcommand};

use error::{CliError, Exit};

/// Mounts a studio's projects as a drive: the whole tree at once, bytes when they are opened.
#[derive(Debug, Parser)]
#[command(name = "backlot", version, max_term_width = 100, after_help = EXIT_CODES)]
struct Cli {
    #[command(flatten)]
    settings: Settings,
    #[command(subcommand)]
    verb: Verb,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 the daemon is not running, \
4 done in part.\n\nTry `backlot demo` first: it needs nothing but this program and FUSE.";

/// Which settings to use.
#[derive(Debug, Args)]
struct Settings {
    /// Use this settings file instead of the system's and the user's.
    #[arg(
        long,
        short,
        global = true,
        env = "BACKLOT_CONFIG",
        hide_env_values = true,
        value_name = "FILE"
    )]
    config: Option<PathBuf>,
    /// Override one setting, as in `--set cache.max-size=200GiB`. May be given several times.
    #[arg(long = "set", global = true, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Demo(demo::Args),
    Mount(mount::Args),
    #[command(alias = "umount")]
    Unmount(unmount::Args),
    Abort(abort::Args),
    Scan(scan::Args),
    Status(status::Args),
    Top(top::Args),
    Ls(ls::Args),
    Queue(queue::Args),
    Wait(wait::Args),
    Push(push::PushArgs),
    Pull(push::PullArgs),
    Pin(pin::Args),
    Unpin(unpin::Args),
    Hydrate(hydrate::Args),
    Evict(evict::Args),
    Cache(cache::Args),
    Limit(limit::Args),
    Path(path::Args),
    Conflict(conflict::Args),
    Recover(recover::Args),
    Config(config::Args),
    Doctor(doctor::Args),
    SupportBundle(support::Args),
    Completions(completions::Args),
    Man(man::Args),
}

/// Runs the program and returns its exit code.
#[must_use]
pub fn main() -> ExitCode {
    if mount_helper::is_called() {
        return mount_helper::main();
    }
    let cli = Cli::parse();
    match run(cli) {
        Ok(exit) => exit.code(),
        Err(e) => {
            err!("{}", e.shown());
            e.exit.code()
        }
    }
}

fn run(cli: Cli) -> Result<Exit, CliError> {
    let settings = &cli.settings;
    match cli.verb {
        Verb::Demo(args) => block_on(demo::run(args)),
        Verb::Mount(args) => mount::run(args, settings),
        Verb::Unmount(args) => block_on(unmount::run(args, &settings.load()?)),
        Verb::Abort(args) => block_on(abort::run(args, &settings.load()?)),
        Verb::Scan(args) => block_on(scan::run(args, &settings.load_for_work(Vec::new())?)),
        Verb::Status(args) => block_on(status::run(args, &settings.load()?)),
        Verb::Top(args) => block_on(top::run(args, &settings.load()?)),
        Verb::Ls(args) => block_on(ls::run(args, &settings.load()?)),
        Verb::Queue(args) => block_on(queue::run(args, &settings.load()?)),
        Verb::Wait(args) => block_on(wait::run(args, &settings.load()?)),
        Verb::Push(args) => block_on(push::push(args, &settings.load()?)),
        Verb::Pull(args) => block_on(push::pull(args, &settings.load()?)),
        Verb::Pin(args) => block_on(pin::run(args, &settings.load()?)),
        Verb::Unpin(args) => block_on(unpin::run(args, &settings.load()?)),
        Verb::Hydrate(args) => block_on(hydrate::run(args, &settings.load()?)),
        Verb::Evict(args) => block_on(evict::run(args, &settings.load()?)),
        Verb::Limit(args) => block_on(limit::run(args, &settings.load()?)),
        Verb::Path(args) => path::run(&args, &settings.load()?),
        Verb::Cache(args) => block_on(cache::run(args, &settings.load()?)),
        Verb::Conflict(args) => block_on(conflict::run(args, &settings.load()?)),
        Verb::Recover(args) => recover::run(&args, settings),
        Verb::Config(args) => config::run(&args, settings),
        Verb::Doctor(args) => block_on(doctor::run(args, settings)),
        Verb::SupportBundle(args) => block_on(support::run(args, settings)),
        Verb::Completions(args) => Ok(completions::run(&args, Cli::command())),
        Verb::Man(args) => man::run(&args, Cli::command()),
    }
}

/// Builds the one runtime of the process and runs a verb on it.
fn block_on<F: Future<Output = Result<Exit, CliError>>>(verb: F) -> Result<Exit, CliError> {
    backlot_platform::memory::few_arenas();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("backlot")
        .build()
        .map_err(|e| CliError::failed("start the program's threads", &e))?;
    let done = runtime.block_on(verb);
    // What is still blocked in a system call (a dead network mount below a local site) must not keep the program here.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    done
}

impl Settings {
    fn loader(&self, more: Vec<(String, String)>) -> Result<Loader, CliError> {
        let mut overrides = Vec::new();
        for set in &self.set {
            let Some((key, value)) = set.split_once('=') else {
                return Err(CliError::usage(format!("--set {set}: expected KEY=VALUE"))
                    .hint("for example --set drive.mount-point=/mnt/projects"));
            };
            overrides.push((key.to_owned(), value.to_owned()));
        }
        overrides.extend(more);
        let mut env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        // A service of the system, and what mounts at boot, are started without one: the same settings are to mean the same.
        if rustix::process::geteuid().is_root() && std::env::var_os("HOME").is_none() {
            env.push(("HOME".into(), "/root".into()));
        }
        Ok(Loader::new()
            .config_file(self.config.clone())
            .env(env)
            .overrides(overrides))
    }

    fn load(&self) -> Result<Loaded, CliError> {
        self.load_with(Vec::new())
    }

    fn load_with(&self, more: Vec<(String, String)>) -> Result<Loaded, CliError> {
        self.loader(more)?.load().map_err(|e| {
            let error = CliError::usage(format!("the settings can't be used:\n{e}"));
            match &self.config {
                Some(file) if !file.exists() => error.hint(format!(
                    "`backlot config init {}` writes one to start from",
                    file.display()
                )),
                _ => error.hint("correct that; `backlot config check` looks at the settings and does nothing else"),
            }
        })
    }

    /// Loads the settings for a verb that makes no sense without a project.
    fn load_for_work(&self, more: Vec<(String, String)>) -> Result<Loaded, CliError> {
        let loaded = self.load_with(more)?;
        if !loaded.config.projects.is_empty() {
            return Ok(loaded);
        }
        let none = CliError::usage("the settings name no project, so there is nothing to show");
        Err(if loaded.files.is_empty() {
            none.why(format!("there is no settings file ({})", self.looked_at()?))
                .hint("`backlot config init` writes one to start from; `backlot demo` needs none")
        } else {
            none.hint("add a section [projects.NAME] with its remote-site; `backlot config init -` shows an example")
        })
    }

    /// Says where settings files were looked for.
    fn looked_at(&self) -> Result<String, CliError> {
        let user = self
            .loader(Vec::new())?
            .user_file()
            .map(|f| format!("{}, ", f.display()));
        Ok(format!(
            "looked for {}/etc/backlot/config.toml",
            user.unwrap_or_default()
        ))
    }
}
