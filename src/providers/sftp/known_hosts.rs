//! Which server keys are trusted: files in OpenSSH's `known_hosts` format.
//!
//! Owns: reading such a file, and adding a line. Refuses to know: connections. Invariants: a host that is known by any key
//! is never accepted with another; a revoked key is never accepted; a line that can't be read trusts nothing.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use hmac::{Hmac, KeyInit, Mac};
use russh::keys::ssh_key::known_hosts::{Entry, HostPatterns, Marker};
use russh::keys::{Algorithm, HashAlg, PublicKey};
use sha1::Sha1;

/// A server as `known_hosts` names it: the host alone for port 22, else `[host]:port`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct HostPort {
    host: String,
    port: u16,
}

impl HostPort {
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_ascii_lowercase(),
            port,
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.port == 22 {
            f.write_str(&self.host)
        } else {
            write!(f, "[{}]:{}", self.host, self.port)
        }
    }
}

/// What a file says of one host.
#[derive(Debug, Default)]
pub(super) struct Known {
    keys: Vec<PublicKey>,
    revoked: Vec<PublicKey>,
}

/// What is to be thought of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// The host is known by this key.
    Trusted,
    /// The host is not known.
    Unknown,
    /// The host is known by another key: somebody may be in between.
    Changed,
    /// The file says never to accept this key.
    Revoked,
}

impl Known {
    /// Reads what a file says of a host; a file that is not there says nothing.
    pub(super) fn read(file: &Path, host: &HostPort) -> io::Result<Self> {
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(Self::parse(&text, host)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(e) => Err(e),
        }
    }

    fn parse(text: &str, host: &HostPort) -> Self {
        let mut known = Self::default();
        for line in text
            .lines()
            .map(str::trim)
            .filter(|l| !l.is_empty() && !l.starts_with('#'))
        {
            // The parser knows single blanks alone.
            let line = line.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
            let Ok(entry) = line.parse::<Entry>() else { continue };
            if !matches(entry.host_patterns(), host) {
                continue;
            }
            let key = entry.public_key().clone();
            match entry.marker() {
                None => known.keys.push(key),
                Some(Marker::Revoked) => known.revoked.push(key),
                // We ask servers for plain keys, not for certificates.
                Some(Marker::CertAuthority) => {}
            }
        }
        known
    }

    pub(super) fn judge(&self, key: &PublicKey) -> Verdict {
        let among = |keys: &[PublicKey]| keys.iter().any(|k| k.key_data() == key.key_data());
        if among(&self.revoked) {
            Verdict::Revoked
        } else if among(&self.keys) {
            Verdict::Trusted
        } else if self.keys.is_empty() {
            Verdict::Unknown
        } else {
            Verdict::Changed
        }
    }

    /// Returns the algorithms to ask the server for: those of the keys we know, or all, so that a server that has several
    /// keys shows one that we can recognise.
    pub(super) fn algorithms(&self, all: &[Algorithm]) -> Vec<Algorithm> {
        let family = |a: &Algorithm| match a {
            Algorithm::Rsa { .. } => Algorithm::Rsa { hash: None },
            other => other.clone(),
        };
        let known: Vec<_> = self.keys.iter().map(|k| family(&k.algorithm())).collect();
        let usable: Vec<_> = all.iter().filter(|a| known.contains(&family(a))).cloned().collect();
        if usable.is_empty() { all.to_vec() } else { usable }
    }
}

fn matches(patterns: &HostPatterns, host: &HostPort) -> bool {
    let name = host.to_string();
    match patterns {
        HostPatterns::HashedName { salt, hash } => Hmac::<Sha1>::new_from_slice(salt)
            .is_ok_and(|mac| mac.chain_update(name.as_bytes()).verify_slice(hash).is_ok()),
        HostPatterns::Patterns(patterns) => {
            let mut found = false;
            for pattern in patterns {
                let pattern = pattern.to_ascii_lowercase();
                match pattern.strip_prefix('!') {
                    Some(not) if glob(not.as_bytes(), name.as_bytes()) => return false,
                    Some(_) => {}
                    None => found |= glob(pattern.as_bytes(), name.as_bytes()),
                }
            }
            found
        }
    }
}

/// Matches `*` and `?`, in time proportional to the product of the lengths.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some(b'*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == b'?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, from)) = star else { return false };
                star = Some((at, from + 1));
                p = at + 1;
                t = from + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == b'*')
}

/// Adds a host's key to a file, which is made if it is missing, for its owner alone.
pub(super) fn learn(file: &Path, host: &HostPort, key: &PublicKey) -> io::Result<()> {
    if let Some(dir) = file.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    }
    let line = key.to_openssh().map_err(io::Error::other)?;
    let mut out = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o600)
        .open(file)?;
    let mut text = Vec::new();
    out.read_to_end(&mut text)?;
    let newline = if text.last().is_none_or(|b| *b == b'\n') {
        ""
    } else {
        "\n"
    };
    // One write, so that lines added by others at the same moment stay whole.
    out.write_all(format!("{newline}{host} {line}\n").as_bytes())?;
    out.sync_all()
}

