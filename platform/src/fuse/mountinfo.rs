//! The kernel's own table of mounts, `/proc/thread-self/mountinfo`: what may be known of a mount without touching it.
//!
//! Invariant: no path inside a FUSE mount is ever looked at here; a mount whose daemon is stuck would take us with it.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};

use super::SUBTYPE;

/// Longest chain of symbolic links that is followed, as in the kernel.
const MAX_LINKS: usize = 40;

/// One line of the table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct MountEntry {
    /// Changes with every mount, but numbers are used again.
    pub(super) id: u64,
    pub(super) major: u32,
    /// Of a FUSE mount, also the name of its connection under /sys/fs/fuse/connections.
    pub(super) minor: u32,
    pub(super) point: PathBuf,
    pub(super) fs_type: String,
    pub(super) source: OsString,
    /// Of a FUSE mount, the user and the group whom alone it lets in; `None` where it lets everybody in.
    pub(super) only_for: Option<(u32, u32)>,
}

impl MountEntry {
    pub(super) fn is_fuse(&self) -> bool {
        self.fs_type == "fuse" || self.fs_type == "fuseblk" || self.fs_type.starts_with("fuse.")
    }

    /// Whether this program made it.
    pub(super) fn is_ours(&self) -> bool {
        self.fs_type.strip_prefix("fuse.") == Some(SUBTYPE)
    }
}

#[derive(Debug)]
pub(super) struct MountTable(Vec<MountEntry>);

impl MountTable {
    pub(super) fn read() -> io::Result<Self> {
        Ok(Self::parse(&std::fs::read("/proc/thread-self/mountinfo")?))
    }

    fn parse(text: &[u8]) -> Self {
        Self(text.split(|b| *b == b'\n').filter_map(parse_line).collect())
    }

    /// Returns the mount that a path walk to `point` ends in: the last one made there.
    pub(super) fn at(&self, point: &Path) -> Option<&MountEntry> {
        self.0.iter().rev().find(|entry| entry.point == point)
    }

    /// Returns the mounts inside of `point`, itself not included.
    pub(super) fn below<'a>(&'a self, point: &'a Path) -> impl Iterator<Item = &'a MountEntry> {
        self.0
            .iter()
            .filter(move |entry| entry.point != point && entry.point.starts_with(point))
    }

    /// Whether exactly this mount is still there.
    pub(super) fn contains(&self, mount: &MountEntry) -> bool {
        self.0.contains(mount)
    }

    /// Makes a path absolute and free of links, as `canonicalize` does, without asking any FUSE mount: from a FUSE mount
    /// point on, the rest is taken by the letter.
    pub(super) fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut todo: Vec<OsString> = components_reversed(&std::path::absolute(path)?);
        let mut done = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                done.pop();
                continue;
            }
            done.push(name);
            if self.at(&done).is_some_and(MountEntry::is_fuse) {
                for rest in todo.drain(..).rev() {
                    if rest == ".." {
                        done.pop();
                    } else {
                        done.push(rest)
                    };
                }
                break;
            }
            let Ok(target) = std::fs::read_link(&done) else {
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                return Err(io::Error::from(rustix::io::Errno::LOOP));
            }
            done.pop();
            if target.is_absolute() {
                done = PathBuf::from("/");
            }
            todo.extend(components_reversed(&target));
        }
        Ok(done)
    }
}

fn components_reversed(path: &Path) -> Vec<OsString> {
    let mut names: Vec<OsString> = path
        .components()
        .filter_map(|c| match c {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
        })
        .collect();
    names.reverse();
    names
}

/// `36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/root rw`, see proc_pid_mountinfo(5).
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let fields: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
    let dash = fields.iter().position(|field| *field == b"-")?;
    let text = |field: &[u8]| std::str::from_utf8(field).ok().map(str::to_owned);
    let (major, minor) = std::str::from_utf8(fields.get(2)?).ok()?.split_once(':')?;
    Some(MountEntry {
        id: std::str::from_utf8(fields.first()?).ok()?.parse().ok()?,
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        point: unescape(fields.get(4)?).into(),
        fs_type: text(fields.get(dash + 1)?)?,
        source: unescape(fields.get(dash + 2)?),
        only_for: fields.get(dash + 3).and_then(|options| only_for(options)),
    })
}

