//! `backlot mount`.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{BufRead, BufReader, IsTerminal, Read, Seek, SeekFrom};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use backlot_config::{Config, Loaded};
use serde::Serialize;
use tokio::sync::watch;

use super::error::{CliError, Exit};
use super::{Settings, block_on};
use crate::api::types::SettingRow;
use crate::daemon::{Daemon, DaemonError, Mounting, Start};
use crate::engine::drive::OpenError;
use crate::engine::ownership::Ownership;
use crate::state::StateError;

/// How long another daemon of these settings may take to end, for who waits for it: it makes durable what it holds.
const OTHERS_END: Duration = Duration::from_secs(20);
/// Between two looks at it.
const OTHERS_LOOK: Duration = Duration::from_millis(100);

/// Mounts the drive and serves it until it is unmounted.
///
/// Stays in the foreground and prints a line that begins with `ready` once files can be opened. Works as a systemd
/// service of Type=notify. SIGINT and SIGTERM unmount.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Where to mount; the settings' `drive.mount-point` if left out.
    mount_point: Option<PathBuf>,
    /// Go to the background once the drive is ready; the log goes to `backlot.log` in the data folder.
    #[arg(long)]
    daemon: bool,
    /// Let other users of this machine use the drive.
    #[arg(long)]
    allow_other: bool,
    /// Let nothing be changed through this mount.
    #[arg(long)]
    read_only: bool,
    /// Print JSON in place of the line that begins with `ready`.
    #[arg(long)]
    json: bool,
    /// Start no program from it: for `mount.backlot`.
    #[arg(long, hide = true)]
    no_exec: bool,
    /// The source that the mount shows: for `mount.backlot`.
    #[arg(long, hide = true, value_name = "NAME")]
    source: Option<String>,
    /// Wait for a daemon that is just ending, or a scan: for units, and for `mount.backlot`, which an unmount may have gone before
    /// by a moment.
    #[arg(long, hide = true)]
    patient: bool,
    /// Set by `--daemon` for the process in the background.
    #[arg(long, hide = true)]
    detached: bool,
}

pub(super) fn run(args: Args, settings: &Settings) -> Result<Exit, CliError> {
    let mut more = Vec::new();
    if let Some(mount_point) = &args.mount_point {
        let absolute =
            std::path::absolute(mount_point).map_err(|e| CliError::failed("make sense of the mount point", &e))?;
        let shown = absolute
            .to_str()
            .ok_or_else(|| CliError::usage("the mount point's path is not UTF-8").hint("choose one that is"))?;
        more.push(("drive.mount-point".to_owned(), shown.to_owned()));
    }
    if args.allow_other {
        more.push(("drive.allow-other".to_owned(), "true".to_owned()));
    }
    let loaded = settings.load_for_work(more)?;
    check_accounts(&loaded)?;
    let shown = super::config::rows(&loaded);
    let config = loaded.config;
    if args.daemon {
        let own = std::env::args_os().skip(1).filter(|a| a != "--daemon");
        return Ok(match to_background(&config, own)? {
            Ok(line) => {
                out!("{line}");
                Exit::Ok
            }
            Err(exit) => exit,
        });
    }
    if args.detached {
        // A session of its own, so that closing the terminal does not end the drive.
        let _already_a_leader = rustix::process::setsid();
        // And in no folder that somebody may want to unmount.
        drop(std::env::set_current_dir("/"));
    }
    crate::telemetry::init(&config.log);
    block_on(serve(config, shown, args))
}

/// `mount --json`: the drive is ready.
#[derive(Debug, Serialize)]
struct Ready {
    mount_point: PathBuf,
    pid: u32,
}

async fn serve(config: Config, shown: Vec<SettingRow>, args: Args) -> Result<Exit, CliError> {
    let mount_point = config.drive.mount_point.clone();
    let mounting = Mounting {
        source: args.source,
        read_only: args.read_only,
        no_exec: args.no_exec,
    };
    let daemon = start(config, shown, mounting, args.patient).await?;
    let pid = std::process::id();
    if args.json {
        let ready = Ready { mount_point, pid };
        outln!(
            "{}",
            serde_json::to_string(&ready).map_err(|e| CliError::failed("write JSON", &e))?
        );
    } else {
        outln!("ready: {} (pid {pid})", mount_point.display());
        if std::io::stdout().is_terminal() {
            outln!("Ctrl-C unmounts it");
        }
    }
    // Without systemd there is nobody to tell.
    drop(sd_notify::notify(&[sd_notify::NotifyState::Ready]));
    let (_never, stop) = watch::channel(false);
    daemon.run(stop).await.map_err(|e| start_error("serve the drive", &e))?;
    Ok(Exit::Ok)
}

/// Starts the daemon; a patient one waits for another that is just giving the data folder up.
async fn start(
    config: Config,
    shown: Vec<SettingRow>,
    mounting: Mounting,
    is_patient: bool,
) -> Result<Daemon, CliError> {
    let until = Instant::now() + OTHERS_END;
    loop {
        let start = Start {
            config: config.clone(),
            providers: None,
            mount: true,
            sync: None,
            shown: shown.clone(),
            mounting: mounting.clone(),
        };
        match Daemon::start(start).await {
            Err(DaemonError::Open(OpenError::State(StateError::InUse { .. })))
                if is_patient && Instant::now() < until =>
            {
                tokio::time::sleep(OTHERS_LOOK).await;
            }
            started => return started.map_err(|e| start_error("start the drive", &e)),
        }
    }
}

