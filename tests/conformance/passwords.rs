//! Logging in by password, at a server made for it: no test may give a user of this machine a password.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backlot::providers::sftp::SftpSite;
use backlot::providers::{ErrorKind, Provider, ProviderError};
use backlot_config::{HostKey, SecretRef, SftpAuth, SftpSite as Settings};
use russh::keys::ssh_key::private::Ed25519Keypair;
use russh::server::{Auth, ChannelOpenHandle, Config, Handler, Msg, Response, Session, run_stream};
use russh::{Channel, ChannelId, MethodKind, MethodSet};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::runtime;

/// What the server wants to hear.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wants {
    /// The password.
    Password,
    /// The answer to a question, as servers do that leave it to PAM.
    OneAnswer,
    /// The password, and a code.
    TwoAnswers,
}

const PASSWORD: &str = "open sesame";

struct Server {
    wants: Wants,
    greeted: bool,
}

fn ask(prompts: &'static [&'static str]) -> Auth {
    let prompts = prompts.iter().map(|p| ((*p).into(), false)).collect();
    Auth::Partial {
        name: "".into(),
        instructions: "".into(),
        prompts,
    }
}

impl Handler for Server {
    type Error = russh::Error;

    async fn auth_password(&mut self, _: &str, password: &str) -> Result<Auth, russh::Error> {
        if self.wants == Wants::Password {
            return Ok(if password == PASSWORD {
                Auth::Accept
            } else {
                Auth::reject()
            });
        }
        let left = MethodSet::from(&[MethodKind::KeyboardInteractive][..]);
        Ok(Auth::Reject {
            proceed_with_methods: Some(left),
            partial_success: false,
        })
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _: &str,
        _: &str,
        answers: Option<Response<'a>>,
    ) -> Result<Auth, russh::Error> {
        let Some(answers) = answers else {
            return Ok(match self.wants {
                Wants::Password => Auth::reject(),
                Wants::OneAnswer => ask(&["Password: "]),
                Wants::TwoAnswers => ask(&["Password: ", "Code: "]),
            });
        };
        let right = answers.map(|a| a.to_vec()).eq([PASSWORD.as_bytes().to_vec()]);
        Ok(if right { Auth::Accept } else { Auth::reject() })
    }

    async fn channel_open_session(
        &mut self,
        _: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut Session,
    ) -> Result<(), russh::Error> {
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        channel: ChannelId,
        _: &str,
        session: &mut Session,
    ) -> Result<(), russh::Error> {
        session.channel_success(channel)
    }

    /// Greets, and says of every path that it is a folder: enough for a probe.
    async fn data(&mut self, channel: ChannelId, packet: &[u8], session: &mut Session) -> Result<(), russh::Error> {
        let reply = if std::mem::replace(&mut self.greeted, true) {
            let id = &packet[5..9];
            [
                &[0, 0, 0, 13, 105],
                id,
                &4u32.to_be_bytes(),
                &0o040_755u32.to_be_bytes(),
            ]
            .concat()
        } else {
            vec![0, 0, 0, 5, 2, 0, 0, 0, 3]
        };
        session.data(channel, reply)
    }
}

/// Starts a server for so many connections, and returns the settings of a site there with such a password.
async fn serve(wants: Wants, connections: usize, password: &str, dir: &Path) -> (JoinHandle<()>, Settings) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let config = Arc::new(Config {
        keys: vec![Ed25519Keypair::from_seed(&[7; 32]).into()],
        auth_rejection_time: Duration::ZERO,
        ..Config::default()
    });
    let serving = tokio::spawn(async move {
        for _ in 0..connections {
            let (stream, _) = listener.accept().await.unwrap();
            let server = Server { wants, greeted: false };
            let session = run_stream(Arc::clone(&config), stream, server).await.unwrap();
            // However the session ends: what counts is what the client made of it.
            drop(session.await);
        }
    });
    let secret = dir.join("secret");
    std::fs::write(&secret, password).unwrap();
    std::fs::set_permissions(&secret, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let settings = Settings {
        host: "127.0.0.1".into(),
        port,
        user: "artist".into(),
        root: "/projects".into(),
        auth: SftpAuth::Password,
        password: Some(SecretRef::File(secret)),
        known_hosts: dir.join("known_hosts"),
        host_key: HostKey::AcceptNew,
        ..Settings::default()
    };
    (serving, settings)
}

/// Starts a server and logs in there; returns what came of it.
async fn log_in(wants: Wants, password: &str, dir: &Path) -> Result<(), ProviderError> {
    let (serving, settings) = serve(wants, 1, password, dir).await;
    let outcome = SftpSite::new(&settings, None, Duration::from_secs(10))
        .unwrap()
        .probe()
        .await;
    serving.await.unwrap();
    outcome
}

#[test]
fn a_password_is_given_in_the_form_that_the_server_wants() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        for wants in [Wants::Password, Wants::OneAnswer] {
            log_in(wants, PASSWORD, dir.path()).await.unwrap();
            let error = log_in(wants, "hunter2", dir.path()).await.unwrap_err();
            assert_eq!(error.kind, ErrorKind::Auth, "{error}");
            assert!(
                error.to_string().contains("artist") && !error.to_string().contains("hunter2"),
                "{error}"
            );
        }
        // More than a password is more than we have: that is said, and does not hang.
        let error = log_in(Wants::TwoAnswers, PASSWORD, dir.path()).await.unwrap_err();
        assert_eq!(error.kind, ErrorKind::Auth, "{error}");
    });
}

#[test]
fn a_password_that_was_put_right_is_used_at_once() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let (serving, settings) = serve(Wants::Password, 2, "of last year", dir.path()).await;
        let site = SftpSite::new(&settings, None, Duration::from_secs(10)).unwrap();
        for _ in 0..3 {
            // The server hears of it once: it locks out those who insist.
            assert_eq!(site.probe().await.unwrap_err().kind, ErrorKind::Auth);
        }
        std::fs::write(dir.path().join("secret"), PASSWORD).unwrap();
        site.probe().await.unwrap();
        drop(site);
        serving.await.unwrap();
    });
}
