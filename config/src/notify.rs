//! `[notify]` and `[receivers.NAME]`: who is told what became of a job, how, and in which words.
//!
//! Owns the model and the checks of both. Refuses to know how a message travels, and what a template may say.
//! Invariant: no setting here holds a secret; an address of a webhook that is one is given by reference.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::schema::{Config, lossy_option};
use crate::secret_ref::SecretRef;
use crate::units::Period;
use crate::validate::Checker;

/// `[notify]`: when people are told, the mail server, and the templates of the text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Notify {
    /// A job is told about once nothing of it has been under way for this long, at most 1 hour: what an artist publishes one
    /// after the other is one message.
    pub quiet: Period,
    /// How long a message that can't be handed over is tried again, 1 minute to 30 days; after that it is given up.
    pub give_up: Period,
    /// Template of a mail's subject, a file. Default: one that is built in.
    #[serde(serialize_with = "lossy_option", skip_serializing_if = "Option::is_none")]
    pub subject: Option<PathBuf>,
    /// Template of a mail's text, a file. Default: one that is built in.
    #[serde(serialize_with = "lossy_option", skip_serializing_if = "Option::is_none")]
    pub body: Option<PathBuf>,
    /// Sender of mails, as in `Backlot <backlot@studio.example>`. Required for mails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// Name or address of the mail server. Required for mails.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smtp_host: Option<String>,
    /// Its TCP port. Default: 587 with `starttls`, 465 with `tls`, 25 with `none`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smtp_port: Option<u16>,
    /// How the way to it is ciphered: `starttls`, `tls` from the first byte, or `none`.
    pub smtp_security: SmtpSecurity,
    /// User to log in as. Default: nobody logs in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smtp_user: Option<String>,
    /// That user's password, by reference: `env:NAME` or `file:/path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smtp_password: Option<SecretRef>,
    /// Certificates, in PEM, to trust besides the system's.
    #[serde(serialize_with = "lossy_option", skip_serializing_if = "Option::is_none")]
    pub smtp_ca_file: Option<PathBuf>,
}

impl Default for Notify {
    fn default() -> Self {
        Self {
            quiet: Period::from_secs(30),
            give_up: Period::from_secs(3 * 24 * 3600),
            subject: None,
            body: None,
            from: None,
            smtp_host: None,
            smtp_port: None,
            smtp_security: SmtpSecurity::Starttls,
            smtp_user: None,
            smtp_password: None,
            smtp_ca_file: None,
        }
    }
}

impl Notify {
    /// Returns the mail server's port: the one configured, or what is usual.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.smtp_port.unwrap_or(match self.smtp_security {
            SmtpSecurity::Starttls => 587,
            SmtpSecurity::Tls => 465,
            SmtpSecurity::None => 25,
        })
    }
}

/// How the way to the mail server is ciphered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SmtpSecurity {
    /// After a word in the clear, and not without.
    Starttls,
    /// From the first byte.
    Tls,
    /// Not at all: for a relay on this machine, or in a network of one's own.
    None,
}

/// `[receivers.NAME]`: somebody who is told; one of `mail`, `webhook`, `webhook-from` and `command` says how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Receiver {
    /// Addresses that get a mail each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mail: Vec<String>,
    /// Address that JSON is posted to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook: Option<String>,
    /// Where such an address is to be found that is a secret itself: `env:NAME` or `file:/path`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub webhook_from: Option<SecretRef>,
    /// Secret that what is posted is signed with, by reference: `env:NAME` or `file:/path`. Default: it is not signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretRef>,
    /// Program, and its arguments as they are, that is run with JSON at its standard input: no shell reads them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// How long a try may take, 1 second to 10 minutes.
    pub timeout: Period,
    /// Projects that it is told about. Default: all.
    pub projects: Vec<String>,
    /// Sites: it is told about what goes to these. Default: all.
    pub sites: Vec<String>,
    /// What it is told about: `all`, `failure` (something failed, or both versions of a file were kept) or `success` (nothing
    /// did).
    pub on: Occasion,
}

impl Default for Receiver {
    fn default() -> Self {
        Self {
            mail: Vec::new(),
            webhook: None,
            webhook_from: None,
            secret: None,
            command: Vec::new(),
            timeout: Period::from_secs(30),
            projects: Vec::new(),
            sites: Vec::new(),
            on: Occasion::All,
        }
    }
}

/// What somebody is told about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Occasion {
    /// Everything.
    All,
    /// What went right.
    Success,
    /// What did not.
    Failure,
}

