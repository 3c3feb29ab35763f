//! A real SSH server behind a relay that can drop everything, and a drive of it.

use std::fs;
use std::path::PathBuf;

use backlot_config::SftpSite;

use crate::common::drive::Builder;
use crate::common::relay::Relay;
use crate::common::sshd::{Mode, Sshd};
use crate::common::tree;

/// A server and a relay in front of it.
pub(crate) struct Far {
    pub(crate) sshd: Sshd,
    pub(crate) relay: Relay,
}

impl Far {
    pub(crate) fn start() -> Option<Self> {
        let sshd = Sshd::start_or_skip(Mode::Internal)?;
        let relay = Relay::start(([127, 0, 0, 1], sshd.port()).into()).unwrap();
        sshd.trust_by(relay.port());
        Some(Self { sshd, relay })
    }

    pub(crate) fn settings(&self) -> SftpSite {
        self.sshd.settings_by(self.relay.port())
    }

    pub(crate) fn builder(&self) -> Builder {
        Builder::sftp(&self.settings())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.sshd.root().join(name)
    }

    pub(crate) fn write(&self, name: &str, seed: u64, len: u64) {
        tree::write(&self.path(name), seed, len);
    }
}
