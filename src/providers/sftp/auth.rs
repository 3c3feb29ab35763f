//! Logging in at an SSH server: by agent, key file or password.
//!
//! Owns: the order of attempts and the texts of refusals. Refuses to know: what the connection is for. Invariant: a secret is
//! shown to the server alone, and is forgotten after the login; errors name keys by fingerprint and files by path.

use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use backlot_config::SecretRef;
use russh::client::{AuthResult, Handle, Handler, KeyboardInteractiveAuthResponse as Interactive};
use russh::keys::agent::{AgentIdentity, client::AgentClient};
use russh::keys::{Algorithm, HashAlg, PrivateKey, PrivateKeyWithHashAlg, PublicKey};
use russh::{MethodKind, MethodSet};
use secrecy::{ExposeSecret, SecretString};

use super::error::Closed;
use super::known_hosts::HostPort;
use crate::providers::ErrorKind;

/// Servers hang up after six attempts (OpenSSH's MaxAuthTries).
const AGENT_KEYS: usize = 6;

/// How to log in. Secrets are looked up at each login: they may have been renewed where they are kept.
#[derive(Clone, Debug)]
pub(super) enum Credentials {
    /// With any key of the agent at `$SSH_AUTH_SOCK`.
    Agent,
    /// With the key in a file.
    Key {
        file: PathBuf,
        passphrase: Option<SecretRef>,
    },
    /// With a password.
    Password(SecretRef),
}

impl Credentials {
    /// Makes sure that the secrets can be had.
    pub(super) fn check(&self) -> Result<(), Closed> {
        self.secret().map(drop)
    }

    fn secret(&self) -> Result<Option<SecretString>, Closed> {
        let reference = match self {
            Self::Agent => None,
            Self::Key { passphrase, .. } => passphrase.as_ref(),
            Self::Password(password) => Some(password),
        };
        let secret = reference.map(SecretRef::resolve).transpose();
        secret.map_err(|e| auth(e.to_string()))
    }

    /// Returns a number that is another once something else would be shown to the server: hashed by a key of this process.
    /// `None`: that can't be told, or not without asking somebody.
    pub(super) fn mark(&self, by: &RandomState) -> Option<u64> {
        let secret = self.secret().ok()?;
        let key = match self {
            Self::Agent => return None,
            Self::Key { file, .. } => std::fs::read(file).ok()?,
            Self::Password(_) => Vec::new(),
        };
        Some(by.hash_one((secret.as_ref().map(ExposeSecret::expose_secret), key)))
    }
}

fn auth(why: impl Into<String>) -> Closed {
    Closed::new(ErrorKind::Auth, why)
}

/// Logs in as `user`; the error says what was tried and what to look at.
pub(super) async fn log_in<H: Handler>(
    ssh: &mut Handle<H>,
    user: &str,
    host: &HostPort,
    credentials: &Credentials,
) -> Result<(), Closed> {
    let refused = |what: String, left: &MethodSet| {
        let mut why = format!("{host} did not let {user} in with {what}");
        let left: Vec<&str> = left.iter().map(Into::into).collect();
        if !left.is_empty() {
            // Writing to a String can't fail.
            let _ = write!(why, " (it would take: {})", left.join(", "));
        }
        Closed::refused(why)
    };
    let broke = |e: russh::Error| Closed::new(ErrorKind::Unreachable, format!("{host}, logging in: {e}"));
    let secret = credentials.secret()?;
    match credentials {
        Credentials::Password(_) => {
            let password = secret.as_ref().ok_or_else(|| auth("there is no password"))?;
            let left = match ssh
                .authenticate_password(user, password.expose_secret())
                .await
                .map_err(broke)?
            {
                AuthResult::Success => return Ok(()),
                AuthResult::Failure { remaining_methods, .. } => remaining_methods,
            };
            if hung_up(ssh, &left).await {
                return Err(broke(russh::Error::Disconnect));
            }
            // Servers that leave passwords to PAM ask for them as a question.
            if left.contains(&MethodKind::KeyboardInteractive)
                && answer_questions(ssh, user, password).await.map_err(broke)?
            {
                return Ok(());
            }
            Err(refused("the password; check `user` and `password`".to_owned(), &left))
        }
        Credentials::Key { file, .. } => {
            let key = load_key(file, secret.as_ref()).await?;
            let public = key.public_key().clone();
            let key = PrivateKeyWithHashAlg::new(Arc::new(key), hash_for(ssh, &public).await.map_err(broke)?);
            match ssh.authenticate_publickey(user, key).await.map_err(broke)? {
                AuthResult::Success => Ok(()),
                AuthResult::Failure { remaining_methods, .. } => {
                    if hung_up(ssh, &remaining_methods).await {
                        return Err(broke(russh::Error::Disconnect));
                    }
                    let shown = public.fingerprint(HashAlg::Sha256);
                    let what = format!(
                        "the key {} ({shown}); is it in that user's authorized_keys there?",
                        file.display()
                    );
                    Err(refused(what, &remaining_methods))
                }
            }
        }
        Credentials::Agent => {
            let mut agent = AgentClient::connect_env().await.map_err(|e| {
                auth(format!(
                    "no SSH agent: {e}; start one and `ssh-add` a key, or use `auth = \"key\"` with `key-file`"
                ))
            })?;
            let keys = agent
                .request_identities()
                .await
                .map_err(|e| auth(format!("the SSH agent does not answer: {e}")))?;
            let mut left = MethodSet::empty();
            let mut tried = 0;
            for identity in keys.iter().take(AGENT_KEYS) {
                let AgentIdentity::PublicKey { key, .. } = identity else {
                    continue;
                };
                tried += 1;
                let hash = hash_for(ssh, key).await.map_err(broke)?;
                match ssh
                    .authenticate_publickey_with(user, key.clone(), hash, &mut agent)
                    .await
                {
                    Ok(AuthResult::Success) => return Ok(()),
                    Ok(AuthResult::Failure { remaining_methods, .. }) => {
                        if hung_up(ssh, &remaining_methods).await {
                            if left.is_empty() {
                                return Err(broke(russh::Error::Disconnect));
                            }
                            // After a refusal it is the server's way of saying that these were too many keys.
                            break;
                        }
                        left = remaining_methods;
                    }
                    // The agent would not sign, its owner having said no for example: the next key may do.
                    Err(e) => tracing::debug!(%e, "the SSH agent did not sign"),
                }
            }
            if tried == 0 {
                return Err(auth(
                    "the SSH agent holds no key; run `ssh-add`, or use `auth = \"key\"` with `key-file`",
                ));
            }
            Err(refused(format!("any of {tried} keys of the SSH agent"), &left))
        }
    }
}

