//! Cases of `read`.

use std::sync::Arc;

use backlot::model::{RelPath, Version};
use backlot::providers::{ErrorKind, Hasher, Provider, Retry};
use futures::StreamExt;
use futures::future::join_all;

use crate::rig::{Rig, path};
use crate::suite::{Outcome, content, read, upload};

/// Longer than any provider's chunk, and no multiple of one.
const LEN: usize = 3 * (1 << 20) + 12_345;

fn len(n: usize) -> u64 {
    n as u64
}

async fn put(rig: &Rig, at: &RelPath, bytes: &[u8]) -> Version {
    rig.back.put(at, bytes);
    rig.provider.stat(at).await.unwrap().version
}

pub(crate) async fn ranges(rig: Rig) -> Outcome {
    let (at, bytes) = (path("d/file"), content(1, LEN));
    let version = put(&rig, &at, &bytes).await;
    let cuts = [
        0..LEN,
        0..1,
        0..65_536,
        1..2,
        65_535..65_537,
        65_536..262_145,
        261_119..261_121,
        1_048_575..1_048_577,
        1_000_000..2_500_001,
        LEN - 1..LEN,
        LEN - 65_536..LEN,
    ];
    for cut in cuts {
        let got = read(&*rig.provider, &at, &version, len(cut.start)..len(cut.end))
            .await
            .unwrap();
        assert!(got == bytes[cut.clone()], "{cut:?}");
    }
    Outcome::Ran
}

pub(crate) async fn empty_files_and_ranges(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    let empty = put(&rig, &path("empty"), b"").await;
    assert!(read(p, &path("empty"), &empty, 0..0).await.unwrap().is_empty());
    let version = put(&rig, &path("file"), b"abc").await;
    for at in 0..=3 {
        assert!(read(p, &path("file"), &version, at..at).await.unwrap().is_empty());
    }
    // No bytes are no reason to vouch for a version that is not there.
    let error = read(p, &path("file"), &empty, 0..0).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::VersionMismatch);
    Outcome::Ran
}

pub(crate) async fn beyond_the_end_is_a_mismatch(rig: Rig) -> Outcome {
    let version = put(&rig, &path("file"), b"abc").await;
    for range in [0..4, 3..4, 2..1000, 10..20] {
        let error = read(&*rig.provider, &path("file"), &version, range.clone())
            .await
            .unwrap_err();
        assert_eq!(
            (error.kind, error.retry),
            (ErrorKind::VersionMismatch, Retry::Never),
            "{range:?}: {error}"
        );
    }
    Outcome::Ran
}

pub(crate) async fn an_old_version_is_a_mismatch(rig: Rig) -> Outcome {
    let (at, p) = (path("file"), &*rig.provider);
    let old = put(&rig, &at, b"old bytes").await;
    let new = put(&rig, &at, b"new bytes").await;
    // Nothing was open, so nobody can mean the old bytes.
    let error = read(p, &at, &old, 0..9).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::VersionMismatch);
    assert_eq!(read(p, &at, &new, 0..9).await.unwrap(), b"new bytes");
    rig.back.overwrite(&at, b"NEW BYTES");
    assert_eq!(
        read(p, &at, &new, 0..9).await.unwrap_err().kind,
        ErrorKind::VersionMismatch
    );
    let newest = p.stat(&at).await.unwrap().version;
    assert_eq!(read(p, &at, &newest, 0..9).await.unwrap(), b"NEW BYTES");
    Outcome::Ran
}

/// Reads a file, does something after the first chunk, and returns the bytes, with the error that ended them.
async fn read_and_meddle(
    rig: &Rig,
    at: &RelPath,
    version: &Version,
    meddle: impl FnOnce(),
) -> (Vec<u8>, Option<ErrorKind>) {
    let mut stream = rig.provider.read(at, version, 0..len(LEN));
    let mut got = stream.next().await.unwrap().unwrap().to_vec();
    meddle();
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => got.extend_from_slice(&chunk),
            Err(error) => return (got, Some(error.kind)),
        }
    }
    (got, None)
}

