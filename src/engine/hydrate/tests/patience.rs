//! How long a reader waits, and what its waiting says about the site.

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep};

use super::*;
use crate::engine::link::LinkState;

const MIB: u64 = 1 << 20;
const DEADLINE: Duration = Duration::from_secs(2);

/// What a piece of 16 KiB at an offset waits for before it comes.
type Step = dyn Fn(u64) -> BoxFuture<'static, Result<(), ProviderError>> + Send + Sync;

/// A wire on which each piece comes when it is told to.
struct Wire(Arc<Step>);

impl Layer for Wire {
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
        let mut at = range.start;
        let pieces = run(range, arrivals).then(move |piece| {
            let step = (self.0)(at);
            at += piece.as_ref().map_or(0, |bytes| bytes.len() as u64);
            async move {
                step.await?;
                piece
            }
        });
        pieces.boxed()
    }
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Wire")
    }
}

fn rig<Fut>(slots: usize, step: impl Fn(u64) -> Fut + Send + Sync + 'static) -> Arc<Rig>
where
    Fut: Future<Output = Result<(), ProviderError>> + Send + 'static,
{
    let wire = Wire(Arc::new(move |at| Box::pin(step(at))));
    Arc::new(Rig::over(|_| None, |site| wire.over(site), slots, DEADLINE))
}

/// A read that runs beside the test; the bytes that come are looked at.
fn reading(rig: &Arc<Rig>, range: Range<u64>) -> tokio::task::JoinHandle<Result<(), HydrateError>> {
    let rig = Arc::clone(rig);
    tokio::spawn(async move {
        let bytes = rig.content.read(range.clone(), &rig.payer).await?;
        assert!(rig.right(&range, &bytes), "{range:?}");
        Ok(())
    })
}

fn is_down(rig: &Rig) -> bool {
    matches!(rig.content.site().link().state(), LinkState::Down { .. })
}

/// 64 KiB a second.
async fn slowly(_at: u64) -> Result<(), ProviderError> {
    sleep(Duration::from_millis(250)).await;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_slot_gets_its_bytes_and_the_site_is_not_taken_for_down() {
    let rig = rig(1, slowly);
    let mut link = rig.content.site().link().watch();
    let first: Vec<_> = (0..4).map(|n| reading(&rig, n * MIB..(n + 1) * MIB)).collect();
    sleep(Duration::from_millis(10)).await;
    let begun = Instant::now();
    let fifth = reading(&rig, 5 * MIB..5 * MIB + GRANULE);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(
        rig.content.site().slots().load(),
        (4, 1),
        "the fifth one waits, or this proves nothing"
    );
    let gone_down = tokio::spawn(async move { link.wait_for(|s| matches!(s, LinkState::Down { .. })).await.is_ok() });
    fifth.await.expect("no panic").expect("bytes");
    assert!(begun.elapsed() > 4 * DEADLINE, "{:?}", begun.elapsed());
    for read in first {
        read.await.expect("no panic").expect("bytes");
    }
    assert!(!gone_down.is_finished(), "the site was down for a moment");
}

#[tokio::test(start_paused = true)]
async fn a_silent_site_is_down_after_the_deadline_and_nobody_waits_in_its_queue() {
    let rig = rig(1, |_| std::future::pending());
    let begun = Instant::now();
    let reads: Vec<_> = (0..6).map(|n| reading(&rig, n * MIB..n * MIB + MIB)).collect();
    for read in reads {
        let failed = read.await.expect("no panic").expect_err("nothing came");
        assert!(
            matches!(failed, HydrateError::Deadline(_) | HydrateError::Offline { .. }),
            "{failed}"
        );
    }
    assert!(begun.elapsed() < 2 * DEADLINE, "{:?}", begun.elapsed());
    assert_eq!(rig.content.site().slots().load().1, 0);
}

#[tokio::test(start_paused = true)]
async fn one_silent_read_fails_alone_while_the_site_serves_others() {
    let rig = rig(3, |at| async move {
        if at >= 4 * MIB {
            std::future::pending::<()>().await;
        }
        slowly(at).await
    });
    let served = reading(&rig, 0..MIB);
    let begun = Instant::now();
    for past_the_cache in [false, true] {
        let range = 5 * MIB..5 * MIB + GRANULE;
        let failed = if past_the_cache {
            let read = rig.content.read_past_cache(range, Priority::Demand, &rig.payer).await;
            read.map(drop)
        } else {
            reading(&rig, range).await.expect("no panic")
        };
        assert!(matches!(failed, Err(HydrateError::Deadline(_))), "{failed:?}");
        assert!(!is_down(&rig), "others hear of it");
    }
    assert!(begun.elapsed() < 3 * DEADLINE, "{:?}", begun.elapsed());
    served.await.expect("no panic").expect("bytes");
}

#[tokio::test(start_paused = true)]
async fn bytes_that_come_slower_than_a_granule_within_the_deadline_are_no_silence() {
    let rig = rig(1, |_| async {
        sleep(Duration::from_millis(1500)).await;
        Ok(())
    });
    reading(&rig, 0..GRANULE).await.expect("no panic").expect("bytes");
    assert!(!is_down(&rig));
}

#[tokio::test(start_paused = true)]
async fn what_comes_past_the_cache_is_heard_of_as_it_comes() {
    let rig = rig(1, |at| async move {
        if at >= MIB {
            std::future::pending::<()>().await;
        }
        slowly(at).await
    });
    let reader = Arc::clone(&rig);
    let past = tokio::spawn(async move {
        let (range, payer) = (0..2 * MIB, &reader.payer);
        reader.content.read_past_cache(range, Priority::Demand, payer).await
    });
    sleep(3 * DEADLINE).await;
    assert_eq!(rig.content.site().link().state(), LinkState::Up);
    let failed = past.await.expect("no panic");
    assert!(matches!(failed, Err(HydrateError::Deadline(_))), "{failed:?}");
    assert!(is_down(&rig), "nobody hears of it");
}
#[tokio::test(start_paused = true)]
async fn a_reader_whose_bytes_have_come_is_not_failed_by_what_fails_further_on() {
    let (let_go, gate) = watch::channel(false);
    let rig = rig(3, move |at| {
        let mut gate = gate.clone();
        async move {
            if at >= 5 * MIB {
                return Err(ProviderError::new(ErrorKind::Denied, Op::Read));
            }
            if at < 4 * MIB {
                drop(gate.wait_for(|open| *open).await);
            }
            sleep(Duration::from_millis(1)).await;
            Ok(())
        }
    });
    let ahead = rig.content.fetch_ahead(0..LEN, Priority::ReadAhead, &rig.payer);
    assert_eq!(ahead.len(), 2, "two pieces, or this proves nothing");
    let read = reading(&rig, 4 * MIB - GRANULE..4 * MIB + GRANULE);
    sleep(Duration::from_secs(1)).await;
    assert!(ahead[1].is_over() && !ahead[0].is_over() && !read.is_finished());
    let_go.send_replace(true);
    read.await.expect("no panic").expect("bytes");
    let failed = reading(&rig, 5 * MIB..LEN).await.expect("no panic");
    assert!(matches!(failed, Err(HydrateError::Provider(_))), "{failed:?}");
}