/// Says why a daemon did not start, and what to do about it.
pub(super) fn start_error(what: &str, e: &DaemonError) -> CliError {
    let error = CliError::failed(what, e);
    match e {
        DaemonError::Mount(m) => error.hint(m.hint()),
        DaemonError::Open(OpenError::State(e)) => error.hint(store_hint(e)),
        DaemonError::Open(OpenError::Site(..)) => {
            error.hint("correct that in the settings or where they point to; `backlot doctor` looks at all sites")
        }
        DaemonError::Open(OpenError::Cache(_)) => error
            .hint("see that this user may write there, or set another drive.cache-dir; its content is fetched again"),
        DaemonError::Open(OpenError::SiteId(_)) => {
            error.hint("see that this user may read and write the data folder, or set machine.site-id")
        }
        DaemonError::Open(OpenError::Account(_)) => error.hint(account_hint()),
        DaemonError::Open(OpenError::Local { .. }) => {
            error.hint("see that this user may write in the data folder, and that its disk has room")
        }
        DaemonError::Open(OpenError::Path(..) | OpenError::Zones(..) | OpenError::Firewall(_)) => {
            error.hint("correct that in the settings")
        }
        DaemonError::Open(OpenError::NoProject(_)) => error,
        DaemonError::Socket { .. } => error.hint("see that this user may write there, or set another drive.socket"),
        DaemonError::Tcp { .. } => error.hint("does something else listen there? choose another port in api.listen"),
        DaemonError::Sync(_) => error,
        DaemonError::Access(_) => error.hint("correct that; a token file is for its owner alone (chmod 600)"),
        DaemonError::Notify(_) => error.hint(
            "correct that in [notify] or [receivers.NAME]; `backlot config check` looks at it and does nothing else",
        ),
        DaemonError::Cut => error.hint(
            "nothing that was saved is lost; `backlot mount` mounts it again, and the log tells of requests that took long",
        ),
        DaemonError::System(_) => error.hint("is a limit on processes, threads or open files reached? see `ulimit -a`"),
    }
}

/// Says where the settings name a user or a group that this machine does not know.
pub(super) fn check_accounts(loaded: &Loaded) -> Result<(), CliError> {
    Ownership::new(&loaded.config.drive).map(drop).map_err(|e| {
        let place = loaded.origins.get(e.key).place.to_string();
        // Not as wrong settings, which no start mends: at boot, a directory of users may be reached a moment later.
        CliError::new(Exit::Failed, format!("the settings can't be used: {place}: {e}")).hint(account_hint())
    })
}

fn account_hint() -> &'static str {
    "`getent passwd` and `getent group` show whom it knows; a number does as well"
}

/// What to do about a store that can't be used.
pub(super) fn store_hint(e: &StateError) -> String {
    match e {
        StateError::InUse { .. } => {
            "that is the daemon of this drive, or a scan: `backlot status` shows it, `backlot unmount` ends it"
                .to_owned()
        }
        StateError::Damaged { .. } => {
            "names come back with the next scan, and what was written here and not sent with `backlot recover DIR`: \
             run that first"
                .to_owned()
        }
        StateError::NotADatabase(path) => {
            format!(
                "mv '{0}' '{0}.aside'; the next scan lists the projects anew",
                path.display()
            )
        }
        StateError::TooNew { .. } => "update this program, or set another drive.data-dir for it".to_owned(),
        StateError::Io { .. } | StateError::ReadOnly => {
            "see that this user may write there, or set another drive.data-dir".to_owned()
        }
        StateError::Full(_) => "make room on that disk, or set another drive.data-dir".to_owned(),
        _ => "`backlot doctor --deep` looks the database through".to_owned(),
    }
}

/// Starts this program again in the background, with these arguments, and waits for its word that it is ready. Returns that
/// word, or the exit code where it has said itself why it is not.
pub(super) fn to_background(
    config: &Config,
    args: impl IntoIterator<Item = OsString>,
) -> Result<Result<String, Exit>, CliError> {
    let failed = |what: &str| {
        let what = what.to_owned();
        move |e: std::io::Error| CliError::failed(&what, &e)
    };
    let log_path = config.drive.data_dir.join("backlot.log");
    let mut log = open_log(config, &log_path).map_err(|e| {
        CliError::failed(&format!("write the log {}", log_path.display()), &e)
            .hint("see that this user may write there, or set another drive.data-dir")
    })?;
    let before = log.seek(SeekFrom::End(0)).map_err(failed("read the log"))?;
    let program = std::env::current_exe().map_err(failed("find this program"))?;
    let mut child = Command::new(program)
        .args(args)
        .arg("--detached")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log.try_clone().map_err(failed("share the log"))?)
        .spawn()
        .map_err(failed("start the program in the background"))?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        BufReader::new(out)
            .read_line(&mut line)
            .map_err(failed("hear from the background"))?;
    }
    if line.starts_with("ready") || line.starts_with('{') {
        return Ok(Ok(line));
    }
    let status = child.wait().map_err(failed("hear from the background"))?;
    let mut said = String::new();
    log.seek(SeekFrom::Start(before)).map_err(failed("read the log"))?;
    log.read_to_string(&mut said).map_err(failed("read the log"))?;
    let hint = format!("its log is {}", log_path.display());
    let exit = if status.code() == Some(2) {
        Exit::Usage
    } else {
        Exit::Failed
    };
    if said.contains("error: ") {
        // It said itself why, and what to do.
        err!("{said}");
        errln!("  {hint}");
        return Ok(Err(exit));
    }
    Err(CliError::new(exit, "the drive did not start")
        .why(format!("its process ended with {status}"))
        .hint(hint))
}

fn open_log(config: &Config, path: &Path) -> std::io::Result<File> {
    // For its owner alone, like all that lies there.
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&config.drive.data_dir)?;
    OpenOptions::new()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o600)
        .open(path)
}
