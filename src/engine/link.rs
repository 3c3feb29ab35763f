//! Whether a site answers, known before the next request pays for finding out.
//!
//! Owns: the up/down state of one site, moved by what requests met, by a probe that runs while the site is down, and by one
//! now and then while nobody asks it anything. Refuses to know: what is asked of the site. Invariant: a site that is down is
//! probed, with back-off, until it answers.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::model::SiteName;
use crate::providers::{ErrorKind, Op, Provider, ProviderError};

/// The first probe comes this long after a failure; each further one waits twice as long.
const PROBE_FIRST: Duration = Duration::from_millis(500);
/// The longest wait between two probes: an artist should not wait longer than this for a link that is back.
const PROBE_MAX: Duration = Duration::from_secs(15);
/// A login that was refused is tried again with the same password or key after these times, the last one from then on: accounts
/// are locked by some ten refusals within a quarter of an hour (the usual threshold of directories), and one try may count
/// twice. A new password is tried at the next probe, and so is any that a person asks about.
const REFUSED: [Duration; 3] = [
    Duration::from_secs(60),
    Duration::from_secs(5 * 60),
    Duration::from_secs(10 * 60),
];
/// A probe that has no answer after this long has failed. The last resort: providers bound it by progress, and on a link
/// that is full of our own uploads an answer may be late.
const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// A site that nobody heard of for this long is probed, so that a link that died while nobody used it is known to be down
/// before somebody does. As often as keep-alives: it costs one small request.
const QUIET: Duration = Duration::from_secs(30);

/// What is known of a site's link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkState {
    /// Nothing was asked yet.
    Unknown,
    /// The last request was answered.
    Up,
    /// Requests fail; the reason is the last one's.
    Down {
        /// The kind of that failure.
        kind: ErrorKind,
        /// Why, for people.
        reason: String,
    },
}

/// Why a site that answers can't be used until a person has done something about it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lockout {
    /// The kind of its failure.
    pub kind: ErrorKind,
    /// Why, for people.
    pub why: String,
}

impl LinkState {
    /// Returns why the site can't be used, if it answers and waiting does not help: it refuses the login or us, or the settings
    /// can't work. (A root that is not there may be a volume that is not mounted yet.)
    #[must_use]
    pub fn lockout(&self) -> Option<Lockout> {
        match self {
            Self::Down {
                kind: kind @ (ErrorKind::Auth | ErrorKind::Config | ErrorKind::Denied),
                reason,
            } => Some(Lockout {
                kind: *kind,
                why: reason.clone(),
            }),
            Self::Unknown | Self::Up | Self::Down { .. } => None,
        }
    }
}

/// The link to one site.
#[derive(Debug)]
pub struct Link {
    site: SiteName,
    state: watch::Sender<LinkState>,
    provider: Arc<dyn Provider>,
    made: Instant,
    /// When the site answered last, in milliseconds since `made`.
    heard_ms: AtomicU64,
    /// The next probe is due now.
    hurry: Arc<Notify>,
    /// How often the site took a login after it had refused one.
    let_in: watch::Sender<u64>,
}

impl Link {
    /// Makes the link of a site, in state [`LinkState::Unknown`].
    pub fn new(site: SiteName, provider: Arc<dyn Provider>) -> Arc<Self> {
        Arc::new(Self {
            site,
            state: watch::Sender::new(LinkState::Unknown),
            provider,
            made: Instant::now(),
            heard_ms: AtomicU64::new(0),
            hurry: Arc::default(),
            let_in: watch::Sender::default(),
        })
    }

    /// Returns what is known now.
    pub fn state(&self) -> LinkState {
        self.state.borrow().clone()
    }

    /// Says whether requests are known to fail.
    pub fn is_down(&self) -> bool {
        matches!(*self.state.borrow(), LinkState::Down { .. })
    }

