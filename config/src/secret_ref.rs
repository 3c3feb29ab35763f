//! Secrets by reference: where a secret is to be found, never the secret.
//!
//! Owns the two spellings `env:NAME` and `file:/path`, and fetching what they point at. Refuses to know what a secret is for.
//! Invariant: no error, `Debug`, `Display` or serialised form of anything here holds a secret's text, nor a rejected
//! value, which may well be one.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use secrecy::SecretString;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

/// Longest secret file that is read, in bytes: beyond it the path is a mistake (a key file is below 16 KiB).
const MAX_SECRET_FILE: u64 = 64 * 1024;

/// Where a secret is to be found: `env:NAME` or `file:/path`. Printing one shows the reference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretRef {
    /// The environment variable of that name, read when the secret is needed.
    Env(String),
    /// The file at that path, which only its owner may read. One trailing newline is not part of the secret.
    File(PathBuf),
}

/// A reference that cannot be read as one, or whose secret cannot be had. Displays as `problem; hint`.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The value is neither `env:NAME` nor `file:/path`. It is not repeated here: it may be the secret itself.
    #[error("a secret is given by reference, and this is not one; write `env:NAME` or `file:/path`")]
    NotAReference,
    /// `env:` without a usable name.
    #[error("`env:` needs the name of an environment variable; write it as in `env:STUDIO_PASSWORD`")]
    NoName,
    /// `file:` without an absolute path.
    #[error(
        "`file:` needs an absolute path; write it as in `file:/etc/backlot/studio.secret` or `file:~/studio.secret`"
    )]
    NoPath,
    /// The environment variable is not set.
    #[error("environment variable {0} is not set; export it, or point to a file with `file:/path`")]
    Unset(String),
    /// The secret is there and empty, or is not text.
    #[error("the secret at {0} is empty or not text; write the secret on a line of its own")]
    Unusable(SecretRef),
    /// The file cannot be read.
    #[error("cannot read {}; check that it exists and belongs to the user running backlot", path.display())]
    Unreadable {
        /// The file named by the reference.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Others than the owner may read the file.
    #[error("{} can be read by others than its owner; run: chmod 600 {}", .0.display(), .0.display())]
    Exposed(PathBuf),
}

impl SecretRef {
    /// Fetches the secret, from the process environment or from the file.
    ///
    /// # Errors
    /// When the variable is unset, the file cannot be read or is open to group or others, or the secret is empty.
    pub fn resolve(&self) -> Result<SecretString, SecretError> {
        self.resolve_with(|name| std::env::var_os(name).and_then(|value| value.into_string().ok()))
    }

    fn resolve_with(&self, env: impl FnOnce(&str) -> Option<String>) -> Result<SecretString, SecretError> {
        let text = match self {
            Self::Env(name) => env(name).ok_or_else(|| SecretError::Unset(name.clone()))?,
            Self::File(path) => read_private(path)?,
        };
        let text = text
            .strip_suffix('\n')
            .map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        if text.is_empty() {
            return Err(SecretError::Unusable(self.clone()));
        }
        Ok(SecretString::from(text))
    }
}

/// Reads through one open file, so that the mode that is checked is that of the bytes that are read.
fn read_private(path: &Path) -> Result<String, SecretError> {
    use std::io::Read as _;
    let unreadable = |source| SecretError::Unreadable {
        path: path.to_owned(),
        source,
    };
    let unusable = || SecretError::Unusable(SecretRef::File(path.to_owned()));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let meta = file.metadata().map_err(unreadable)?;
    if !meta.is_file() || meta.len() > MAX_SECRET_FILE {
        return Err(unusable());
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        if meta.permissions().mode() & 0o077 != 0 {
            return Err(SecretError::Exposed(path.to_owned()));
        }
    }
    let mut bytes = Vec::new();
    file.take(MAX_SECRET_FILE).read_to_end(&mut bytes).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|_| unusable())
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Env(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

impl FromStr for SecretRef {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        if let Some(name) = text.strip_prefix("env:") {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
            if name.is_empty() || !name.chars().all(plain) {
                return Err(SecretError::NoName);
            }
            return Ok(Self::Env(name.to_owned()));
        }
        let path = text.strip_prefix("file:").ok_or(SecretError::NotAReference)?;
        if !path.starts_with("~/") && !Path::new(path).is_absolute() {
            return Err(SecretError::NoPath);
        }
        Ok(Self::File(PathBuf::from(path)))
    }
}

impl Serialize for SecretRef {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RefVisitor)
    }
}

struct RefVisitor;

/// serde's own answers for a number or a boolean repeat the value, so every scalar gets our answer instead.
impl Visitor<'_> for RefVisitor {
    type Value = SecretRef;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`env:NAME` or `file:/path`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<SecretRef, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<SecretRef, E> {
        Err(E::custom(SecretError::NotAReference))
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<SecretRef, E> {
        Err(E::custom(SecretError::NotAReference))
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<SecretRef, E> {
        Err(E::custom(SecretError::NotAReference))
    }
}
