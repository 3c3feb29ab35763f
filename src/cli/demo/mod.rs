//! `backlot demo`: a small studio behind a slow link, mounted, to try things on; and `--check`, the same without a
//! person, as a test of the whole on a new machine.
//!
//! Owns: the temporary folder and what is shown. Refuses to know: how the drive works. Invariant: nothing is removed
//! while anything may still be mounted below it.

mod check;
mod save;
mod studio;

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backlot_config::{ByteSize, Config, LocalSite, LogLevel, Period, Project, ProviderSettings, Site};
use backlot_platform::fuse::{self, MountHealth, Unmount};
use futures::FutureExt;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use tokio::sync::watch;

use super::error::{CliError, Exit};
use super::mount::start_error;
use super::text;
use crate::daemon::{self, Daemon, EndSignals, SlowLink, Start};
use crate::engine::drive::Drive;

/// The link of the demo: a studio's VPN on an ordinary day.
const DELAY: Duration = Duration::from_millis(20);
/// 200 Mbit/s, in bytes.
const RATE: u64 = 25_000_000;
/// Few, so that a sequence is seen to go up.
const AT_ONCE: u32 = 4;
/// Short, so that a publish is seen to go up.
const SETTLE: Period = Period::from_millis(500);
/// How often the live view looks.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// The site's name in the demo's settings.
const SITE: &str = "studio";

/// Makes a small film studio in a temporary folder, mounts it through a slow link, and shows what happens.
///
/// Needs nothing but this program and FUSE. Ctrl-C unmounts and removes everything.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Without a person: walk the tree, compare every byte with the remote, cut the link, save, publish, kill the daemon,
    /// unmount; one line a step.
    #[arg(long)]
    check: bool,
    /// Make the folder of the demo here instead of in the system's temporary folder.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Set by `--check` for the process that serves the drive.
    #[arg(long, hide = true, value_name = "DIR")]
    serve: Option<PathBuf>,
}

pub(super) async fn run(args: Args) -> Result<Exit, CliError> {
    if let Some(dir) = args.serve {
        return serve(&Place::at(&dir, LogLevel::Error)).await;
    }
    // Before minutes of painting, and before there is anything to clean up.
    fuse::preflight(false).map_err(|e| CliError::failed("show the demo", &e).hint(e.hint()))?;
    let mut signals = EndSignals::new().map_err(|e| CliError::failed("listen for signals", &e))?;
    let (stage, place) = Place::make(args.dir.as_deref())?;
    let done = if args.check {
        match build(&place, studio::Scale::Small, &mut signals).await {
            Ok(studio) => tokio::select! {
                done = check::run(&place, &studio) => done,
                () = signals.recv() => Err(stopped()),
            },
            Err(e) => Err(e),
        }
    } else {
        show(&place, &mut signals).await
    };
    if !matches!(fuse::mount_health(&place.mount), MountHealth::NotMounted) {
        // Ours alone, and its daemon is gone: whoever still uses it does so for nothing.
        drop(fuse::unmount_path(&place.mount, Unmount::Lazy));
    }
    if matches!(fuse::mount_health(&place.mount), MountHealth::NotMounted) {
        if let Err(e) = stage.close() {
            errln!("the demo's folder could not be removed: {e}");
        }
    } else {
        let kept = stage.keep();
        errln!(
            "something is still mounted at {}; {} stays",
            place.mount.display(),
            kept.display()
        );
    }
    done
}

fn stopped() -> CliError {
    CliError::new(Exit::Partial, "interrupted").hint("what the demo had made is removed")
}

/// The folders of one demo.
#[derive(Clone, Debug)]
struct Place {
    /// What the "remote" site holds.
    remote: PathBuf,
    /// Where it is mounted.
    mount: PathBuf,
    settings_file: PathBuf,
    config: Config,
}

