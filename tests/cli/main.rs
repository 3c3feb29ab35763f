//! The command line as a user meets it: what it says, how it fails, and with which exit code.
//!
//! Owns: help, settings, error texts, exit codes, `doctor`, `demo --check`. Refuses to know: what file operations mean
//! (tests/mount). Invariant: no secret that a test uses appears in anything the program says.

#[path = "../common/mod.rs"]
mod common;

mod completing;
mod conflicts;
mod demo;
mod doctor;
mod help;
mod helper;
mod home;
mod listing;
mod logging;
mod mounting;
mod path;
mod publishing;
mod recovering;
mod scanning;
mod secrets;
mod service;
mod settings;
mod sites;
mod steering;
mod store;
mod support;
mod top;