pub(crate) fn check(checker: &mut Checker<'_>, config: &Config) {
    let notify = &config.notify;
    let key = |last| ["notify", last];
    let second = Period::from_secs(1);
    checker.within(&key("quiet"), notify.quiet, Period::default(), Period::from_secs(3600));
    let (shortest, longest) = (Period::from_secs(60), Period::from_secs(30 * 24 * 3600));
    checker.within(&key("give-up"), notify.give_up, shortest, longest);
    for (last, path) in [
        ("subject", &notify.subject),
        ("body", &notify.body),
        ("smtp-ca-file", &notify.smtp_ca_file),
    ] {
        if let Some(path) = path {
            checker.absolute(&key(last), path);
        }
    }
    if notify.from.as_deref().is_some_and(|from| !is_mail_address(from)) {
        let hint = "write it as in `Backlot <backlot@studio.example>`".to_owned();
        checker.error(&key("from"), "is no mail address", hint);
    }
    if let Some(host) = &notify.smtp_host
        && (host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/' || c == '@' || c.is_control()))
    {
        // Not repeated: what is before the `@` may hold a password.
        let hint = "write the name or address alone; `smtp-port` and `smtp-user` have keys of their own".to_owned();
        checker.error(&key("smtp-host"), "is not a host name or address", hint);
    }
    if notify.smtp_port == Some(0) {
        checker.within(&key("smtp-port"), 0, 1, u16::MAX);
    }
    match (&notify.smtp_user, &notify.smtp_password) {
        (Some(_), None) => checker.error(&key("smtp-password"), "is missing, and there is a user", None),
        (None, Some(_)) => checker.error(&key("smtp-user"), "is missing, and there is a password", None),
        (Some(_), Some(_)) if notify.smtp_security == SmtpSecurity::None && !is_here(notify.smtp_host.as_deref()) => {
            let hint = "use `starttls` or `tls`".to_owned();
            checker.error(&key("smtp-security"), "would show the password to the network", hint);
        }
        _ => {}
    }
    secret_path(checker, &key("smtp-password"), notify.smtp_password.as_ref());
    for (name, receiver) in &config.receivers {
        checker.name(&["receivers", name], name);
        receiver_is_right(checker, config, name, receiver, second);
    }
}

fn receiver_is_right(checker: &mut Checker<'_>, config: &Config, name: &str, receiver: &Receiver, second: Period) {
    let key = |last| ["receivers", name, last];
    let ways = [
        !receiver.mail.is_empty(),
        receiver.webhook.is_some(),
        receiver.webhook_from.is_some(),
        !receiver.command.is_empty(),
    ];
    match ways.iter().filter(|way| **way).count() {
        1 => {}
        0 => {
            let hint = "write one of mail, webhook, webhook-from and command".to_owned();
            checker.error(&["receivers", name], "says not how it is told", hint);
        }
        _ => {
            let hint = "give each a section of its own".to_owned();
            let problem = "has more than one of mail, webhook, webhook-from and command";
            checker.error(&["receivers", name], problem, hint);
        }
    }
    if !receiver.mail.is_empty() {
        if let Some(bad) = receiver.mail.iter().find(|address| !is_mail_address(address)) {
            checker.error(&key("mail"), format!("`{bad}` is no mail address"), None);
        }
        for (last, missing) in [
            ("smtp-host", config.notify.smtp_host.is_none()),
            ("from", config.notify.from.is_none()),
        ] {
            if missing {
                checker.error(
                    &["notify", last],
                    format!("is missing, and receivers.{name} gets mail"),
                    None,
                );
            }
        }
    }
    if let Some(url) = &receiver.webhook {
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let host = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
        match host {
            None | Some("") => {
                let hint = "begin it with `https://` and a host".to_owned();
                checker.error(&key("webhook"), "is no address of the web", hint);
            }
            Some(host) if host.contains('@') => {
                let hint = "write the whole address to a file, and point to that with webhook-from".to_owned();
                checker.error(&key("webhook"), "holds a password", hint);
            }
            Some(_) => {}
        }
    }
    if receiver.secret.is_some() && receiver.webhook.is_none() && receiver.webhook_from.is_none() {
        checker.error(
            &key("secret"),
            "signs what is posted to a webhook, and there is none",
            None,
        );
    }
    match receiver.command.first() {
        Some(program) if program.is_empty() => checker.error(&key("command"), "names no program", None),
        Some(_) if receiver.command.iter().any(|arg| arg.contains('\0')) => {
            checker.error(&key("command"), "holds a NUL byte", None);
        }
        Some(_) | None => {}
    }
    secret_path(checker, &key("secret"), receiver.secret.as_ref());
    secret_path(checker, &key("webhook-from"), receiver.webhook_from.as_ref());
    checker.within(&key("timeout"), receiver.timeout, second, Period::from_secs(600));
    for (last, names, known) in [
        (
            "projects",
            &receiver.projects,
            config.projects.keys().collect::<Vec<_>>(),
        ),
        ("sites", &receiver.sites, config.sites.keys().collect()),
    ] {
        if let Some(unknown) = names.iter().find(|name| !known.contains(name)) {
            let section = format!("there is no section [{last}.{unknown}]");
            checker.error(&key(last), section, None);
        }
    }
}

fn secret_path(checker: &mut Checker<'_>, key: &[&str], secret: Option<&SecretRef>) {
    if let Some(SecretRef::File(path)) = secret {
        checker.absolute(key, path);
    }
}

/// Says whether a text may be an address, perhaps with a name before it: the rest is for who sends the mail.
fn is_mail_address(text: &str) -> bool {
    let address = match text.split_once('<') {
        Some((_, rest)) => rest.trim_end().strip_suffix('>').unwrap_or_default(),
        None => text.trim(),
    };
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | ',' | ';');
    let parts = address.rsplit_once('@');
    parts.is_some_and(|(user, host)| !user.is_empty() && !host.is_empty())
        && !address.contains(odd)
        && !text.contains(char::is_control)
}

fn is_here(host: Option<&str>) -> bool {
    matches!(host, Some("localhost" | "127.0.0.1" | "::1"))
}