impl Place {
    fn make(parent: Option<&Path>) -> Result<(tempfile::TempDir, Self), CliError> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let failed = |e: std::io::Error| {
            CliError::failed("make a folder for the demo", &e)
                .hint("--dir DIR puts it into a folder that you may write to")
        };
        let stage = tempfile::Builder::new()
            .prefix("backlot-demo-")
            .tempdir_in(parent)
            .map_err(failed)?;
        let place = Self::at(stage.path(), LogLevel::Warn);
        for dir in [&place.remote, &place.mount] {
            std::fs::create_dir(dir).map_err(failed)?;
        }
        std::fs::write(&place.settings_file, place.settings_text()).map_err(failed)?;
        Ok((stage, place))
    }

    fn at(dir: &Path, log: LogLevel) -> Self {
        let (remote, mount) = (dir.join("remote"), dir.join("drive"));
        let mut config = Config::default();
        config.drive.name = "demo".to_owned();
        config.drive.mount_point.clone_from(&mount);
        config.drive.data_dir = dir.join("data");
        config.drive.cache_dir = dir.join("cache");
        config.log.level = log;
        config.cache.max_size = ByteSize::gib(2);
        config.cache.min_free = ByteSize::mib(64);
        config.hydration.read_deadline = check::DEADLINE;
        config.publish.settle = SETTLE;
        config.publish.parallel = AT_ONCE;
        let local = LocalSite {
            root: remote.clone(),
            ..LocalSite::default()
        };
        config
            .sites
            .insert(SITE.to_owned(), Site::new(ProviderSettings::Local(local)));
        config
            .projects
            .insert(studio::PROJECT.to_owned(), Project::new(studio::PROJECT, SITE));
        Self {
            remote,
            mount,
            settings_file: dir.join("backlot.toml"),
            config,
        }
    }

    /// The same settings as a file, so that the other commands find this drive.
    fn settings_text(&self) -> String {
        let d = &self.config.drive;
        format!(
            "schema_version = 1\n\n[drive]\nname = {:?}\nmount-point = {:?}\ndata-dir = {:?}\ncache-dir = {:?}\n\n\
             [cache]\nmax-size = \"2GiB\"\nmin-free = \"64MiB\"\n\n\
             [sites.{SITE}]\nprovider = \"local\"\nroot = {:?}\n\n[projects.{}]\nremote-site = {SITE:?}\n",
            d.name,
            d.mount_point,
            d.data_dir,
            d.cache_dir,
            self.remote,
            studio::PROJECT,
        )
    }

    async fn start(&self) -> Result<(Daemon, Arc<SlowLink>), CliError> {
        crate::telemetry::init(&self.config.log);
        let (providers, link) = daemon::slow_folder(SITE, &self.remote, DELAY, Some(RATE))
            .map_err(|e| CliError::failed("make a slow site of the demo's folder", &e))?;
        let start = Start {
            config: self.config.clone(),
            providers: Some(providers),
            mount: true,
            sync: None,
            shown: Vec::new(),
            mounting: daemon::Mounting::default(),
        };
        Ok((
            Daemon::start(start)
                .await
                .map_err(|e| start_error("start the demo's drive", &e))?,
            link,
        ))
    }
}

async fn build(place: &Place, scale: studio::Scale, signals: &mut EndSignals) -> Result<studio::Studio, CliError> {
    let remote = place.remote.clone();
    let mut built = tokio::task::spawn_blocking(move || studio::build(&remote, scale));
    let done = tokio::select! {
        done = &mut built => done,
        () = signals.recv() => {
            // The work stops at its next file, since that has no folder any more.
            while !built.is_finished() {
                drop(std::fs::remove_dir_all(&place.remote));
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_millis(20)) => {}
                    () = signals.recv() => break,
                }
            }
            return Err(stopped());
        }
    };
    done.map_err(|e| CliError::failed("make the studio", &e))?.map_err(|e| {
        CliError::failed("make the studio", &e).hint("it needs about 300 MB of room; --dir DIR puts it elsewhere")
    })
}

async fn show(place: &Place, signals: &mut EndSignals) -> Result<Exit, CliError> {
    errln!("making a small studio…");
    let studio = build(place, studio::Scale::Full, signals).await?;
    let (daemon, _link) = place.start().await?;
    if signals.recv().now_or_never().is_some() {
        daemon.stop().await;
        return Err(stopped());
    }
    let view = tokio::spawn(introduce(daemon.drive().clone(), place.clone(), studio));
    let (_never, stop) = watch::channel(false);
    let done = daemon
        .run(stop)
        .await
        .map_err(|e| start_error("serve the demo's drive", &e));
    view.abort();
    done.map(|()| {
        outln!("\nunmounted; removing everything");
        Exit::Ok
    })
}

