//! Who is told what became of jobs, by real receivers: a mail server, a web server, a program.
//!
//! Owns: mails, webhooks, commands, and their bad days; the last published work file. Refuses to know: how files travel
//! (tests/writing). Invariant: a receiver counts every message that reaches it.

#[path = "../common/mod.rs"]
mod common;

mod bad_days;
mod commands;
mod hooks;
mod mail;
mod receivers;
mod workfiles;
