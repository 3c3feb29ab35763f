//! `backlot doctor`: looks at everything that has to work, with the mount wedged or the daemon gone.
//!
//! Uses the daemon's socket with a short patience, the database read-only, and the kernel's own tables; never a path
//! below the mount point. Invariant: whatever hangs, the answer comes within seconds and says what hangs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use backlot_config::{Config, Loaded};
use backlot_platform::fuse::{self, MountHealth};
use futures::future::join_all;
use rustix::fs::{Access, access, statvfs};
use serde::Serialize;

use super::client::{Client, Listener};
use super::error::{CliError, Exit};
use super::mount::store_hint;
use super::status::{pinned, pins_trouble, reads};
use super::{Settings, local, programs, text};
use crate::api::types::Health;
use crate::daemon::longest_read;
use crate::engine::drive::check_site;
use crate::engine::report::Status;
use crate::model::RelPath;
use crate::state::StateStore;

/// A daemon that doesn't answer within this time is reported as hanging; so is a disk.
const PATIENCE: Duration = Duration::from_secs(3);
/// Sites are given this long to answer.
const SITE_PATIENCE: Duration = Duration::from_secs(10);
/// Less free space than this is worth a word.
const LOW_SPACE: u64 = 1 << 30;

/// Looks for what is wrong: FUSE, permissions, sites, store, space. Works with the mount wedged.
///
/// Exits with 0 when all is well, with 1 when something needs attention.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Also check every page and every invariant of the database (a minute for a million entries).
    #[arg(long)]
    deep: bool,
}

/// One thing looked at.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    what: String,
    ok: bool,
    says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

pub(super) fn good(what: &str, says: impl Into<String>) -> Finding {
    Finding {
        what: what.to_owned(),
        ok: true,
        says: says.into(),
        hint: None,
    }
}

/// All is well, and there is something to be done about it all the same.
pub(super) fn advised(what: &str, says: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding {
        ok: true,
        ..bad(what, says, hint)
    }
}

pub(super) fn bad(what: &str, says: impl Into<String>, hint: impl Into<String>) -> Finding {
    Finding {
        what: what.to_owned(),
        ok: false,
        says: says.into(),
        hint: Some(hint.into()),
    }
}

pub(super) async fn run(args: Args, settings: &Settings) -> Result<Exit, CliError> {
    let found = find(settings, args.deep).await?;
    let sick = found.iter().filter(|f| !f.ok).count();
    if args.json {
        text::json(&found)?;
    } else {
        found.iter().for_each(show);
        outln!(
            "{}",
            if sick == 0 {
                "all well".to_owned()
            } else {
                format!("{sick} of {} need attention", found.len())
            }
        );
    }
    Ok(if sick == 0 { Exit::Ok } else { Exit::Failed })
}

/// What `backlot doctor` finds, without the look that takes long.
pub(super) async fn findings(settings: &Settings) -> Result<Vec<Finding>, CliError> {
    find(settings, false).await
}

async fn find(settings: &Settings, deep: bool) -> Result<Vec<Finding>, CliError> {
    match settings.load() {
        Ok(loaded) => look(deep, settings, &loaded).await,
        Err(e) => Ok(vec![bad("settings", e.said(), e.advice())]),
    }
}

fn show(f: &Finding) {
    // Further lines stand below the first one's text.
    let says = f.says.replace('\n', "\n                ");
    outln!("{} {:<10} {says}", if f.ok { "ok  " } else { "BAD " }, f.what);
    if let Some(hint) = &f.hint {
        outln!("                → {hint}");
    }
}

async fn look(deep: bool, settings: &Settings, loaded: &Loaded) -> Result<Vec<Finding>, CliError> {
    let config = &loaded.config;
    let mut found = vec![settings_found(settings, loaded)?, fuse_found(config)];
    found.extend(fuse::kernel_timeout().map(|limit| timeout_found(config, limit)));
    // All at once: what hangs costs its own patience, not the sum of all.
    let (daemon, health, here, sites) = tokio::join!(
        ask_daemon(config),
        health(&config.drive.mount_point),
        look_here(config, deep),
        ask_sites(config)
    );
    let (daemon, of_daemon) = daemon;
    found.extend(of_daemon);
    found.push(match health {
        Some(health) => mount_point(&config.drive.mount_point, &health, daemon),
        None => does_not_answer("mount", &config.drive.mount_point),
    });
    found.extend(here);
    found.push(clock());
    found.extend(sites);
    Ok(found)
}

/// Looks at the mount, which may hang.
async fn health(at: &Path) -> Option<MountHealth> {
    let at = at.to_owned();
    let look = tokio::task::spawn_blocking(move || fuse::mount_health(&at));
    tokio::time::timeout(PATIENCE, look).await.ok()?.ok()
}

