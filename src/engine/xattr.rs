//! Virtual extended attributes: facts about a file that scripts and file managers can ask for, never listed, so that no
//! copy carries them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use backlot_config::ZoneKind;
use backlot_platform::error::{FsError, FsErrorKind};

use super::drive::Inner;
use crate::model::EntryKind;
use crate::state::Node;

/// Every virtual attribute lives under this prefix.
const PREFIX: &str = "user.backlot.";

/// A virtual attribute.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Virtual {
    /// `user.backlot.state`: the word shown for the file.
    State,
    /// `user.backlot.cached_bytes`: resident bytes, decimal.
    CachedBytes,
    /// `user.backlot.site`: the site that the bytes come from.
    Site,
    /// `user.backlot.version`: the identity of the bytes at that site.
    Version,
    /// `user.backlot.remote_path`: where the file is under the site's root.
    RemotePath,
    /// `user.backlot.error`: why it is not at its site, where something is in the way.
    Error,
    /// `user.backlot.zone`: what becomes of it by where it is.
    Zone,
}

impl Virtual {
    pub(super) fn from_name(name: &OsStr) -> Option<Self> {
        match name.to_str()?.strip_prefix(PREFIX)? {
            "state" => Some(Self::State),
            "cached_bytes" => Some(Self::CachedBytes),
            "site" => Some(Self::Site),
            "version" => Some(Self::Version),
            "remote_path" => Some(Self::RemotePath),
            "error" => Some(Self::Error),
            "zone" => Some(Self::Zone),
            _ => None,
        }
    }
}

/// The longest name and value of an attribute: Linux's own limits.
const NAME_MAX: usize = 255;
const VALUE_MAX: usize = 64 << 10;

/// Says whether a name is kept for virtual attributes.
pub(super) fn is_reserved(name: &OsStr) -> bool {
    name.as_bytes().starts_with(PREFIX.as_bytes())
}

/// Refuses what can't be an attribute of a user's.
pub(super) fn check_settable(name: &OsStr, value: &[u8]) -> Result<(), FsError> {
    let bytes = name.as_bytes();
    if is_reserved(name) {
        return Err(FsErrorKind::NotPermitted.into());
    }
    if !bytes.starts_with(b"user.") && !bytes.starts_with(b"trusted.") {
        return Err(FsErrorKind::Unsupported.into());
    }
    if bytes.len() > NAME_MAX || value.len() > VALUE_MAX {
        return Err(FsErrorKind::Range.into());
    }
    Ok(())
}

/// Returns the value of a virtual attribute, `None` where it has no meaning for the node.
pub(super) fn value(drive: &Inner, node: &Node, asked: Virtual) -> Option<Vec<u8>> {
    if node.kind != EntryKind::File {
        return None;
    }
    match asked {
        Virtual::State => Some(drive.file_state(node).0.to_string().into_bytes()),
        Virtual::CachedBytes => Some(drive.file_state(node).1.to_string().into_bytes()),
        Virtual::Version => node.version.as_ref().map(|v| v.as_str().as_bytes().to_vec()),
        Virtual::Site => drive
            .locate(node.ino)
            .ok()
            .map(|(project, _)| project.site.name().0.clone().into_bytes()),
        Virtual::Error => drive.trouble_with(node).map(String::into_bytes),
        Virtual::Zone => drive.zone_of(node.ino).map(|zone| zone_word(zone).as_bytes().to_vec()),
        Virtual::RemotePath => drive.locate(node.ino).ok().map(|(_, path)| path.as_bytes().to_vec()),
    }
}

fn zone_word(zone: ZoneKind) -> &'static str {
    match zone {
        ZoneKind::Publish => "publish",
        ZoneKind::Local => "local",
        ZoneKind::Readonly => "readonly",
    }
}
