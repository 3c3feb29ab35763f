//! Requests that go wrong: a panic, an answer that never comes.

use std::fs;
use std::time::{Duration, Instant};

use rustix::io::Errno;

use crate::rig::{Rig, errno, with_mount};

fn counters(rig: &Rig) -> (u64, u64) {
    let text = rig.ask("counters");
    let (panics, expired) = text.split_once(' ').expect("two numbers");
    (panics.parse().expect("a number"), expired.parse().expect("a number"))
}

#[test]
fn a_panic_is_an_io_error_and_the_mount_lives() {
    with_mount("threads=1", |rig| {
        let eio = Errno::IO.raw_os_error();
        assert_eq!(errno(fs::read(rig.path("panic"))), eio);
        let (at_once, _) = counters(rig);
        assert!(at_once > 0, "the panic happened");
        assert_eq!(errno(fs::read(rig.path("panic-late"))), eio);
        assert!(counters(rig).0 > at_once, "the later one too");
        assert_eq!(fs::read(rig.path("hello")).expect("served on"), b"hello world\n");
        assert_eq!(counters(rig).1, 0);
    });
}

#[test]
fn an_answer_that_never_comes_is_an_io_error_at_the_deadline() {
    with_mount("deadline_ms=300", |rig| {
        let started = Instant::now();
        assert_eq!(errno(fs::read(rig.path("stuck"))), Errno::IO.raw_os_error());
        assert!(started.elapsed() >= Duration::from_millis(300), "it was waited for");
        assert!(counters(rig).1 > 0, "the deadline fired");
        assert_eq!(fs::read(rig.path("hello")).expect("served on"), b"hello world\n");
    });
}