/// Reads off a FUSE mount's options whom alone it lets in.
fn only_for(options: &[u8]) -> Option<(u32, u32)> {
    let options = std::str::from_utf8(options).ok()?;
    if options.split(',').any(|option| option == "allow_other") {
        return None;
    }
    let number = |key| {
        options
            .split(',')
            .find_map(|option| option.strip_prefix(key))?
            .parse()
            .ok()
    };
    Some((number("user_id=")?, number("group_id=")?))
}

/// Undoes the kernel's octal escapes of space, tab, line feed, backslash and `#`.
fn unescape(field: &[u8]) -> OsString {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = |digits: &[u8]| {
            digits.iter().try_fold(0_u32, |sum, d| {
                matches!(d, b'0'..=b'7').then(|| sum * 8 + u32::from(d - b'0'))
            })
        };
        match tail.get(..3).and_then(octal).and_then(|byte| u8::try_from(byte).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = tail.get(3..).unwrap_or_default();
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    OsString::from_vec(out)
}

/// Returns `source` for people, whatever its bytes are.
pub(super) fn shown(source: &OsStr) -> String {
    String::from_utf8_lossy(source.as_bytes()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
60 27 0:50 / /mnt/my\\040drive rw,nosuid shared:7 master:2 - fuse.backlot studio\\043a rw,user_id=7,group_id=8,default_permissions
61 27 0:51 / /mnt/other rw - fuse.sshfs host:/x rw
62 61 0:52 / /mnt/other rw - fuse.backlot top rw,user_id=0,group_id=0,default_permissions,allow_other
63 62 0:53 / /mnt/other/inner rw - tmpfs tmpfs rw
short line
";

    #[test]
    fn lines_are_taken_apart_with_their_escapes_undone() {
        let table = MountTable::parse(TABLE);
        let drive = table.at(Path::new("/mnt/my drive")).expect("listed");
        assert_eq!((drive.id, drive.major, drive.minor), (60, 0, 50));
        assert_eq!(drive.source, "studio#a");
        assert_eq!(drive.only_for, Some((7, 8)));
        assert_eq!(table.at(Path::new("/mnt/other")).expect("listed").only_for, None);
        assert!(drive.is_fuse() && drive.is_ours());
        assert!(table.at(Path::new("/mnt")).is_none());
        assert!(!table.at(Path::new("/proc")).expect("listed").is_fuse());
    }

    #[test]
    fn the_topmost_mount_counts_and_inner_ones_are_found() {
        let table = MountTable::parse(TABLE);
        assert_eq!(table.at(Path::new("/mnt/other")).expect("listed").minor, 52);
        let inner: Vec<_> = table.below(Path::new("/mnt/other")).map(|m| m.minor).collect();
        assert_eq!(
            inner,
            [53],
            "neither the stacked mounts themselves nor their neighbours"
        );
    }

    #[test]
    fn a_backslash_that_starts_no_escape_is_kept() {
        assert_eq!(unescape(b"a\\134b"), "a\\b");
        assert_eq!(unescape(b"a\\9\\777"), "a\\9\\777");
        assert_eq!(unescape(b"\\04"), "\\04");
    }

    #[test]
    fn paths_resolve_through_links_and_stop_at_fuse() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let base = dir.path().canonicalize().expect("exists");
        std::fs::create_dir(base.join("real")).expect("made");
        std::os::unix::fs::symlink("real", base.join("link")).expect("made");
        std::os::unix::fs::symlink(base.join("loop"), base.join("loop")).expect("made");
        let table = MountTable(vec![]);
        assert_eq!(
            table.resolve(&base.join("link/../link/./x")).expect("resolves"),
            base.join("real/x")
        );
        assert!(table.resolve(&base.join("loop")).is_err());

        let mut fuse = parse_line(b"60 27 0:50 / /x rw - fuse.backlot s rw").expect("parses");
        fuse.point = base.join("link");
        // As if a mount covered the link: what is below it must not be looked at, so the link is not followed.
        let table = MountTable(vec![fuse]);
        assert_eq!(
            table.resolve(&base.join("link/a/../b")).expect("resolves"),
            base.join("link/b")
        );
    }
}
