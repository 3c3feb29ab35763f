//! One table from what a studio's storage is called on each operating system to (volume, path), and back.
//!
//! Owns: reading a path in anybody's spelling, and writing it in anybody's. Refuses to know: what exists; settings files.
//! Invariants: a root matches whole names only, and the longest that matches wins; what comes out never leads above the
//! volume's root; no spelling is guessed: what fits two volumes equally well is refused.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{PathError, RelPath};

#[cfg(test)]
mod tests;

/// A way of spelling a volume's root.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Spelling {
    /// `/storage`, as Linux machines mount it.
    Linux,
    /// `/Volumes/storage`, as Macs mount it.
    Macos,
    /// `S:\`, a drive letter of Windows.
    Windows,
    /// `\\server\share`, which Windows understands without a drive letter.
    Unc,
}

impl Spelling {
    /// All of them, in the order they are shown.
    pub const ALL: [Self; 4] = [Self::Linux, Self::Macos, Self::Windows, Self::Unc];

    fn of_windows(self) -> bool {
        matches!(self, Self::Windows | Self::Unc)
    }
}

impl fmt::Display for Spelling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linux => "linux",
            Self::Macos => "macos",
            Self::Windows => "windows",
            Self::Unc => "unc",
        })
    }
}

/// Why a text is no path, no root, or of no volume.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum VolumeError {
    /// Neither `/…`, `X:\…` nor `\\server\…`.
    #[error("{0} is not an absolute path of any system")]
    NotAbsolute(String),
    /// `S:foo`, `S:`.
    #[error("{0} depends on the folder that drive {1}: is in; write {1}:\\ and the path from there")]
    DriveRelative(String, char),
    /// `..` is in it.
    #[error("{0} has `..` in it; write the path without")]
    Dots(String),
    /// `\\?\…`, `NUL`, `x:stream`.
    #[error("{0}: {1} names a device or a stream of Windows, not a file")]
    Device(String, String),
    /// A name is no name.
    #[error("{0}: {1}")]
    Name(String, PathError),
    /// It lies in no volume.
    #[error("{0} is in none of the volumes ({1})")]
    NoVolume(String, String),
    /// It lies in two volumes, by roots of the same length.
    #[error("{0} may be in volume {1} or in volume {2}")]
    TwoVolumes(String, String, String),
}

/// The roots of a volume, by spelling. Only those that [`Root::parse`] takes belong in here.
pub type Roots = BTreeMap<Spelling, Root>;

/// A volume: one tree of files, wherever it is mounted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Volume {
    /// Its name.
    pub code: String,
    /// The folder of the drive that is its root.
    pub folder: RelPath,
    /// Where most machines have it.
    pub roots: Roots,
    /// Where machines at a site have it: what a site does not say is as in `roots`.
    pub sites: BTreeMap<String, Roots>,
    /// Where this machine has it.
    pub here: Option<Root>,
}

/// A root as it is mounted: which family of systems, its names, and how it is written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Root {
    spelling: Spelling,
    parts: Vec<String>,
}

/// A path of a volume.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InVolume<'v> {
    /// Which.
    pub volume: &'v Volume,
    /// The path below its root.
    pub path: RelPath,
}

/// An absolute path, taken to pieces. A path with slashes may be of Linux or of a Mac.
struct Pieces {
    family: Family,
    /// For `X:\` the letter and a colon; for UNC the server; then the names.
    parts: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Family {
    Posix,
    Drive,
    Unc,
}

impl Family {
    fn holds(self, spelling: Spelling) -> bool {
        match self {
            Self::Posix => !spelling.of_windows(),
            Self::Drive => spelling == Spelling::Windows,
            Self::Unc => spelling == Spelling::Unc,
        }
    }
}

/// Says whether a text is spelt as only Windows does: with a drive letter, or with a server after two backslashes.
#[must_use]
pub fn is_windows_spelling(text: &str) -> bool {
    drive_letter(text).is_some() || text.starts_with(r"\\")
}

fn drive_letter(text: &str) -> Option<char> {
    let mut chars = text.chars();
    let letter = chars.next().filter(char::is_ascii_alphabetic)?;
    (chars.next() == Some(':')).then_some(letter)
}

/// Names that mean a device on Windows, whatever follows a dot.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end().to_ascii_uppercase();
    let numbered = |prefix: &str| {
        stem.strip_prefix(prefix)
            .is_some_and(|n| n.len() == 1 && n != "0" && n.bytes().all(|b| b.is_ascii_digit()))
    };
    matches!(stem.as_str(), "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$") || numbered("COM") || numbered("LPT")
}