/// Returns the text for a key that is not accepted: what was seen, and what to do about it.
pub(super) fn refusal(verdict: Verdict, file: &Path, host: &HostPort, key: &PublicKey) -> String {
    let shown = format!("{} {}", key.algorithm(), key.fingerprint(HashAlg::Sha256));
    let path: PathBuf = file.to_owned();
    let file = path.display();
    let port = if host.port == 22 {
        String::new()
    } else {
        format!("-p {} ", host.port)
    };
    match verdict {
        Verdict::Unknown | Verdict::Trusted => format!(
            "the server {host} is not known: it showed the key {shown}, and {file} has none for it. Ask the server's admin \
             whether that fingerprint is right; then run `ssh-keyscan {port}{} >> {file}`, or set `host-key = \"accept-new\"`",
            host.host
        ),
        Verdict::Changed => format!(
            "THE KEY OF THE SERVER {host} HAS CHANGED: it showed {shown}, and {file} knows it by another. Somebody may be \
             reading along. Ask the server's admin; only if the key was replaced on purpose, run \
             `ssh-keygen -f {file} -R \"{host}\"` and connect again"
        ),
        Verdict::Revoked => {
            format!("the key {shown} of the server {host} is marked as revoked in {file}: do not use it")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const B: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G1sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";

    fn key(text: &str) -> PublicKey {
        PublicKey::from_openssh(text).unwrap()
    }

    fn judge(file: &str, host: &str, port: u16) -> Verdict {
        Known::parse(file, &HostPort::new(host, port)).judge(&key(A))
    }

    #[test]
    fn a_key_is_judged_by_the_lines_of_its_host() {
        assert_eq!(judge("", "nas", 22), Verdict::Unknown);
        assert_eq!(judge(&format!("nas {A}"), "nas", 22), Verdict::Trusted);
        assert_eq!(judge(&format!("NAS\t{A} a comment"), "Nas", 22), Verdict::Trusted);
        assert_eq!(
            judge(&format!("nas {A}"), "nas", 2022),
            Verdict::Unknown,
            "the port counts"
        );
        assert_eq!(judge(&format!("[nas]:2022 {A}"), "nas", 2022), Verdict::Trusted);
        assert_eq!(judge(&format!("nas {B}"), "nas", 22), Verdict::Changed);
        assert_eq!(
            judge(&format!("nas {B}\nnas {A}"), "nas", 22),
            Verdict::Trusted,
            "one of several keys"
        );
        assert_eq!(judge(&format!("nas {A}\n@revoked * {A}"), "nas", 22), Verdict::Revoked);
        assert_eq!(judge(&format!("@cert-authority nas {A}"), "nas", 22), Verdict::Unknown);
        assert_eq!(
            judge(&format!("# nas {A}\n\nnonsense\nnas ssh-ed25519 !!!\n"), "nas", 22),
            Verdict::Unknown
        );
    }

    #[test]
    fn patterns_and_hashed_names() {
        assert_eq!(
            judge(&format!("*.studio,10.0.?.1 {A}"), "nas.studio", 22),
            Verdict::Trusted
        );
        assert_eq!(
            judge(&format!("*.studio,!nas.* {A}"), "nas.studio", 22),
            Verdict::Unknown
        );
        assert_eq!(
            judge(&format!("*.studio,10.0.?.1 {A}"), "10.0.7.1", 22),
            Verdict::Trusted
        );
        assert_eq!(judge(&format!("*.studio {A}"), "studio", 22), Verdict::Unknown);
        // From OpenSSH: `ssh-keygen -H` of "example.com".
        let hashed = format!("|1|O33ESRMWPVkMYIwJ1Uw+n877jTo=|nuuC5vEqXlEZ/8BXQR7m619W6Ak= {A}");
        assert_eq!(judge(&hashed, "example.com", 22), Verdict::Trusted);
        assert_eq!(judge(&hashed, "example.org", 22), Verdict::Unknown);
    }

    #[test]
    fn what_was_learnt_is_trusted_and_what_was_there_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new/known_hosts");
        let (nas, other) = (HostPort::new("nas", 2022), HostPort::new("other", 22));
        learn(&file, &other, &key(B)).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        std::fs::write(&file, text.trim_end()).unwrap();
        learn(&file, &nas, &key(A)).unwrap();
        assert_eq!(Known::read(&file, &nas).unwrap().judge(&key(A)), Verdict::Trusted);
        assert_eq!(Known::read(&file, &other).unwrap().judge(&key(B)), Verdict::Trusted);
        assert_eq!(Known::read(&file, &other).unwrap().judge(&key(A)), Verdict::Changed);
        let text = refusal(Verdict::Changed, &file, &nas, &key(A));
        assert!(text.contains("SHA256:") && text.contains("ssh-keygen -f"), "{text}");
    }

    #[test]
    fn a_server_is_asked_for_the_keys_that_we_know() {
        let all = [
            Algorithm::Ed25519,
            Algorithm::Rsa {
                hash: Some(HashAlg::Sha512),
            },
        ];
        let known = Known::parse(&format!("nas {A}"), &HostPort::new("nas", 22));
        assert_eq!(known.algorithms(&all), [Algorithm::Ed25519]);
        assert_eq!(Known::default().algorithms(&all), all);
    }
}
