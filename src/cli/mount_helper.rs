//! `mount.backlot`: this program as mount(8) calls it, for `mount -t backlot` and for lines of fstab.
//!
//! Owns: the arguments and exit codes that mount(8) has for its helpers, what each option of a mount means here, and what a
//! source's name stands for. Refuses to know: how a drive is mounted; it starts `backlot mount` in the background. Invariants:
//! it returns once files can be opened, or says why not; no option that asks for something is passed over unless it asks
//! for what is so anyway, or is meant for others (mount, systemd, desktops).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use backlot_config::{Layer, Loaded, Loader};

use super::Settings;
use super::error::{CliError, Exit};
use super::mount::to_background;

/// The name by which this program is the helper.
const NAME: &str = "mount.backlot";
/// Where the settings of the machine's drives are.
const SETTINGS: &str = "/etc/backlot";
/// The one that `backlot` uses by itself.
const MAIN: &str = "config.toml";
/// Root's home folder, for programs that are started without one, as at boot.
const HOME: (&str, &str) = ("HOME", "/root");

/// Exit codes of mount(8).
const WRONG_USAGE: u8 = 1;
const MOUNT_FAILED: u8 = 32;

const USAGE: &str = "usage: mount.backlot SETTINGS|NAME FOLDER [-fnsv] [-o OPTION,…]";

/// Says whether this program was called as the helper.
pub(super) fn is_called() -> bool {
    let program = std::env::args_os().next().map(PathBuf::from);
    program.is_some_and(|program| program.file_name() == Some(OsStr::new(NAME)))
}

/// Runs as the helper.
pub(super) fn main() -> ExitCode {
    match run(std::env::args_os().skip(1)) {
        Ok(Exit::Ok) => ExitCode::SUCCESS,
        Ok(Exit::Usage) => ExitCode::from(WRONG_USAGE),
        Ok(_) => ExitCode::from(MOUNT_FAILED),
        Err(e) => {
            err!("{NAME}: {}", e.shown());
            ExitCode::from(if e.exit == Exit::Usage {
                WRONG_USAGE
            } else {
                MOUNT_FAILED
            })
        }
    }
}

/// What mount(8) asks for.
#[derive(Debug, Default, PartialEq)]
struct Asked {
    source: String,
    folder: PathBuf,
    options: Vec<String>,
    /// Do everything but mount.
    is_fake: bool,
    /// Pass over options that are not known.
    is_sloppy: bool,
    is_verbose: bool,
}

impl Asked {
    fn new(args: impl IntoIterator<Item = OsString>) -> Result<Self, CliError> {
        let wrong = |what: String| CliError::usage(what).hint(USAGE);
        let text = |arg: OsString| {
            arg.into_string()
                .map_err(|arg| wrong(format!("{} is not UTF-8", arg.display())))
        };
        let mut asked = Self::default();
        let mut places = Vec::new();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let arg = text(arg)?;
            let mut value = |flag: &str| {
                args.next()
                    .ok_or_else(|| wrong(format!("{flag} is followed by nothing")))
                    .and_then(text)
            };
            match arg.as_str() {
                "-o" => asked.options.extend(value("-o")?.split(',').map(str::to_owned)),
                "-t" => {
                    let kind = value("-t")?;
                    if !matches!(kind.as_str(), "backlot" | "fuse.backlot") {
                        return Err(wrong(format!("a file system of type {kind} is not this program's")));
                    }
                }
                "-N" => return Err(wrong("mounting in another namespace (-N) is not offered".to_owned())),
                flags if flags.starts_with('-') && flags.len() > 1 => {
                    for flag in flags.chars().skip(1) {
                        match flag {
                            'f' => asked.is_fake = true,
                            's' => asked.is_sloppy = true,
                            'v' => asked.is_verbose = true,
                            'n' => {}
                            _ => return Err(wrong(format!("-{flag} is not known"))),
                        }
                    }
                }
                _ => places.push(arg),
            }
        }
        let [source, folder] = <[String; 2]>::try_from(places)
            .map_err(|_| wrong("a source and a folder to mount at are needed".to_owned()))?;
        asked.source = source;
        asked.folder =
            std::path::absolute(folder).map_err(|e| CliError::failed("make sense of the mount point", &e))?;
        Ok(asked)
    }
}

/// What the options of a mount ask for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wanted {
    /// Settings, by dotted key.
    settings: Vec<String>,
    allow_other: bool,
    read_only: bool,
    no_exec: bool,
}

