//! `backlot doctor`: looks at everything that has to work, with the mount wedged or the daemon gone.
//!
//! Uses the daemon's socket with a short patience, the database read-only, and the kernel's own tables; never a path
//! below the mount point, which may hang.

use std::time::Duration;

use backlot_config::{Config, Loaded};
use backlot_platform::fuse::{self, MountHealth};
use serde::Serialize;

use super::client::Client;
use super::error::{CliError, Exit};
use super::{Settings, text};
use crate::api::types::Health;
use crate::engine::drive::check_site;
use crate::engine::report::Status;
use crate::state::StateStore;

/// A daemon that doesn't answer within this time is reported as hanging.
const PATIENCE: Duration = Duration::from_secs(3);
/// Sites are given this long to answer.
const SITE_PATIENCE: Duration = Duration::from_secs(10);
/// Less free space than this is worth a word.
const LOW_SPACE: u64 = 1 << 30;

/// Looks for what is wrong: FUSE, permissions, sites, store, space. Works with the mount wedged.
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
struct Finding {
    what: String,
    ok: bool,
    says: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

#[derive(Debug, Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn good(&mut self, what: &str, says: impl Into<String>) {
        self.0.push(Finding { what: what.to_owned(), ok: true, says: says.into(), hint: None });
    }

    fn bad(&mut self, what: &str, says: impl Into<String>, hint: impl Into<String>) {
        self.0.push(Finding { what: what.to_owned(), ok: false, says: says.into(), hint: Some(hint.into()) });
    }
}

pub(super) async fn run(args: Args, settings: &Settings) -> Result<Exit, CliError> {
    let mut found = Findings::default();
    match settings.load() {
        Ok(loaded) => look(&args, &loaded, &mut found).await,
        Err(e) => found.bad("settings", e.shown().trim_end().to_owned(), "correct them; then run this again"),
    }
    let sick = found.0.iter().filter(|f| !f.ok).count();
    if args.json {
        text::json(&found.0)?;
    } else {
        for f in &found.0 {
            println!("{} {:<10} {}", if f.ok { "ok  " } else { "BAD " }, f.what, f.says);
            if let Some(hint) = &f.hint {
                println!("                {hint}");
            }
        }
        println!("{}", if sick == 0 { "all well".to_owned() } else { format!("{sick} of {} need attention", found.0.len()) });
    }
    Ok(if sick == 0 { Exit::Ok } else { Exit::Failed })
}

async fn look(args: &Args, loaded: &Loaded, found: &mut Findings) {
    let config = &loaded.config;
    found.good("settings", format!("{} sites, {} projects", config.sites.len(), config.projects.len()));
    match fuse::preflight(config.drive.allow_other) {
        Ok(()) => found.good("fuse", "this user can mount"),
        Err(e) => found.bad("fuse", e.to_string(), "see above; then run this again"),
    }
    let running = daemon(config, found).await;
    mount_point(config, running, found);
    store(args, config, found);
    space(config, found);
    clock(found);
    for (name, site) in &config.sites {
        match tokio::time::timeout(SITE_PATIENCE, check_site(name, site)).await {
            Ok(Ok(())) => found.good("site", format!("{name} answers")),
            Ok(Err(e)) => found.bad("site", format!("{name}: {e}"), "cached files stay readable; check the server, the address and the credentials"),
            Err(_) => found.bad("site", format!("{name} does not answer within {SITE_PATIENCE:?}"), "is the network up, the VPN connected?"),
        }
    }
}

async fn daemon(config: &Config, found: &mut Findings) -> bool {
    let Ok(client) = Client::at(config.drive.socket_path(), PATIENCE) else { return false };
    if !client.is_running().await {
        found.good("daemon", "not running (`backlot mount` starts it)");
        return false;
    }
    match client.get::<Health>("health", &()).await {
        Ok(h) => found.good("daemon", format!("pid {} answers, version {}", h.pid, h.version)),
        Err(_) => {
            found.bad("daemon", format!("it listens but does not answer within {PATIENCE:?}"), "`backlot unmount --lazy`, or kill it: nothing that was saved is lost");
            return true;
        }
    }
    if let Ok(status) = client.get::<Status>("status", &()).await {
        for site in status.sites.iter().filter(|s| s.link == "down") {
            let reason = site.reason.clone().unwrap_or_default();
            found.bad("link", format!("the daemon has lost {}: {reason}", site.name), "it tries again by itself; cached files stay readable");
        }
    }
    true
}

