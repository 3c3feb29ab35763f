//! Settings of the mount: `[fuse]`.
//!
//! Owns their shape and defaults. Refuses to know where values come from, and what a kernel can do.

use std::fmt;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use crate::units::{ByteSize, Period};

/// `[fuse]`: how the drive talks to the kernel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Fuse {
    /// Threads answering the kernel, 1 to 64, or `"auto"`: one per core, at least 2 and at most 4.
    pub threads: Threads,
    /// How long the kernel may keep names and attributes. Changes that Backlot learns of reach it at once anyway.
    pub entry_ttl: Period,
    /// How far the kernel reads ahead in a file. Applied only when running as root.
    pub kernel_readahead: ByteSize,
    /// Whether the kernel reads files that are here whole by itself: `"auto"`, where it can and the daemon runs as root, or
    /// `"off"`.
    pub passthrough: Passthrough,
}

/// Whether the kernel reads resident files past the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Passthrough {
    /// Where kernel and rights allow.
    #[default]
    Auto,
    /// Never: every read comes to the daemon, or out of the kernel's page cache.
    Off,
}

impl Default for Fuse {
    fn default() -> Self {
        Self {
            threads: Threads::Auto,
            entry_ttl: Period::from_secs(24 * 3600),
            kernel_readahead: ByteSize::mib(8),
            passthrough: Passthrough::Auto,
        }
    }
}

/// Number of threads: given, or derived from the machine's cores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// One per core, at least 2 and at most 4.
    Auto,
    /// That many.
    Fixed(u32),
}

impl Threads {
    /// The number of threads on a machine of `cores` cores.
    #[must_use]
    pub fn count(self, cores: usize) -> usize {
        match self {
            Self::Auto => cores.clamp(2, 4),
            Self::Fixed(n) => usize::try_from(n).unwrap_or(usize::MAX),
        }
    }
}

impl Serialize for Threads {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => serializer.serialize_str("auto"),
            Self::Fixed(n) => serializer.serialize_u32(*n),
        }
    }
}

impl<'de> Deserialize<'de> for Threads {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ThreadsVisitor)
    }
}

struct ThreadsVisitor;

impl Visitor<'_> for ThreadsVisitor {
    type Value = Threads;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"auto\" or a number of threads")
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Threads, E> {
        u32::try_from(number)
            .map(Threads::Fixed)
            .map_err(|_| E::invalid_value(de::Unexpected::Signed(number), &self))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Threads, E> {
        match (text, text.parse()) {
            ("auto", _) => Ok(Threads::Auto),
            (_, Ok(number)) => Ok(Threads::Fixed(number)),
            _ => Err(E::invalid_value(de::Unexpected::Str(text), &self)),
        }
    }
}
