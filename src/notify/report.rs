//! What the notifier tells about itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `GET /v1/notify`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NotifyReport {
    /// A job is told about once nothing of it has been under way for this long.
    pub quiet_seconds: f64,
    /// Who is told.
    pub receivers: Vec<ReceiverReport>,
    /// Messages that wait or are being handed over.
    pub waiting: u64,
    /// Messages that were given up and are still remembered.
    pub given_up: u64,
    /// The newest messages, the newest first.
    pub messages: Vec<MessageReport>,
}

/// Somebody who is told.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReceiverReport {
    /// Its name in the settings.
    pub name: String,
    /// How it is told, for people; without secrets.
    pub way: String,
    /// Of which projects; empty: all.
    pub projects: Vec<String>,
    /// Of what goes to which sites; empty: all.
    pub sites: Vec<String>,
    /// `all`, `success` or `failure`.
    pub on: String,
}

/// How a message stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MessageWord {
    /// It is to be handed over.
    Waiting,
    /// It is being handed over.
    Sending,
    /// It was.
    Told,
    /// It is not tried any more.
    GivenUp,
}

/// A message.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct MessageReport {
    /// Its number.
    pub id: u64,
    /// Who is told.
    pub receiver: String,
    /// Mail: the address; empty elsewhere.
    pub address: String,
    /// About which project.
    pub project: String,
    /// Which job.
    pub job: u64,
    /// Which of its rounds.
    pub round: u64,
    /// `done` or `failed`.
    pub outcome: String,
    /// How it stands.
    pub state: MessageWord,
    /// When it was made, milliseconds since 1970.
    pub made_ms: i64,
    /// Waiting: not before this; else: since when it is so. Milliseconds since 1970.
    pub at_ms: i64,
    /// Tries begun.
    pub tries: u32,
    /// Tries of which no answer came, so that the receiver may have it.
    pub lost: u32,
    /// What went wrong last.
    pub error: Option<String>,
}

/// What came of a test message.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TestReport {
    /// Who was told.
    pub receiver: String,
    /// How.
    pub way: String,
    /// The receiver took it.
    pub told: bool,
    /// Why not.
    pub why: Option<String>,
}
