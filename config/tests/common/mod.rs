//! A machine made of one temporary folder: `etc/` is the system's, `home/` the user's.

use std::fs;
use std::path::PathBuf;

use backlot_config::{Config, Loaded, Loader};

pub(crate) struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    pub(crate) fn path(&self, below: &str) -> PathBuf {
        self.dir.path().join(below)
    }

    pub(crate) fn write(&self, below: &str, text: &str) -> PathBuf {
        let path = self.path(below);
        fs::create_dir_all(path.parent().expect("a file is in a folder")).expect("the folder can be made");
        fs::write(&path, text).expect("the file can be written");
        path
    }

    pub(crate) fn write_user(&self, text: &str) -> PathBuf {
        self.write("home/.config/backlot/config.toml", text)
    }

    /// Sees this machine's files and nothing of the real one.
    pub(crate) fn loader(&self) -> Loader {
        Loader::new()
            .system_dir(self.path("etc"))
            .home(self.path("home"))
            .env([("USER", "ada")])
    }

    /// The message of a load that fails, with this machine's folder taken out of its paths.
    pub(crate) fn complaint(&self, loader: &Loader) -> String {
        let errors = loader.load().expect_err("these settings are wrong");
        errors
            .to_string()
            .replace(&format!("{}/", self.dir.path().display()), "")
    }
}

/// Loads a user's file that must be right.
#[allow(dead_code, reason = "not every test file uses it")]
pub(crate) fn config_of(text: &str) -> Config {
    loaded(text).config
}

#[allow(dead_code, reason = "not every test file uses it")]
pub(crate) fn loaded(text: &str) -> Loaded {
    let machine = Machine::new();
    machine.write_user(text);
    machine.loader().load().unwrap_or_else(|errors| panic!("{errors}"))
}

/// The complaint about a user's file, whose path is shortened to `user`.
#[allow(dead_code, reason = "not every test file uses it")]
pub(crate) fn complaint_about(text: &str) -> String {
    let machine = Machine::new();
    machine.write_user(text);
    machine
        .complaint(&machine.loader())
        .replace("home/.config/backlot/config.toml", "user")
}