pub(crate) async fn a_file_replaced_while_read_is_never_mixed(rig: Rig) -> Outcome {
    let at = path("file");
    // In place first: a provider that has learnt how fast the site is may read all of it ahead.
    for (round, in_place) in [true, false, true, false].into_iter().enumerate() {
        let (old, new) = (content(10, LEN), content(20 + u8::try_from(round).unwrap(), LEN));
        let version = put(&rig, &at, &old).await;
        let (got, error) = read_and_meddle(&rig, &at, &version, || {
            if in_place {
                rig.back.overwrite(&at, &new)
            } else {
                rig.back.put(&at, &new)
            }
        })
        .await;
        assert!(got == old[..got.len()], "bytes of two versions, round {round}");
        match error {
            None => assert_eq!(got.len(), LEN),
            Some(kind) => assert_eq!(kind, ErrorKind::VersionMismatch),
        }
        let version = rig.provider.stat(&at).await.unwrap().version;
        assert!(
            read(&*rig.provider, &at, &version, 0..len(LEN)).await.unwrap() == new,
            "and the new one can be read"
        );
    }
    Outcome::Ran
}

pub(crate) async fn a_file_cut_while_read_ends_with_an_error(rig: Rig) -> Outcome {
    let (at, old) = (path("file"), content(1, LEN));
    let version = put(&rig, &at, &old).await;
    let cut = &old[..100_000];
    let (got, error) = read_and_meddle(&rig, &at, &version, || rig.back.overwrite(&at, cut)).await;
    assert!(got == old[..got.len()]);
    match error {
        // All that was left had been read ahead of the cut.
        None => assert_eq!(got.len(), LEN),
        Some(kind) => assert_eq!(kind, ErrorKind::VersionMismatch),
    }
    let error = read(&*rig.provider, &at, &version, 0..len(LEN)).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::VersionMismatch);
    Outcome::Ran
}

pub(crate) async fn many_reads_at_once(rig: Rig) -> Outcome {
    let mut files = Vec::new();
    for seed in 0..4 {
        let at = path(&format!("file{seed}"));
        let bytes = content(seed, LEN);
        let version = put(&rig, &at, &bytes).await;
        files.push((at, bytes, version));
    }
    let files = Arc::new(files);
    let reads = (0..32_usize).map(|i| {
        let (files, p) = (Arc::clone(&files), Arc::clone(&rig.provider));
        tokio::spawn(async move {
            let (at, bytes, version) = &files[i % files.len()];
            let start = i * 70_001;
            let end = (start + 900_000).min(LEN);
            let got = read(&*p, at, version, len(start)..len(end)).await.unwrap();
            assert!(got == bytes[start..end], "read {i}");
        })
    });
    for outcome in join_all(reads).await {
        outcome.unwrap();
    }
    Outcome::Ran
}

pub(crate) async fn streams_dropped_early_do_no_harm(rig: Rig) -> Outcome {
    let (at, bytes) = (path("file"), content(1, LEN));
    let version = put(&rig, &at, &bytes).await;
    for i in 0..60 {
        let p: &dyn Provider = &*rig.provider;
        let mut stream = p.read(&at, &version, 0..len(LEN));
        match i % 3 {
            // Never polled; polled once and dropped in the middle of it; dropped after a chunk.
            0 => {}
            1 => drop(futures::poll!(stream.next())),
            _ => assert!(stream.next().await.unwrap().is_ok()),
        }
        drop(futures::poll!(p.stat(&at)));
    }
    assert!(read(&*rig.provider, &at, &version, 0..len(LEN)).await.unwrap() == bytes);
    Outcome::Ran
}

pub(crate) async fn a_hash_that_is_announced_is_given(rig: Rig) -> Outcome {
    let p = &*rig.provider;
    // Facts about a site are learned at the first contact.
    p.probe().await.unwrap();
    let Some(kind) = p.capabilities().hash else {
        return Outcome::Skipped("the site names no hashes of whole files, and says so");
    };
    let (at, bytes) = (path("dir/file"), content(1, LEN));
    let version = upload(p, &at, &bytes).await;
    let mut hasher = Hasher::new(kind);
    hasher.update(&bytes);
    match p.hash(&at, &version).await.unwrap() {
        Some(named) => assert_eq!(named, hasher.finish()),
        None => assert!(!rig.back.hashes_uploads(), "announced, and not given"),
    }
    rig.back.put(&at, &content(2, LEN));
    let error = p.hash(&at, &version).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::VersionMismatch);
    Outcome::Ran
}