/// Returns why Windows can't hold a name.
fn windows_refuses(name: &str) -> Option<&'static str> {
    if name.chars().any(|c| c < ' ' || r#"<>:"/\|?*"#.contains(c)) {
        Some("it has a character in it that no name may have there")
    } else if name.ends_with(['.', ' ']) {
        Some("names there don't end with a dot or a space")
    } else if is_device(name) {
        Some("it means a device there")
    } else {
        None
    }
}

impl Pieces {
    /// Takes a text to pieces; as often as its spelling may mean something: `//a/b` is of a server and of Linux.
    fn of(text: &str) -> Result<Vec<Self>, VolumeError> {
        let is_slash = |c: char| c == '/' || c == '\\';
        if let Some(letter) = drive_letter(text) {
            let rest = &text[2..];
            if !rest.starts_with(is_slash) {
                return Err(VolumeError::DriveRelative(text.to_owned(), letter));
            }
            let mut parts = vec![format!("{letter}:")];
            parts.extend(names(text, rest.split(is_slash), true)?);
            return Ok(vec![Self {
                family: Family::Drive,
                parts,
            }]);
        }
        let mut found = Vec::new();
        if let Some(rest) = text.strip_prefix(r"\\").or_else(|| text.strip_prefix("//")) {
            if rest.starts_with(['?', '.']) && rest[1..].starts_with(is_slash) {
                return Err(VolumeError::Device(text.to_owned(), text[..3].to_owned()));
            }
            if !rest.starts_with(is_slash) {
                let parts = names(text, rest.split(is_slash), true)?;
                if !parts.is_empty() {
                    found.push(Self {
                        family: Family::Unc,
                        parts,
                    });
                }
            }
        }
        if text.starts_with('/') {
            found.push(Self {
                family: Family::Posix,
                parts: names(text, text.split('/'), false)?,
            });
        }
        if found.is_empty() {
            return Err(VolumeError::NotAbsolute(text.to_owned()));
        }
        Ok(found)
    }
}

/// Checks names and leaves out those that say nothing.
fn names<'t>(whole: &str, parts: impl Iterator<Item = &'t str>, of_windows: bool) -> Result<Vec<String>, VolumeError> {
    let mut out = Vec::new();
    for part in parts.filter(|part| !part.is_empty() && *part != ".") {
        if part == ".." {
            return Err(VolumeError::Dots(whole.to_owned()));
        }
        if of_windows && (is_device(part) || part.contains(':')) {
            return Err(VolumeError::Device(whole.to_owned(), part.to_owned()));
        }
        super::Name::new(part).map_err(|e| VolumeError::Name(whole.to_owned(), e))?;
        out.push(part.to_owned());
    }
    Ok(out)
}

impl Root {
    /// Reads a root of a spelling, with either slash and with or without one at its end.
    ///
    /// # Errors
    /// When the text is not spelt that way.
    pub fn parse(spelling: Spelling, text: &str) -> Result<Self, VolumeError> {
        // Here a bare `S:` can only mean the drive's root.
        let bare = drive_letter(text).is_some() && text.len() == 2;
        let text = if bare { format!("{text}\\") } else { text.to_owned() };
        let pieces = Pieces::of(&text)?;
        let fits = pieces.into_iter().find(|p| p.family.holds(spelling));
        let Pieces { parts, .. } = fits.ok_or(VolumeError::NotAbsolute(text))?;
        Ok(Self { spelling, parts })
    }

    /// Reads a root in whatever spelling it is; one with slashes counts as of this system.
    ///
    /// # Errors
    /// When it is no absolute path.
    pub fn parse_any(text: &str) -> Result<Self, VolumeError> {
        let own = if cfg!(target_os = "macos") {
            Spelling::Macos
        } else {
            Spelling::Linux
        };
        let mut last = Err(VolumeError::NotAbsolute(text.to_owned()));
        for spelling in [own, Spelling::Windows, Spelling::Unc] {
            last = Self::parse(spelling, text);
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// Writes the root, or a path below it.
    ///
    /// # Errors
    /// Why Windows can't hold one of the names.
    pub fn write(&self, path: &RelPath) -> Result<String, String> {
        let text = std::str::from_utf8(path.as_bytes()).map_err(|_bytes| "the path is not UTF-8".to_owned())?;
        let below = text.split('/').filter(|part| !part.is_empty());
        let own = self.parts.iter().map(String::as_str);
        if !self.spelling.of_windows() {
            return Ok(format!("/{}", own.chain(below).collect::<Vec<_>>().join("/")));
        }
        if let Some((name, why)) = below.clone().find_map(|name| Some((name, windows_refuses(name)?))) {
            return Err(format!("Windows can't hold the name {name:?}: {why}"));
        }
        let mut out = own.chain(below).collect::<Vec<_>>().join(r"\");
        if self.spelling == Spelling::Unc {
            out.insert_str(0, r"\\");
        } else if !out.contains('\\') {
            out.push('\\');
        }
        Ok(out)
    }

    /// Returns the names below this root, if the pieces lie there.
    fn strip<'p>(&self, pieces: &'p Pieces) -> Option<&'p [String]> {
        if !pieces.family.holds(self.spelling) || pieces.parts.len() < self.parts.len() {
            return None;
        }
        let (head, rest) = pieces.parts.split_at(self.parts.len());
        let same = |(a, b): (&String, &String)| match self.spelling.of_windows() {
            true => a == b || a.to_lowercase() == b.to_lowercase(),
            false => a == b,
        };
        self.parts.iter().zip(head).all(same).then_some(rest)
    }

    /// Says whether another root is the same place by the rules of its system.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let family = match self.spelling {
            Spelling::Linux | Spelling::Macos => Family::Posix,
            Spelling::Windows => Family::Drive,
            Spelling::Unc => Family::Unc,
        };
        let parts = self.parts.clone();
        other.strip(&Pieces { family, parts }).is_some_and(<[_]>::is_empty)
    }
}

