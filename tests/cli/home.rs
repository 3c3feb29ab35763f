//! The program in a home of its own, without a drive: for everything that needs no mount.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::common::drive::run_within;

/// How long a verb may take that meets nothing slow.
const VERB: Duration = Duration::from_secs(60);

/// A home folder with nothing in it.
pub(crate) struct Home(tempfile::TempDir);

/// What a run of the program said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Said {
    /// Everything that was said.
    pub(crate) fn all(&self) -> String {
        format!("{}{}", self.out, self.err)
    }

    /// Fails unless the program ended with this code and said each of these on standard error.
    #[track_caller]
    pub(crate) fn failed(&self, code: i32, says: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:#?}");
        for wanted in says {
            assert!(self.err.contains(wanted), "not said: {wanted}\n{self:#?}");
        }
    }

    /// Fails unless the program ended with 0; returns what it printed.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:#?}");
        self.out
    }
}

impl Home {
    pub(crate) fn new() -> Self {
        Self(
            tempfile::Builder::new()
                .prefix("backlot-home-")
                .tempdir()
                .expect("a temporary folder"),
        )
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn join(&self, below: &str) -> PathBuf {
        self.path().join(below)
    }

    /// Writes a file below the home and returns its path.
    pub(crate) fn write(&self, below: &str, text: &str) -> PathBuf {
        let path = self.join(below);
        fs::create_dir_all(path.parent().expect("below")).expect("made");
        fs::write(&path, text).expect("written");
        path
    }

    /// Settings with a local site of one project `demo`, and `more` in the section of the drive.
    pub(crate) fn local_settings(&self, more: &str) -> PathBuf {
        fs::create_dir_all(self.join("site/demo/sq010")).expect("made");
        fs::create_dir_all(self.join("drive")).expect("made");
        let text = format!(
            "schema_version = 1\n[drive]\nmount-point = {:?}\n{more}\n[cache]\nmin-free = \"16MiB\"\n\
             [sites.nas]\nprovider = \"local\"\nroot = {:?}\n[projects.demo]\nremote-site = \"nas\"\n",
            self.join("drive"),
            self.join("site"),
        );
        self.write("backlot.toml", &text)
    }

    /// Settings with an SFTP site on this machine and one project `demo`; `more` goes into the section of the site.
    pub(crate) fn sftp_settings(&self, port: u16, more: &str) -> PathBuf {
        fs::create_dir_all(self.join("drive")).expect("made");
        let text = format!(
            "schema_version = 1\n[drive]\nmount-point = {:?}\n[cache]\nmin-free = \"16MiB\"\n[sites.far]\nprovider = \"sftp\"\n\
             host = \"127.0.0.1\"\nport = {port}\nroot = \"/projects\"\nuser = \"ada\"\nknown-hosts = {:?}\nconnect-timeout = \"2s\"\n\
             {more}\n[projects.demo]\nremote-site = \"far\"\n",
            self.join("drive"),
            self.join("known_hosts"),
        );
        self.write("backlot.toml", &text)
    }

    /// The program, with nothing of the tester's own settings.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_backlot"));
        command
            .env_clear()
            .env("HOME", self.path())
            .env("USER", "ada")
            .env("TMPDIR", self.path())
            .current_dir(self.path());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
    }

    pub(crate) fn run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Said {
        run_within(VERB, self.command().args(args)).into()
    }
}
