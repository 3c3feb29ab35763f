//! The protocol's messages and their frames: a line of JSON, and after it as many raw bytes as its `data` says.
//!
//! Owns: what goes over the pipes, see docs/exec-provider.md. Refuses to know: processes. Invariant: a message that is not
//! exactly what was asked for is an error; nothing is guessed from it.

use serde::{Deserialize, Serialize};

use crate::model::{EntryKind, Name, RelPath, Version};
use crate::providers::{Entry, ErrorKind, HashKind, Listed};

/// The version of the protocol that is spoken here.
pub(super) const PROTOCOL: u32 = 1;
/// The longest line, in bytes: a page of a listing has to fit.
pub(super) const LINE_MAX: usize = 4 << 20;
/// The most raw bytes after a line.
pub(super) const DATA_MAX: usize = 1 << 20;
/// The longest path, in bytes: what systems take that programs run on.
const PATH_MAX: usize = 4095;
/// The longest version or note of a program, in bytes: they are kept in the store.
pub(super) const TEXT_MAX: usize = 8 << 10;

/// What the program is told first.
#[derive(Debug, Serialize)]
pub(super) struct Greeting {
    pub(super) backlot: u32,
}

/// What the program answers.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Hello {
    pub(super) protocol: u32,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) capabilities: Can,
}

/// What a program says that it can do. What it doesn't say it can't.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Can {
    #[serde(default)]
    pub(super) atomic_replace: bool,
    #[serde(default)]
    pub(super) resume_upload: bool,
    #[serde(default)]
    pub(super) conditional_commit: bool,
    #[serde(default)]
    pub(super) symlinks: bool,
    #[serde(default)]
    pub(super) mtime_step_ns: Option<u64>,
    #[serde(default)]
    pub(super) hash: Option<HashKind>,
}

/// A request. Paths are text, components joined by `/`, empty for the root.
#[derive(Debug, Clone, Serialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub(super) enum Request {
    Probe,
    Stat {
        path: String,
    },
    List {
        path: String,
    },
    Read {
        path: String,
        version: String,
        offset: u64,
        length: u64,
    },
    BeginUpload {
        #[serde(flatten)]
        upload: Upload,
    },
    UploadPart {
        #[serde(flatten)]
        upload: Upload,
        state: String,
        index: u32,
        /// Where in the file the bytes belong.
        offset: u64,
        /// Whether these are the last bytes of the part.
        last: bool,
    },
    Commit {
        #[serde(flatten)]
        upload: Upload,
        state: String,
        parts: Vec<Part>,
        expect: Expect,
    },
    Abort {
        #[serde(flatten)]
        upload: Upload,
        state: String,
    },
    MakeDir {
        path: String,
    },
    Rename {
        path: String,
        to: String,
    },
    Delete {
        path: String,
    },
    Space,
}

/// The plan of an upload.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Upload {
    pub(super) path: String,
    pub(super) temp: String,
    pub(super) size: u64,
    pub(super) mtime_ns: i64,
    pub(super) perm: Option<u16>,
    pub(super) part_size: u64,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Part {
    pub(super) index: u32,
    pub(super) size: u64,
    pub(super) receipt: String,
}

/// What has to be there for a commit.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Expect {
    Anything,
    Nothing,
    Version(String),
}

/// A request with its number and the length of what follows.
#[derive(Debug, Serialize)]
pub(super) struct Numbered<'a> {
    pub(super) id: u64,
    #[serde(flatten)]
    pub(super) request: &'a Request,
    #[serde(skip_serializing_if = "is_zero")]
    pub(super) data: usize,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// An answer. Which members it has to have depends on the request.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Reply {
    pub(super) id: u64,
    #[serde(default)]
    pub(super) data: usize,
    #[serde(default)]
    pub(super) error: Option<String>,
    #[serde(default)]
    pub(super) message: Option<String>,
    #[serde(default)]
    pub(super) retry_after_ms: Option<u64>,
    #[serde(default)]
    pub(super) entry: Option<Row>,
    #[serde(default)]
    pub(super) entries: Vec<Row>,
    #[serde(default)]
    pub(super) more: bool,
    #[serde(default)]
    pub(super) state: Option<String>,
    #[serde(default)]
    pub(super) receipt: Option<String>,
    #[serde(default)]
    pub(super) version: Option<String>,
    #[serde(default)]
    pub(super) total: Option<u64>,
    #[serde(default)]
    pub(super) available: Option<u64>,
}

