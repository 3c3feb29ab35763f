//! Telling by mail, through the studio's own server.
//!
//! Refuses to know what is told. Invariants: certificates are verified, always; a password goes over a ciphered way only;
//! no name of a file becomes a header.

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use backlot_config::{Notify, SmtpSecurity};
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::transport::smtp::{AsyncSmtpTransport, Error};
use lettre::{AsyncTransport, Tokio1Executor};
use secrecy::ExposeSecret;

use super::Try;
use super::facts::printable;
use super::text::Text;

/// How long nothing may come from the server before it is given up.
const SILENCE: Duration = Duration::from_secs(30);
/// Answers about who logs in: an account may be put right at the server, without telling us.
const LOGIN: std::ops::RangeInclusive<u16> = 530..=538;

/// A mail, and who sends it.
pub(super) struct Mail<'a> {
    pub(super) settings: &'a Notify,
    pub(super) to: &'a str,
    /// The message's own name.
    pub(super) id: &'a str,
    pub(super) text: Text,
}

impl Mail<'_> {
    pub(super) async fn tell(self) -> Try {
        let message = match self.message() {
            Ok(message) => message,
            Err(why) => return Try::failed_for_good(why),
        };
        let transport = match self.transport() {
            Ok(transport) => transport,
            Err(why) => return Try::failed(why),
        };
        match transport.send(message).await {
            Ok(_) => Try::Told,
            Err(e) => failed(&e),
        }
    }

    fn message(&self) -> Result<Message, String> {
        let from = mailbox(self.settings.from.as_deref().unwrap_or_default())?;
        let host = from.email.domain().to_owned();
        let built = Message::builder()
            .from(from)
            .to(mailbox(self.to)?)
            .subject(self.text.subject.clone())
            // The same at every try: a mailbox can tell that it has the mail already.
            .message_id(Some(format!("<{}.{}@{host}>", self.id, id_of(self.to))))
            .date_now()
            .header(ContentType::TEXT_PLAIN)
            .body(self.text.body.clone());
        let mut message = built.map_err(|e| format!("the mail can't be made: {e}"))?;
        // So that nobody's holiday answers it.
        let name = HeaderName::new_from_ascii_str("Auto-Submitted");
        message
            .headers_mut()
            .insert_raw(HeaderValue::new(name, "auto-generated".to_owned()));
        Ok(message)
    }

    fn transport(&self) -> Result<AsyncSmtpTransport<Tokio1Executor>, String> {
        let settings = self.settings;
        let host = settings.smtp_host.as_deref().unwrap_or_default();
        // The first one stays; ours is the only one there is.
        drop(rustls::crypto::ring::default_provider().install_default());
        let tls = match settings.smtp_security {
            SmtpSecurity::None => Tls::None,
            SmtpSecurity::Starttls => Tls::Required(parameters(host, settings.smtp_ca_file.as_deref())?),
            SmtpSecurity::Tls => Tls::Wrapper(parameters(host, settings.smtp_ca_file.as_deref())?),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
            .port(settings.port())
            .tls(tls)
            .timeout(Some(SILENCE));
        if let (Some(user), Some(password)) = (&settings.smtp_user, &settings.smtp_password) {
            let password = password.resolve().map_err(|e| format!("notify.smtp-password: {e}"))?;
            let credentials = Credentials::new(user.clone(), password.expose_secret().to_owned());
            builder = builder.credentials(credentials);
        }
        Ok(builder.build())
    }
}

/// Reads an address, perhaps with a name before it.
pub(super) fn mailbox(text: &str) -> Result<Mailbox, String> {
    text.parse()
        .map_err(|e| format!("`{}` is no mail address: {e}", printable(text)))
}

fn id_of(address: &str) -> String {
    blake3::hash(address.as_bytes()).to_hex()[..12].to_owned()
}

fn parameters(host: &str, ca_file: Option<&Path>) -> Result<TlsParameters, String> {
    let mut builder = TlsParameters::builder(host.to_owned());
    if let Some(file) = ca_file {
        let shown = file.display();
        let pem = std::fs::read(file).map_err(|e| format!("notify.smtp-ca-file: {shown} can't be read: {e}"))?;
        let certificate = Certificate::from_pem(&pem);
        let certificate = certificate.map_err(|e| format!("notify.smtp-ca-file: {shown}: {e}"))?;
        builder = builder.add_root_certificate(certificate);
    }
    builder
        .build()
        .map_err(|e| format!("no ciphered way can be made: {}", chain(&e)))
}

fn failed(error: &Error) -> Try {
    let why = chain(error);
    if error.is_permanent() {
        let code = error.status().map(u16::from);
        return if code.is_some_and(|code| LOGIN.contains(&code)) {
            Try::failed(why)
        } else {
            Try::failed_for_good(why)
        };
    }
    // What the server itself said, and what never got so far as to have it said.
    if error.is_transient() || error.is_tls() || error.is_client() || is_refused(error) {
        return Try::failed(why);
    }
    Try::lost(why)
}

/// Says whether there was no connection at all.
fn is_refused(error: &Error) -> bool {
    use std::io::ErrorKind as Io;
    let mut cause = error.source();
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<std::io::Error>() {
            return matches!(
                io.kind(),
                Io::ConnectionRefused | Io::HostUnreachable | Io::NetworkUnreachable
            );
        }
        cause = e.source();
    }
    false
}

fn chain(error: &Error) -> String {
    let mut said = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        let text = e.to_string();
        if !said.contains(&text) {
            said = format!("{said}: {text}");
        }
        cause = e.source();
    }
    printable(&said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mail<'a>(settings: &'a Notify, subject: &str) -> Mail<'a> {
        Mail {
            settings,
            to: "Kim <kim@studio.example>",
            id: "store.1.2",
            text: Text {
                subject: subject.to_owned(),
                body: "a.exr\n".to_owned(),
            },
        }
    }

    #[test]
    fn a_mail_has_one_id_however_often_it_is_made() {
        let settings = Notify {
            from: Some("Backlot <backlot@studio.example>".to_owned()),
            ..Notify::default()
        };
        let id = |subject: &str| {
            let made = mail(&settings, subject).message().unwrap().formatted();
            let text = String::from_utf8(made).unwrap();
            let line = text
                .lines()
                .find(|line| line.starts_with("Message-ID: "))
                .unwrap()
                .to_owned();
            assert!(text.contains("Auto-Submitted: auto-generated\r\n"), "{text}");
            line
        };
        assert_eq!(id("one"), id("another"));
        assert!(id("one").ends_with("@studio.example>"));
    }

    #[test]
    fn a_subject_adds_no_header() {
        let settings = Notify {
            from: Some("backlot@studio.example".to_owned()),
            ..Notify::default()
        };
        let made = mail(&settings, "a\r\nBcc: everybody@studio.example").message();
        let text = String::from_utf8(made.unwrap().formatted()).unwrap();
        assert!(!text.lines().any(|line| line.starts_with("Bcc:")), "{text}");
    }
}
