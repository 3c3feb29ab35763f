//! SFTP version 3 (draft-ietf-secsh-filexfer-02) as bytes: requests out, replies in. Pure.
//!
//! Owns: the layout of packets. Refuses to know: which reply belongs to which request, connections, time. Invariants:
//! names, paths and handles are bytes and never become text; no input makes it panic or reserve memory beyond a packet.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::error::Fault;

/// A longer packet is a protocol error. OpenSSH sends at most 256 KiB; others stay below this too.
const MAX_PACKET: usize = 1 << 20;

/// `SSH_FXF_*`: flags of OPEN.
pub(super) mod open_flags {
    pub(in super::super) const READ: u32 = 1;
    pub(in super::super) const WRITE: u32 = 2;
    pub(in super::super) const CREATE: u32 = 8;
    pub(in super::super) const TRUNCATE: u32 = 0x10;
}

/// `SSH_FX_*`: codes of STATUS that mean something to us.
pub(super) mod status {
    pub(in super::super) const OK: u32 = 0;
    pub(in super::super) const EOF: u32 = 1;
    pub(in super::super) const NO_SUCH_FILE: u32 = 2;
    pub(in super::super) const PERMISSION_DENIED: u32 = 3;
    pub(in super::super) const FAILURE: u32 = 4;
    pub(in super::super) const BAD_MESSAGE: u32 = 5;
    pub(in super::super) const NO_CONNECTION: u32 = 6;
    pub(in super::super) const CONNECTION_LOST: u32 = 7;
    pub(in super::super) const UNSUPPORTED: u32 = 8;
}

const VERSION: u8 = 2;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const NAME: u8 = 104;
const ATTRS: u8 = 105;
const EXTENDED_REPLY: u8 = 201;

const ATTR_SIZE: u32 = 1;
const ATTR_UIDGID: u32 = 2;
const ATTR_PERMISSIONS: u32 = 4;
const ATTR_TIMES: u32 = 8;
const ATTR_EXTENDED: u32 = 0x8000_0000;

/// What a server says of an entry; servers may leave things out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Attrs {
    pub(super) size: Option<u64>,
    /// Type and permission bits, as in `st_mode`.
    pub(super) mode: Option<u32>,
    /// Whole seconds since 1970.
    pub(super) mtime: Option<u32>,
}