/// Tells what there is and what to try, then shows what happens.
async fn introduce(drive: Drive, place: Place, studio: studio::Studio) {
    match drive.scan(&crate::model::RelPath::root()) {
        Ok(jobs) => {
            for job in jobs {
                job.ended().await;
            }
        }
        Err(e) => err!("{}", CliError::failed("scan the demo's remote", &e).shown()),
    }
    let program = std::env::current_exe().map_or_else(|_| "backlot".to_owned(), |p| p.display().to_string());
    outln!("ready: {}\n", place.mount.display());
    outln!(
        "{} files with {} are on a \"remote\" that is 20 ms and 200 Mbit/s away. None of it is here yet.\n",
        text::count(studio.files.len() as u64),
        text::bytes(studio.total_bytes)
    );
    outln!("In another terminal:\n\n  cd {}\n  ls -lR", place.mount.display());
    outln!("  {program} --config ../backlot.toml ls demo");
    outln!("  {program} --config ../backlot.toml status\n\nOpen what you like, for example:\n");
    for (path, why) in &studio.highlights {
        outln!("  {}\n      {why}", path.display());
    }
    outln!(
        "\nSave what you like, too: what is written below a folder called publish goes up by itself, all else stays here.\n"
    );
    outln!("  mkdir -p demo/publish && cp demo/editorial/*.y4m demo/publish/");
    outln!("\nWhat is being hydrated shows below. Ctrl-C unmounts and removes everything.");
    live(drive).await;
}

/// Shows files while their bytes arrive.
async fn live(drive: Drive) {
    let bars = MultiProgress::new();
    let style = ProgressStyle::with_template("  {bar:24} {bytes:>11} of {total_bytes:<11} {msg}");
    let mut shown: std::collections::HashMap<String, ProgressBar> = std::collections::HashMap::new();
    let (mut seen, mut last_line) = (0, 0);
    let mut tick = tokio::time::interval(LOOK_EVERY);
    loop {
        tick.tick().await;
        let Ok(status) = drive.status() else { continue };
        let h = status.hydration;
        if !text::is_live(&std::io::stderr()) {
            if h.fetched_bytes != seen && h.in_flight.is_empty() {
                seen = h.fetched_bytes;
                outln!("hydrated so far: {} in {} requests", text::bytes(seen), h.fetches);
            }
            continue;
        }
        for f in &h.in_flight {
            let bar = shown.entry(f.path.clone()).or_insert_with(|| {
                let bar = bars.add(ProgressBar::new(f.size));
                if let Ok(style) = &style {
                    bar.set_style(style.clone());
                }
                bar.set_message(f.path.clone());
                bar
            });
            bar.set_position(f.resident_bytes);
        }
        shown.retain(|path, bar| {
            let on = h.in_flight.iter().any(|f| f.path == *path);
            if !on {
                bar.finish_and_clear();
            }
            on
        });
        if h.fetched_bytes != last_line && h.in_flight.is_empty() {
            last_line = h.fetched_bytes;
            drop(bars.println(format!(
                "  hydrated so far: {} in {} requests",
                text::bytes(last_line),
                h.fetches
            )));
        }
    }
}

/// Serves the drive for [`check`], which reads it from another process: a mount that its own process reads can hang it.
/// Obeys lines on standard input and stops when that ends.
async fn serve(place: &Place) -> Result<Exit, CliError> {
    let (daemon, link) = place.start().await?;
    outln!("ready");
    let (stop, stopping) = watch::channel(false);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines() {
            match line.as_deref() {
                Ok("link down") => link.set_down(true),
                Ok("link up") => link.set_down(false),
                Ok(_) | Err(_) => break,
            }
            outln!("done");
        }
        stop.send_replace(true);
    });
    daemon
        .run(stopping)
        .await
        .map_err(|e| start_error("serve the demo's drive", &e))?;
    Ok(Exit::Ok)
}
