//! Whose an entry is that has no owner of its own here, and what may be done with it: `drive.owner`, `group`, `umask`.
//!
//! Owns: what the settings mean on this machine. Refuses to know: who made what; that is in the rows. Invariant: a name that
//! this machine does not know is an error, never somebody else.

use std::fs;
use std::process::{Command, Stdio};

use crate::model::EntryKind;

/// The user, the group and the permission bits of what has none of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ownership {
    pub(super) uid: u32,
    pub(super) gid: u32,
    umask: Option<u16>,
}

/// A user or a group of the settings that is not to be had.
#[derive(Debug, thiserror::Error)]
#[error("{key}: this machine knows no {what} `{name}`")]
pub struct UnknownAccount {
    /// The key of the setting.
    pub key: &'static str,
    what: &'static str,
    /// What it says.
    pub name: String,
}

impl Ownership {
    /// Returns what the settings say. May ask the system's directory of users, which may be on another machine.
    ///
    /// # Errors
    /// When there is no such user or group.
    pub fn new(drive: &backlot_config::Drive) -> Result<Self, UnknownAccount> {
        let number = |key, what, database, name: Option<&String>| {
            name.map(|name| {
                find(database, name).ok_or_else(|| UnknownAccount {
                    key,
                    what,
                    name: name.clone(),
                })
            })
            .transpose()
        };
        let uid = number("drive.owner", "user", "passwd", drive.owner.as_ref())?;
        let gid = number("drive.group", "group", "group", drive.group.as_ref())?;
        Ok(Self {
            uid: uid.unwrap_or_else(|| rustix::process::geteuid().as_raw()),
            gid: gid.unwrap_or_else(|| rustix::process::getegid().as_raw()),
            umask: drive.umask.map(backlot_config::Umask::bits),
        })
    }

    /// Says whether permission bits of sites do not count.
    pub(super) fn has_umask(&self) -> bool {
        self.umask.is_some()
    }

    /// Returns the permission bits of an entry whose site has `at_site`, where the settings have a word in that.
    pub(super) fn perm(&self, kind: EntryKind, at_site: Option<u16>) -> Option<u16> {
        let all = match kind {
            EntryKind::Dir => 0o777,
            EntryKind::File if at_site.unwrap_or(0) & 0o111 != 0 => 0o777,
            EntryKind::File => 0o666,
            // A link has none, and the rest is never a site's.
            EntryKind::Symlink
            | EntryKind::Fifo
            | EntryKind::Socket
            | EntryKind::CharDevice
            | EntryKind::BlockDevice => return None,
        };
        self.umask.map(|umask| all & !umask)
    }
}

/// Finds the number of a user or a group, given by name or by number.
fn find(database: &str, name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let of_file = fs::read_to_string(format!("/etc/{database}")).ok();
    of_file.and_then(|text| number_in(&text, name)).or_else(|| {
        // It knows of directories as well, by programs that can't be asked from within this one when it is linked statically.
        let mut getent = Command::new("getent");
        let asked = getent
            .args([database, "--", name])
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        number_in(&String::from_utf8_lossy(&asked.output().ok()?.stdout), name)
    })
}

/// Reads the number of a name off lines as in passwd(5) and group(5).
fn number_in(text: &str, name: &str) -> Option<u32> {
    let of_line = |line: &str| {
        let mut fields = line.split(':');
        let is_it = fields.next() == Some(name);
        fields.nth(1).filter(|_| is_it)?.parse().ok()
    };
    text.lines().find_map(of_line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_are_found_and_unknown_ones_are_said() {
        let text = "root:x:0:0:root:/root:/bin/sh\nada:x:1000:1000::/home/ada:/bin/sh\nadam:x:1001:1001:::\n";
        assert_eq!((number_in(text, "ada"), number_in(text, "ad")), (Some(1000), None));
        assert_eq!(number_in("artists:x:2000:ada,adam\n", "artists"), Some(2000));
        assert_eq!(
            (find("passwd", "4711"), find("passwd", "root"), find("group", "root")),
            (Some(4711), Some(0), Some(0))
        );
        let drive = backlot_config::Drive {
            group: Some("no-such-group".to_owned()),
            ..backlot_config::Drive::default()
        };
        let unknown = Ownership::new(&drive).unwrap_err();
        assert_eq!(
            unknown.to_string(),
            "drive.group: this machine knows no group `no-such-group`"
        );
    }

    #[test]
    fn a_umask_stands_in_place_of_the_sites_bits_but_for_whether_a_file_can_be_run() {
        let of = |umask| Ownership { uid: 0, gid: 0, umask };
        let open = of(Some(0o002));
        assert_eq!(open.perm(EntryKind::Dir, Some(0o700)), Some(0o775));
        assert_eq!(open.perm(EntryKind::File, Some(0o600)), Some(0o664));
        assert_eq!(open.perm(EntryKind::File, Some(0o700)), Some(0o775));
        assert_eq!(of(Some(0o027)).perm(EntryKind::File, Some(0o777)), Some(0o750));
        assert_eq!(open.perm(EntryKind::Symlink, None), None);
        assert_eq!(of(None).perm(EntryKind::Dir, Some(0o700)), None);
    }
}
