//! Virtual extended attributes: facts about a file that scripts and file managers can ask for, never listed, so that no
//! copy carries them.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use backlot_config::ZoneKind;
use backlot_platform::error::{FsError, FsErrorKind};
use tracing::warn;

use super::drive::Inner;
use super::filesystem::state_error;
use super::openvfs::{self, Placeholder};
use super::pins::PinError;
use super::pins::rules::Pattern;
use crate::model::{EntryKind, Ino, Version};
use crate::state::Node;

/// Every virtual attribute of our own lives under this prefix.
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
    /// `user.backlot.pinned`: `1` for what a pin covers, else `0`. Folders too.
    Pinned,
    /// `user.backlot.pin`: `1` where there is a pin of this very path. Can be set and removed. Folders too.
    Pin,
    /// `user.backlot.zone`: what becomes of it by where it is.
    Zone,
    /// `user.openvfs.data`: its state, as openvfs words it.
    OpenVfs,
}

impl Virtual {
    pub(super) fn from_name(name: &OsStr) -> Option<Self> {
        let name = name.to_str()?;
        match name {
            openvfs::DATA => return Some(Self::OpenVfs),
            openvfs::REAL_SIZE => return Some(Self::CachedBytes),
            _ => {}
        }
        match name.strip_prefix(PREFIX)? {
            "state" => Some(Self::State),
            "cached_bytes" => Some(Self::CachedBytes),
            "site" => Some(Self::Site),
            "version" => Some(Self::Version),
            "remote_path" => Some(Self::RemotePath),
            "error" => Some(Self::Error),
            "zone" => Some(Self::Zone),
            "pinned" => Some(Self::Pinned),
            "pin" => Some(Self::Pin),
            _ => None,
        }
    }
}

/// The longest name and value of an attribute: Linux's own limits.
const NAME_MAX: usize = 255;
const VALUE_MAX: usize = 64 << 10;

/// Says whether a name is kept for virtual attributes.
pub(super) fn is_reserved(name: &OsStr) -> bool {
    name.as_bytes().starts_with(PREFIX.as_bytes()) || name == openvfs::DATA || name == openvfs::REAL_SIZE
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
    match (asked, node.kind) {
        (Virtual::Pinned, EntryKind::File | EntryKind::Dir) => {
            let pinned = if drive.is_pinned(node.ino) { "1" } else { "0" };
            return Some(pinned.into());
        }
        (Virtual::Pin, EntryKind::File | EntryKind::Dir) => {
            return drive.pin_of(node.ino).map(|_| "1".into());
        }
        (_, EntryKind::File) => {}
        _ => return None,
    }
    match asked {
        // Answered above.
        Virtual::Pinned | Virtual::Pin => None,
        Virtual::State => Some(drive.file_state(node).0.to_string().into_bytes()),
        Virtual::CachedBytes => Some(drive.file_state(node).1.to_string().into_bytes()),
        Virtual::Version => node.version.as_ref().map(|v| v.as_str().as_bytes().to_vec()),
        Virtual::Site => drive
            .locate(node.ino)
            .ok()
            .map(|(project, _)| project.site.name().0.clone().into_bytes()),
        Virtual::Error => drive.trouble_with(node).map(String::into_bytes),
        Virtual::Zone => drive.zone_of(node.ino).map(|zone| zone_word(zone).as_bytes().to_vec()),
        Virtual::OpenVfs => {
            let placeholder = Placeholder {
                etag: node.version.as_ref().map_or("", Version::as_str),
                file_id: node.ino.0.to_string(),
                size: node.size,
                residency: drive.residency(node).0,
                is_pinned: drive.is_pinned(node.ino),
            };
            Some(placeholder.to_value())
        }
        Virtual::RemotePath => drive.locate(node.ino).ok().map(|(_, path)| path.as_bytes().to_vec()),
    }
}

/// Sets or removes the pin of a path: `1` or `0`.
pub(super) async fn set_pin(drive: &Arc<Inner>, ino: Ino, value: &[u8], uid: u32) -> Result<(), FsError> {
    match value {
        b"1" => {
            let (project, below) = drive
                .place(ino)
                .map_err(state_error)?
                .ok_or(FsErrorKind::NotPermitted)?;
            let selected = vec![(project, Pattern::Path(below))];
            let set = drive.pin_selected(selected, None, &format!("uid {uid}")).await;
            set.map(drop).map_err(|e| pin_error(ino, e))
        }
        b"0" => match drive.pin_of(ino) {
            Some(_) => remove_pin(drive, ino).await,
            None if drive.is_pinned(ino) => Err(FsErrorKind::NotPermitted.into()),
            None => Ok(()),
        },
        _ => Err(FsErrorKind::Invalid.into()),
    }
}

/// Removes the pin of a path.
pub(super) async fn remove_pin(drive: &Arc<Inner>, ino: Ino) -> Result<(), FsError> {
    let id = drive.pin_of(ino).ok_or(FsErrorKind::NoAttr)?;
    drive.remove_pins(vec![id]).await.map_err(state_error)
}

fn pin_error(ino: Ino, e: PinError) -> FsError {
    warn!(%ino, error = %e, "a pin was refused");
    match e {
        PinError::TooMuch(_) | PinError::TooMany => FsErrorKind::NoSpace.into(),
        PinError::State(e) => state_error(e),
        _ => FsErrorKind::NotPermitted.into(),
    }
}

fn zone_word(zone: ZoneKind) -> &'static str {
    match zone {
        ZoneKind::Publish => "publish",
        ZoneKind::Local => "local",
        ZoneKind::Readonly => "readonly",
    }
}
