//! Single flight and cancellation under stress: many tasks read, lose patience, raise priorities and go away at random,
//! while a layer around the site watches what is really asked of it.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

use backlot_cache::{CacheOptions, ContentId};
use futures::StreamExt;
use futures::stream::BoxStream;

use super::*;
use crate::model::SiteName;
use crate::providers::layers::{Call, Layer};
use crate::providers::memory::MemorySite;
use crate::providers::{HashKind, Hasher, Listed, Provider};

mod patience;

const LEN: u64 = 6 << 20;

/// Looks at the reads that run at the site.
#[derive(Debug, Default)]
struct Watch {
    running: Mutex<Vec<Range<u64>>>,
    overlapped: AtomicBool,
    most: AtomicUsize,
    asked: AtomicU64,
}

#[derive(Debug)]
struct WatchLayer(Arc<Watch>);

/// A read while it runs.
struct Running(Arc<Watch>, Range<u64>);

impl Running {
    fn begin(watch: &Arc<Watch>, range: Range<u64>) -> Self {
        let mut running = watch.running.lock().unwrap_or_else(PoisonError::into_inner);
        if running.iter().any(|r| r.start < range.end && range.start < r.end) {
            watch.overlapped.store(true, Ordering::SeqCst);
        }
        running.push(range.clone());
        watch.most.fetch_max(running.len(), Ordering::SeqCst);
        watch.asked.fetch_add(range.end - range.start, Ordering::SeqCst);
        Self(Arc::clone(watch), range)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let mut running = self.0.running.lock().unwrap_or_else(PoisonError::into_inner);
        let at = running.iter().position(|r| *r == self.1);
        running.swap_remove(at.expect("it was put there"));
    }
}

impl Layer for WatchLayer {
    async fn around<T, F, Fut>(&self, _call: Call<'_>, run: F) -> Result<T, ProviderError>
    where
        T: Send,
        F: Fn() -> Fut + Send + Sync,
        Fut: Future<Output = Result<T, ProviderError>> + Send,
    {
        run().await
    }

    fn around_list<'a, F>(&'a self, _call: Call<'a>, run: F) -> BoxStream<'a, Result<Listed, ProviderError>>
    where
        F: Fn() -> BoxStream<'a, Result<Listed, ProviderError>> + Send + 'a,
    {
        run()
    }

    fn around_read<'a, F>(
        &'a self,
        _call: Call<'a>,
        range: Range<u64>,
        arrivals: Arrivals,
        run: F,
    ) -> BoxStream<'a, Result<Bytes, ProviderError>>
    where
        F: Fn(Range<u64>, Arrivals) -> BoxStream<'a, Result<Bytes, ProviderError>> + Send + 'a,
    {
        let running = Running::begin(&self.0, range.clone());
        let chunks = run(range, Arrivals::nobody()).then(move |chunk| {
            let _until_the_stream_is_dropped = &running;
            async move {
                // A wire takes its time: here others get their turn.
                tokio::time::sleep(Duration::from_micros(200)).await;
                chunk
            }
        });
        // Small pieces, so that a fetch can be met in its middle.
        let pieces = chunks.flat_map(|chunk| {
            let pieces: Vec<_> = match chunk {
                Ok(bytes) => bytes.chunks(16 << 10).map(|p| Ok(Bytes::copy_from_slice(p))).collect(),
                Err(e) => vec![Err(e)],
            };
            futures::stream::iter(pieces).then(|piece| async {
                tokio::task::yield_now().await;
                piece
            })
        });
        arrivals.note_each(pieces.boxed())
    }
}

struct Rig {
    _dir: tempfile::TempDir,
    watch: Arc<Watch>,
    truth: Bytes,
    content: Arc<OpenContent>,
    payer: Payer,
}

impl Rig {
    fn new() -> Self {
        Self::with_hash(|_| None)
    }

    /// A site that names a hash for the file.
    fn with_hash(hash: impl FnOnce(&Bytes) -> Option<FileHash>) -> Self {
        Self::over(hash, |site| site, 3, Duration::from_secs(60))
    }

