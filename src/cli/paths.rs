//! From a path as people give it to a path of the drive.
//!
//! Owns: what relative, absolute and dotted paths mean, and paths as other systems spell them. Refuses to know: what is in
//! the drive. Invariant: nothing below the mount point is looked at, because that may hang.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};

use backlot_config::Loaded;

use super::error::CliError;
use crate::engine::volumes::table;
use crate::model::RelPath;
use crate::model::volumes::{InVolume, Volume, VolumeError, is_windows_spelling, locate};

/// Returns the path in the drive that somebody means: below the mount point, as it stands or seen from the working folder;
/// else relative to the drive's root. One of a volume of the settings may be spelt as any system does.
pub(super) fn in_drive(given: &OsStr, loaded: &Loaded) -> Result<String, CliError> {
    let volumes = volumes(loaded)?;
    Ok(meant(given, loaded, &volumes, None)?.in_drive.to_string())
}

/// The volumes of the settings.
pub(super) fn volumes(loaded: &Loaded) -> Result<Vec<Volume>, CliError> {
    table(&loaded.config).map_err(|e| {
        CliError::usage(format!("the settings can't be used: {e}"))
            .hint("correct that; `backlot config check` looks at the settings and does nothing else")
    })
}

/// What a path as people give it stands for.
pub(super) struct Meant<'v> {
    pub(super) in_drive: RelPath,
    /// Where it was given as a path of a volume.
    pub(super) volume: Option<InVolume<'v>>,
}

/// Returns what somebody means; `site` says whose spelling it is, where that matters.
pub(super) fn meant<'v>(
    given: &OsStr,
    loaded: &Loaded,
    volumes: &'v [Volume],
    site: Option<&str>,
) -> Result<Meant<'v>, CliError> {
    let text = given.to_str();
    let as_usage = |e: &VolumeError| CliError::usage(e.to_string());
    let windows = text.filter(|text| is_windows_spelling(text));
    if let Some(text) = windows {
        return locate(volumes, text, site).map(in_volume).map_err(|e| match e {
            VolumeError::NoVolume(..) => as_usage(&e)
                .hint("[volumes.NAME] in the settings says what the studio's storage is called on each system"),
            e => as_usage(&e),
        });
    }
    // Asks the kernel for the name it knows; a working folder that was removed has none.
    let here = std::env::current_dir().ok();
    let outside = match resolve(Path::new(given), here.as_deref(), &loaded.config.drive.mount_point) {
        Ok(path) => {
            let in_drive = RelPath::new(path).map_err(|e| CliError::usage(e.to_string()))?;
            return Ok(Meant { in_drive, volume: None });
        }
        Err(e) => e,
    };
    let Some(text) = text.filter(|text| text.starts_with('/') && !volumes.is_empty()) else {
        return Err(outside);
    };
    locate(volumes, text, site).map(in_volume).map_err(|e| match e {
        VolumeError::NoVolume(..) => outside.why(e.to_string()),
        e => as_usage(&e),
    })
}

