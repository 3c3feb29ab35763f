//! Telling people what became of their jobs: by mail, webhooks and commands, from the outbox of the state store.
//!
//! Owns: when a round is told, to whom, when to try again. Refuses to know: how files travel, the drive. Invariants: a
//! round is told to a receiver once, but where the answer to a try was lost, and then the next try bears the same name; one
//! receiver that is slow or gone holds up no other; no secret is in an error, a report or the log.

mod command;
mod facts;
mod hook;
mod mail;
pub mod report;
mod text;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backlot_config::{Config, Notify, Occasion, Receiver};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::failpoint;
use crate::state::{Handed, Message, MessageState, NewMessage, Round, StateError, StateStore};
use facts::{Facts, Outcome, Teller};
use hook::Hook;
use mail::Mail;
use report::{MessageReport, MessageWord, NotifyReport, ReceiverReport, TestReport};
use text::Templates;

pub use text::TemplateError;

/// The wait after the first failed try; it doubles.
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// The longest wait between two tries.
const RETRY_MAX: Duration = Duration::from_secs(15 * 60);
/// The longest sleep: a clock that was set is noticed after this.
const SLEEP_MAX: Duration = Duration::from_secs(30);
/// Rounds that are closed in one write.
const ROUNDS: usize = 16;
/// How long messages are remembered that are done with.
const REMEMBERED: Duration = Duration::from_secs(14 * 24 * 3600);
/// Messages of one report.
const SHOWN: usize = 200;
/// How long a message that is being handed over may take when the daemon ends.
const GRACE: Duration = Duration::from_secs(2);
/// How long until a write to the store is tried again that says what became of a message.
const WRITE_AGAIN: Duration = Duration::from_secs(1);

/// Why nobody can be told.
#[derive(Debug, thiserror::Error)]
pub enum NotifyError {
    /// A template.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// A mail address.
    #[error("{key}: {why}")]
    Address {
        /// The setting's name.
        key: String,
        /// What is wrong.
        why: String,
    },
}

/// Asked for somebody who is not there.
#[derive(Debug, thiserror::Error)]
#[error("the settings name no receiver {0}")]
pub struct NoReceiver(pub String);

/// What came of a try to tell somebody.
#[derive(Debug)]
enum Try {
    Told,
    Failed {
        why: String,
        again: bool,
        /// No answer came: it may have arrived.
        lost: bool,
        /// What the receiver asked to wait.
        wait: Option<Duration>,
    },
}

impl Try {
    fn failed(why: impl Into<String>) -> Self {
        Self::Failed {
            why: why.into(),
            again: true,
            lost: false,
            wait: None,
        }
    }

    fn failed_for_good(why: impl Into<String>) -> Self {
        Self::Failed {
            why: why.into(),
            again: false,
            lost: false,
            wait: None,
        }
    }

    fn lost(why: impl Into<String>) -> Self {
        Self::Failed {
            why: why.into(),
            again: true,
            lost: true,
            wait: None,
        }
    }
}

/// Tells people. Made before the drive is opened, so that what is wrong with the settings is said at once.
#[derive(Debug)]
pub struct Notifier {
    settings: Notify,
    receivers: Vec<(String, Receiver)>,
    /// What a message's name begins with comes with the store.
    drive: String,
    machine: String,
    templates: Templates,
}

impl Notifier {
    /// Reads the templates and the addresses.
    ///
    /// # Errors
    /// When one of them is no good: said with file and line, or with the setting.
    pub fn new(config: &Config) -> Result<Self, NotifyError> {
        let machine = config.machine.name.clone().unwrap_or_else(host_name);
        let drive = config.drive.name.clone();
        let teller = Teller {
            drive: drive.clone(),
            machine: machine.clone(),
            store: String::new(),
        };
        let templates = Templates::read(&config.notify, &teller)?;
        let mut addresses: Vec<(String, &String)> = Vec::new();
        addresses.extend(config.notify.from.iter().map(|from| ("notify.from".to_owned(), from)));
        for (name, receiver) in &config.receivers {
            let key = format!("receivers.{name}.mail");
            addresses.extend(receiver.mail.iter().map(|address| (key.clone(), address)));
        }
        for (key, address) in addresses {
            mail::mailbox(address).map_err(|why| NotifyError::Address { key, why })?;
        }
        Ok(Self {
            settings: config.notify.clone(),
            receivers: config.receivers.clone().into_iter().collect(),
            drive,
            machine,
            templates,
        })
    }