    /// A site behind what `around` puts there, with so many slots.
    fn over(
        hash: impl FnOnce(&Bytes) -> Option<FileHash>,
        around: impl FnOnce(Arc<dyn Provider>) -> Arc<dyn Provider>,
        slots: usize,
        deadline: Duration,
    ) -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let memory = MemorySite::new();
        let path = RelPath::new("plate.exr").expect("a path");
        let truth: Bytes = (0..LEN)
            .map(|n| (n.wrapping_mul(2_654_435_761) >> 11).to_le_bytes()[0])
            .collect();
        let version = memory.put(&path, truth.clone()).expect("a file");
        if let Some(hash) = hash(&truth) {
            memory.name_hash(&path, Some(hash));
        }
        let watch = Arc::new(Watch::default());
        let provider = around(WatchLayer(Arc::clone(&watch)).over(Arc::new(memory)));
        let cache = ContentCache::open(CacheOptions {
            dir: dir.path().to_owned(),
            max_bytes: 1 << 30,
            min_free_bytes: 0,
            max_open_files: 16,
            flush_interval: Duration::from_secs(60),
        });
        let cache = Arc::new(cache.expect("a cache"));
        let content = cache.content(ContentId([7; 16]), LEN).expect("a place");
        let origin = Origin {
            ino: Ino(7),
            site: Site::new(SiteName("memory".to_owned()), provider, None, slots),
            path,
            version,
        };
        let kept = Kept {
            cache,
            content,
            head: None,
        };
        let content = OpenContent::new(origin, kept, deadline, Arc::default(), Arc::default());
        Self {
            _dir: dir,
            watch,
            truth,
            content,
            payer: Payer::nobody(),
        }
    }

    fn right(&self, range: &Range<u64>, bytes: &Bytes) -> bool {
        let at = |n: u64| usize::try_from(n).expect("in memory");
        *bytes == self.truth.slice(at(range.start)..at(range.end))
    }
}