fn mount_point(config: &Config, running: bool, found: &mut Findings) {
    let at = &config.drive.mount_point;
    let shown = at.display();
    match fuse::mount_health(at) {
        MountHealth::NotMounted => match (running, std::fs::symlink_metadata(at)) {
            (_, Ok(m)) if m.is_dir() => found.good("mount", format!("{shown} is there and not mounted")),
            (_, Ok(_)) => found.bad("mount", format!("{shown} is not a folder"), "choose another drive.mount-point"),
            (_, Err(e)) => found.bad("mount", format!("{shown}: {e}"), format!("mkdir -p {shown}")),
        },
        MountHealth::Ours { waiting } if waiting > 0 => {
            found.good("mount", format!("{shown} is mounted; {waiting} requests are being answered"));
        }
        MountHealth::Ours { .. } => found.good("mount", format!("{shown} is mounted")),
        MountHealth::Dead => found.bad("mount", format!("{shown} is a mount whose daemon died"), "`backlot mount` clears it, or `backlot unmount --lazy`"),
        MountHealth::Other { fs_type } => found.bad("mount", format!("{shown} holds another file system ({fs_type})"), "choose another drive.mount-point, or unmount that"),
    }
}

fn store(args: &Args, config: &Config, found: &mut Findings) {
    let dir = &config.drive.data_dir;
    if !dir.join("state.sqlite").exists() {
        return found.good("store", format!("{} has none yet; the first scan makes it", dir.display()));
    }
    let store = match StateStore::open_read_only(dir) {
        Ok(store) => store,
        Err(e) => return found.bad("store", e.to_string(), "a copy of the data folder, then a rescan, brings the tree back"),
    };
    if args.deep {
        match store.check() {
            Ok(problems) if problems.is_empty() => found.good("store", "every page and every invariant holds"),
            Ok(problems) => {
                let first = problems.first().map(ToString::to_string).unwrap_or_default();
                found.bad("store", format!("{} problems, the first: {first}", problems.len()), "stop the daemon, move the database aside, scan again");
            }
            Err(e) => found.bad("store", e.to_string(), "stop the daemon, move the database aside, scan again"),
        }
        return;
    }
    match store.read(|txn| txn.counts()) {
        Ok(c) => found.good("store", format!("{} entries", text::count(c.entries))),
        Err(e) => found.bad("store", e.to_string(), "run `backlot doctor --deep`"),
    }
}

fn space(config: &Config, found: &mut Findings) {
    for (what, dir) in [("cache", &config.drive.cache_dir), ("data", &config.drive.data_dir)] {
        let mut there = dir.as_path();
        while !there.exists()
            && let Some(up) = there.parent()
        {
            there = up;
        }
        match rustix::fs::statvfs(there) {
            Ok(s) => {
                let free = s.f_bavail * s.f_frsize;
                let need = if what == "cache" { config.cache.min_free.bytes().max(LOW_SPACE) } else { LOW_SPACE };
                if free < need {
                    found.bad(what, format!("{} has {} free", dir.display(), text::bytes(free)), format!("make room: {} are to stay free", text::bytes(need)));
                } else {
                    found.good(what, format!("{} has {} free", dir.display(), text::bytes(free)));
                }
            }
            Err(e) => found.bad(what, format!("{}: {e}", dir.display()), "check the disk and the folder's permissions"),
        }
    }
}

fn clock(found: &mut Findings) {
    let now = jiff::Timestamp::now();
    // A machine whose clock starts at 1970 or at its firmware's date makes every listing look fresh or stale.
    if now < jiff::Timestamp::from_second(1_735_689_600).unwrap_or(jiff::Timestamp::UNIX_EPOCH) {
        found.bad("clock", format!("it says {now}"), "set the clock (timedatectl set-ntp true)");
    } else {
        found.good("clock", now.to_zoned(jiff::tz::TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S %Z").to_string());
    }
}
