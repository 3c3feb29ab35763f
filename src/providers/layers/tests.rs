//! What the layers promise, over a site in memory and a paused clock.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use tokio::time::Instant;

use super::{
    Fault, Faults, FlakyLayer, Layer, LinkControl, LinkLayer, Meter, MeterLayer, RetryLayer, RetryPolicy, Rule,
};
use super::{Limits, ThrottleLayer};
use crate::model::{RelPath, Version};
use crate::providers::memory::MemorySite;
use crate::providers::{Arrivals, ErrorKind, Op, Provider, ProviderError, UploadPlan};

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

fn bytes(len: usize) -> Bytes {
    (0..len)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect::<Vec<_>>()
        .into()
}

/// A site with one file `f` of `len` bytes.
fn site(len: usize) -> (MemorySite, Arc<dyn Provider>, Version) {
    let site = MemorySite::new();
    let version = site.put(&path("f"), bytes(len)).unwrap();
    (site.clone(), Arc::new(site), version)
}

async fn read(p: &dyn Provider, at: &Version, len: usize) -> Result<Bytes, ProviderError> {
    let chunks: Vec<Bytes> = p.read(&path("f"), at, 0..len as u64).try_collect().await?;
    Ok(chunks.concat().into())
}

fn flaky(seed: u64, inner: Arc<dyn Provider>) -> (Arc<Faults>, Arc<dyn Provider>) {
    let faults = Faults::new(seed);
    (Arc::clone(&faults), FlakyLayer::new(faults).over(inner))
}

fn retry(inner: Arc<dyn Provider>) -> Arc<dyn Provider> {
    RetryLayer::new(RetryPolicy::default()).over(inner)
}

