//! Where a tool works: a folder of one zone of a real mount, and what must hold of it when the tool is done.
//!
//! Owns: the drive, its remote (a folder, so that its bytes can be looked at), what is asked in the end. Refuses to know:
//! the tools. Invariant: whatever a tool left is there after the drive was mounted anew; of a work folder nothing is at the
//! remote, of a publish folder every file and no other.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::common::drive::{Builder, Drive, PROJECT, drive_test_within, find_program, is_root, run_within, say};
use crate::manifest::Manifest;

/// The variable that turns a missing tool from a skip into a failure.
const REQUIRE: &str = "BACKLOT_TEST_REQUIRE_TOOLS";
/// The variable that names a folder in which the tools work in place of a drive.
const BASELINE: &str = "BACKLOT_TEST_TOOLS_BASELINE";
/// Where `.ci/tools` puts what no package of the system has.
pub(crate) const INSTALLED: &str = "/opt/backlot-tools";
/// How long a tool may take where nothing is said.
pub(crate) const TOOL: Duration = Duration::from_secs(300);

/// How long the queue may take to be empty.
const DRAIN: Duration = Duration::from_secs(1800);
/// How much of what a failed tool said is shown, of its beginning and of its end.
const SAID: usize = 2000;

/// What becomes of files in a folder.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Zone {
    /// They stay on this machine.
    Work,
    /// They are sent to the remote.
    Publish,
}

impl Zone {
    /// The folder of the project whose files are in this zone.
    pub(crate) fn folder(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Publish => "publish",
        }
    }
}

/// Returns what was found, or says why the test can't run here, or fails where it was promised.
pub(crate) fn or_skip<T>(kind: &str, found: Result<T, String>) -> Option<T> {
    match found {
        Ok(found) => Some(found),
        Err(reason) => {
            assert!(
                std::env::var_os(REQUIRE).is_none_or(|v| v != "1"),
                "{REQUIRE}=1, and no {kind}: {reason}"
            );
            say(&format!("SKIPPED: {kind} ({reason})"));
            None
        }
    }
}

/// Finds a program: where `variable` says, on the path, or where `.ci/tools` puts it.
pub(crate) fn program(variable: &str, name: &str) -> Result<PathBuf, String> {
    if let Some(named) = std::env::var_os(variable) {
        return Ok(named.into());
    }
    let installed = Path::new(INSTALLED).join("bin").join(name);
    find_program(name)
        .or_else(|| installed.is_file().then_some(installed))
        .ok_or_else(|| format!("no {name} on the path or in {INSTALLED}/bin; .ci/tools installs it"))
}

/// A number that a variable may set.
pub(crate) fn number(variable: &str, otherwise: usize) -> usize {
    std::env::var(variable).map_or(otherwise, |n| n.parse().expect("a number"))
}