impl Wanted {
    fn new(options: &[String], is_sloppy: bool) -> Result<Self, CliError> {
        let mut wanted = Self::default();
        for option in options {
            let (key, value) = option
                .split_once('=')
                .map_or((option.as_str(), None), |(k, v)| (k, Some(v)));
            match key {
                "allow_other" => wanted.allow_other = true,
                "ro" => wanted.read_only = true,
                "rw" => wanted.read_only = false,
                "noexec" => wanted.no_exec = true,
                "exec" => wanted.no_exec = false,
                // So anyway.
                ""
                | "defaults"
                | "async"
                | "nosuid"
                | "nodev"
                | "noatime"
                | "nodiratime"
                | "relatime"
                | "norelatime"
                | "nostrictatime"
                | "nolazytime"
                | "default_permissions"
                | "nomand"
                | "silent"
                | "loud" => {}
                // For others: who may mount, and when.
                "auto" | "noauto" | "user" | "nouser" | "users" | "nousers" | "owner" | "noowner" | "group"
                | "nogroup" | "_netdev" | "nofail" | "comment" | "helper" | "uhelper" => {}
                other if other.starts_with("x-") || other.starts_with("X-") => {}
                "remount" => {
                    return Err(CliError::usage("a drive that is mounted can't be given other options")
                        .hint("unmount it and mount it again"));
                }
                // A key of the settings has a section.
                setting if setting.contains('.') && value.is_some() => wanted.settings.push(option.clone()),
                _ if is_sloppy => {}
                "uid" | "gid" | "umask" | "fmask" | "dmask" => {
                    let setting = match key {
                        "uid" => "owner",
                        "gid" => "group",
                        _ => "umask",
                    };
                    return Err(
                        CliError::usage(format!("the option {option} is not known")).hint(format!(
                            "write drive.{setting}={} here, or {setting} below [drive] in the settings file",
                            value.unwrap_or("…")
                        )),
                    );
                }
                _ => {
                    return Err(CliError::usage(format!("the option {option} is not known")).hint(
                        "known: allow_other, ro, noexec, settings such as cache.max-size=200GiB, and what mount and systemd \
                         take (_netdev, nofail, x-systemd.…)",
                    ));
                }
            }
        }
        Ok(wanted)
    }
}

/// Returns the settings file that a source stands for.
fn settings_file(source: &str, dir: &Path) -> Result<PathBuf, CliError> {
    if source.contains('/') {
        let file = PathBuf::from(source);
        return if file.is_file() {
            Ok(file)
        } else {
            Err(CliError::usage(format!("there is no settings file {source}"))
                .hint("`backlot config init FILE` writes one to start from"))
        };
    }
    let named = dir.join(format!("{source}.toml"));
    if named.is_file() {
        return Ok(named);
    }
    let main = dir.join(MAIN);
    let unknown = || {
        CliError::usage(format!("nothing says what {source} is"))
            .why(format!("there is no {}", named.display()))
            .hint("name a settings file in the first field, as in: /etc/backlot/config.toml /mnt/projects backlot defaults 0 0")
    };
    if !main.is_file() {
        return Err(unknown());
    }
    let loaded = Loader::new()
        .config_file(Some(main.clone()))
        .env([HOME])
        .load()
        .map_err(|e| CliError::usage(format!("the settings can't be used:\n{e}")).hint("`backlot config check`"))?;
    if loaded.config.drive.name == source {
        return Ok(main);
    }
    Err(unknown().why(format!(
        "the drive of {} is called {}",
        main.display(),
        loaded.config.drive.name
    )))
}

/// At boot there is no home folder, and with `mount -a` there is: what lies in one would be found only now and then.
fn has_lasting_folders(loaded: &Loaded) -> Result<(), CliError> {
    for (key, usual) in [("data-dir", "/var/lib/backlot"), ("cache-dir", "/var/cache/backlot")] {
        if loaded.origins.get(&format!("drive.{key}")).layer == Layer::Default {
            return Err(CliError::usage(format!("the settings do not say where {key} is"))
                .why("at boot there is no home folder that it could be in")
                .hint(format!("add {key} = \"{usual}\" to [drive] in the settings file")));
        }
    }
    Ok(())
}

