//! Which programs have nothing fetched for them, by name.
//!
//! Owns: the built-in lists and the order in which they and the settings count. Refuses to know: processes, bytes.
//! Invariant: what the settings say counts before what is built in.
//!
//! The names are those under which the programs are installed by Debian, Fedora and Arch, and by their makers. They
//! are what reads files that nobody has asked for; nothing that people copy with (`cp`, `rsync`, `tar`) is among them.

use backlot_config::compile_globs;
use globset::GlobSet;

/// Bytes of a process's name that the kernel keeps (TASK_COMM_LEN without its NUL).
const COMM: usize = 15;

/// What a listed program is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::engine) enum Kind {
    /// It makes previews.
    Thumbnailer,
    /// It reads what it finds into a search index.
    Indexer,
    /// It looks for malware, or for changes.
    Scanner,
    /// It copies everything elsewhere.
    Backup,
    /// The settings name it.
    Named,
}

impl Kind {
    /// Returns the word that is shown.
    pub(in crate::engine) fn word(self) -> &'static str {
        match self {
            Self::Thumbnailer => "thumbnailer",
            Self::Indexer => "indexer",
            Self::Scanner => "scanner",
            Self::Backup => "backup",
            Self::Named => "named in the settings",
        }
    }
}

/// What holds for a program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::engine) enum Standing {
    /// It reads what it likes.
    Allowed,
    /// It reads what it likes, unless it only looks into files.
    Plain,
    /// Nothing is fetched for it.
    Listed(Kind),
}

const LISTED: &[(Kind, &[&str])] = &[
    (
        Kind::Thumbnailer,
        &[
            "tumblerd",
            "gdk-pixbuf-thumbnailer",
            "ffmpegthumbnailer",
            "totem-video-thumbnailer",
            "evince-thumbnailer",
            "gnome-thumbnail-font",
            "gsf-office-thumbnailer",
            "*-thumbnailer",
            "*_thumbnailer",
            "kio-thumbnail",
            "stl-thumb",
        ],
    ),
    (
        Kind::Indexer,
        &[
            "tracker-extract",
            "tracker-extract-3",
            "tracker-miner-fs",
            "tracker-miner-fs-3",
            "tracker-miner-rss-3",
            "localsearch*",
            "baloo_file",
            "baloo_file_extractor",
            "updatedb",
            "updatedb.*locate",
            "recollindex",
            "omindex",
        ],
    ),
    (
        Kind::Scanner,
        &[
            "clamscan",
            "clamd",
            "clamdscan",
            "clamonacc",
            "clamav-milter",
            "freshclam",
            "rkhunter",
            "chkrootkit",
            "maldet",
            "aide",
            "tripwire",
            "savd",
            "savscand",
            "wdavdaemon",
            "falcon-sensor*",
            "ds_agent",
            "sentinelone-agent",
            "s1-scanner",
            "xagt",
        ],
    ),
    (
        Kind::Backup,
        &[
            "restic",
            "borg",
            "borgmatic",
            "rsnapshot",
            "rdiff-backup",
            "duplicity",
            "deja-dup*",
            "duplicati*",
            "kopia",
            "bup",
            "burp",
            "backintime*",
            "timeshift",
            "vorta",
            "bacula-fd",
            "bareos-fd",
            "dsmc",
            "amandad",
            "urbackupclientbackend",
            "veeamagent",
        ],
    ),
];

/// What people work with: it may look into as many files as it likes. A scene with a thousand plates is opened by looking
/// into a thousand files, and a file manager's previews are made by other programs.
const TRUSTED: &[&str] = &[
    // What artists open files in.
    "Nuke*",
    "Hiero*",
    "maya*",
    "houdini*",
    "hython*",
    "husk",
    "blender",
    "katana*",
    "Mari*",
    "gaffer",
    "clarisse*",
    "rv",
    "rv.bin",
    "rvio*",
    "djv*",
    "mrv2*",
    "xstudio*",
    "resolve",
    "fusion*",
    "unreal*",
    "UnrealEditor*",
    "usdview",
    "usdrecord",
    "usdcat",
    "oiiotool",
    "iinfo",
    "maketx",
    "exrinfo",
    "exrheader",
    "Natron*",
    "kdenlive",
    "shotcut",
    "krita",
    "gimp*",
    "mpv",
    "vlc",
    // File managers.
    "nautilus",
    "nemo",
    "caja",
    "thunar",
    "Thunar",
    "dolphin",
    "kioworker",
    "kioslave5",
    "pcmanfm*",
    "krusader",
    "doublecmd",
];

/// Names, whole or as the kernel cuts them.
#[derive(Debug)]
struct Names {
    whole: GlobSet,
    cut: GlobSet,
}

impl Names {
    fn new<'p>(patterns: impl Iterator<Item = &'p str> + Clone) -> Result<Self, globset::Error> {
        let cut = patterns.clone().map(|pattern| {
            let literal = pattern.find(['*', '?', '[', '{', '\\']).unwrap_or(pattern.len());
            // What the kernel has cut off can't be told any more.
            pattern.get(..COMM).filter(|_| literal > COMM).unwrap_or(pattern)
        });
        Ok(Self {
            cut: compile_globs(cut)?,
            whole: compile_globs(patterns)?,
        })
    }

    /// Returns the places in the list of the patterns that match.
    fn find(&self, names: &ProgramNames<'_>) -> Option<usize> {
        let whole = names.whole.iter().flatten().flat_map(|name| self.whole.matches(name));
        let comm = Some(names.comm).filter(|comm| !comm.is_empty());
        let cut = comm.into_iter().flat_map(|comm| {
            if comm.len() < COMM {
                self.whole.matches(comm)
            } else {
                self.cut.matches(comm)
            }
        });
        whole.chain(cut).min()
    }
}