fn in_volume(found: InVolume<'_>) -> Meant<'_> {
    Meant {
        in_drive: found.volume.folder.concat(&found.path),
        volume: Some(found),
    }
}

/// Returns the paths in the drive that somebody means.
pub(super) fn all_in_drive(given: &[OsString], loaded: &Loaded) -> Result<Vec<String>, CliError> {
    given.iter().map(|path| in_drive(path, loaded)).collect()
}

fn resolve(given: &Path, here: Option<&Path>, mount_point: &Path) -> Result<String, CliError> {
    let mount = [mount_point.to_owned(), without_links(mount_point)];
    let below = |path: &Path| mount.iter().find_map(|m| path.strip_prefix(m).ok().map(Path::to_owned));
    let outside = || {
        CliError::usage(format!(
            "{} is not on the drive, which is mounted at {}",
            given.display(),
            mount_point.display()
        ))
        .hint("give a path below that, or one of the drive such as demo/sq010")
    };
    let path = match here.and_then(below) {
        _ if given.is_absolute() => below(given).ok_or_else(outside)?,
        Some(folder) => folder.join(given),
        None => here
            .and_then(|here| below(&plain(&here.join(given))?))
            .unwrap_or_else(|| given.to_owned()),
    };
    let mut out = PathBuf::new();
    let plain = plain(&path).ok_or_else(outside)?;
    out.extend(plain.components().filter(|part| *part != Component::RootDir));
    out.into_os_string().into_string().map_err(|_bytes| {
        CliError::usage(format!("{} is not UTF-8, which this command needs", given.display()))
            .hint("name the folder that holds it; the mounted drive itself takes any name")
    })
}

/// Returns a path without dots, by its letters alone; `None` if it leads out at the top.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                if !out.pop() {
                    return None;
                }
            }
            Component::CurDir => {}
            Component::Normal(_) | Component::RootDir | Component::Prefix(_) => out.push(part),
        }
    }
    Some(out)
}

/// The mount point without symbolic links on the way to it, as the kernel names it. Itself is not looked at.
fn without_links(mount_point: &Path) -> PathBuf {
    let parent = mount_point.parent().and_then(|p| p.canonicalize().ok());
    match (parent, mount_point.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => mount_point.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    fn resolved(given: &str, here: &str) -> Result<String, String> {
        resolve(Path::new(given), Some(Path::new(here)), Path::new("/mnt/projects")).map_err(|e| e.shown())
    }

    #[test]
    fn a_path_is_one_of_the_drive_or_below_its_mount_point() {
        for (given, here, means) in [
            ("demo/sq010", "/home/ada", "demo/sq010"),
            ("./demo//sq010/", "/home/ada", "demo/sq010"),
            ("/mnt/projects", "/home/ada", ""),
            ("/mnt/projects/demo/x", "/home/ada", "demo/x"),
            (".", "/home/ada", ""),
            (".", "/mnt/projects/demo", "demo"),
            ("sq010", "/mnt/projects/demo", "demo/sq010"),
            ("..", "/mnt/projects/demo", ""),
            ("../other", "/mnt/projects/demo", "other"),
            ("demo", "/mnt/projects", "demo"),
            ("demo", "/mnt/projects2", "demo"),
            ("projects/demo/x", "/mnt", "demo/x"),
            ("../mnt/./projects/demo", "/home", "demo"),
            ("projects2/demo", "/mnt", "projects2/demo"),
        ] {
            assert_eq!(resolved(given, here).unwrap(), means, "{given} in {here}");
        }
    }

    #[test]
    fn a_path_outside_is_refused() {
        for (given, here) in [
            ("/etc", "/home/ada"),
            ("/mnt/projects2/demo", "/home/ada"),
            ("/mnt/projects/../x", "/home/ada"),
            ("..", "/home/ada"),
            ("../..", "/mnt/projects/demo"),
        ] {
            let error = resolved(given, here).unwrap_err();
            assert!(
                error.contains("is not on the drive, which is mounted at /mnt/projects"),
                "{given} in {here}: {error}"
            );
        }
    }

    #[test]
    fn links_on_the_way_to_the_mount_point_do_not_matter() {
        let dir = tempfile::tempdir().unwrap();
        let real = dir.path().canonicalize().unwrap();
        std::fs::create_dir(real.join("real")).unwrap();
        std::os::unix::fs::symlink("real", real.join("link")).unwrap();
        let (mount, here) = (real.join("link/drive"), real.join("real/drive/demo"));
        assert_eq!(resolve(Path::new("x"), Some(&here), &mount).unwrap(), "demo/x");
    }

    #[test]
    fn a_path_that_is_not_utf8_is_refused_in_words() {
        let error = resolve(
            Path::new(OsStr::from_bytes(b"demo/\xff")),
            None,
            Path::new("/mnt/projects"),
        )
        .unwrap_err();
        assert!(error.shown().contains("not UTF-8"));
    }
}