/// Looks at what lies on this machine's disks.
async fn look_here(config: &Config, deep: bool) -> Vec<Finding> {
    let (data, cache) = (&config.drive.data_dir, &config.drive.cache_dir);
    let mut found = Vec::new();
    let dir = data.clone();
    if deep {
        found.push(match tokio::task::spawn_blocking(move || store(&dir, deep)).await {
            Ok(finding) => finding,
            Err(e) => defect("store", &e),
        });
    } else {
        found.push(aside("store", data, move || store(&dir, deep)).await);
    }
    let low = |least: u64| least.max(LOW_SPACE);
    for (what, dir, need) in [
        ("cache", cache, low(config.cache.min_free.bytes())),
        ("data", data, low(config.publish.min_free.bytes())),
    ] {
        let at = dir.clone();
        found.push(aside(what, dir, move || space(what, &at, need)).await);
    }
    for (what, look) in local::LOOKS {
        let dir = data.clone();
        found.push(aside(what, data, move || look(what, &dir)).await);
    }
    found
}

async fn ask_sites(config: &Config) -> Vec<Finding> {
    let sites = config.sites.iter().map(async |(name, site)| {
        let of_site = config.projects.values().filter(|project| project.remote_site == *name);
        // `.`, the root itself, is no path below it.
        let paths: Vec<_> = of_site
            .filter_map(|project| RelPath::new(&project.remote_path).ok())
            .filter(|path| !path.is_root())
            .collect();
        match tokio::time::timeout(SITE_PATIENCE, check_site(name, site, &paths)).await {
            Ok(Ok(missing)) if missing.is_empty() => good("site", format!("{name} answers")),
            Ok(Ok(missing)) => good("site", format!("{name} answers; {}", not_there(&missing))),
            Ok(Err(e)) => bad("site", format!("{name}: {e}"), e.hint()),
            Err(_) => bad(
                "site",
                format!("{name} does not answer within {SITE_PATIENCE:?}"),
                "is the network up, the VPN connected? cached files stay readable meanwhile",
            ),
        }
    });
    join_all(sites).await
}

/// A project may be new; it may also lie elsewhere.
fn not_there(missing: &[RelPath]) -> String {
    let paths: Vec<_> = missing.iter().map(|path| format!("`{path}`")).collect();
    format!(
        "it has no {} (yet), which the drive shows empty: `remote-path` of a project says where it is, `.` is the site's root",
        paths.join(", ")
    )
}

fn settings_found(settings: &Settings, loaded: &Loaded) -> Result<Finding, CliError> {
    let (sites, projects) = (loaded.config.sites.len(), loaded.config.projects.len());
    let says = format!(
        "{}, {}",
        text::counted(sites, "site"),
        text::counted(projects, "project")
    );
    Ok(if loaded.files.is_empty() && projects == 0 {
        let says = format!("there is no settings file ({})", settings.looked_at()?);
        bad("settings", says, "`backlot config init` writes one to start from")
    } else if projects == 0 {
        bad("settings", says, "add a section [projects.NAME] with its remote-site")
    } else {
        good("settings", says)
    })
}

fn fuse_found(config: &Config) -> Finding {
    match fuse::preflight(config.drive.allow_other) {
        Ok(()) => good("fuse", "this user can mount"),
        Err(e) => bad("fuse", e.to_string(), e.hint()),
    }
}

/// This machine limits how long a request may take: longer ones cost the whole mount.
fn timeout_found(config: &Config, limit: Duration) -> Finding {
    let what = "requests";
    let wanted: Duration = config.hydration.read_deadline.into();
    let most = longest_read(limit);
    let ours = fuse::within_kernel_timeout(limit);
    let says = format!(
        "the kernel ends a mount whose request takes {limit:?} (fs.fuse.default_request_timeout, max_request_timeout); \
         ours end within {ours:?}, also the copying of a large file before its first change"
    );
    if wanted > most {
        let says = format!("{says}\nhydration.read-deadline is {wanted:?} and is cut to {most:?}");
        bad(
            what,
            says,
            "set a hydration.read-deadline below that, or raise the kernel's limit with sysctl",
        )
    } else {
        good(what, says)
    }
}

/// What the daemon's socket told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Daemon {
    /// Nobody listens.
    Gone,
    /// A daemon that mounts the drive.
    Mounts,
    /// A daemon without a mount: a scan.
    Scans,
    /// Somebody listens and does not answer, or not us.
    Silent,
}

async fn ask_daemon(config: &Config) -> (Daemon, Vec<Finding>) {
    let mut found = Vec::new();
    let daemon = daemon_found(config, &mut found).await;
    (daemon, found)
}