/// `SplitMix64`.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }

    fn range(&mut self) -> Range<u64> {
        let start = self.below(LEN - 1);
        start..(start + 1 + self.below(1_500_000)).min(LEN)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_asks_a_granule_is_asked_of_the_site_once() {
    for seed in 0..6 {
        let rig = Arc::new(Rig::new());
        let mut readers = tokio::task::JoinSet::new();
        for reader in 0..16 {
            let rig = Arc::clone(&rig);
            readers.spawn(async move {
                let mut rng = Chance(seed * 100 + reader);
                for _ in 0..20 {
                    let range = rng.range();
                    let bytes = rig.content.read(range.clone(), &rig.payer).await.expect("bytes");
                    assert!(rig.right(&range, &bytes), "{range:?}");
                }
                rig.content.read(0..LEN, &rig.payer).await.expect("all of it");
            });
        }
        while let Some(done) = readers.join_next().await {
            done.expect("a reader");
        }
        assert!(
            !rig.watch.overlapped.load(Ordering::SeqCst),
            "one granule asked for twice at a time"
        );
        assert_eq!(
            rig.watch.asked.load(Ordering::SeqCst),
            LEN,
            "one granule asked for twice"
        );
        assert!(
            rig.watch.most.load(Ordering::SeqCst) > 1,
            "fetches ran side by side, or this proves nothing"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_goes_away_stops_what_nobody_else_wants_and_nothing_else() {
    let (mut cancelled, mut met) = (0, 0);
    for seed in 0..12 {
        let rig = Arc::new(Rig::new());
        let mut readers = tokio::task::JoinSet::new();
        for reader in 0..8 {
            let rig = Arc::clone(&rig);
            readers.spawn(async move {
                let mut rng = Chance(seed * 100 + reader);
                let mut whole = 0_u64;
                for _ in 0..30 {
                    let range = rng.range();
                    let patience = Duration::from_micros(rng.below(6_000));
                    match rng.below(6) {
                        // A program that is killed while it reads.
                        0..2 => match timeout(patience, rig.content.read(range.clone(), &rig.payer)).await {
                            Ok(bytes) => {
                                assert!(rig.right(&range, &bytes.expect("bytes")), "{range:?}");
                                whole += 1;
                            }
                            Err(_elapsed) => {}
                        },
                        // A change of mind about what is fetched ahead.
                        2..5 => {
                            let ahead = rig.content.fetch_ahead(range, Priority::ReadAhead, &rig.payer);
                            tokio::time::sleep(patience).await;
                            drop(ahead);
                        }
                        // Who stays gets its bytes, whoever of the others went away from the same fetch.
                        _ => {
                            let bytes = rig.content.read(range.clone(), &rig.payer).await.expect("bytes");
                            assert!(rig.right(&range, &bytes), "{range:?}");
                            whole += 1;
                        }
                    }
                }
                whole
            });
        }
        while let Some(done) = readers.join_next().await {
            met += done.expect("a reader");
        }
        // All interest is gone: so is what runs, soon.
        let begun = Instant::now();
        while !rig.content.in_flight().is_empty() {
            assert!(
                begun.elapsed() < Duration::from_secs(20),
                "{:?}",
                rig.content.in_flight()
            );
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        let running = rig.watch.running.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert!(running.is_empty(), "still read at the site: {running:?}");
        // (A fetch that is being stopped may still be ending beside its successor.)
        cancelled += rig.content.stats.cancelled.load(Ordering::SeqCst);
        let bytes = rig.content.read(0..LEN, &rig.payer).await.expect("all of it");
        assert!(rig.right(&(0..LEN), &bytes));
    }
    assert!(
        cancelled > 20 && met > 100,
        "{cancelled} stopped, {met} read: this proves nothing"
    );
}

fn hash_of(kind: HashKind, bytes: &[u8]) -> FileHash {
    let mut hasher = Hasher::new(kind);
    hasher.update(bytes);
    hasher.finish()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bytes_that_are_what_the_site_says_become_whole_in_any_order() {
    for (seed, kind) in [(1, HashKind::Md5), (2, HashKind::Sha256), (3, HashKind::Sha256)] {
        let rig = Arc::new(Rig::with_hash(|truth| Some(hash_of(kind, truth))));
        let mut readers = tokio::task::JoinSet::new();
        for reader in 0..6 {
            let rig = Arc::clone(&rig);
            readers.spawn(async move {
                let mut rng = Chance(seed * 100 + reader);
                for _ in 0..10 {
                    let range = rng.range();
                    if rng.below(4) == 0 {
                        // Who goes away in the middle of a landing, or of the hash, leaves nothing half done.
                        let patience = Duration::from_micros(rng.below(4_000));
                        drop(timeout(patience, rig.content.read(range, &rig.payer)).await);
                        continue;
                    }
                    let bytes = rig.content.read(range.clone(), &rig.payer).await.expect("bytes");
                    assert!(rig.right(&range, &bytes), "{range:?}");
                }
                rig.content.read(0..LEN, &rig.payer).await.expect("all of it");
            });
        }
        while let Some(done) = readers.join_next().await {
            done.expect("a reader");
        }
        assert!(rig.content.content().is_full() && rig.content.mismatches.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bytes_that_are_not_what_the_site_says_never_become_whole() {
    for seed in 0..6 {
        let rig = Arc::new(Rig::with_hash(|truth| Some(hash_of(HashKind::Sha256, &truth[1..]))));
        let mut readers = tokio::task::JoinSet::new();
        for reader in 0..6 {
            let rig = Arc::clone(&rig);
            readers.spawn(async move {
                let mut rng = Chance(seed * 100 + reader);
                for _ in 0..30 {
                    let range = rng.range();
                    match rig.content.read(range.clone(), &rig.payer).await {
                        // Before anybody could know.
                        Ok(bytes) => assert!(rig.right(&range, &bytes), "{range:?}"),
                        Err(HydrateError::Mismatch(_)) => return true,
                        Err(e) => panic!("{e}"),
                    }
                    assert!(!rig.content.content().is_full(), "it was whole for a moment");
                }
                rig.content.read(0..LEN, &rig.payer).await.is_err()
            });
        }
        while let Some(done) = readers.join_next().await {
            assert!(done.expect("a reader"), "all of it was read");
        }
        for range in [0..1, LEN - 1..LEN, 0..LEN] {
            let read = rig.content.read(range, &rig.payer).await;
            assert!(matches!(read, Err(HydrateError::Mismatch(_))), "{read:?}");
        }
        let all = rig.content.ensure(0..LEN, Priority::Pin, &rig.payer).await;
        assert!(matches!(all, Err(HydrateError::Mismatch(_))), "{all:?}");
        let begun = Instant::now();
        while !rig.content.in_flight().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(20));
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(rig.content.content().resident_bytes(), 0, "nothing of it is kept");
        let told = rig.content.mismatches.list();
        assert_eq!(told.len(), 1);
        assert!(
            told[0].1.to_string().contains("are not what the site memory says"),
            "{}",
            told[0].1
        );
    }
}