/// Says whether a refusal is none: russh reports a connection that ends meanwhile as one that names no other way in.
async fn hung_up<H: Handler>(ssh: &Handle<H>, left: &MethodSet) -> bool {
    // The connection's task ends a moment after the answer that it did not get.
    for _ in 0..10 {
        if !left.is_empty() || ssh.is_closed() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    left.is_empty() && ssh.is_closed()
}

async fn answer_questions<H: Handler>(
    ssh: &mut Handle<H>,
    user: &str,
    password: &SecretString,
) -> Result<bool, russh::Error> {
    let mut step = ssh.authenticate_keyboard_interactive_start(user, None).await?;
    // One question is the password; a second one (a code, say) is more than we can answer.
    let mut answered = false;
    loop {
        match step {
            Interactive::Success => return Ok(true),
            Interactive::Failure { .. } => return Ok(false),
            Interactive::InfoRequest { prompts, .. } => {
                if prompts.len() > 1 || (answered && !prompts.is_empty()) {
                    return Ok(false);
                }
                answered |= !prompts.is_empty();
                let answers = prompts.iter().map(|_| password.expose_secret().to_owned()).collect();
                step = ssh.authenticate_keyboard_interactive_respond(answers).await?;
            }
        }
    }
}

/// Returns the hash to sign with: RSA keys have a choice, which the server narrows.
async fn hash_for<H: Handler>(ssh: &Handle<H>, key: &PublicKey) -> Result<Option<HashAlg>, russh::Error> {
    if !matches!(key.algorithm(), Algorithm::Rsa { .. }) {
        return Ok(None);
    }
    Ok(ssh.best_supported_rsa_hash().await?.unwrap_or(Some(HashAlg::Sha512)))
}

/// Reads and deciphers a key. Takes its time on purpose where there is a passphrase, so it runs where it may block.
async fn load_key(file: &Path, passphrase: Option<&SecretString>) -> Result<PrivateKey, Closed> {
    let (path, passphrase) = (file.to_owned(), passphrase.cloned());
    let load = move || {
        let shown = path.display();
        let meta =
            std::fs::metadata(&path).map_err(|e| auth(format!("can't read the key {shown}: {e}; check `key-file`")))?;
        if meta.mode() & 0o077 != 0 {
            return Err(auth(format!(
                "the key {shown} can be read by others than its owner; run: chmod 600 {shown}"
            )));
        }
        let secret = passphrase.as_ref().map(ExposeSecret::expose_secret);
        russh::keys::load_secret_key(&path, secret).map_err(|e| match e {
            russh::keys::Error::KeyIsEncrypted => auth(format!(
                "the key {shown} has a passphrase; give it by reference in `passphrase`"
            )),
            russh::keys::Error::IO(e) => auth(format!("can't read the key {shown}: {e}; check `key-file`")),
            // What the parser says is about the key's text, so it is not repeated.
            _ if passphrase.is_some() => auth(format!("the key {shown} can't be deciphered; check `passphrase`")),
            _ => auth(format!(
                "{shown} is no private key in a form that is understood; is it the `.pub` half?"
            )),
        })
    };
    tokio::task::spawn_blocking(load)
        .await
        .unwrap_or_else(|e| Err(Closed::new(ErrorKind::Protocol, e.to_string())))
}