/// A request, before it has a number.
#[derive(Clone, Debug)]
pub(super) enum Request<'a> {
    Open { path: &'a [u8], flags: u32 },
    Close { handle: &'a [u8] },
    Read { handle: &'a [u8], offset: u64, len: u32 },
    Write { handle: &'a [u8], offset: u64, data: Bytes },
    LStat { path: &'a [u8] },
    FStat { handle: &'a [u8] },
    SetTimes { handle: &'a [u8], seconds: u32 },
    SetPerm { handle: &'a [u8], perm: u32 },
    OpenDir { path: &'a [u8] },
    ReadDir { handle: &'a [u8] },
    Remove { path: &'a [u8] },
    MakeDir { path: &'a [u8] },
    RemoveDir { path: &'a [u8] },
    Stat { path: &'a [u8] },
    Rename { from: &'a [u8], to: &'a [u8] },
    ReadLink { path: &'a [u8] },
    PosixRename { from: &'a [u8], to: &'a [u8] },
    FSync { handle: &'a [u8] },
    StatVfs { path: &'a [u8] },
    Limits,
}

impl Request<'_> {
    /// Returns the packet with this number; of a write, its header alone: the data follow it as they are.
    pub(super) fn encode(&self, id: u32) -> Bytes {
        let mut b = BytesMut::with_capacity(64);
        b.put_u32(0);
        b.put_u8(self.kind());
        b.put_u32(id);
        let mut tail = 0;
        match self {
            Self::Open { path, flags } => {
                put(&mut b, path);
                b.put_u32(*flags);
                b.put_u32(0);
            }
            Self::Close { handle } | Self::FStat { handle } | Self::ReadDir { handle } => put(&mut b, handle),
            Self::Read { handle, offset, len } => {
                put(&mut b, handle);
                b.put_u64(*offset);
                b.put_u32(*len);
            }
            Self::Write { handle, offset, data } => {
                put(&mut b, handle);
                b.put_u64(*offset);
                b.put_u32(len32(data));
                tail = data.len();
            }
            Self::SetTimes { handle, seconds } => {
                put(&mut b, handle);
                b.put_u32(ATTR_TIMES);
                b.put_u32(*seconds);
                b.put_u32(*seconds);
            }
            Self::SetPerm { handle, perm } => {
                put(&mut b, handle);
                b.put_u32(ATTR_PERMISSIONS);
                b.put_u32(*perm);
            }
            Self::LStat { path }
            | Self::Stat { path }
            | Self::OpenDir { path }
            | Self::Remove { path }
            | Self::RemoveDir { path }
            | Self::ReadLink { path } => put(&mut b, path),
            Self::MakeDir { path } => {
                put(&mut b, path);
                b.put_u32(0);
            }
            Self::Rename { from, to } => {
                put(&mut b, from);
                put(&mut b, to);
            }
            Self::PosixRename { from, to } => {
                put(&mut b, extension::POSIX_RENAME);
                put(&mut b, from);
                put(&mut b, to);
            }
            Self::FSync { handle } => {
                put(&mut b, extension::FSYNC);
                put(&mut b, handle);
            }
            Self::StatVfs { path } => {
                put(&mut b, extension::STATVFS);
                put(&mut b, path);
            }
            Self::Limits => put(&mut b, extension::LIMITS),
        }
        let len = u32::try_from(b.len() - 4 + tail).unwrap_or(u32::MAX);
        b[..4].copy_from_slice(&len.to_be_bytes());
        b.freeze()
    }

    fn kind(&self) -> u8 {
        match self {
            Self::Open { .. } => 3,
            Self::Close { .. } => 4,
            Self::Read { .. } => 5,
            Self::Write { .. } => 6,
            Self::LStat { .. } => 7,
            Self::FStat { .. } => 8,
            Self::SetTimes { .. } | Self::SetPerm { .. } => 10,
            Self::OpenDir { .. } => 11,
            Self::ReadDir { .. } => 12,
            Self::Remove { .. } => 13,
            Self::MakeDir { .. } => 14,
            Self::RemoveDir { .. } => 15,
            Self::Stat { .. } => 17,
            Self::Rename { .. } => 18,
            Self::ReadLink { .. } => 19,
            Self::PosixRename { .. } | Self::FSync { .. } | Self::StatVfs { .. } | Self::Limits => 200,
        }
    }
}

/// Names of the extensions that we use where the server offers them.
pub(super) mod extension {
    pub(in super::super) const POSIX_RENAME: &[u8] = b"posix-rename@openssh.com";
    pub(in super::super) const FSYNC: &[u8] = b"fsync@openssh.com";
    pub(in super::super) const STATVFS: &[u8] = b"statvfs@openssh.com";
    pub(in super::super) const LIMITS: &[u8] = b"limits@openssh.com";
}

/// Returns the packet that begins a session.
pub(super) fn init() -> Bytes {
    Bytes::from_static(&[0, 0, 0, 5, 1, 0, 0, 0, 3])
}

// Paths are bounded by PATH_MAX and data by a part's slices, both far below 4 GiB.
fn len32(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}

fn put(b: &mut BytesMut, bytes: &[u8]) {
    b.put_u32(len32(bytes));
    b.put_slice(bytes);
}

/// A reply: its kind and what follows its number.
#[derive(Debug)]
pub(super) struct Reply {
    kind: u8,
    body: Bytes,
}

/// A packet from the server.
#[derive(Debug)]
pub(super) enum Packet {
    /// The answer to our first packet: the extensions that are offered.
    Hello(Vec<Bytes>),
    /// The answer to the request of that number.
    Reply(u32, Reply),
}

fn u32_of(b: &mut Bytes) -> Result<u32, Fault> {
    b.try_get_u32().map_err(|_| Fault::Protocol("a packet ends too early"))
}

fn u64_of(b: &mut Bytes) -> Result<u64, Fault> {
    b.try_get_u64().map_err(|_| Fault::Protocol("a packet ends too early"))
}

fn bytes_of(b: &mut Bytes) -> Result<Bytes, Fault> {
    let len = u32_of(b)? as usize;
    if len > b.len() {
        return Err(Fault::Protocol("a packet ends too early"));
    }
    Ok(b.split_to(len))
}

fn attrs_of(b: &mut Bytes) -> Result<Attrs, Fault> {
    let flags = u32_of(b)?;
    let mut attrs = Attrs::default();
    if flags & ATTR_SIZE != 0 {
        attrs.size = Some(u64_of(b)?);
    }
    if flags & ATTR_UIDGID != 0 {
        u64_of(b)?;
    }
    if flags & ATTR_PERMISSIONS != 0 {
        attrs.mode = Some(u32_of(b)?);
    }
    if flags & ATTR_TIMES != 0 {
        u32_of(b)?;
        attrs.mtime = Some(u32_of(b)?);
    }
    if flags & ATTR_EXTENDED != 0 {
        for _ in 0..u32_of(b)? {
            bytes_of(b)?;
            bytes_of(b)?;
        }
    }
    Ok(attrs)
}

impl Packet {
    /// Reads a packet, its length taken off.
    pub(super) fn parse(mut b: Bytes) -> Result<Self, Fault> {
        let kind = b.try_get_u8().map_err(|_| Fault::Protocol("an empty packet"))?;
        if kind != VERSION {
            return Ok(Self::Reply(u32_of(&mut b)?, Reply { kind, body: b }));
        }
        if u32_of(&mut b)? < 3 {
            return Err(Fault::Protocol("the server speaks an SFTP older than version 3"));
        }
        let mut offered = Vec::new();
        while !b.is_empty() {
            offered.push(bytes_of(&mut b)?);
            bytes_of(&mut b)?;
        }
        Ok(Self::Hello(offered))
    }
}

impl Reply {
    /// Returns what the server says instead of an answer.
    fn refusal(mut self) -> Fault {
        if self.kind != STATUS {
            return Fault::Protocol("a reply of another kind than the request");
        }
        let Ok(code) = u32_of(&mut self.body) else {
            return Fault::Protocol("a packet ends too early");
        };
        let message = bytes_of(&mut self.body).unwrap_or_default();
        Fault::Status {
            code,
            message: String::from_utf8_lossy(&message).into_owned(),
        }
    }

    /// Takes the reply as plain success or failure.
    pub(super) fn done(self) -> Result<(), Fault> {
        match self.refusal() {
            Fault::Status { code: status::OK, .. } => Ok(()),
            fault => Err(fault),
        }
    }

    /// Takes the reply as a handle.
    pub(super) fn handle(mut self) -> Result<Bytes, Fault> {
        if self.kind == HANDLE {
            bytes_of(&mut self.body)
        } else {
            Err(self.refusal())
        }
    }

    /// Says whether the reply hands out a handle that has to be closed some time.
    pub(super) fn is_handle(&self) -> bool {
        self.kind == HANDLE
    }

    /// Returns how many bytes of a file are in it.
    pub(super) fn data_len(&self) -> usize {
        if self.kind == DATA {
            // After their number.
            self.body.len().saturating_sub(4)
        } else {
            0
        }
    }

    /// Takes the reply as data; `None` is the end of the file.
    pub(super) fn data(mut self) -> Result<Option<Bytes>, Fault> {
        if self.kind == DATA {
            return bytes_of(&mut self.body).map(Some);
        }
        match self.refusal() {
            Fault::Status { code: status::EOF, .. } => Ok(None),
            fault => Err(fault),
        }
    }

    /// Takes the reply as attributes.
    pub(super) fn attrs(mut self) -> Result<Attrs, Fault> {
        if self.kind == ATTRS {
            attrs_of(&mut self.body)
        } else {
            Err(self.refusal())
        }
    }

    /// Takes the reply as names; `None` is the end of the folder.
    pub(super) fn names(mut self) -> Result<Option<Vec<(Bytes, Attrs)>>, Fault> {
        if self.kind != NAME {
            return match self.refusal() {
                Fault::Status { code: status::EOF, .. } => Ok(None),
                fault => Err(fault),
            };
        }
        let count = u32_of(&mut self.body)?;
        let mut names = Vec::new();
        for _ in 0..count {
            let name = bytes_of(&mut self.body)?;
            // What `ls -l` would print: for people.
            bytes_of(&mut self.body)?;
            names.push((name, attrs_of(&mut self.body)?));
        }
        Ok(Some(names))
    }

    /// Takes the reply to `limits`: the longest data of a read and of a write; 0 is "not said".
    pub(super) fn limits(mut self) -> Result<(u64, u64), Fault> {
        if self.kind != EXTENDED_REPLY {
            return Err(self.refusal());
        }
        let _packet = u64_of(&mut self.body)?;
        Ok((u64_of(&mut self.body)?, u64_of(&mut self.body)?))
    }

    /// Takes the reply to `statvfs`: bytes in all, and bytes available to us.
    pub(super) fn space(mut self) -> Result<(u64, u64), Fault> {
        if self.kind != EXTENDED_REPLY {
            return Err(self.refusal());
        }
        let _block = u64_of(&mut self.body)?;
        let unit = u64_of(&mut self.body)?;
        let blocks = u64_of(&mut self.body)?;
        let _free = u64_of(&mut self.body)?;
        let available = u64_of(&mut self.body)?;
        Ok((blocks.saturating_mul(unit), available.saturating_mul(unit)))
    }
}

/// Cuts a stream of bytes into packets. What arrives in one piece is not copied.
#[derive(Default)]
pub(super) struct Framer {
    /// The length's bytes, or those of the packet, that have come so far.
    partial: BytesMut,
    /// The packet's length, once it is known.
    want: Option<usize>,
}

impl Framer {
    /// Takes in bytes; gives each packet that is whole to `out`.
    pub(super) fn push(&mut self, mut data: Bytes, mut out: impl FnMut(Bytes)) -> Result<(), Fault> {
        loop {
            let Some(want) = self.want else {
                let missing = 4 - self.partial.len();
                self.partial.extend_from_slice(&data.split_to(missing.min(data.len())));
                if self.partial.len() < 4 {
                    return Ok(());
                }
                let len = self.partial.get_u32() as usize;
                if len == 0 || len > MAX_PACKET {
                    return Err(Fault::Protocol("a packet of an impossible length"));
                }
                self.want = Some(len);
                continue;
            };
            if self.partial.is_empty() && data.len() >= want {
                self.want = None;
                out(data.split_to(want));
                continue;
            }
            if data.is_empty() {
                return Ok(());
            }
            self.partial.reserve(want - self.partial.len());
            self.partial
                .extend_from_slice(&data.split_to((want - self.partial.len()).min(data.len())));
            if self.partial.len() < want {
                return Ok(());
            }
            self.want = None;
            out(std::mem::take(&mut self.partial).freeze());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn packet(body: &[u8]) -> Vec<u8> {
        [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], body].concat()
    }

    #[test]
    fn requests_say_their_length() {
        let data = Bytes::from_static(b"abc");
        let header = Request::Write {
            handle: b"\xff\x00",
            offset: 5,
            data: data.clone(),
        }
        .encode(9);
        let whole = [&header[..], &data[..]].concat();
        assert_eq!(
            usize::try_from(u32::from_be_bytes(whole[..4].try_into().unwrap())).unwrap(),
            whole.len() - 4
        );
        let stat = Request::LStat { path: b"/a\xff" }.encode(7);
        assert_eq!(&stat[..], &[0, 0, 0, 12, 7, 0, 0, 0, 7, 0, 0, 0, 3, b'/', b'a', 0xff]);
    }

    #[test]
    fn names_stay_bytes() {
        let mut body = BytesMut::new();
        body.put_u32(1);
        put(&mut body, b"a\xff");
        put(&mut body, b"-rw-r--r-- a");
        body.put_u32(ATTR_SIZE | ATTR_UIDGID | ATTR_PERMISSIONS | ATTR_TIMES);
        body.put_u64(3);
        body.put_u64(0);
        body.put_u32(0o100_644);
        body.put_u32(1);
        body.put_u32(2);
        let names = Reply {
            kind: NAME,
            body: body.freeze(),
        }
        .names()
        .unwrap()
        .unwrap();
        let attrs = Attrs {
            size: Some(3),
            mode: Some(0o100_644),
            mtime: Some(2),
        };
        assert_eq!(names, [(Bytes::from_static(b"a\xff"), attrs)]);
    }

    #[test]
    fn a_length_out_of_bounds_is_refused() {
        for len in [0u32, 1 << 20 | 1, u32::MAX] {
            let out = Framer::default().push(Bytes::from(len.to_be_bytes().to_vec()), |_| ());
            assert!(out.is_err(), "{len}");
        }
    }

    proptest! {
        #[test]
        fn packets_come_out_as_they_went_in(
            bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..50), 0..10),
            cuts in prop::collection::vec(1usize..20, 1..80),
        ) {
            let mut stream: Bytes = bodies.iter().flat_map(|b| packet(b)).collect::<Vec<_>>().into();
            let mut framer = Framer::default();
            let mut got: Vec<Vec<u8>> = Vec::new();
            for cut in cuts.iter().cycle() {
                if stream.is_empty() {
                    break;
                }
                framer.push(stream.split_to((*cut).min(stream.len())), |p| got.push(p.to_vec())).unwrap();
            }
            prop_assert_eq!(got, bodies);
        }

        #[test]
        fn no_bytes_make_it_panic(kind in any::<u8>(), body in prop::collection::vec(any::<u8>(), 0..200)) {
            let reply = || Reply { kind, body: body.clone().into() };
            drop((reply().names(), reply().attrs(), reply().data(), reply().handle(), reply().space(), reply().limits()));
            drop(Packet::parse(body.clone().into()));
            drop(Framer::default().push(body.into(), |_| ()));
        }
    }
}