    /// Returns a view that wakes on every change.
    pub fn watch(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// Returns a view that wakes whenever the site takes a login after it had refused one: what met that may be tried again.
    pub(super) fn watch_let_in(&self) -> watch::Receiver<u64> {
        self.let_in.subscribe()
    }

    /// Takes note that the site answered, and takes a login that it had refused.
    fn lets_in(&self) {
        self.answered();
        self.let_in.send_modify(|times| *times += 1);
    }

    /// Takes note that the site answered.
    pub fn answered(&self) {
        let heard = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard_ms.store(heard, Ordering::Relaxed);
        let changed = self.state.send_if_modified(|s| {
            let was_down = matches!(s, LinkState::Down { .. });
            if *s == LinkState::Up {
                return false;
            }
            *s = LinkState::Up;
            if was_down {
                info!(site = %self.site, "the site answers again");
            }
            true
        });
        let _: bool = changed;
    }

    /// Takes note of a failed request; one that speaks for the whole site takes the link down and starts probing.
    pub fn failed(self: &Arc<Self>, error: &ProviderError) {
        // Who is not let in once is not let in by asking for something else.
        if error.is_link_failure() || error.kind == ErrorKind::Auth {
            self.take_down(error);
        } else {
            // The site refused this request, so it does answer.
            self.answered();
        }
    }

    /// Asks the site once, in the background, so that its state is known soon.
    pub fn probe_soon(self: &Arc<Self>) {
        let link = Arc::clone(self);
        tokio::spawn(async move { link.look().await });
    }

    /// Keeps the state known while nobody asks the site anything, from now on.
    pub fn keep_known(self: &Arc<Self>) {
        self.probe_soon();
        tokio::spawn(probe_when_quiet(Arc::downgrade(self)));
    }

    /// The machine slept: connections are made anew, and the site is asked at once.
    pub fn woke(self: &Arc<Self>) {
        self.provider.forget_connections();
        if self.is_down() {
            self.hurry.notify_one();
        } else {
            self.probe_soon();
        }
    }

    /// Asks the site once more, as if nothing was known of it: a person may have seen to what was in the way.
    pub(super) async fn ask_anew(self: &Arc<Self>) {
        self.provider.forget_connections();
        let was_refused = self
            .state()
            .lockout()
            .is_some_and(|lockout| lockout.kind == ErrorKind::Auth);
        match self.probe().await {
            Ok(()) if was_refused => self.lets_in(),
            Ok(()) => self.answered(),
            Err(e) => self.take_down(&e),
        }
    }

    /// Asks the site, and takes note of the answer.
    async fn look(self: &Arc<Self>) {
        match self.probe().await {
            Ok(()) => self.answered(),
            Err(e) => self.take_down(&e),
        }
    }

    async fn probe(&self) -> Result<(), ProviderError> {
        match tokio::time::timeout(PROBE_LIMIT, self.provider.probe()).await {
            Ok(answer) => answer,
            Err(_) => {
                let why = format!("no answer within {PROBE_LIMIT:?}");
                Err(ProviderError::new(ErrorKind::TimedOut, Op::Probe).because(why))
            }
        }
    }

    /// How long the site has not been heard of.
    pub(super) fn quiet_for(&self) -> Duration {
        let heard = Duration::from_millis(self.heard_ms.load(Ordering::Relaxed));
        self.made.elapsed().saturating_sub(heard)
    }

    fn take_down(self: &Arc<Self>, error: &ProviderError) {
        let (kind, reason) = (error.kind, error.to_string());
        let went_down = self.state.send_if_modified(|s| {
            let was_down = matches!(s, LinkState::Down { .. });
            *s = LinkState::Down {
                kind,
                reason: reason.clone(),
            };
            !was_down
        });
        if went_down {
            warn!(site = %self.site, %reason, "the site is down: what is not cached fails at once until it answers");
            tokio::spawn(probe_until_up(Arc::downgrade(self)));
        }
    }
}

/// A login that the site refused.
#[derive(Debug)]
struct Refused {
    mark: u64,
    at: Instant,
    times: usize,
}

impl Refused {
    /// Takes note of how a probe with the login of that mark failed.
    fn note(refused: &mut Option<Self>, kind: ErrorKind, mark: Option<u64>) {
        let Some(mark) = mark.filter(|_| kind == ErrorKind::Auth) else {
            *refused = None;
            return;
        };
        let times = refused.as_ref().filter(|before| before.mark == mark);
        *refused = Some(Self {
            mark,
            at: Instant::now(),
            times: times.map_or(0, |before| before.times) + 1,
        });
    }

