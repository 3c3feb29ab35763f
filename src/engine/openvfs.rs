//! A file's state as openvfs words it: the files on demand of the free desktop, read by OpenCloud's and Nextcloud's clients
//! and by whatever goes by them.
//!
//! Owns: the names of its attributes and the form of their values. Refuses to know: how a file's state comes about.
//! Invariant: what is told says no more than `user.backlot.*` does.
//!
//! <https://github.com/opencloud-eu/openvfs>, `src/openvfs/openvfconstants.h`: each file has an attribute `user.openvfs.data`,
//! a map in `MessagePack` of `etag`, `fileid`, `size`, `state` and `pinstate`; `user.openvfs.realsize` is what a file takes on
//! the disk, in decimal. Its third, `user.openvfs.registration`, claims a folder for a synchronising client: nobody may claim
//! a drive, and a drive claims nothing.

use crate::model::Residency;

/// A file's state.
pub(super) const DATA: &str = "user.openvfs.data";
/// Bytes of a file that are here, decimal.
pub(super) const REAL_SIZE: &str = "user.openvfs.realsize";

/// What openvfs knows of a file.
#[derive(Debug)]
pub(super) struct Placeholder<'a> {
    /// The identity of the bytes at the site; empty where there is none.
    pub(super) etag: &'a str,
    /// The same file's name for as long as it lives, across renames.
    pub(super) file_id: String,
    /// In bytes, wherever they are.
    pub(super) size: u64,
    pub(super) residency: Residency,
    pub(super) is_pinned: bool,
}

impl Placeholder<'_> {
    /// Returns the value of [`DATA`].
    pub(super) fn to_value(&self) -> Vec<u8> {
        // `States` and `PinStates` of openvfs, by their numbers.
        let state = match self.residency {
            Residency::Full => 0,
            Residency::None if self.size == 0 => 0,
            Residency::None => 1,
            Residency::Partial(_) => 2,
        };
        let (unspecified, always_local) = (0, 2);
        let pin_state = if self.is_pinned { always_local } else { unspecified };
        // A map of five.
        let mut value = vec![0x85];
        for (key, text) in [("etag", self.etag), ("fileid", &self.file_id)] {
            put_text(&mut value, key);
            put_text(&mut value, text);
        }
        for (key, number) in [("size", self.size), ("state", state), ("pinstate", pin_state)] {
            put_text(&mut value, key);
            put_number(&mut value, number);
        }
        value
    }
}

/// Appends a text, which is far shorter than the 4 GiB that the form has room for.
fn put_text(value: &mut Vec<u8>, text: &str) {
    match u8::try_from(text.len()) {
        Ok(len @ 0..=31) => value.push(0xa0 | len),
        Ok(len) => value.extend([0xd9, len]),
        Err(_) => {
            let len = u32::try_from(text.len()).unwrap_or(u32::MAX);
            value.push(0xdb);
            value.extend(len.to_be_bytes());
        }
    }
    value.extend(text.as_bytes());
}

/// Appends a number, in the shortest form but for those between.
fn put_number(value: &mut Vec<u8>, number: u64) {
    match u8::try_from(number) {
        Ok(small @ 0..=0x7f) => value.push(small),
        _ => {
            value.push(0xcf);
            value.extend(number.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn placeholder(size: u64, residency: Residency, is_pinned: bool) -> Placeholder<'static> {
        Placeholder {
            etag: "v1",
            file_id: "42".to_owned(),
            size,
            residency,
            is_pinned,
        }
    }

    /// The bytes are those that the `MessagePack` specification gives for `{"etag": "v1", …}`.
    #[test]
    fn the_value_is_the_map_that_openvfs_reads() {
        let value = placeholder(7, Residency::None, false).to_value();
        assert_eq!(
            value,
            b"\x85\xa4etag\xa2v1\xa6fileid\xa242\xa4size\x07\xa5state\x01\xa8pinstate\x00"
        );
        let value = placeholder(300, Residency::Full, true).to_value();
        assert!(
            value.ends_with(b"\xa4size\xcf\0\0\0\0\0\0\x01\x2c\xa5state\x00\xa8pinstate\x02"),
            "{value:?}"
        );
    }

    #[test]
    fn states_are_by_what_is_here() {
        for (size, residency, state) in [
            (9, Residency::Full, 0),
            (9, Residency::None, 1),
            (9, Residency::Partial(4), 2),
            (0, Residency::None, 0),
        ] {
            let value = placeholder(size, residency, false).to_value();
            let at = value.windows(6).position(|bytes| bytes == b"\xa5state").unwrap() + 6;
            assert_eq!(value[at], state, "{residency:?}");
        }
    }

    #[test]
    fn texts_of_all_lengths_have_their_form() {
        let put = |len: usize| {
            let mut value = Vec::new();
            put_text(&mut value, &"x".repeat(len));
            value.truncate(value.len() - len);
            value
        };
        assert_eq!(put(31), [0xbf]);
        assert_eq!(put(32), [0xd9, 32]);
        assert_eq!(put(255), [0xd9, 255]);
        assert_eq!(put(256), [0xdb, 0, 0, 1, 0]);
    }
}