impl fmt::Display for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.write(&RelPath::root()).unwrap_or_default())
    }
}

impl Volume {
    /// Returns the root in a spelling, at a site or in general.
    #[must_use]
    pub fn root(&self, spelling: Spelling, site: Option<&str>) -> Option<&Root> {
        let at_site = site.and_then(|site| self.sites.get(site)?.get(&spelling));
        at_site.or_else(|| self.roots.get(&spelling))
    }
}

/// Finds the volume of a path in anybody's spelling. The longest root wins; among those of one length this machine's own
/// come first, then those of `site`, then the general ones, and those of other sites last.
///
/// # Errors
/// When the text is no absolute path, leads upward, names a device, or lies in no volume or in two.
pub fn locate<'v>(volumes: &'v [Volume], text: &str, site: Option<&str>) -> Result<InVolume<'v>, VolumeError> {
    let pieces = Pieces::of(text)?;
    let mut best: Option<((usize, u8), &Volume, &[String])> = None;
    let mut rival: Option<&Volume> = None;
    for piece in &pieces {
        for volume in volumes {
            for (rank, root) in ranked(volume, site) {
                let Some(rest) = root.strip(piece) else { continue };
                let score = (root.parts.len(), rank);
                match best {
                    Some((top, ..)) if top > score => {}
                    Some((top, other, _)) if top == score => {
                        if other.code != volume.code {
                            rival = Some(volume);
                        }
                    }
                    _ => {
                        best = Some((score, volume, rest));
                        rival = None;
                    }
                }
            }
        }
        // A spelling that fits a server comes before the same text as a path of Linux.
        if best.is_some() {
            break;
        }
    }
    match (best, rival) {
        (Some((_, a, _)), Some(b)) => Err(VolumeError::TwoVolumes(text.to_owned(), a.code.clone(), b.code.clone())),
        (Some((_, volume, rest)), None) => Ok(InVolume {
            volume,
            path: RelPath::new(rest.join("/")).map_err(|e| VolumeError::Name(text.to_owned(), e))?,
        }),
        (None, _) => {
            let known: Vec<&str> = volumes.iter().map(|v| v.code.as_str()).collect();
            let known = if known.is_empty() {
                "the settings have none".to_owned()
            } else {
                known.join(", ")
            };
            Err(VolumeError::NoVolume(text.to_owned(), known))
        }
    }
}

/// The roots of a volume with how much each counts.
fn ranked<'v>(volume: &'v Volume, site: Option<&str>) -> impl Iterator<Item = (u8, &'v Root)> {
    let general = volume.roots.values().map(|root| (1, root));
    let sites = volume.sites.iter().flat_map(move |(name, roots)| {
        let rank = if Some(name.as_str()) == site { 2 } else { 0 };
        roots.values().map(move |root| (rank, root))
    });
    let sites: Vec<_> = sites.collect();
    volume.here.iter().map(|root| (3, root)).chain(general).chain(sites)
}

/// Finds the volume of a path of the drive: that whose folder is nearest above it.
#[must_use]
pub fn locate_in_drive<'v>(volumes: &'v [Volume], path: &RelPath) -> Option<InVolume<'v>> {
    let below = |folder: &RelPath| -> Option<RelPath> {
        let (mut folder, mut path) = (folder.components(), path.components());
        for part in folder.by_ref() {
            if path.next() != Some(part) {
                return None;
            }
        }
        RelPath::new(path.collect::<Vec<_>>().join(&b'/')).ok()
    };
    let found = volumes.iter().filter_map(|v| Some((v, below(&v.folder)?)));
    let (volume, path) = found.max_by_key(|(v, _)| v.folder.components().count())?;
    Some(InVolume { volume, path })
}
