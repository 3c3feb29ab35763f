//! Hashes of whole files, as sites name them, and the same computed here.
//!
//! Owns: which kinds there are and how each is computed. Refuses to know: where a site keeps them. Invariant: two hashes are
//! only ever compared within one kind.

use std::fmt;

use md5::Md5;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// A hash of whole files that a site gives by itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HashKind {
    /// MD5.
    Md5,
    /// SHA-256.
    Sha256,
}

impl fmt::Display for HashKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Md5 => "md5",
            Self::Sha256 => "sha256",
        })
    }
}

/// A hash of all bytes of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FileHash {
    /// How it was computed.
    pub kind: HashKind,
    /// What came out.
    pub digest: Vec<u8>,
}

impl FileHash {
    /// Reads a hash as sites write it, in hexadecimal digits; `None` if it is none of that kind.
    #[must_use]
    pub fn from_hex(kind: HashKind, hex: &str) -> Option<Self> {
        let len = match kind {
            HashKind::Md5 => 16,
            HashKind::Sha256 => 32,
        };
        if hex.len() != 2 * len || !hex.is_ascii() {
            return None;
        }
        let byte = |at: usize| u8::from_str_radix(hex.get(at * 2..at * 2 + 2)?, 16).ok();
        Some(Self {
            kind,
            digest: (0..len).map(byte).collect::<Option<_>>()?,
        })
    }
}

/// As people write it: `sha256:9f86d0…`.
impl fmt::Display for FileHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.kind)?;
        self.digest.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Computes a hash of bytes that come in order.
#[derive(Clone, Debug)]
pub struct Hasher(Of);

#[derive(Clone, Debug)]
enum Of {
    Md5(Md5),
    Sha256(Sha256),
}

impl Hasher {
    /// Begins with no bytes.
    #[must_use]
    pub fn new(kind: HashKind) -> Self {
        Self(match kind {
            HashKind::Md5 => Of::Md5(Md5::new()),
            HashKind::Sha256 => Of::Sha256(Sha256::new()),
        })
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            Of::Md5(hasher) => hasher.update(bytes),
            Of::Sha256(hasher) => hasher.update(bytes),
        }
    }

    /// Returns the hash of all bytes that came.
    #[must_use]
    pub fn finish(self) -> FileHash {
        match self.0 {
            Of::Md5(hasher) => FileHash {
                kind: HashKind::Md5,
                digest: hasher.finalize().to_vec(),
            },
            Of::Sha256(hasher) => FileHash {
                kind: HashKind::Sha256,
                digest: hasher.finalize().to_vec(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_hashes_of_known_bytes() {
        for (kind, hex) in [
            (HashKind::Md5, "900150983cd24fb0d6963f7d28e17f72"),
            (
                HashKind::Sha256,
                "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
        ] {
            let mut hasher = Hasher::new(kind);
            hasher.update(b"a");
            hasher.update(b"bc");
            let hash = hasher.finish();
            assert_eq!(Some(&hash), FileHash::from_hex(kind, hex).as_ref());
            assert_eq!(Some(&hash), FileHash::from_hex(kind, &hex.to_uppercase()).as_ref());
            assert_eq!(hash.to_string(), format!("{kind}:{hex}"));
        }
    }

    #[test]
    fn what_is_no_hash_of_that_kind_is_none() {
        let hex = "900150983cd24fb0d6963f7d28e17f72";
        for wrong in [
            "",
            &hex[1..],
            "900150983cd24fb0d6963f7d28e17f7g",
            "900150983cd24fb0d6963f7d28e17fé",
        ] {
            assert_eq!(FileHash::from_hex(HashKind::Md5, wrong), None, "{wrong}");
        }
        assert_eq!(FileHash::from_hex(HashKind::Sha256, hex), None);
    }
}
