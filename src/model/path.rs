//! Names and relative paths, validated once at the edge. Bytes, not text: studios have names that are not UTF-8.

use std::borrow::Borrow;
use std::ffi::OsStr;
use std::fmt;
use std::ops::Deref;
use std::os::unix::ffi::OsStrExt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The longest name, in bytes (NAME_MAX of Linux).
pub const NAME_MAX: usize = 255;

/// Why bytes are not a name or a relative path.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PathError {
    /// A component is empty.
    #[error("the path {0:?} has an empty component")]
    Empty(String),
    /// A component is `.` or `..`.
    #[error("the path {0:?} has a `.` or `..` in it; give it without")]
    Dots(String),
    /// A component has a slash or a NUL byte.
    #[error("the name {0:?} holds a slash or a NUL byte")]
    BadByte(String),
    /// A component is longer than 255 bytes.
    #[error("a name of {0} bytes is longer than the 255 that fit")]
    TooLong(usize),
}

/// One name in a folder: 1 to 255 bytes, no slash, no NUL, not `.` or `..`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Checks bytes and takes them as a name.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Self, PathError> {
        let bytes = bytes.into();
        check_name(&bytes)?;
        Ok(Self(bytes.into_boxed_slice()))
    }

    /// Returns the bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the name as the operating system's string.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

fn check_name(bytes: &[u8]) -> Result<(), PathError> {
    let shown = || String::from_utf8_lossy(bytes).into_owned();
    if bytes.is_empty() {
        return Err(PathError::Empty(shown()));
    }
    if bytes == b"." || bytes == b".." {
        return Err(PathError::Dots(shown()));
    }
    if bytes.iter().any(|b| *b == b'/' || *b == 0) {
        return Err(PathError::BadByte(shown()));
    }
    if bytes.len() > NAME_MAX {
        return Err(PathError::TooLong(bytes.len()));
    }
    Ok(())
}

impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl Deref for Name {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

/// A path below some root: components joined by `/`, without a leading slash; empty for the root itself.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RelPath(Vec<u8>);

impl RelPath {
    /// Returns the root: no components.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Checks bytes such as `a/b/c` (a leading or trailing slash is taken off) and takes them as a path.
    pub fn new(bytes: impl AsRef<[u8]>) -> Result<Self, PathError> {
        let bytes = bytes.as_ref();
        let bytes = bytes.strip_prefix(b"/").unwrap_or(bytes);
        let bytes = bytes.strip_suffix(b"/").unwrap_or(bytes);
        if bytes.is_empty() {
            return Ok(Self::root());
        }
        for part in bytes.split(|b| *b == b'/') {
            check_name(part)?;
        }
        Ok(Self(bytes.to_vec()))
    }

    /// Returns the path of `name` in this folder.
    #[must_use]
    pub fn join(&self, name: &Name) -> Self {
        let mut out = Vec::with_capacity(self.0.len() + 1 + name.len());
        out.extend_from_slice(&self.0);
        if !out.is_empty() {
            out.push(b'/');
        }
        out.extend_from_slice(name);
        Self(out)
    }

    /// Returns the path of `below` under this one.
    #[must_use]
    pub fn concat(&self, below: &Self) -> Self {
        match (self.is_root(), below.is_root()) {
            (true, _) => below.clone(),
            (_, true) => self.clone(),
            (false, false) => Self([&self.0[..], b"/", &below.0[..]].concat()),
        }
    }

    /// Returns the folder that holds this path and its last name; `None` for the root.
    #[must_use]
    pub fn split_last(&self) -> Option<(Self, Name)> {
        if self.is_root() {
            return None;
        }
        let (dir, name) = match self.0.iter().rposition(|b| *b == b'/') {
            Some(i) => (self.0[..i].to_vec(), &self.0[i + 1..]),
            None => (Vec::new(), &self.0[..]),
        };
        Some((Self(dir), Name(name.into())))
    }

    /// Returns the components from the root down.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0.split(|b| *b == b'/').filter(|part| !part.is_empty())
    }

    /// Says whether this is the root.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the bytes, components joined by `/`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Returns the path as the operating system's string.
    #[must_use]
    pub fn as_os_str(&self) -> &OsStr {
        OsStr::from_bytes(&self.0)
    }
}

impl fmt::Display for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        String::from_utf8_lossy(&self.0).fmt(f)
    }
}

impl fmt::Debug for RelPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&String::from_utf8_lossy(&self.0), f)
    }
}

impl Serialize for RelPath {
    /// As text; bytes that are not UTF-8 are shown as U+FFFD, so this is for people and reports, not for a round trip.
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RelPath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::new(text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_path_never_leaves_its_root() {
        assert_eq!(RelPath::new("a/../b"), Err(PathError::Dots("..".into())));
        assert_eq!(RelPath::new("a//b"), Err(PathError::Empty(String::new())));
        assert_eq!(RelPath::new("a\0b"), Err(PathError::BadByte("a\0b".into())));
        assert_eq!(RelPath::new(vec![b'x'; 256]), Err(PathError::TooLong(256)));
        assert!(RelPath::new(vec![b'x'; 255]).is_ok());
        assert!(RelPath::new("/").unwrap().is_root());
    }

    #[test]
    fn names_need_not_be_utf8() {
        let name = Name::new(vec![0xff, 0xfe]).unwrap();
        assert_eq!(RelPath::root().join(&name).as_bytes(), &[0xff, 0xfe]);
    }

    proptest! {
        #[test]
        fn split_undoes_join(parts in prop::collection::vec("[^/\0.]{1,20}", 1..6)) {
            let names: Vec<_> = parts.iter().map(|p| Name::new(p.as_bytes()).unwrap()).collect();
            let path = names.iter().fold(RelPath::root(), |p, n| p.join(n));
            let (dir, last) = path.split_last().unwrap();
            prop_assert_eq!(&last, names.last().unwrap());
            prop_assert_eq!(dir.join(&last), path.clone());
            prop_assert_eq!(RelPath::new(path.as_bytes()).unwrap(), path);
        }
    }
}
