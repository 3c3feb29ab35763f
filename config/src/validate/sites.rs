//! What is checked of sites, by kind of storage.
//!
//! Owns: what each kind of storage takes. Refuses to know: projects, and where values come from.

use std::path::Path;

use super::{Checker, Key, own_folders};
use crate::schema::Config;
use crate::secret_ref::SecretRef;
use crate::sites::{
    ExecSite, GdriveAuth, GdriveSite, LocalSite, ProviderSettings, S3Site, SftpAuth, SftpSite, Site, WebdavSite,
};
use crate::timetable::Timetable;
use crate::units::ByteSize;
use crate::units::Period;

impl Checker<'_> {
    pub(super) fn site(&mut self, config: &Config, name: &str, site: &Site) {
        let key = |last| ["sites", name, last];
        self.name(&["sites", name], name);
        for (last, limit) in [
            ("download-limit", &site.limits.download_limit),
            ("upload-limit", &site.limits.upload_limit),
        ] {
            self.rate(&key(last), limit.as_ref().is_some_and(Timetable::lets_nothing_through));
        }
        if let Some(requests) = site.limits.max_requests {
            self.within(&key("max-requests"), requests, 1, 256);
        }
        self.alternative_sites(name, &site.limits.alternative_sites);
        match &site.provider {
            ProviderSettings::Local(local) => self.local_site(config, name, local),
            ProviderSettings::Sftp(sftp) => self.sftp_site(name, sftp),
            ProviderSettings::Exec(exec) => self.exec_site(name, exec),
            ProviderSettings::Gdrive(gdrive) => self.gdrive_site(name, gdrive),
            ProviderSettings::S3(s3) => self.s3_site(name, s3),
            ProviderSettings::Webdav(webdav) => self.webdav_site(name, webdav),
        }
    }

    fn rate(&mut self, key: Key<'_>, is_nothing: bool) {
        if is_nothing {
            self.error(
                key,
                "0 would let nothing through",
                "leave it out, or write off, for no limit".to_owned(),
            );
        }
    }

    fn local_site(&mut self, config: &Config, name: &str, local: &LocalSite) {
        let key = ["sites", name, "root"];
        self.rate(&["sites", name, "link-rate"], local.link_rate == Some(ByteSize(0)));
        if self.absolute(&key, &local.root) {
            let why = "a site is a folder of its own";
            for (what, dir) in own_folders(config) {
                self.outside(&key, &local.root, what, dir, why);
            }
        }
    }

    fn sftp_site(&mut self, name: &str, sftp: &SftpSite) {
        let key = |last| ["sites", name, last];
        if sftp.host.is_empty() {
            self.error(
                &key("host"),
                "is missing",
                "write the server's name or address".to_owned(),
            );
        } else if sftp.host.contains(|c: char| c.is_whitespace() || c == '/' || c == '@') {
            // Not repeated: what is before the `@` may hold a password.
            let hint = "write the name or address alone; `user`, `port` and `root` have keys of their own".to_owned();
            self.error(&key("host"), "is not a host name or address", hint);
        }
        if sftp.user.is_empty() {
            self.error(
                &key("user"),
                "is missing, and USER is not set",
                "write the user to log in as".to_owned(),
            );
        }
        if sftp.port == 0 {
            self.within(&key("port"), sftp.port, 1, u16::MAX);
        }
        if sftp.root.is_empty() {
            self.error(
                &key("root"),
                "is missing",
                "write the absolute path of the folder on the server".to_owned(),
            );
        } else if !sftp.root.starts_with('/') {
            let problem = format!("`{}` is not an absolute path on the server", sftp.root);
            self.error(&key("root"), problem, "begin it with `/`".to_owned());
        }
        if sftp.auth == SftpAuth::Key && sftp.key_file.is_none() {
            let hint = "write the path of the private key, or use auth = \"agent\"".to_owned();
            self.error(&key("key-file"), "is missing, and auth is \"key\"", hint);
        }
        if sftp.auth == SftpAuth::Password && sftp.password.is_none() {
            let hint = "write `env:NAME` or `file:/path`, where the password is to be found".to_owned();
            self.error(&key("password"), "is missing, and auth is \"password\"", hint);
        }
        if let Some(path) = &sftp.key_file {
            self.absolute(&key("key-file"), path);
        }
        for (last, secret) in [("passphrase", &sftp.passphrase), ("password", &sftp.password)] {
            if let Some(SecretRef::File(path)) = secret {
                self.absolute(&key(last), path);
            }
        }
        self.absolute(&key("known-hosts"), &sftp.known_hosts);
        self.within(&key("connections"), sftp.connections, 1, 16);
        let second = Period::from_secs(1);
        self.within(&key("keepalive"), sftp.keepalive, second, Period::from_secs(3600));
        self.within(
            &key("connect-timeout"),
            sftp.connect_timeout,
            second,
            Period::from_secs(300),
        );
    }

    fn exec_site(&mut self, name: &str, exec: &ExecSite) {
        let key = |last| ["sites", name, last];
        match exec.command.first() {
            None => self.error(
                &key("command"),
                "is missing",
                "write the program and its arguments, as in [\"/opt/studio/provider.py\", \"--store\", \"plates\"]"
                    .to_owned(),
            ),
            Some(program) if program.is_empty() => self.error(&key("command"), "names no program", None),
            Some(_) => {}
        }
        if exec.command.iter().any(|arg| arg.contains('\0')) {
            self.error(&key("command"), "holds a NUL byte", None);
        }
        self.within(&key("workers"), exec.workers, 1, 64);
        let (shortest, longest) = (Period::from_millis(100), Period::from_secs(300));
        self.within(&key("start-timeout"), exec.start_timeout, shortest, longest);
        for (variable, secret) in &exec.environment {
            let key = ["sites", name, "environment", variable];
            if variable.is_empty() || variable.contains(['=', '\0']) {
                self.error(&key, "is no name of a variable", None);
            }
            if let SecretRef::File(path) = secret {
                self.absolute(&key, path);
            }
        }
    }

    fn gdrive_site(&mut self, name: &str, gdrive: &GdriveSite) {
        let key = |last| ["sites", name, last];
        let root = gdrive.root.trim_matches('/');
        let odd = |part: &str| part.is_empty() || part == "." || part == "..";
        match &gdrive.folder_id {
            Some(id) if id.is_empty() || id.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-' && c != '_') => {
                let hint = "it is what follows `/folders/` in the folder's address".to_owned();
                self.error(&key("folder-id"), "is no id of Google's", hint);
            }
            Some(_) if !root.is_empty() => {
                let hint = "leave one of them out".to_owned();
                self.error(&key("root"), "says what `folder-id` says too", hint);
            }
            None if root.is_empty() || root.split('/').any(odd) => {
                let problem = format!("`{}` is not a folder of Drive", gdrive.root);
                let hint =
                    "write `/My Drive/projects`, or `/NAME/projects` in the shared drive NAME; or give `folder-id`";
                self.error(&key("root"), problem, hint.to_owned());
            }
            _ => {}
        }
        match gdrive.auth {
            GdriveAuth::ServiceAccount => {
                if gdrive.credentials.here().is_empty() {
                    let system = std::env::consts::OS;
                    let hint = format!("write credentials.{system} = [\"/path/of/the/key.json\"]");
                    self.error(&key("credentials"), format!("has no path for {system}"), hint);
                }
            }
            GdriveAuth::User => {
                for (last, missing) in [
                    ("client-id", gdrive.client_id.is_none()),
                    ("client-secret", gdrive.client_secret.is_none()),
                    ("refresh-token", gdrive.refresh_token.is_none()),
                ] {
                    if missing {
                        self.error(&key(last), "is missing, and auth is \"user\"", None);
                    }
                }
            }
        }
        for path in gdrive.credentials.here() {
            self.absolute(&key("credentials"), path);
        }
        for (last, secret) in [
            ("client-secret", &gdrive.client_secret),
            ("refresh-token", &gdrive.refresh_token),
        ] {
            if let Some(SecretRef::File(path)) = secret {
                self.absolute(&key(last), path);
            }
        }
        for (last, url) in [
            ("endpoint", &gdrive.endpoint),
            ("token-endpoint", &gdrive.token_endpoint),
        ] {
            let here = |url: &str| url.starts_with("http://127.0.0.1:") || url.starts_with("http://localhost:");
            if url
                .as_deref()
                .is_some_and(|url| !url.starts_with("https://") && !here(url))
            {
                let hint = "begin it with `https://`; without TLS it can only be on this machine".to_owned();
                self.error(&key(last), "would show the access token to the network", hint);
            }
        }
    }

    fn s3_site(&mut self, name: &str, s3: &S3Site) {
        let key = |last| ["sites", name, last];
        if s3.bucket.is_empty() {
            self.error(&key("bucket"), "is missing", "write the name of the bucket".to_owned());
        } else if s3.bucket.contains(|c: char| c == '/' || c.is_whitespace()) {
            let hint = "write the name alone; a path inside the bucket goes into `prefix`".to_owned();
            self.error(
                &key("bucket"),
                format!("`{}` is not the name of a bucket", s3.bucket),
                hint,
            );
        }
        let odd = |part: &str| part.is_empty() || part == "." || part == "..";
        if !s3.prefix.is_empty() && s3.prefix.split('/').any(odd) {
            let hint = "write it as in `studio/projects`, without a `/` at either end".to_owned();
            self.error(
                &key("prefix"),
                format!("`{}` is not a path inside a bucket", s3.prefix),
                hint,
            );
        }
        if !s3.endpoint.is_empty() {
            self.address(&key("endpoint"), &s3.endpoint);
        }
        if s3.region.is_empty() {
            self.error(
                &key("region"),
                "is empty",
                "write `us-east-1` if the store has none".to_owned(),
            );
        }
        for (there, missing, last) in [
            (&s3.access_key, &s3.secret_key, "secret-key"),
            (&s3.secret_key, &s3.access_key, "access-key"),
            (&s3.session_token, &s3.access_key, "access-key"),
        ] {
            if there.is_some() && missing.is_none() {
                let hint = "write `env:NAME` or `file:/path`, where it is to be found".to_owned();
                self.error(&key(last), "is missing, and goes with the other keys", hint);
            }
        }
        for (last, secret) in [
            ("access-key", &s3.access_key),
            ("secret-key", &s3.secret_key),
            ("session-token", &s3.session_token),
        ] {
            self.secret_file(&key(last), secret.as_ref());
        }
        self.web_site(name, s3.ca_file.as_deref(), s3.connect_timeout);
    }

    fn webdav_site(&mut self, name: &str, webdav: &WebdavSite) {
        let key = |last| ["sites", name, last];
        if webdav.url.is_empty() {
            let hint = "write it as in `https://dav.studio.example/projects`".to_owned();
            self.error(&key("url"), "is missing", hint);
        } else {
            self.address(&key("url"), &webdav.url);
        }
        if webdav.user.is_some() != webdav.password.is_some() {
            let last = if webdav.user.is_some() { "password" } else { "user" };
            self.error(&key(last), "is missing: a user and a password go together", None);
        }
        if webdav.token.is_some() && webdav.user.is_some() {
            let hint = "leave out `token`, or `user` and `password`".to_owned();
            self.error(&key("token"), "is one way to log in, and `user` another", hint);
        }
        for (last, secret) in [("password", &webdav.password), ("token", &webdav.token)] {
            self.secret_file(&key(last), secret.as_ref());
        }
        self.web_site(name, webdav.ca_file.as_deref(), webdav.connect_timeout);
    }

    /// What sites that speak HTTP have in common.
    fn web_site(&mut self, name: &str, ca_file: Option<&Path>, connect_timeout: Period) {
        let key = |last| ["sites", name, last];
        if let Some(path) = ca_file {
            self.absolute(&key("ca-file"), path);
        }
        let (least, most) = (Period::from_secs(1), Period::from_secs(300));
        self.within(&key("connect-timeout"), connect_timeout, least, most);
    }

    /// The address of a web server. It is not repeated where it may hold a password.
    fn address(&mut self, key: Key<'_>, address: &str) {
        let host = address
            .strip_prefix("https://")
            .or_else(|| address.strip_prefix("http://"));
        let (problem, hint) = match host {
            None => (
                "does not begin with `https://` or `http://`",
                "write it as in `https://store.example`",
            ),
            Some(rest) if rest.split('/').next().is_some_and(|host| host.contains('@')) => (
                "holds a user or password",
                "secrets go into settings of their own, by reference",
            ),
            Some(rest) if rest.is_empty() || rest.starts_with('/') => {
                ("names no host", "write it as in `https://store.example`")
            }
            Some(rest) if rest.contains(|c: char| c.is_whitespace() || c == '?' || c == '#') => (
                "is not the address of a server",
                "leave out spaces and what begins with `?` or `#`",
            ),
            Some(_) => return,
        };
        self.error(key, problem, hint.to_owned());
    }

    fn secret_file(&mut self, key: Key<'_>, secret: Option<&SecretRef>) {
        if let Some(SecretRef::File(path)) = secret {
            self.absolute(key, path);
        }
    }
}