    /// Begins to tell what the store's outbox holds.
    pub fn start(self, store: StateStore) -> Arc<Running> {
        let teller = Teller {
            drive: self.drive.clone(),
            machine: self.machine.clone(),
            store: store.uuid().to_string(),
        };
        let running = Arc::new(Running {
            notifier: self,
            teller,
            store,
            bell: watch::Sender::new(()),
            stop: CancellationToken::new(),
            lanes: Mutex::default(),
        });
        let begun = Arc::clone(&running);
        let first = tokio::spawn(async move { begun.run().await });
        running.lanes.lock().unwrap_or_else(PoisonError::into_inner).push(first);
        running
    }
}

/// A notifier at work.
#[derive(Debug)]
pub struct Running {
    notifier: Notifier,
    teller: Teller,
    store: StateStore,
    /// Rung when there may be a message.
    bell: watch::Sender<()>,
    stop: CancellationToken,
    lanes: Mutex<Vec<JoinHandle<()>>>,
}

impl Running {
    async fn run(self: &Arc<Self>) {
        let names: Vec<String> = self.receivers().map(|(name, _)| name.clone()).collect();
        let (now, forget) = (now_ms(), now_ms().saturating_sub(as_ms(REMEMBERED)));
        let left = self.store.write(move |txn| {
            txn.messages_left(&names, now)?;
            txn.forget_messages(forget)
        });
        if let Err(e) = left.await {
            warn!(error = %e, "what was still to be told is not known; it is looked at again at the next start");
        }
        let lanes: Vec<_> = (0..self.notifier.receivers.len())
            .map(|at| {
                let running = Arc::clone(self);
                tokio::spawn(async move { running.lane(at).await })
            })
            .collect();
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner).extend(lanes);
        let quiet: Duration = self.notifier.settings.quiet.into();
        let tick = (quiet / 4).clamp(Duration::from_millis(100), Duration::from_secs(1));
        while self.stop.run_until_cancelled(tokio::time::sleep(tick)).await.is_some() {
            if let Err(e) = self.close_rounds(now_ms().saturating_sub(as_ms(quiet))).await {
                warn!(error = %e, "what became of a job can't be told yet; it is tried again");
                self.pause(SLEEP_MAX).await;
            }
        }
    }

    /// Ends it: what is being handed over has a moment to arrive.
    pub async fn stop(&self) {
        self.stop.cancel();
        let lanes = std::mem::take(&mut *self.lanes.lock().unwrap_or_else(PoisonError::into_inner));
        let ended = futures::future::join_all(lanes);
        if tokio::time::timeout(GRACE * 2, ended).await.is_err() {
            warn!(
                "a message was being handed over; whether it arrived is not known, and it is sent again at the next start"
            );
        }
    }

    fn receivers(&self) -> impl Iterator<Item = &(String, Receiver)> {
        self.notifier.receivers.iter()
    }

    /// Makes messages of the rounds that ended before a moment.
    async fn close_rounds(self: &Arc<Self>, before_ms: i64) -> Result<(), StateError> {
        let jobs = self.store.read(|txn| txn.rounds_over(before_ms, ROUNDS))?;
        if jobs.is_empty() {
            return Ok(());
        }
        let running = Arc::clone(self);
        let posted = self
            .store
            .write_durable(move |txn| {
                let mut posted = 0;
                for job in jobs {
                    // It may have gone on meanwhile.
                    let Some(round) = txn.round(job)?.filter(|round| round.ended_ms <= before_ms) else {
                        continue;
                    };
                    for message in running.messages_of(round)? {
                        posted += u64::from(txn.post(&message, now_ms())?);
                    }
                    txn.round_told(job)?;
                }
                txn.forget_messages(now_ms().saturating_sub(as_ms(REMEMBERED)))?;
                Ok(posted)
            })
            .await?;
        failpoint::hit("notify.posted");
        if posted > 0 {
            self.bell.send_replace(());
        }
        Ok(())
    }

    fn messages_of(&self, round: Round) -> Result<Vec<NewMessage>, StateError> {
        if round.is_nothing() {
            return Ok(Vec::new());
        }
        let (job, number) = (round.job.id, round.number);
        let facts = Facts::of(round, &self.teller);
        let json = serde_json::to_string(&facts).map_err(|e| StateError::Invalid(format!("a message: {e}")))?;
        let mut messages = Vec::new();
        for (name, receiver) in self.receivers().filter(|(_, receiver)| wants(receiver, &facts)) {
            for address in addresses(receiver) {
                messages.push(NewMessage {
                    job,
                    round: number,
                    receiver: name.clone(),
                    address: address.to_owned(),
                    facts: json.clone(),
                });
            }
        }
        info!(
            project = facts.project,
            job = facts.job,
            round = facts.round,
            files = facts.files,
            failed = facts.failed,
            messages = messages.len(),
            "a job's round is over"
        );
        Ok(messages)
    }

    /// Hands over one receiver's messages, one after the other.
    async fn lane(self: Arc<Self>, at: usize) {
        let Some((name, _)) = self.notifier.receivers.get(at) else {
            return;
        };
        let mut bell = self.bell.subscribe();
        while !self.stop.is_cancelled() {
            let wait = match self.store.read(|txn| txn.message_due(name, now_ms())) {
                Ok(Some(message)) => {
                    self.hand_over(at, message).await;
                    continue;
                }
                Ok(None) => self.until_next(name),
                Err(e) => {
                    warn!(receiver = name, error = %e, "the outbox can't be read");
                    SLEEP_MAX
                }
            };
            tokio::select! {
                () = self.stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
                _ = bell.changed() => {}
            }
        }
    }

    fn until_next(&self, receiver: &str) -> Duration {
        let next = self.store.read(|txn| txn.next_message(receiver)).ok().flatten();
        let wait = next.map(|due| due.saturating_sub(now_ms()));
        let wait = wait.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or_default()));
        wait.unwrap_or(SLEEP_MAX).min(SLEEP_MAX)
    }

    async fn hand_over(&self, at: usize, message: Message) {
        let Some((name, receiver)) = self.notifier.receivers.get(at) else {
            return;
        };
        let id = message.id;
        // On the disk before anybody hears of it: whoever comes after a crash knows that it may have arrived.
        match self
            .store
            .write_durable(move |txn| txn.message_begun(id, now_ms()))
            .await
        {
            Ok(true) => {}
            Ok(false) => return,
            Err(e) => {
                warn!(receiver = name, error = %e, "a message waits: the store can't be written");
                self.pause(SLEEP_MAX).await;
                return;
            }
        }
        failpoint::hit("notify.begun");
        let attempt = message.tries.saturating_add(1);
        let tried = match serde_json::from_str::<Facts>(&message.of.facts) {
            Ok(facts) => {
                let told = Box::pin(self.tell(receiver, &message.of.address, &facts, attempt));
                tokio::select! {
                    tried = told => tried,
                    () = self.grace_is_over() => Try::lost("the daemon ended before the answer came"),
                }
            }
            Err(e) => Try::failed_for_good(format!("what was to be told can't be read: {e}")),
        };
        failpoint::hit("notify.sent");
        let handed = self.judged(tried, &message, attempt);
        match &handed {
            Handed::Over => debug!(receiver = name, message = id, "told"),
            Handed::Not {
                why, again_ms: Some(_), ..
            } => {
                warn!(
                    receiver = name,
                    message = id,
                    why,
                    "could not be told; it is tried again"
                );
            }
            Handed::Not {
                why, again_ms: None, ..
            } => {
                warn!(
                    receiver = name,
                    message = id,
                    why,
                    "could not be told and is given up; `backlot notify ls` shows it"
                );
            }
        }
        loop {
            let written = handed.clone();
            match self
                .store
                .write_durable(move |txn| txn.message_ended(id, &written, now_ms()))
                .await
            {
                Ok(()) => return,
                Err(e) if self.stop.is_cancelled() => {
                    return warn!(receiver = name, error = %e, "that a message was sent is not written down");
                }
                Err(e) => warn!(receiver = name, error = %e, "what became of a message can't be written down yet"),
            }
            self.pause(WRITE_AGAIN).await;
        }
    }

    /// Sleeps, unless the daemon ends.
    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = tokio::time::sleep(time) => {}
            () = self.stop.cancelled() => {}
        }
    }

    async fn grace_is_over(&self) {
        self.stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    }

    fn judged(&self, tried: Try, message: &Message, attempt: u32) -> Handed {
        match tried {
            Try::Told => Handed::Over,
            Try::Failed { why, again, lost, wait } => {
                let now = now_ms();
                let give_up: Duration = self.notifier.settings.give_up.into();
                let age = now.saturating_sub(message.made_ms);
                let wait = backoff(attempt).max(wait.unwrap_or_default().min(RETRY_MAX));
                let again = again && age < as_ms(give_up);
                Handed::Not {
                    why,
                    again_ms: again.then(|| now.saturating_add(as_ms(wait))),
                    lost,
                }
            }
        }
    }

    async fn tell(&self, receiver: &Receiver, address: &str, facts: &Facts, attempt: u32) -> Try {
        let limit: Duration = receiver.timeout.into();
        if !receiver.mail.is_empty() {
            let text = match self.notifier.templates.fill(facts) {
                Ok(text) => text,
                Err(e) => return Try::failed_for_good(e.to_string()),
            };
            let mail = Mail {
                settings: &self.notifier.settings,
                to: address,
                id: &facts.id,
                text,
            };
            let told = tokio::time::timeout(limit, mail.tell()).await;
            return told.unwrap_or_else(|_| Try::lost(format!("the mail server did not answer within {limit:?}")));
        }
        let json = match serde_json::to_vec(facts) {
            Ok(json) => json,
            Err(e) => return Try::failed_for_good(format!("the message can't be made: {e}")),
        };
        if !receiver.command.is_empty() {
            return command::tell(&receiver.command, json, limit, attempt).await;
        }
        let hidden = match &receiver.webhook_from {
            Some(from) => match from.resolve() {
                Ok(url) => Some(url),
                Err(e) => return Try::failed(format!("webhook-from: {e}")),
            },
            None => None,
        };
        let secret = match receiver
            .secret
            .as_ref()
            .map(backlot_config::SecretRef::resolve)
            .transpose()
        {
            Ok(secret) => secret,
            Err(e) => return Try::failed(format!("secret: {e}")),
        };
        let shown = receiver.webhook.as_deref().unwrap_or_default();
        let hook = Hook {
            url: hidden
                .as_ref()
                .map_or(shown, |url| secrecy::ExposeSecret::expose_secret(url)),
            secret: secret.as_ref(),
            limit,
        };
        let told = tokio::time::timeout(limit, hook.tell(facts, json, attempt)).await;
        told.unwrap_or_else(|_| Try::lost(format!("no answer came within {limit:?}")))
    }

    /// Sends a test message to each receiver, or to one, past the outbox; returns what came of it.
    ///
    /// # Errors
    /// When there is no such receiver.
    pub async fn test(&self, only: Option<&str>) -> Result<Vec<TestReport>, NoReceiver> {
        let facts = Facts::sample(&self.teller, Outcome::Done);
        let chosen: Vec<_> = self
            .receivers()
            .filter(|(name, _)| only.is_none_or(|only| only == name))
            .collect();
        if let (Some(only), true) = (only, chosen.is_empty()) {
            return Err(NoReceiver(only.to_owned()));
        }
        let mut tests = Vec::new();
        for (name, receiver) in chosen {
            for address in addresses(receiver) {
                let facts = &facts;
                tests.push(async move {
                    let why = match Box::pin(self.tell(receiver, address, facts, 1)).await {
                        Try::Told => None,
                        Try::Failed { why, .. } => Some(why),
                    };
                    TestReport {
                        receiver: name.clone(),
                        way: way(receiver, address),
                        told: why.is_none(),
                        why,
                    }
                });
            }
        }
        Ok(futures::future::join_all(tests).await)
    }

    /// Makes messages due now that wait or were given up: one, or all; returns how many.
    ///
    /// # Errors
    /// When the store can't be written.
    pub async fn retry(&self, id: Option<u64>) -> Result<u64, StateError> {
        let made_due = self
            .store
            .write_durable(move |txn| txn.retry_messages(id, now_ms()))
            .await?;
        self.bell.send_replace(());
        Ok(made_due as u64)
    }

    /// Returns who is told, and how messages stand.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn report(&self) -> Result<NotifyReport, StateError> {
        let (messages, (waiting, given_up)) = self
            .store
            .read(|txn| Ok((txn.messages(SHOWN)?, txn.message_counts()?)))?;
        let receiver = |(name, receiver): &(String, Receiver)| ReceiverReport {
            name: name.clone(),
            way: way(receiver, &receiver.mail.join(", ")),
            projects: receiver.projects.clone(),
            sites: receiver.sites.clone(),
            on: match receiver.on {
                Occasion::All => "all",
                Occasion::Success => "success",
                Occasion::Failure => "failure",
            }
            .to_owned(),
        };
        let quiet: Duration = self.notifier.settings.quiet.into();
        Ok(NotifyReport {
            quiet_seconds: quiet.as_secs_f64(),
            receivers: self.receivers().map(receiver).collect(),
            waiting,
            given_up,
            messages: messages.into_iter().map(shown).collect(),
        })
    }
}

