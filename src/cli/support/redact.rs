//! Takes secrets out of text.
//!
//! Owns: what a secret looks like. Refuses to know: where the text comes from. Invariant: the text of no secret that the
//! settings refer to is left, nor what stands where secrets usually do; too much is taken out rather than too little.

use backlot_config::{Loaded, SecretRef, render_origin};
use secrecy::ExposeSecret;

/// What stands in place of a secret.
const REDACTED: &str = "[redacted]";
/// Shorter secrets than that can't be told from other text.
const SHORTEST: usize = 4;
/// Words after which a secret follows.
const WORDS: [&str; 13] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "credential",
    "authorization",
    "api-key",
    "api_key",
    "apikey",
    "access-key",
    "access_key",
    "private-key",
];

/// Knows the secrets of the settings.
#[derive(Debug)]
pub(super) struct Redactor {
    /// In every spelling that may turn up, the longest first.
    known: Vec<String>,
}

impl Redactor {
    /// Knows what the settings refer to, and what lies in variables whose names say that it is secret.
    pub(super) fn new(loaded: Option<&Loaded>) -> Self {
        let mut secrets = Vec::new();
        for row in loaded.map(render_origin).unwrap_or_default() {
            // A reference is the whole value, as TOML writes it.
            let reference = row.value.trim_matches(['"', '\'']).parse::<SecretRef>();
            if let Some(secret) = reference.ok().and_then(|reference| reference.resolve().ok()) {
                secrets.push(secret.expose_secret().to_owned());
            }
        }
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().to_ascii_lowercase();
            let value = value.to_str().filter(|value| value.parse::<SecretRef>().is_err());
            if let Some(value) = value.filter(|_| WORDS.iter().any(|word| name.contains(word))) {
                secrets.push(value.to_owned());
            }
        }
        Self::knowing(secrets)
    }

    fn knowing(secrets: Vec<String>) -> Self {
        let mut known = Vec::new();
        for secret in secrets {
            // A key is many lines, and any of them may turn up.
            let lines = secret.lines().map(str::to_owned);
            for text in lines.chain([secret.clone()]) {
                let text = text.trim().to_owned();
                if text.len() < SHORTEST {
                    continue;
                }
                let in_json = serde_json::to_string(&text).unwrap_or_default();
                known.push(in_json.trim_matches('"').to_owned());
                known.push(in_url(&text));
                known.push(text);
            }
        }
        known.sort_by_key(|text| std::cmp::Reverse(text.len()));
        known.dedup();
        Self { known }
    }

    /// Returns the text without secrets.
    pub(super) fn clean(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for secret in &self.known {
            if text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), REDACTED);
            }
        }
        text = without_keys(&text);
        text.split_inclusive('\n')
            .map(|line| after_words(&in_addresses(line)))
            .collect()
    }
}

/// As it stands in an address.
fn in_url(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes()
        .map(|b| {
            if plain(b) {
                char::from(b).to_string()
            } else {
                format!("%{b:02X}")
            }
        })
        .collect()
}

/// Takes private keys out, which are many lines.
fn without_keys(text: &str) -> String {
    const BEGIN: &str = "-----BEGIN ";
    const END: &str = "-----END ";
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(BEGIN) {
        let block = &rest[at..];
        out += &rest[..at];
        let end = block.find(END).map_or(block.len(), |end| {
            let tail = &block[end + END.len()..];
            let close = tail.find("-----").map_or(tail.len(), |close| close + 5);
            end + END.len() + close
        });
        // Certificates are for everybody.
        if block[..end]
            .lines()
            .next()
            .is_some_and(|line| line.contains("CERTIFICATE"))
        {
            out += &block[..end];
        } else {
            out += REDACTED;
        }
        rest = &block[end..];
    }
    out + rest
}

/// Takes users and passwords out of addresses: `https://ada:pass@server/`.
fn in_addresses(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        out += before;
        let end = after
            .find(|c: char| c.is_whitespace() || "/\"'<>,?#".contains(c))
            .unwrap_or(after.len());
        // The last one: a password may hold one that nobody encoded.
        match after[..end].rfind('@') {
            Some(user) => {
                out += REDACTED;
                rest = &after[user..];
            }
            None => rest = after,
        }
    }
    out + rest
}