fn plan(size: u64) -> UploadPlan {
    UploadPlan {
        path: path("up"),
        size,
        mtime_ns: 7,
        perm: None,
        part_size: 1 << 20,
        nonce: "n".into(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_read_goes_on_at_the_byte_where_it_broke() {
    let len = 1_000_000;
    let (memory, inner, version) = site(len);
    let (faults, broken) = flaky(1, inner);
    // Each try brings 300 000 bytes and breaks: 4 tries without progress would not do.
    faults.add(Rule::next(Op::Read, Fault::Cut(150_000), 6));
    let whole = read(&*retry(broken), &version, len).await.unwrap();
    assert_eq!(whole, bytes(len));
    assert_eq!(faults.fired(), 6);
    let asked = memory.counters().bytes_in;
    assert!(asked < 2 * len as u64, "{asked} bytes were read for {len}");
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_lies_about_its_end_is_found_out() {
    let (_, inner, version) = site(300_000);
    let (faults, broken) = flaky(1, inner);
    faults.add(Rule::next(Op::Read, Fault::Truncate(100_000), 1));
    assert_eq!(
        read(&*broken, &version, 300_000).await.unwrap().len(),
        100_000,
        "the lie itself"
    );
    faults.add(Rule::next(Op::Read, Fault::Truncate(100_000), 1));
    assert_eq!(read(&*retry(broken), &version, 300_000).await.unwrap(), bytes(300_000));
    assert_eq!(faults.fired(), 2);
}

#[tokio::test(start_paused = true)]
async fn retrying_backs_off_and_gives_up() {
    let (_, inner, _) = site(1);
    let (faults, broken) = flaky(1, inner);
    faults.add(Rule::one_in(Op::Stat, Fault::Fail(ErrorKind::Unreachable), 1));
    let p = retry(broken);
    let start = Instant::now();
    assert_eq!(p.stat(&path("f")).await.unwrap_err().kind, ErrorKind::Unreachable);
    assert_eq!(faults.fired(), 4);
    // 200 + 400 + 800 ms, each half to whole.
    let waited = start.elapsed();
    assert!(
        (Duration::from_millis(700)..=Duration::from_millis(1410)).contains(&waited),
        "{waited:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn what_can_not_help_is_not_tried_again() {
    let (memory, inner, _) = site(1);
    let p = retry(inner);
    assert_eq!(p.stat(&path("none")).await.unwrap_err().kind, ErrorKind::NotFound);
    assert_eq!(memory.counters().calls(Op::Stat), 1);
    let (faults, broken) = flaky(1, p);
    faults.add(Rule::one_in(Op::Probe, Fault::Fail(ErrorKind::TimedOut), 1));
    let p = retry(broken);
    assert!(p.probe().await.is_err());
    assert_eq!(faults.fired(), 1, "a probe has its caller's rhythm");
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_broke_repeats_no_name() {
    let site = MemorySite::new();
    for i in 0..100 {
        site.put(&path(&format!("d/{i}")), "x").unwrap();
    }
    let (faults, broken) = flaky(1, Arc::new(site));
    faults.add(Rule::next(Op::List, Fault::Cut(40), 2));
    let p = retry(broken);
    let dir = path("d");
    let names: Vec<_> = p.list(&dir).map_ok(|row| row.name).try_collect().await.unwrap();
    assert_eq!(names.len(), 100);
    assert_eq!(names.into_iter().collect::<HashSet<_>>().len(), 100);
    assert_eq!(faults.fired(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_commit_whose_answer_was_lost_is_recognised() {
    let site = MemorySite::new();
    let (faults, broken) = flaky(1, Arc::new(site.clone()));
    faults.add(Rule::next(Op::Commit, Fault::LoseAnswer(ErrorKind::Unreachable), 1));
    let p = retry(broken);
    let token = p.begin_upload(&plan(3)).await.unwrap();
    let part = p.upload_part(&token, 0, Bytes::from_static(b"abc")).await.unwrap();
    let version = p.commit(token, &[part], Some(None)).await.unwrap();
    assert_eq!(faults.fired(), 1);
    assert_eq!(p.stat(&path("up")).await.unwrap().version, version);
    assert_eq!(site.get(&path("up")).unwrap(), "abc");
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_faults() {
    let run = async |seed| {
        let (_, inner, _) = site(1);
        let (faults, broken) = flaky(seed, inner);
        faults.add(Rule::one_in(Op::Stat, Fault::Fail(ErrorKind::Busy), 3));
        let mut out = Vec::new();
        for _ in 0..60 {
            out.push(broken.stat(&path("f")).await.is_ok());
        }
        (out, faults.fired())
    };
    let (first, fired) = run(42).await;
    assert_eq!((first.clone(), fired), run(42).await);
    assert_ne!(first, run(43).await.0);
    assert!((10..40).contains(&fired), "{fired}");
}

#[tokio::test(start_paused = true)]
async fn a_meter_counts_calls_errors_bytes_and_forgets_what_was_given_up() {
    let (_, inner, version) = site(200_000);
    let meter = Arc::new(Meter::default());
    let p = MeterLayer::new(Arc::clone(&meter)).over(inner);
    read(&*p, &version, 200_000).await.unwrap();
    p.stat(&path("none")).await.unwrap_err();
    let (f, stale) = (path("f"), Version::new("x"));
    assert!(p.read(&f, &stale, 0..1).next().await.unwrap().is_err());
    let mut given_up = p.read(&f, &version, 0..200_000);
    given_up.next().await.unwrap().unwrap();
    assert_eq!(meter.snapshot().in_flight(), 1);
    drop(given_up);
    let token = p.begin_upload(&plan(3)).await.unwrap();
    p.upload_part(&token, 0, Bytes::from_static(b"abc")).await.unwrap();
    let seen = meter.snapshot();
    assert_eq!(seen.in_flight(), 0);
    assert_eq!(
        (seen.calls(Op::Read), seen.calls(Op::Stat), seen.calls(Op::Upload)),
        (3, 1, 2)
    );
    assert_eq!(seen.ops.iter().map(|c| c.errors).sum::<u64>(), 2);
    assert_eq!((seen.bytes_in, seen.bytes_out), (200_000 + 65_536, 3));
}

#[tokio::test(start_paused = true)]
async fn each_byte_that_comes_is_told_once_through_all_layers_also_of_a_read_that_is_given_up() {
    let (_, inner, version) = site(300_000);
    let link = LinkControl::new(Duration::from_millis(10), None, Duration::from_secs(5));
    let limits = Arc::new(Limits::new(Some(100_000), None));
    let meter = Arc::new(Meter::default());
    let p = LinkLayer::new(Arc::new(link)).over(inner);
    let p = RetryLayer::new(RetryPolicy::default()).over(ThrottleLayer::new(limits).over(p));
    let p = MeterLayer::new(Arc::clone(&meter)).over(p);
    let told = Arc::new(AtomicU64::new(0));
    let sum = Arc::clone(&told);
    let arrivals = Arrivals::new(move |bytes| {
        sum.fetch_add(bytes, Relaxed);
    });
    let f = path("f");
    let whole: Vec<Bytes> = p
        .read_for(&f, &version, 0..300_000, arrivals.clone())
        .try_collect()
        .await
        .unwrap();
    assert_eq!(whole.concat(), bytes(300_000));
    assert_eq!((told.load(Relaxed), meter.snapshot().bytes_in), (300_000, 300_000));
    // A chunk that has come, and waits for its turn below the limit when its reader leaves.
    let mut given_up = p.read_for(&f, &version, 0..300_000, arrivals);
    let waited = tokio::time::timeout(Duration::from_millis(100), given_up.next()).await;
    assert!(waited.is_err(), "it was given out");
    drop(given_up);
    let came = told.load(Relaxed) - 300_000;
    assert!(came > 0, "nothing came");
    assert_eq!(meter.snapshot().bytes_in, 300_000 + came);
}

#[tokio::test(start_paused = true)]
async fn a_throttle_holds_each_direction_to_its_rate() {
    let (_, inner, version) = site(1_000_000);
    let limits = Arc::new(Limits::new(Some(100_000), Some(1)));
    let p = ThrottleLayer::new(Arc::clone(&limits)).over(inner);
    let start = Instant::now();
    read(&*p, &version, 1_000_000).await.unwrap();
    let took = start.elapsed().as_secs_f64();
    assert!((9.8..10.2).contains(&took), "{took}");
    let token = p.begin_upload(&plan(3)).await.unwrap();
    assert!(start.elapsed().as_secs_f64() < 10.2, "asking costs nothing");
    p.upload_part(&token, 0, Bytes::from_static(b"abc")).await.unwrap();
    assert!(start.elapsed().as_secs_f64() > 12.8);
}

#[tokio::test(start_paused = true)]
async fn a_link_delays_and_all_streams_share_its_rate() {
    let (_, inner, version) = site(500_000);
    let link = Arc::new(LinkControl::new(
        Duration::from_millis(100),
        Some(1_000_000),
        Duration::from_secs(5),
    ));
    let p = LinkLayer::new(Arc::clone(&link)).over(inner);
    let start = Instant::now();
    p.stat(&path("f")).await.unwrap();
    assert!(start.elapsed() >= Duration::from_millis(100));
    let start = Instant::now();
    let both = futures::join!(read(&*p, &version, 500_000), read(&*p, &version, 500_000));
    assert_eq!((both.0.unwrap(), both.1.unwrap()), (bytes(500_000), bytes(500_000)));
    let took = start.elapsed().as_secs_f64();
    assert!((1.0..1.25).contains(&took), "{took}");
}

#[tokio::test(start_paused = true)]
async fn a_link_that_is_down_swallows_everything() {
    let (memory, inner, version) = site(500_000);
    let idle = Duration::from_secs(5);
    let link = Arc::new(LinkControl::new(Duration::ZERO, Some(1_000_000), idle));
    let p = LinkLayer::new(Arc::clone(&link)).over(inner);

    link.set_down(true);
    let start = Instant::now();
    assert_eq!(p.stat(&path("f")).await.unwrap_err().kind, ErrorKind::TimedOut);
    assert_eq!(start.elapsed(), idle);
    assert_eq!(memory.counters().calls(Op::Stat), 0);
    let dir = RelPath::root();
    assert_eq!(
        p.list(&dir).next().await.unwrap().unwrap_err().kind,
        ErrorKind::TimedOut
    );

    // Cut in the middle of a stream, and mended before the time-out: nothing is lost.
    link.set_down(false);
    let reading = tokio::spawn({
        let (p, version) = (Arc::clone(&p), version.clone());
        async move { read(&*p, &version, 500_000).await }
    });
    tokio::time::sleep(Duration::from_millis(250)).await;
    link.set_down(true);
    tokio::time::sleep(Duration::from_secs(4)).await;
    assert!(!reading.is_finished());
    link.set_down(false);
    assert_eq!(reading.await.unwrap().unwrap(), bytes(500_000));

    // Cut for longer: the stream ends with an error, not short.
    let f = path("f");
    let mut stream = p.read(&f, &version, 0..500_000);
    stream.next().await.unwrap().unwrap();
    link.set_down(true);
    assert_eq!(stream.next().await.unwrap().unwrap_err().kind, ErrorKind::TimedOut);
    assert!(stream.next().await.is_none());
}
