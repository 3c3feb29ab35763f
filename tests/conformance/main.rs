//! One suite over every kind of site, chosen by what each says it can do; and what SFTP sites do when servers misbehave.
#![expect(clippy::unwrap_used, reason = "a test that can't go on fails by panicking")]

#[path = "../common/certificate.rs"]
mod certificate;
mod dav;
mod drive;
mod exec;
#[path = "../common/gdrive/mod.rs"]
mod gdrive;
mod looking;
mod objects;
mod passwords;
mod reading;
mod relay;
mod rig;
mod secrets;
mod servers;
#[path = "../common/sshd.rs"]
mod sshd;
mod suite;
#[path = "../common/web.rs"]
mod web;
mod writing;

use std::io::Write;
use std::sync::Arc;

use rig::{Kind, Wrap};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};
use sshd::{Mode, Sshd};
use suite::{CASES, Cell, Outcome, Row, Table};
use web::{Service, WebServer};

/// Says something in any case: the harness swallows what tests print when they pass.
fn say(text: impl std::fmt::Display) {
    drop(writeln!(std::io::stderr(), "{text}"));
}

/// Gives up root's power to pass over permissions, on this thread alone: else nothing would ever be denied to us.
fn be_like_others() {
    let powers = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    if let Ok(mut sets) = capabilities(None) {
        sets.effective.remove(powers);
        set_capabilities(None, sets).unwrap();
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .on_thread_start(be_like_others)
        .enable_all()
        .build()
        .unwrap()
}

/// Every kind of site keeps every promise of the trait, or says by its capabilities that it can't.
///
/// `BACKLOT_TEST_ONLY=sftp:rename` runs the kinds and the cases that have these in their names.
#[test]
fn every_kind_of_site_keeps_the_contract() {
    let only = std::env::var("BACKLOT_TEST_ONLY").unwrap_or_default();
    let (only_kind, only_case) = only.split_once(':').unwrap_or((&only, ""));
    let sshd = |mode| Sshd::start_or_skip(mode).map(|s| Kind::Sftp(Arc::new(s)));
    let (internal, program, bare) = (sshd(Mode::Internal), sshd(Mode::Program), sshd(Mode::Bare));
    let web = |service| WebServer::start_or_skip(service).map(Arc::new);
    let s3 = |service| web(service).map(Kind::S3);
    let dav = |service| web(service).map(Kind::Webdav);
    let (rclone_dav, wsgidav) = (dav(Service::RcloneDav), dav(Service::Wsgidav));
    let (rclone_s3, moto) = (s3(Service::RcloneS3), s3(Service::Moto));
    let (memory, local) = (Some(Kind::Memory), Some(Kind::Local));
    let exec = Some(Kind::Exec);
    let drive = Some(Kind::Drive(gdrive::DriveDouble::start()));
    let plan = [
        ("memory", &memory, Wrap::None),
        ("memory, metered", &memory, Wrap::Meter),
        ("memory, retried", &memory, Wrap::Retry),
        ("memory, throttled", &memory, Wrap::Throttle),
        ("memory, flaky without rules", &memory, Wrap::Flaky),
        ("memory, behind a link", &memory, Wrap::Link),
        ("memory, broken and retried", &memory, Wrap::Broken),
        ("local", &local, Wrap::None),
        ("local, in all layers", &local, Wrap::All),
        ("local, broken and retried", &local, Wrap::Broken),
        ("gdrive, the double", &drive, Wrap::None),
        ("gdrive, in all layers", &drive, Wrap::All),
        ("gdrive, broken and retried", &drive, Wrap::Broken),
        ("exec, the example", &exec, Wrap::None),
        ("exec, in all layers", &exec, Wrap::All),
        ("exec, broken and retried", &exec, Wrap::Broken),
        ("sftp, internal-sftp", &internal, Wrap::None),
        ("sftp, sftp-server", &program, Wrap::None),
        ("sftp, without extensions", &bare, Wrap::None),
        ("sftp, in all layers", &program, Wrap::All),
        ("sftp, broken and retried", &internal, Wrap::Broken),
        ("s3, rclone serve s3", &rclone_s3, Wrap::None),
        ("s3, moto", &moto, Wrap::None),
        ("s3, in all layers", &rclone_s3, Wrap::All),
        ("s3, broken and retried", &moto, Wrap::Broken),
        ("webdav, rclone serve webdav", &rclone_dav, Wrap::None),
        ("webdav, wsgidav", &wsgidav, Wrap::None),
        ("webdav, in all layers", &rclone_dav, Wrap::All),
        ("webdav, broken and retried", &wsgidav, Wrap::Broken),
    ];
    let runtime = runtime();
    let mut rows: Vec<Row> = Vec::new();
    let mut absent = 0;
    for (name, kind, wrap) in plan.into_iter().filter(|(name, _, _)| name.contains(only_kind)) {
        let Some(kind) = kind else {
            absent += 1;
            continue;
        };
        let row = runtime.block_on(suite::run(name, kind, wrap, only_case));
        if wrap == Wrap::Broken && only_case.is_empty() {
            assert!(row.faults > 20, "{name}: only {} faults struck", row.faults);
        }
        rows.push(row);
    }
    say(Table(&rows));
    if absent > 0 {
        say(format_args!(
            "SKIPPED: {absent} kinds of site, for want of their servers"
        ));
    }
    let mut failures = String::new();
    for row in &rows {
        for (case, cell) in &row.cells {
            if let Cell::Failed(why) = cell {
                failures += &format!("{}: {case}: {why}\n", row.name);
            }
        }
    }
    assert!(failures.is_empty(), "\n{failures}");
    for case in CASES.iter().filter(|c| only.is_empty() && !c.name.is_empty()) {
        let ran = rows
            .iter()
            .any(|row| matches!(row.cells.get(case.name), Some(Cell::Done(Outcome::Ran))));
        assert!(ran, "{} ran over no kind of site", case.name);
    }
}