fn shown(message: Message) -> MessageReport {
    let facts = serde_json::from_str::<Facts>(&message.of.facts).ok();
    let outcome = match facts.as_ref().map(|facts| facts.outcome) {
        Some(Outcome::Done) => "done",
        Some(Outcome::Failed) => "failed",
        None => "unknown",
    };
    MessageReport {
        id: message.id,
        receiver: message.of.receiver,
        address: message.of.address,
        project: facts.map(|facts| facts.project).unwrap_or_default(),
        job: message.of.job.0,
        round: message.of.round,
        outcome: outcome.to_owned(),
        state: match message.state {
            MessageState::Waiting => MessageWord::Waiting,
            MessageState::Sending => MessageWord::Sending,
            MessageState::Told => MessageWord::Told,
            MessageState::GivenUp => MessageWord::GivenUp,
        },
        made_ms: message.made_ms,
        at_ms: message.due_ms,
        tries: message.tries,
        lost: message.lost,
        error: message.error,
    }
}

/// Says whether a receiver is to be told something.
fn wants(receiver: &Receiver, facts: &Facts) -> bool {
    let among = |names: &[String], name: &String| names.is_empty() || names.contains(name);
    let is_occasion = match receiver.on {
        Occasion::All => true,
        Occasion::Success => facts.outcome == Outcome::Done,
        Occasion::Failure => facts.outcome == Outcome::Failed,
    };
    is_occasion && among(&receiver.projects, &facts.project) && among(&receiver.sites, &facts.target)
}

/// One message is made for each of these.
fn addresses(receiver: &Receiver) -> Vec<&str> {
    if receiver.mail.is_empty() {
        return vec![""];
    }
    receiver.mail.iter().map(String::as_str).collect()
}

/// How a receiver is told, for people. Of a webhook only the host: the rest may be a secret.
fn way(receiver: &Receiver, address: &str) -> String {
    if let Some(program) = receiver.command.first() {
        return format!("command {program}");
    }
    if let Some(from) = &receiver.webhook_from {
        return format!("webhook at the address in {from}");
    }
    match receiver
        .webhook
        .as_deref()
        .and_then(|url| reqwest::Url::parse(url).ok())
    {
        Some(url) => format!("webhook at {}", url.host_str().unwrap_or("an unknown host")),
        None => format!("mail to {address}"),
    }
}

/// The wait after so many tries.
fn backoff(tries: u32) -> Duration {
    RETRY_FIRST
        .saturating_mul(1 << tries.saturating_sub(1).min(20))
        .min(RETRY_MAX)
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

fn as_ms(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
