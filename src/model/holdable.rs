//! Which names a site can hold.
//!
//! Owns: the rules and their words. Refuses to know: sites. Invariant: a path that is passed here is one that the drive can
//! hold itself; what is asked is whether somebody else can.

use super::RelPath;

/// Devices of DOS, which Windows gives no file's name to, with or without an extension.
const RESERVED: [&str; 22] = [
    "con", "prn", "aux", "nul", "com1", "com2", "com3", "com4", "com5", "com6", "com7", "com8", "com9", "lpt1", "lpt2",
    "lpt3", "lpt4", "lpt5", "lpt6", "lpt7", "lpt8", "lpt9",
];
/// Characters that no name has on Windows.
const FORBIDDEN: [char; 8] = ['<', '>', ':', '"', '\\', '|', '?', '*'];
/// Most UTF-16 units of a path on Windows without extended paths (MAX_PATH is 260 with the NUL), less `C:\`.
const WINDOWS_PATH_MAX: usize = 256;

/// What a site asks of names.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct NameRules {
    /// Names are text in UTF-8.
    pub utf8: bool,
    /// The site's disk is one of Windows: reserved names, characters, lengths, and names that differ in capitals alone are one.
    pub windows: bool,
    /// Most bytes of a path under the site's root.
    pub path_max: Option<usize>,
}

impl NameRules {
    /// Says why the site can't hold a path, if it can't.
    #[must_use]
    pub fn refuse(self, path: &RelPath) -> Option<String> {
        if let Some(max) = self.path_max
            && path.as_bytes().len() > max
        {
            return Some(format!(
                "its path has {} bytes, and {max} are the most there",
                path.as_bytes().len()
            ));
        }
        let Ok(text) = std::str::from_utf8(path.as_bytes()) else {
            return (self.utf8 || self.windows).then(|| "its name is not UTF-8, and names are text there".to_owned());
        };
        if !self.windows {
            return None;
        }
        let units = text.encode_utf16().count();
        if units > WINDOWS_PATH_MAX {
            return Some(format!(
                "its path has {units} characters, and {WINDOWS_PATH_MAX} are the most on Windows"
            ));
        }
        text.split('/').find_map(refused_by_windows)
    }

    /// Returns what names are one by, there: two that have this in common can't both be in a folder. `None` where each name is
    /// its own.
    #[must_use]
    pub fn folded(self, name: &[u8]) -> Option<String> {
        let text = std::str::from_utf8(name).ok().filter(|_| self.windows)?;
        Some(text.to_lowercase())
    }
}

fn refused_by_windows(name: &str) -> Option<String> {
    if let Some(c) = name.chars().find(|c| FORBIDDEN.contains(c) || c.is_control()) {
        return Some(format!(
            "`{}` has the character {c:?}, which no name has on Windows",
            name.escape_debug()
        ));
    }
    if name.ends_with(['.', ' ']) {
        return Some(format!("`{name}` ends with a dot or a space, which Windows drops"));
    }
    let stem = name.split('.').next().unwrap_or(name).trim_end().to_lowercase();
    RESERVED
        .contains(&stem.as_str())
        .then(|| format!("`{name}` is the name of a device on Windows"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOWS: NameRules = NameRules {
        utf8: true,
        windows: true,
        path_max: None,
    };

    fn path(text: &[u8]) -> RelPath {
        RelPath::new(text).unwrap()
    }

    #[test]
    fn windows_refuses_what_posix_holds() {
        for (name, why) in [
            ("shots/aux", "device"),
            ("shots/NUL.exr", "device"),
            ("com1.0001.exr", "device"),
            ("a:b/c", "':'"),
            ("what?", "'?'"),
            ("a\tb", "'\\t'"),
            ("dir./file", "dot or a space"),
            ("file ", "dot or a space"),
        ] {
            let refused = WINDOWS.refuse(&path(name.as_bytes()));
            assert!(
                refused.as_ref().is_some_and(|said| said.contains(why)),
                "{name}: {refused:?}"
            );
            assert_eq!(NameRules::default().refuse(&path(name.as_bytes())), None, "{name}");
        }
        for fine in [
            "auxiliary/console.exr",
            ".hidden",
            "a b/c.d.e",
            "ünïcode.exr",
            "com10",
            "lpt",
        ] {
            assert_eq!(WINDOWS.refuse(&path(fine.as_bytes())), None, "{fine}");
        }
    }

    #[test]
    fn lengths_are_counted_as_the_site_counts_them() {
        let name = "ü".repeat(100);
        let long = path(format!("{name}/{name}").as_bytes());
        assert_eq!(WINDOWS.refuse(&long), None, "201 characters, 401 bytes");
        let keys = NameRules {
            path_max: Some(400),
            ..NameRules::default()
        };
        assert!(keys.refuse(&long).unwrap().contains("401 bytes"));
        assert!(
            WINDOWS
                .refuse(&path(format!("{0}/{0}", "u".repeat(128)).as_bytes()))
                .is_some()
        );
    }

    #[test]
    fn bytes_are_no_text_and_capitals_are_none() {
        assert_eq!(NameRules::default().refuse(&path(b"\xff")), None);
        assert!(WINDOWS.refuse(&path(b"\xff")).is_some());
        assert_eq!(WINDOWS.folded("Plate.EXR".as_bytes()), WINDOWS.folded(b"plate.exr"));
        assert_eq!(NameRules::default().folded(b"Plate.EXR"), None);
    }
}