fn run(args: impl IntoIterator<Item = OsString>) -> Result<Exit, CliError> {
    let asked = Asked::new(args)?;
    let wanted = Wanted::new(&asked.options, asked.is_sloppy)?;
    let file = settings_file(&asked.source, Path::new(SETTINGS))?;
    let is_root = rustix::process::geteuid().is_root();
    let folder = asked
        .folder
        .to_str()
        .ok_or_else(|| CliError::usage("the mount point's path is not UTF-8").hint("choose one that is"))?;
    let settings = Settings {
        config: Some(file.clone()),
        set: wanted.settings.clone(),
    };
    let loaded = settings.load_for_work(vec![("drive.mount-point".to_owned(), folder.to_owned())])?;
    if is_root {
        has_lasting_folders(&loaded)?;
    }
    if asked.is_fake {
        return Ok(Exit::Ok);
    }
    let mut own: Vec<OsString> = vec!["--config".into(), file.into()];
    for set in wanted.settings {
        own.extend(["--set".into(), set.into()]);
    }
    own.extend(["mount", "--patient", "--source"].map(OsString::from));
    own.extend([asked.source.into(), asked.folder.into_os_string()]);
    let flags = [
        (wanted.allow_other, "--allow-other"),
        (wanted.read_only, "--read-only"),
        (wanted.no_exec, "--no-exec"),
    ];
    own.extend(flags.iter().filter(|(is, _)| *is).map(|(_, flag)| OsString::from(flag)));
    match to_background(&loaded.config, own)? {
        Ok(line) => {
            if asked.is_verbose {
                err!("{NAME}: {line}");
            }
            Ok(Exit::Ok)
        }
        Err(exit) => Ok(exit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(args: &[&str]) -> Result<Asked, CliError> {
        Asked::new(args.iter().map(OsString::from))
    }

    fn wanted(options: &str) -> Result<Wanted, CliError> {
        let options: Vec<_> = options.split(',').map(str::to_owned).collect();
        Wanted::new(&options, false)
    }

    #[test]
    fn it_is_called_as_mount_calls_its_helpers() {
        let told = asked(&[
            "projects",
            "/mnt/projects",
            "-sv",
            "-n",
            "-o",
            "rw,_netdev",
            "-o",
            "nofail",
            "-t",
            "backlot",
        ]);
        let told = told.expect("understood");
        assert_eq!(
            (told.source.as_str(), told.folder.as_path()),
            ("projects", Path::new("/mnt/projects"))
        );
        assert_eq!(told.options, ["rw", "_netdev", "nofail"]);
        assert!(told.is_sloppy && told.is_verbose && !told.is_fake);
        for wrong in [
            &["projects"] as &[_],
            &["a", "b", "c"],
            &["a", "b", "-o"],
            &["a", "b", "-x"],
            &["a", "b", "-t", "nfs"],
            &["a", "b", "-N", "1"],
        ] {
            assert_eq!(asked(wrong).expect_err("refused").exit, Exit::Usage, "{wrong:?}");
        }
    }

    #[test]
    fn what_others_are_meant_by_is_passed_over_and_the_rest_is_heeded() {
        let told = wanted(
            "rw,noauto,_netdev,nofail,x-systemd.automount,x-systemd.idle-timeout=10min,x-gvfs-show,user=ada,comment=a.b,allow_other",
        );
        let only_others = Wanted {
            allow_other: true,
            ..Wanted::default()
        };
        assert_eq!(told.expect("understood"), only_others);
        let told = wanted("ro,noexec,cache.max-size=200GiB,sites.nas.root=/srv/a").expect("understood");
        assert!(told.read_only && told.no_exec && !told.allow_other);
        assert_eq!(told.settings, ["cache.max-size=200GiB", "sites.nas.root=/srv/a"]);
        let refused = wanted("gid=artists").expect_err("refused");
        assert!(refused.shown().contains("drive.group=artists"), "{}", refused.shown());
        for wrong in ["allow-other", "uid=1000", "cache.max-size", "remount", "suid"] {
            assert_eq!(wanted(wrong).expect_err("refused").exit, Exit::Usage, "{wrong}");
        }
        assert_eq!(
            Wanted::new(&["uid=1000".to_owned()], true).expect("sloppy"),
            Wanted::default()
        );
    }

    #[test]
    fn a_name_is_a_settings_file_or_the_drive_of_the_machines_own() {
        let dir = tempfile::tempdir().expect("a folder");
        let none = settings_file("projects", dir.path()).expect_err("nothing there");
        assert!(none.shown().contains("projects.toml"), "{}", none.shown());
        let main = dir.path().join(MAIN);
        std::fs::write(&main, "schema_version = 1\n[drive]\nname = \"projects\"\n").expect("written");
        assert_eq!(settings_file("projects", dir.path()).expect("its name"), main);
        let other = settings_file("london", dir.path())
            .expect_err("of another name")
            .shown();
        assert!(other.contains("is called projects"), "{other}");
        let named = dir.path().join("london.toml");
        std::fs::write(&named, "").expect("written");
        assert_eq!(settings_file("london", dir.path()).expect("named"), named);
        let given = named.to_str().expect("UTF-8");
        assert_eq!(settings_file(given, dir.path()).expect("given"), named);
        assert!(settings_file("/none/of/it.toml", dir.path()).is_err());
    }
}