/// A file, folder or link, as a program describes it.
#[derive(Debug, Deserialize)]
pub(super) struct Row {
    #[serde(default)]
    name: String,
    kind: EntryKind,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    mtime_ns: i64,
    #[serde(default)]
    perm: Option<u16>,
    version: String,
    #[serde(default)]
    target: Option<String>,
    /// Of all its bytes, of the kind that the hello named.
    #[serde(default)]
    pub(super) hash: Option<String>,
}

impl Row {
    /// Takes what a program says of an entry, or says what is wrong with it.
    pub(super) fn entry(self) -> Result<Entry, String> {
        if !matches!(self.kind, EntryKind::File | EntryKind::Dir | EntryKind::Symlink) {
            return Err("an entry is neither file, dir nor symlink".to_owned());
        }
        if self.version.is_empty() || self.version.len() > TEXT_MAX {
            return Err(format!("a version has 1 to {TEXT_MAX} bytes"));
        }
        if (self.kind == EntryKind::Symlink) != self.target.is_some() {
            return Err("a symlink has a target, and nothing else has one".to_owned());
        }
        Ok(Entry {
            kind: self.kind,
            size: if self.kind == EntryKind::Dir { 0 } else { self.size },
            mtime_ns: self.mtime_ns,
            perm: self.perm.map(|perm| perm & 0o7777),
            version: Version::new(self.version),
            target: self.target.map(String::into_bytes),
        })
    }

    pub(super) fn listed(self) -> Result<Listed, String> {
        let name = Name::new(self.name.as_bytes()).map_err(|e| e.to_string())?;
        Ok(Listed {
            name,
            entry: self.entry()?,
        })
    }
}

/// The kinds of errors as programs write them.
pub(super) fn kind_of(word: &str) -> Option<ErrorKind> {
    Some(match word {
        "not-found" => ErrorKind::NotFound,
        "exists" => ErrorKind::Exists,
        "wrong-kind" => ErrorKind::WrongKind,
        "denied" => ErrorKind::Denied,
        "auth" => ErrorKind::Auth,
        "version-mismatch" => ErrorKind::VersionMismatch,
        "full" => ErrorKind::Full,
        "unreachable" => ErrorKind::Unreachable,
        "timed-out" => ErrorKind::TimedOut,
        "busy" => ErrorKind::Busy,
        "invalid" => ErrorKind::Invalid,
        "unsupported" => ErrorKind::Unsupported,
        "config" => ErrorKind::Config,
        "failed" => ErrorKind::Protocol,
        _ => return None,
    })
}

/// A path as text; a path that is none can't be at such a site.
pub(super) fn text(path: &RelPath) -> Result<String, &'static str> {
    if path.as_bytes().len() > PATH_MAX {
        return Err("a path at this kind of site has at most 4095 bytes");
    }
    std::str::from_utf8(path.as_bytes())
        .map(str::to_owned)
        .map_err(|_bytes| "names at this kind of site are UTF-8")
}

/// A piece of what a program wrote, fit to be shown.
pub(super) fn shown(bytes: &[u8], most: usize) -> String {
    let mut out = String::new();
    for c in String::from_utf8_lossy(&bytes[..bytes.len().min(most)])
        .trim_end()
        .chars()
    {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    if bytes.len() > most {
        out.push('…');
    }
    out
}