async fn daemon_found(config: &Config, found: &mut Vec<Finding>) -> Daemon {
    let Ok(client) = Client::at(config.drive.socket_path(), PATIENCE) else {
        return Daemon::Gone;
    };
    let pid = match client.listener().await {
        Listener::Daemon(pid) => pid,
        Listener::Nobody => {
            found.push(good("daemon", "not running (`backlot mount` starts it)"));
            return Daemon::Gone;
        }
        Listener::Foreign => {
            found.push(bad("daemon", "it belongs to another user", "run this as that user"));
            return Daemon::Silent;
        }
    };
    let Ok(health) = client.get::<Health>("health", &()).await else {
        let (shown, kill) = pid
            .map(|pid| (format!(" (pid {pid})"), format!("kill -9 {pid}")))
            .unzip();
        let shown = shown.unwrap_or_default();
        let kill = kill.unwrap_or_else(|| "kill it".to_owned());
        found.push(bad(
            "daemon",
            format!("it listens{shown} but does not answer within {PATIENCE:?}"),
            format!("`backlot abort --kill` frees whoever waits for the drive (or `{kill}`); what is in the data folder survives that"),
        ));
        return Daemon::Silent;
    };
    let doing = if health.mounted {
        ""
    } else {
        " (it has no mount: it scans, or keeps sites in step)"
    };
    found.push(good(
        "daemon",
        format!("pid {} answers, version {}{doing}", health.pid, health.version),
    ));
    if health.replaced {
        found.push(advised(
            "program",
            format!("it was replaced since the daemon started: version {} runs on", health.version),
            "`backlot unmount`, then mount again, at a quiet moment; what is not at its site yet stays and goes on then",
        ));
    }
    match client.get::<Status>("status", &()).await {
        Ok(status) => {
            found.extend(status.native_reads.as_ref().map(|native| good("reads", reads(native))));
            found.extend(pins(&status));
            found.extend(mismatches(&status));
            found.extend(programs::findings(&status.programs, &status.mount_point));
            found.extend(status.sites.iter().filter(|s| s.link == "down").map(|site| {
                let reason = site.reason.as_deref().unwrap_or("no reason given");
                let says = format!("the daemon has lost {}: {reason}", site.name);
                let hint = format!(
                    "it tries again by itself, and at once by `backlot site check {}`; cached files stay readable meanwhile",
                    site.name
                );
                bad("link", says, hint)
            }));
        }
        Err(e) => found.push(bad("daemon", e.said(), e.advice())),
    }
    if health.mounted { Daemon::Mounts } else { Daemon::Scans }
}

/// How far the pins are, and whether they fit; nothing where there are none.
fn pins(status: &Status) -> Option<Finding> {
    let p = &status.pins;
    if p.rules == 0 {
        return None;
    }
    let says = std::iter::once(pinned(p))
        .chain(pins_trouble(p))
        .collect::<Vec<_>>()
        .join("\n");
    Some(if !p.fits {
        bad(
            "pins",
            says,
            "unpin something (`backlot pin ls`), or raise cache.max-size",
        )
    } else if p.failed > 0 {
        bad("pins", says, "see `backlot pin ls`; they are tried again by themselves")
    } else {
        good("pins", says)
    })
}

/// Files whose bytes are not what their site says they are.
fn mismatches(status: &Status) -> Option<Finding> {
    let wrong = &status.hydration.mismatches;
    let first = wrong.first()?;
    let says = format!(
        "{} not served, such as {}: {}",
        text::counted(wrong.len(), "file"),
        text::printable(&first.path),
        text::printable(&first.why)
    );
    Some(bad(
        "hashes",
        says,
        "the file, or its hash, is wrong at the site: have it put there anew; it is fetched again when it is opened",
    ))
}

/// Runs what may hang, on a disk that is gone, where it can't hold up anything else.
async fn aside(what: &'static str, path: &Path, look: impl FnOnce() -> Finding + Send + 'static) -> Finding {
    match tokio::time::timeout(PATIENCE, tokio::task::spawn_blocking(look)).await {
        Ok(Ok(finding)) => finding,
        Ok(Err(e)) => defect(what, &e),
        Err(_) => does_not_answer(what, path),
    }
}

fn defect(what: &str, e: &tokio::task::JoinError) -> Finding {
    bad(
        what,
        e.to_string(),
        "that is a defect of this program; please report it",
    )
}

fn does_not_answer(what: &str, path: &Path) -> Finding {
    bad(
        what,
        format!("{} does not answer within {PATIENCE:?}", path.display()),
        "is it on a network drive that is gone? put data-dir and cache-dir on a local disk",
    )
}