    /// Says whether the login of that mark is still to wait.
    fn holds(&self, mark: Option<u64>) -> bool {
        let hold = REFUSED[self.times.clamp(1, REFUSED.len()) - 1];
        mark == Some(self.mark) && self.at.elapsed() < hold
    }
}

/// Probes with back-off until the site answers or nobody holds the link any more.
async fn probe_until_up(link: Weak<Link>) {
    let Some(hurry) = link.upgrade().map(|link| Arc::clone(&link.hurry)) else {
        return;
    };
    let mut wait = PROBE_FIRST;
    // What was refused may have been an old password: the one that is in place now has one try.
    let mut refused = None;
    let first_mark = link.upgrade().and_then(|link| link.provider.login_mark());
    let mut was_refused = false;
    loop {
        tokio::select! {
            () = tokio::time::sleep(some_of(wait)) => {}
            () = hurry.notified() => {
                wait = PROBE_FIRST;
                refused = None;
            }
        }
        let Some(link) = link.upgrade() else { return };
        if !link.is_down() {
            return;
        }
        wait = (wait * 2).min(PROBE_MAX);
        // Before: what is put in place meanwhile has not been refused.
        let mark = link.provider.login_mark();
        if refused.as_ref().is_some_and(|refused: &Refused| refused.holds(mark)) {
            continue;
        }
        match link.probe().await {
            // One refusal that no probe met, with the same login, was about something else.
            Ok(()) if was_refused || mark != first_mark => return link.lets_in(),
            Ok(()) => return link.answered(),
            Err(e) => {
                was_refused |= e.kind == ErrorKind::Auth;
                Refused::note(&mut refused, e.kind, mark);
                link.state.send_modify(|s| {
                    if let LinkState::Down { kind, reason } = s {
                        *kind = e.kind;
                        *reason = e.to_string();
                    }
                });
            }
        }
    }
}

/// Probes a site that is not known to be down whenever it was quiet for long.
async fn probe_when_quiet(link: Weak<Link>) {
    let mut wait = QUIET;
    loop {
        tokio::time::sleep(wait).await;
        let Some(link) = link.upgrade() else { return };
        let quiet = link.quiet_for();
        if quiet >= QUIET && !link.is_down() {
            link.look().await;
            wait = some_of(QUIET);
        } else {
            wait = QUIET.saturating_sub(quiet).max(PROBE_FIRST);
        }
    }
}

/// Returns from half of a time to all of it, by chance: a studio's machines lose a link together, and are not to come back to
/// the server in step.
fn some_of(time: Duration) -> Duration {
    // The state of each hasher is random.
    let chance = RandomState::new().hash_one(0) >> 32;
    time.mul_f64(0.5 + 0.5 * chance as f64 / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::providers::layers::{Layer, LinkControl, LinkLayer, Meter, MeterLayer};
    use crate::providers::memory::MemorySite;

    /// A link whose wire can be cut, what was asked over it, and the wire.
    fn link() -> (Arc<Link>, Arc<Meter>, Arc<LinkControl>) {
        let wire = Arc::new(LinkControl::new(Duration::ZERO, None, Duration::from_millis(100)));
        let meter = Arc::new(Meter::default());
        let cut = LinkLayer::new(Arc::clone(&wire)).over(Arc::new(MemorySite::new()));
        let counted = MeterLayer::new(Arc::clone(&meter)).over(cut);
        (Link::new(SiteName("site".into()), counted), meter, wire)
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_dies_while_nobody_uses_it_is_known_to_be_down() {
        let (link, meter, wire) = link();
        link.keep_known();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(link.state(), LinkState::Up);
        wire.set_down(true);
        tokio::time::sleep(QUIET * 2).await;
        assert!(link.is_down(), "{:?}", link.state());
        wire.set_down(false);
        tokio::time::sleep(PROBE_MAX * 2).await;
        assert_eq!(link.state(), LinkState::Up);
        assert!(meter.snapshot().calls(Op::Probe) > 3);
    }

    /// A site that takes another login than the one that is shown to it, and its link, known to be down.
    async fn locked_out() -> (MemorySite, Arc<Link>) {
        let site = MemorySite::new();
        site.set_login(Some(1), Some(2));
        let link = Link::new(SiteName("site".into()), Arc::new(site.clone()));
        link.look().await;
        assert_eq!(
            link.state().lockout().map(|lockout| lockout.kind),
            Some(ErrorKind::Auth)
        );
        (site, link)
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_login_is_shown_again_so_seldom_that_no_account_is_locked() {
        let (site, link) = locked_out().await;
        let quarter = Duration::from_secs(15 * 60);
        tokio::time::sleep(quarter).await;
        let logins = site.counters().calls(Op::Probe);
        assert!((3..=5).contains(&logins), "{logins} in the first quarter of an hour");
        tokio::time::sleep(quarter * 8).await;
        let later = site.counters().calls(Op::Probe) - logins;
        assert!((8..=16).contains(&later), "{later} in two hours");
        assert!(link.is_down());
        // What the site takes after all is found out, if late.
        site.set_login(Some(1), Some(1));
        tokio::time::sleep(quarter).await;
        assert_eq!(link.state(), LinkState::Up);
    }

    #[tokio::test(start_paused = true)]
    async fn who_meets_a_refused_login_is_the_only_one_who_does() {
        let (link, meter, _wire) = link();
        link.answered();
        link.failed(&ProviderError::new(ErrorKind::Denied, Op::Read));
        assert!(!link.is_down(), "one path is not the site");
        link.failed(&ProviderError::new(ErrorKind::Auth, Op::Read));
        assert!(link.state().lockout().is_some());
        let let_in = link.watch_let_in();
        tokio::time::sleep(PROBE_FIRST).await;
        assert_eq!((link.state(), meter.snapshot().calls(Op::Probe)), (LinkState::Up, 1));
        assert_eq!(
            *let_in.borrow(),
            0,
            "the same login was taken: what was refused is not begun again at once, for ever"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_password_is_tried_at_the_next_probe_and_any_when_a_person_asks() {
        let (site, link) = locked_out().await;
        let let_in = link.watch_let_in();
        tokio::time::sleep(Duration::from_secs(30 * 60)).await;
        site.set_login(Some(2), Some(2));
        tokio::time::sleep(PROBE_MAX * 2).await;
        assert_eq!((link.state(), *let_in.borrow()), (LinkState::Up, 1));

        // Also one that is in place before the first probe.
        link.failed(&ProviderError::new(ErrorKind::Auth, Op::Read));
        tokio::task::yield_now().await;
        site.set_login(Some(3), Some(3));
        tokio::time::sleep(PROBE_FIRST).await;
        assert_eq!((link.state(), *let_in.borrow()), (LinkState::Up, 2));

        let (site, link) = locked_out().await;
        tokio::time::sleep(Duration::from_secs(30 * 60)).await;
        site.set_login(Some(1), Some(1));
        assert!(link.is_down());
        let let_in = link.watch_let_in();
        link.ask_anew().await;
        assert_eq!((link.state(), *let_in.borrow()), (LinkState::Up, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_is_used_is_not_probed() {
        let (link, meter, _wire) = link();
        link.keep_known();
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_secs(5)).await;
            link.answered();
        }
        assert_eq!(meter.snapshot().calls(Op::Probe), 1, "the first look alone");
    }

    #[tokio::test(start_paused = true)]
    async fn who_woke_does_not_wait_for_the_next_probe() {
        let (link, meter, wire) = link();
        wire.set_down(true);
        link.keep_known();
        tokio::time::sleep(PROBE_MAX * 8).await;
        assert!(link.is_down());
        // Just after a probe: the next one is many seconds away.
        let probes = meter.snapshot().calls(Op::Probe);
        while meter.snapshot().calls(Op::Probe) == probes {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        wire.set_down(false);
        link.woke();
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert_eq!(link.state(), LinkState::Up);
    }

    #[tokio::test(start_paused = true)]
    async fn a_link_that_nobody_holds_is_not_probed_for_ever() {
        let (link, meter, wire) = link();
        wire.set_down(true);
        link.keep_known();
        tokio::time::sleep(PROBE_MAX).await;
        drop(link);
        tokio::time::sleep(PROBE_MAX * 2).await;
        let probes = meter.snapshot().calls(Op::Probe);
        tokio::time::sleep(PROBE_MAX * 10).await;
        assert_eq!(meter.snapshot().calls(Op::Probe), probes);
    }
}
