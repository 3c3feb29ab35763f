//! The folders of the user: where settings are looked for, where data and cache live when nothing else is said.
//!
//! Owns the rules of the XDG base directories and what `~/` stands for. Touches neither disk nor process environment:
//! home folder and variables are given to it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use crate::schema::Config;
use crate::secret_ref::SecretRef;
use crate::sites::ProviderSettings;

/// Home folder and base directories of one user.
#[derive(Debug, Clone, Default)]
pub(crate) struct Dirs {
    pub(crate) home: Option<PathBuf>,
    /// Settings of this program: `$XDG_CONFIG_HOME/backlot`, else `~/.config/backlot`.
    pub(crate) config: Option<PathBuf>,
    /// Data of this program: `$XDG_DATA_HOME/backlot`, else `~/.local/share/backlot`.
    pub(crate) data: Option<PathBuf>,
    /// Cache of this program: `$XDG_CACHE_HOME/backlot`, else `~/.cache/backlot`.
    pub(crate) cache: Option<PathBuf>,
}

impl Dirs {
    /// The folders as given by `home` and the variables that `env` finds. As the standard asks, a base directory that is
    /// not an absolute path counts as not set.
    pub(crate) fn new<'e>(home: Option<PathBuf>, env: impl Fn(&str) -> Option<&'e OsStr>) -> Self {
        let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let home = home.or_else(|| absolute("HOME"));
        let base = |variable: &str, below_home: &str| {
            absolute(variable)
                .or_else(|| home.as_ref().map(|home| home.join(below_home)))
                .map(|dir| dir.join("backlot"))
        };
        Self {
            config: base("XDG_CONFIG_HOME", ".config"),
            data: base("XDG_DATA_HOME", ".local/share"),
            cache: base("XDG_CACHE_HOME", ".cache"),
            home,
        }
    }

    /// Puts the home folder in place of `~` in every path of this machine. Without a home, paths stay as they are.
    pub(crate) fn expand_all(&self, config: &mut Config) {
        let Some(home) = &self.home else { return };
        let drive = &mut config.drive;
        expand(home, &mut drive.mount_point);
        expand(home, &mut drive.data_dir);
        expand(home, &mut drive.cache_dir);
        drive.socket.iter_mut().for_each(|path| expand(home, path));
        for token in [&mut config.api.viewer_token, &mut config.api.admin_token] {
            if let Some(SecretRef::File(path)) = token {
                expand(home, path);
            }
        }
        let notify = &mut config.notify;
        for path in [&mut notify.subject, &mut notify.body, &mut notify.smtp_ca_file] {
            path.iter_mut().for_each(|path| expand(home, path));
        }
        expand_secret(home, &mut notify.smtp_password);
        for receiver in config.receivers.values_mut() {
            expand_secret(home, &mut receiver.secret);
            expand_secret(home, &mut receiver.webhook_from);
            if let Some(program) = receiver.command.first_mut()
                && let Some(rest) = program.strip_prefix("~/")
            {
                *program = home.join(rest).to_string_lossy().into_owned();
            }
        }
        for site in config.sites.values_mut() {
            match &mut site.provider {
                ProviderSettings::Local(local) => expand(home, &mut local.root),
                ProviderSettings::Exec(exec) => {
                    for secret in exec.environment.values_mut() {
                        if let SecretRef::File(path) = secret {
                            expand(home, path);
                        }
                    }
                }
                ProviderSettings::Gdrive(gdrive) => {
                    let credentials = &mut gdrive.credentials;
                    let files = [&mut credentials.linux, &mut credentials.macos, &mut credentials.windows];
                    files.into_iter().flatten().for_each(|path| expand(home, path));
                    for secret in [&mut gdrive.client_secret, &mut gdrive.refresh_token] {
                        if let Some(SecretRef::File(path)) = secret {
                            expand(home, path);
                        }
                    }
                }
                ProviderSettings::Sftp(sftp) => {
                    expand(home, &mut sftp.known_hosts);
                    sftp.key_file.iter_mut().for_each(|path| expand(home, path));
                    for secret in [&mut sftp.passphrase, &mut sftp.password] {
                        expand_secret(home, secret);
                    }
                }
                ProviderSettings::S3(s3) => {
                    s3.ca_file.iter_mut().for_each(|path| expand(home, path));
                    for secret in [&mut s3.access_key, &mut s3.secret_key, &mut s3.session_token] {
                        expand_secret(home, secret);
                    }
                }
                ProviderSettings::Webdav(webdav) => {
                    webdav.ca_file.iter_mut().for_each(|path| expand(home, path));
                    for secret in [&mut webdav.password, &mut webdav.token] {
                        expand_secret(home, secret);
                    }
                }
            }
        }
    }
}

fn expand_secret(home: &Path, secret: &mut Option<SecretRef>) {
    if let Some(SecretRef::File(path)) = secret {
        expand(home, path);
    }
}

fn expand(home: &Path, path: &mut PathBuf) {
    if let Ok(rest) = path.strip_prefix("~") {
        // Joining an empty rest would leave a trailing slash.
        *path = if rest.as_os_str().is_empty() {
            home.to_owned()
        } else {
            home.join(rest)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_directories_are_those_of_the_standard() {
        let env = |name: &str| match name {
            "HOME" => Some(OsStr::new("/home/ada")),
            "XDG_DATA_HOME" => Some(OsStr::new("/data/ada")),
            "XDG_CACHE_HOME" => Some(OsStr::new("not/absolute")),
            _ => None,
        };
        let dirs = Dirs::new(None, env);
        assert_eq!(dirs.config.as_deref(), Some(Path::new("/home/ada/.config/backlot")));
        assert_eq!(dirs.data.as_deref(), Some(Path::new("/data/ada/backlot")));
        assert_eq!(dirs.cache.as_deref(), Some(Path::new("/home/ada/.cache/backlot")));

        let given = Dirs::new(Some("/given".into()), env);
        assert_eq!(given.home.as_deref(), Some(Path::new("/given")));
    }

    #[test]
    fn tilde_is_the_home_folder_only_at_the_beginning() {
        for (written, expanded) in [("~/a", "/h/a"), ("~", "/h"), ("/a/~/b", "/a/~/b"), ("~bob/a", "~bob/a")] {
            let mut path = PathBuf::from(written);
            expand(Path::new("/h"), &mut path);
            assert_eq!(path, Path::new(expanded));
        }
    }
}