/// Takes out what follows words such as `password=`, `"token": ` and `--secret `.
fn after_words(line: &str) -> String {
    let mut out = String::new();
    let mut rest = line;
    while let Some((value, end)) = next_value(rest) {
        out += &rest[..value];
        let found = &rest[value..end];
        let is_harmless = found.is_empty()
            || found.starts_with("env:")
            || found.starts_with("file:")
            || found.starts_with(REDACTED)
            || matches!(found, "null" | "true" | "false" | "none" | "None");
        out += if is_harmless { found } else { REDACTED };
        rest = &rest[end..];
    }
    out + rest
}

/// Where the next value after such a word begins and ends.
fn next_value(line: &str) -> Option<(usize, usize)> {
    let lower = line.to_ascii_lowercase();
    let mut from = 0;
    loop {
        let (word_at, word) = WORDS
            .iter()
            .filter_map(|word| lower[from..].find(word).map(|at| (from + at, *word)))
            .min()?;
        from = word_at + word.len();
        let is_flag = line[..word_at].ends_with("--") || line[..word_at].ends_with('-');
        // The rest of the name that the word is in: `tokens`, `access-key-id`.
        let name = line[from..].find(|c: char| !(c.is_alphanumeric() || c == '-' || c == '_'));
        let after = from + name.unwrap_or(line.len() - from);
        let between = line[after..].find(|c: char| !"\"'\\ \t=:,[".contains(c));
        let Some(between) = between else { continue };
        let glue = &line[after..after + between];
        if !(glue.contains('=') || glue.contains(':') || is_flag && !glue.is_empty()) {
            continue;
        }
        let mut value = after + between;
        for scheme in ["bearer ", "basic "] {
            if lower[value..].starts_with(scheme) {
                value += scheme.len();
            }
        }
        let end = line[value..].find(|c: char| c.is_whitespace() || "\"',;)]}".contains(c));
        return Some((value, value + end.unwrap_or(line.len() - value)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cleaned(text: &str) -> String {
        Redactor::knowing(vec!["zebra \"Quartz\" 8812".to_owned(), "ab".to_owned()]).clean(text)
    }

    #[test]
    fn known_secrets_go_in_every_spelling() {
        for text in [
            "logged in with zebra \"Quartz\" 8812.",
            r#"{"said": "zebra \"Quartz\" 8812"}"#,
            "GET /?p=zebra%20%22Quartz%22%208812 HTTP/1.1",
        ] {
            let clean = cleaned(text);
            assert!(!clean.contains("Quartz") && clean.contains(REDACTED), "{clean}");
        }
        assert_eq!(
            cleaned("a cab is about"),
            "a cab is about",
            "too short to be told from words"
        );
    }

    #[test]
    fn what_stands_where_secrets_do_goes_too() {
        for (text, clean) in [
            (
                "https://ada:hush@dav.studio.example/x",
                "https://[redacted]@dav.studio.example/x",
            ),
            ("password=hush more", "password=[redacted] more"),
            ("\"admin-token\": \"hush\",", "\"admin-token\": \"[redacted]\","),
            (
                "[\"/opt/p.py\", \"--password\", \"hush\"]",
                "[\"/opt/p.py\", \"--password\", \"[redacted]\"]",
            ),
            ("--api-key=hush", "--api-key=[redacted]"),
            ("Authorization: Bearer hush", "Authorization: Bearer [redacted]"),
            ("access-key-id = 'hush'", "access-key-id = '[redacted]'"),
            (
                "a\n-----BEGIN OPENSSH PRIVATE KEY-----\nhush\n-----END OPENSSH PRIVATE KEY-----\nb",
                "a\n[redacted]\nb",
            ),
        ] {
            assert_eq!(cleaned(text), clean);
        }
    }

    #[test]
    fn references_and_talk_about_secrets_stay() {
        for text in [
            "sites.studio.password = \"env:STUDIO_PASSWORD\"",
            "api.admin-token = 'file:/etc/backlot/admin.token'",
            "logging in failed: password authentication is not offered",
            "\"token\": null",
            "https://dav.studio.example/projects@2x",
            "no certificate: -----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
        ] {
            assert_eq!(cleaned(text), text);
        }
    }
}