/// The names that a process goes by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ProgramNames<'a> {
    /// Those of its program and, for an interpreter, its script.
    pub(super) whole: [Option<&'a str>; 2],
    /// The one that the kernel keeps, cut to 15 bytes.
    pub(super) comm: &'a str,
}

/// Who may have what fetched.
#[derive(Debug)]
pub(super) struct Lists {
    allow: Names,
    deny: Names,
    listed: Names,
    kinds: Vec<Kind>,
    trusted: Names,
}

impl Lists {
    /// Compiles the lists with what the settings add.
    ///
    /// # Errors
    /// When a pattern is none: never for loaded settings, whose patterns were compiled to check them.
    pub(super) fn new(settings: &backlot_config::Firewall) -> Result<Self, globset::Error> {
        let listed = || LISTED.iter().flat_map(|(_, names)| names.iter().copied());
        Ok(Self {
            allow: Names::new(settings.allow.iter().map(String::as_str))?,
            deny: Names::new(settings.deny.iter().map(String::as_str))?,
            listed: Names::new(listed())?,
            kinds: LISTED
                .iter()
                .flat_map(|(kind, names)| std::iter::repeat_n(*kind, names.len()))
                .collect(),
            trusted: Names::new(TRUSTED.iter().copied())?,
        })
    }

    /// Returns what holds for a process that goes by these names; `None` if none of them is on a list.
    pub(super) fn standing(&self, names: &ProgramNames<'_>) -> Option<Standing> {
        if self.allow.find(names).is_some() {
            return Some(Standing::Allowed);
        }
        if self.deny.find(names).is_some() {
            return Some(Standing::Listed(Kind::Named));
        }
        if let Some(at) = self.listed.find(names) {
            let kind = self.kinds.get(at).copied().unwrap_or(Kind::Named);
            return Some(Standing::Listed(kind));
        }
        self.trusted.find(names).map(|_| Standing::Allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lists(deny: &[&str], allow: &[&str]) -> Lists {
        let own = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Lists::new(&backlot_config::Firewall {
            deny: own(deny),
            allow: own(allow),
            ..backlot_config::Firewall::default()
        })
        .expect("patterns")
    }

    fn program(name: &str) -> ProgramNames<'_> {
        ProgramNames {
            whole: [Some(name), None],
            comm: "",
        }
    }

    #[test]
    fn listed_programs_are_known_by_program_by_script_and_by_what_the_kernel_leaves_of_the_name() {
        let lists = lists(&[], &[]);
        let of = |names| lists.standing(&names);
        let listed = |kind| Some(Standing::Listed(kind));
        assert_eq!(of(program("gdk-pixbuf-thumbnailer")), listed(Kind::Thumbnailer));
        assert_eq!(of(program("atril-thumbnailer")), listed(Kind::Thumbnailer));
        assert_eq!(of(program("blender-thumbnailer")), listed(Kind::Thumbnailer));
        assert_eq!(of(program("localsearch-extractor-3")), listed(Kind::Indexer));
        assert_eq!(of(program("updatedb.plocate")), listed(Kind::Indexer));
        assert_eq!(of(program("clamscan")), listed(Kind::Scanner));
        assert_eq!(of(program("restic")), listed(Kind::Backup));
        let script = ProgramNames {
            whole: [Some("python3.11"), Some("duplicity")],
            comm: "python3",
        };
        assert_eq!(of(script), listed(Kind::Backup));
        for (comm, kind) in [
            ("gdk-pixbuf-thum", Kind::Thumbnailer),
            ("totem-video-thu", Kind::Thumbnailer),
            ("tracker-extract", Kind::Indexer),
            ("tracker-miner-f", Kind::Indexer),
            ("baloo_file_extr", Kind::Indexer),
            ("borg", Kind::Backup),
        ] {
            let names = ProgramNames { whole: [None; 2], comm };
            assert_eq!(of(names), listed(kind), "{comm}");
        }
        for name in [
            "cp",
            "rsync",
            "tar",
            "file",
            "grep",
            "ffmpeg",
            "ffprobe",
            "python3.11",
            "bash",
            "ristic",
            "aided",
        ] {
            assert_eq!(of(program(name)), None, "{name}");
        }
        for name in ["Nuke15.1", "maya.bin", "blender", "nautilus", "kioworker"] {
            assert_eq!(of(program(name)), Some(Standing::Allowed), "{name}");
        }
    }

    #[test]
    fn the_settings_count_before_what_is_built_in_and_allow_before_deny() {
        let lists = lists(&["nautilus", "asset-*", "both"], &["restic", "both"]);
        let of = |name| lists.standing(&program(name));
        assert_eq!(of("restic"), Some(Standing::Allowed));
        assert_eq!(of("nautilus"), Some(Standing::Listed(Kind::Named)));
        assert_eq!(of("asset-indexer"), Some(Standing::Listed(Kind::Named)));
        assert_eq!(of("both"), Some(Standing::Allowed));
        assert_eq!(of("borg"), Some(Standing::Listed(Kind::Backup)));
    }
}
