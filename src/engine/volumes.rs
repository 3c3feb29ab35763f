//! The table of volumes, out of the settings.
//!
//! Owns: which of the settings' roots can be. Refuses to know: how paths are read (`model::volumes` does). Invariant: no
//! two volumes of a table have the same root in the same spelling.

use backlot_config::{Config, Volume as Settings};

use crate::model::RelPath;
use crate::model::volumes::{Root, Roots, Spelling, Volume};

/// Why the volumes of the settings can't be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("volumes.{key}: {why}")]
pub struct BadVolume {
    key: String,
    why: String,
}

/// Makes the table of volumes.
///
/// # Errors
/// When a root is not spelt as its key says, or is that of another volume too.
pub fn table(config: &Config) -> Result<Vec<Volume>, BadVolume> {
    let mut out: Vec<Volume> = Vec::new();
    for (code, settings) in &config.volumes {
        let volume = volume(code, settings)?;
        for (spelling, root) in &volume.roots {
            let same = |other: &&Volume| other.roots.get(spelling).is_some_and(|r| r.is_same(root));
            if let Some(other) = out.iter().find(same) {
                let why = format!("{root} is the root of volume {} already", other.code);
                return Err(bad(code, &spelling.to_string(), why));
            }
        }
        out.push(volume);
    }
    Ok(out)
}

fn bad(code: &str, key: &str, why: String) -> BadVolume {
    let key = format!("{code}.{key}");
    BadVolume { key, why }
}

fn volume(code: &str, settings: &Settings) -> Result<Volume, BadVolume> {
    let Settings {
        folder,
        linux,
        macos,
        windows,
        unc,
        here,
        sites,
    } = settings;
    let mut at_sites = std::collections::BTreeMap::new();
    for (site, r) in sites {
        let key = format!("{code}.sites.{site}");
        at_sites.insert(site.clone(), roots(&key, [&r.linux, &r.macos, &r.windows, &r.unc])?);
    }
    Ok(Volume {
        code: code.to_owned(),
        folder: RelPath::new(folder).map_err(|e| bad(code, "folder", e.to_string()))?,
        roots: roots(code, [linux, macos, windows, unc])?,
        sites: at_sites,
        here: match here {
            Some(text) => Some(Root::parse_any(text).map_err(|e| bad(code, "here", e.to_string()))?),
            None => None,
        },
    })
}

fn roots(code: &str, texts: [&Option<String>; 4]) -> Result<Roots, BadVolume> {
    let mut out = Roots::new();
    for (spelling, text) in Spelling::ALL.into_iter().zip(texts) {
        let Some(text) = text else { continue };
        let why = || format!("`{text}` is not spelt so: it looks like {}", example(spelling));
        let root = Root::parse(spelling, text).map_err(|_not_so| bad(code, &spelling.to_string(), why()))?;
        out.insert(spelling, root);
    }
    Ok(out)
}

fn example(spelling: Spelling) -> &'static str {
    match spelling {
        Spelling::Linux => "/storage",
        Spelling::Macos => "/Volumes/storage",
        Spelling::Windows => r"S:\ or S:\storage",
        Spelling::Unc => r"\\server\storage",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(roots: [&str; 4]) -> Settings {
        let [linux, macos, windows, unc] = roots.map(|r| (!r.is_empty()).then(|| r.to_owned()));
        Settings {
            linux,
            macos,
            windows,
            unc,
            ..Settings::default()
        }
    }

    #[test]
    fn a_root_that_is_spelt_otherwise_is_refused_by_its_key() {
        for (roots, key) in [
            ([r"S:\", "", "", ""], "volumes.v.linux"),
            (["storage", "", "", ""], "volumes.v.linux"),
            (["", "", "/storage", ""], "volumes.v.windows"),
            (["", "", "S:storage", ""], "volumes.v.windows"),
            (["", "", "", "S:"], "volumes.v.unc"),
            (["/a/../b", "", "", ""], "volumes.v.linux"),
        ] {
            let mut config = Config::default();
            config.volumes.insert("v".into(), settings(roots));
            let error = table(&config).unwrap_err().to_string();
            assert!(error.starts_with(key), "{roots:?}: {error}");
        }
    }

    #[test]
    fn one_root_is_of_one_volume() {
        let mut config = Config::default();
        config.volumes.insert("a".into(), settings(["/storage", "", "S:", ""]));
        config
            .volumes
            .insert("b".into(), settings(["/Storage", "", r"s:\", ""]));
        let error = table(&config).unwrap_err().to_string();
        assert_eq!(error, r"volumes.b.windows: s:\ is the root of volume a already");
    }
}