/// Runs a program that must succeed and returns what it printed.
pub(crate) fn runs(limit: Duration, command: &mut Command) -> String {
    let out = run_within(limit, command);
    let text = |bytes: &[u8]| match bytes.len() {
        len if len <= 2 * SAID => String::from_utf8_lossy(bytes).into_owned(),
        len => [&bytes[..SAID], &bytes[len - SAID..]]
            .map(String::from_utf8_lossy)
            .join("\n…\n"),
    };
    assert!(
        out.status.success(),
        "{command:?}: {}\n{}\n{}",
        out.status,
        text(&out.stdout),
        text(&out.stderr)
    );
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// A folder for a tool, and beside it one that is not on the drive.
#[derive(Debug)]
pub(crate) struct Stage {
    zone: Zone,
    /// Where the tool works.
    folder: PathBuf,
    /// Not on the drive: for what a tool takes from elsewhere.
    scratch: TempDir,
    /// What the site has; nothing where a plain folder stands in for the drive.
    remote: TempDir,
    drive: Option<Drive>,
    /// The plain folder.
    _plain: Option<TempDir>,
}

/// Runs a tool's test in a folder of a zone, and then asks what must hold of whatever it left there.
pub(crate) fn staged(zone: Zone, limit: Duration, work: impl FnOnce(&mut Stage) + Send + 'static) {
    staged_with(zone, limit, |drive| drive, work);
}

/// As [`staged`], with settings.
pub(crate) fn staged_with(
    zone: Zone,
    limit: Duration,
    settings: impl FnOnce(Builder) -> Builder + Send + 'static,
    work: impl FnOnce(&mut Stage) + Send + 'static,
) {
    let plain = std::env::var_os(BASELINE).map(PathBuf::from);
    if let Some(plain) = plain {
        work(&mut Stage::plain(zone, &plain));
        return;
    }
    drive_test_within(limit + DRAIN, move || {
        let mut stage = Stage::mounted(zone, settings);
        work(&mut stage);
        stage.finish();
    });
}

impl Stage {
    fn mounted(zone: Zone, settings: impl FnOnce(Builder) -> Builder) -> Self {
        let remote = tempfile::tempdir().unwrap();
        fs::set_permissions(remote.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut built = Builder::local(remote.path())
            .set("publish.settle", "300ms")
            .set(&format!("projects.{PROJECT}.remote-delete"), "propagate")
            .set("hydration.read-deadline", "20s");
        if is_root() {
            built = built.set("drive.allow-other", true);
        }
        let drive = settings(built).build().mounted();
        let folder = drive.path(zone.folder());
        fs::create_dir(&folder).unwrap_or_else(|e| panic!("mkdir {}: {e}", folder.display()));
        Self {
            zone,
            folder,
            scratch: tempfile::tempdir().unwrap(),
            remote,
            drive: Some(drive),
            _plain: None,
        }
    }

    fn plain(zone: Zone, parent: &Path) -> Self {
        let plain = tempfile::tempdir_in(parent).unwrap();
        fs::set_permissions(plain.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let folder = plain.path().join(zone.folder());
        fs::create_dir(&folder).unwrap();
        Self {
            zone,
            folder,
            scratch: tempfile::tempdir().unwrap(),
            remote: tempfile::tempdir().unwrap(),
            drive: None,
            _plain: Some(plain),
        }
    }

    /// Where the tool works.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A folder that is not on the drive.
    pub(crate) fn scratch(&self) -> &Path {
        self.scratch.path()
    }

    pub(crate) fn zone(&self) -> Zone {
        self.zone
    }

    /// Whether there is a drive; a plain folder has no remote and is not mounted.
    pub(crate) fn has_drive(&self) -> bool {
        self.drive.is_some()
    }

    /// How many writes the daemon answered; `None` where the kernel writes nothing by itself.
    pub(crate) fn written_through_daemon(&self) -> Option<u64> {
        let native = &self.drive.as_ref()?.status_now()["native_reads"];
        (native["state"] == "on").then(|| native["daemon_writes"].as_u64().expect("a number"))
    }

    /// What the site has of the folder: `None` where nothing is sent there.
    pub(crate) fn at_remote(&self) -> Option<PathBuf> {
        let is_sent = self.zone == Zone::Publish && self.has_drive();
        is_sent.then(|| self.remote.path().join(self.zone.folder()))
    }

    /// Waits until all that was published is at the remote.
    pub(crate) fn drain(&self) {
        if let (Zone::Publish, Some(drive)) = (self.zone, &self.drive) {
            let begun = Instant::now();
            runs(DRAIN, drive.command().args(["wait", "--all"]));
            say(&format!("tools: the queue was empty after {:.1?}", begun.elapsed()));
        }
    }

    /// Asks what must hold of what the tool left.
    fn finish(mut self) {
        let left = Manifest::of(&self.folder);
        self.drain();
        let remote = Manifest::of(&self.remote.path().join(self.zone.folder())).bytes();
        let expected = match self.zone {
            Zone::Work => Manifest::default(),
            Zone::Publish => left.bytes(),
        };
        let differences = expected.differences(&remote);
        assert!(
            differences.is_none(),
            "{:?}: what there should be and what the remote has: {}",
            self.zone,
            differences.unwrap()
        );
        let drive = self.drive.as_mut().expect("mounted");
        drive.remount();
        let differences = left.differences(&Manifest::of(&self.folder));
        assert!(
            differences.is_none(),
            "before and after the drive was mounted anew: {}",
            differences.unwrap()
        );
        drive.unmount();
    }
}