fn mount_point(at: &Path, health: &MountHealth, daemon: Daemon) -> Finding {
    let shown = at.display();
    let what = "mount";
    match health {
        MountHealth::NotMounted => match std::fs::symlink_metadata(at) {
            Ok(_) if daemon == Daemon::Mounts => bad(
                what,
                format!("a daemon runs, but nothing is mounted at {shown}"),
                "is it mounted elsewhere (`backlot status`)? or was it just unmounted?",
            ),
            Ok(m) if m.is_dir() => good(what, format!("{shown} is there and not mounted")),
            Ok(_) => bad(
                what,
                format!("{shown} is not a folder"),
                "choose another drive.mount-point",
            ),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                bad(what, format!("{shown} is not there"), format!("mkdir -p '{shown}'"))
            }
            Err(e) => bad(
                what,
                format!("{shown}: {e}"),
                "see the permissions of the folders above it",
            ),
        },
        MountHealth::Ours { .. } if daemon == Daemon::Gone => bad(
            what,
            format!("{shown} is mounted, but not by a daemon of these settings"),
            "if it was mounted with other --config or --set, give the same here; is it another user's?",
        ),
        MountHealth::Ours { waiting } if *waiting > 0 => good(
            what,
            format!("{shown} is mounted; {waiting} requests wait for an answer"),
        ),
        MountHealth::Ours { .. } => good(what, format!("{shown} is mounted")),
        MountHealth::Dead => bad(
            what,
            format!("{shown} is a mount whose daemon died"),
            "`backlot mount` clears it and mounts anew; `backlot unmount` only clears it",
        ),
        MountHealth::Other { fs_type } => bad(
            what,
            format!("{shown} holds another file system ({fs_type})"),
            "choose another drive.mount-point, or unmount that",
        ),
    }
}

fn store(dir: &Path, deep: bool) -> Finding {
    let anew = "first `backlot recover DIR`, for what was made here and not sent; then unmount, move state.sqlite (with its -wal and -shm) out of the data folder, mount: the next scan lists all anew";
    if !dir.join("state.sqlite").exists() {
        return good(
            "store",
            format!("{} has none yet; the first scan makes it", dir.display()),
        );
    }
    let store = match StateStore::open_read_only(dir) {
        Ok(store) => store,
        Err(e) => return bad("store", e.to_string(), store_hint(&e)),
    };
    if deep {
        return match store.check() {
            Ok(problems) if problems.is_empty() => good("store", "every page and every invariant holds"),
            Ok(problems) => {
                let first = problems.first().map(ToString::to_string).unwrap_or_default();
                bad(
                    "store",
                    format!("{}, the first: {first}", text::counted(problems.len(), "problem")),
                    anew,
                )
            }
            Err(e) => bad("store", e.to_string(), anew),
        };
    }
    match store.read(|txn| txn.counts()) {
        Ok(c) => good("store", format!("{} entries", text::count(c.entries))),
        Err(e) => bad(
            "store",
            e.to_string(),
            "`backlot doctor --deep` looks the database through",
        ),
    }
}

fn space(what: &str, dir: &Path, need: u64) -> Finding {
    let there: PathBuf = dir.ancestors().find(|d| d.exists()).unwrap_or(dir).to_owned();
    let shown = dir.display();
    if let Err(e) = access(&there, Access::WRITE_OK | Access::EXEC_OK) {
        let says = format!(
            "{shown} can't be written: {}: {}",
            there.display(),
            std::io::Error::from(e)
        );
        return bad(
            what,
            says,
            format!("give this user the right, or set another drive.{what}-dir"),
        );
    }
    match statvfs(&there) {
        Ok(s) => {
            let free = s.f_bavail.saturating_mul(s.f_frsize);
            if free < need {
                let hint = format!("make room on that disk: {} are to stay free", text::bytes(need));
                bad(what, format!("{shown} has {} free", text::bytes(free)), hint)
            } else {
                good(what, format!("{shown} has {} free", text::bytes(free)))
            }
        }
        Err(e) => bad(what, format!("{shown}: {}", std::io::Error::from(e)), "check the disk"),
    }
}

fn clock() -> Finding {
    let now = jiff::Timestamp::now();
    // A machine whose clock starts at 1970 or at its firmware's date makes every listing look fresh or stale.
    if now < jiff::Timestamp::from_second(1_735_689_600).unwrap_or(jiff::Timestamp::UNIX_EPOCH) {
        bad(
            "clock",
            format!("it says {now}"),
            "set the clock (timedatectl set-ntp true)",
        )
    } else {
        let here = now.to_zoned(jiff::tz::TimeZone::system());
        good("clock", here.strftime("%Y-%m-%d %H:%M:%S %Z").to_string())
    }
}
