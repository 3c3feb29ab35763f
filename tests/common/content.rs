//! Files that say what they are: which file, which version, how long. Whoever finds one, on whichever side, can tell
//! whether it is whole, and whether all of it is of one version.
//!
//! Owns: what the bytes are. Refuses to know: drives, sites. Invariant: every 64 bytes of a version differ from those of
//! any other version, and of any other place.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::IntoRawFd;

use super::tree::Random;

const MAGIC: &[u8; 8] = b"backlot!";
/// Bytes of the head, which is the least that a whole file has.
pub const HEAD: usize = 32;
/// The length that the head of a file gives that only ever grows.
const GROWING: u64 = u64::MAX;
/// Bytes that are made at a time.
const LINE: usize = 64;

/// Which version of which file.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id {
    pub file: u64,
    pub version: u64,
}

/// What some bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    /// Nothing at all.
    Empty,
    /// A version, whole.
    Whole(Id),
    /// The beginning of a version, or so much of a file that grows.
    Begun(Id, u64),
    /// So much of a file that only grows.
    Grown(u64, u64),
}

fn head(id: Id, len: u64) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    for (at, word) in [u64::from_le_bytes(*MAGIC), id.file, id.version, len]
        .into_iter()
        .enumerate()
    {
        head[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
    }
    head
}

/// Returns bytes of a version with that head.
fn bytes(id: Id, len: u64, range: Range<u64>) -> Vec<u8> {
    let mut line = [0_u8; LINE];
    let mut random = Random::new(id.file.rotate_left(32) ^ id.version);
    for word in line.chunks_exact_mut(8) {
        word.copy_from_slice(&random.next().to_le_bytes());
    }
    let key = random.next();
    let size = usize::try_from(range.end - range.start).unwrap();
    let mut out = Vec::with_capacity(size + LINE);
    let first = range.start / LINE as u64;
    for number in first..range.end.div_ceil(LINE as u64) {
        line[..8].copy_from_slice(&(key ^ number).to_le_bytes());
        out.extend_from_slice(&line);
    }
    if first == 0 && out.len() >= HEAD {
        out[..HEAD].copy_from_slice(&head(id, len));
    }
    let skip = usize::try_from(range.start % LINE as u64).unwrap();
    out.drain(..skip);
    out.truncate(size);
    out
}

/// Returns a whole version; `len` is no less than [`HEAD`].
pub fn whole(id: Id, len: u64) -> Vec<u8> {
    assert!(len >= HEAD as u64, "a file has a head");
    bytes(id, len, 0..len)
}

/// Returns a piece of a file that only grows.
pub fn grown(file: u64, range: Range<u64>) -> Vec<u8> {
    bytes(Id { file, version: 0 }, GROWING, range)
}

/// Closes a file and returns what the system says to that, which dropping it would not tell.
#[expect(unsafe_code, reason = "closing a file by its number")]
pub fn close(file: File) -> io::Result<()> {
    let number = file.into_raw_fd();
    // SAFETY: the number was this file's alone, and nobody has it any more.
    Ok(unsafe { rustix::io::try_close(number) }?)
}

/// Says what bytes are; the error says where they are not of one version.
pub fn look(found: &[u8]) -> Result<Seen, String> {
    if found.is_empty() {
        return Ok(Seen::Empty);
    }
    if found.len() < HEAD {
        return Err(format!("{} bytes are less than a head", found.len()));
    }
    let word = |at: usize| u64::from_le_bytes(found[at * 8..at * 8 + 8].try_into().unwrap());
    if found[..8] != MAGIC[..] {
        return Err(format!(
            "it does not begin as our files do, but with {:02x?}",
            &found[..8]
        ));
    }
    let (id, len) = (
        Id {
            file: word(1),
            version: word(2),
        },
        word(3),
    );
    let here = found.len() as u64;
    let right = bytes(id, len, 0..here.min(len));
    if let Some(at) = right.iter().zip(found).position(|(a, b)| a != b) {
        return Err(format!(
            "{id:?}, {here} of {len} bytes: the byte at {at} is of something else"
        ));
    }
    if len == GROWING {
        return Ok(Seen::Grown(id.file, here));
    }
    if here > len {
        return Err(format!("{id:?} has {here} bytes in place of {len}"));
    }
    Ok(if here == len {
        Seen::Whole(id)
    } else {
        Seen::Begun(id, here)
    })
}

#[test]
fn content_says_what_it_is() {
    let id = Id { file: 7, version: 3 };
    let made = whole(id, 1000);
    assert_eq!(look(&made), Ok(Seen::Whole(id)));
    assert_eq!(look(&made[..500]), Ok(Seen::Begun(id, 500)));
    assert_eq!(look(&[]), Ok(Seen::Empty));
    let other = whole(Id { file: 7, version: 4 }, 1000);
    let mixed = [&made[..512], &other[512..]].concat();
    assert!(look(&mixed).is_err());
    let longer = [&made[..], &[0]].concat();
    assert!(look(&longer).is_err());
    let log = [grown(9, 0..70), grown(9, 70..333)].concat();
    assert_eq!(look(&log), Ok(Seen::Grown(9, 333)));
}
