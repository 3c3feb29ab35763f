//! What is kept resident: the rules, what they mean, whether it fits.
//!
//! Owns: the rules of the settings and those given by people, one answer to "is this pinned". Refuses to know: how bytes
//! come here (`keep` has them fetched). Invariants: a rule is about paths, so it holds for what appears there later; a rule
//! that does not fit beside the others is refused before anything is fetched or evicted for it.

mod keep;
pub(super) mod rules;
pub(super) mod walk;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use backlot_cache::ContentId;
use backlot_config::{compile_glob, compile_globs};
use tokio::sync::Notify;
use tracing::{info, warn};

use super::drive::{Drive, Inner, LookupError, Project, content_version, disk_space, now_ms};
use super::report::{PinFailure, PinReport, PinRequest, PinTotals, PinsReport};
use crate::model::{Ino, PathError, RelPath};
use crate::state::{NewPin, Node, Pin, StateError};
pub(super) use keep::{FetchError, fetch_file};

use rules::{Pattern, Patterns, is_pattern};
use walk::{Found, Scope, Walk};

/// Failures that are told.
const FAILURES_TOLD: usize = 20;
/// More rules than this are refused: so many are looked through for each answer about pins.
const MAX_RULES: usize = 10_000;

/// Why a pin was not set or removed.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    /// Nothing there.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// Not a path of the drive.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Not a pattern.
    #[error("`{0}` is not a pattern: {1}")]
    Pattern(String, String),
    /// A pattern that names no project.
    #[error("{0}: no project's folder matches that")]
    NoProject(String),
    /// Not a rule.
    #[error("{0}: no pin is for that, by number, path or pattern")]
    NoPin(String),
    /// A rule of the settings.
    #[error("{0}: that pin is one of the settings")]
    FromSettings(String),
    /// Too many rules.
    #[error("there are {MAX_RULES} pins already")]
    TooMany,
    /// More than there is room for.
    #[error("{0}")]
    TooMuch(TooMuch),
    /// More at once than there is room for.
    #[error("it does not fit: {} are to be here at once, and the pins leave room for {}", shown(*.needed), shown(*.room))]
    NoRoom {
        /// What is to be here, but for what is pinned.
        needed: u64,
        /// What the pins leave.
        room: u64,
    },
    /// The store.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Pins that do not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooMuch {
    /// What all pins would take together.
    pub wanted_bytes: u64,
    /// What the new ones add to that.
    pub added_bytes: u64,
    /// What pins may take.
    pub room: Room,
}

/// What pins may take, and why no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Room {
    /// The cache's limit.
    pub max_bytes: u64,
    /// What its disk has for it, beside what is to stay free.
    pub disk_bytes: u64,
}

impl Room {
    /// Returns what pins may take.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.max_bytes.min(self.disk_bytes)
    }
}

impl fmt::Display for TooMuch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            wanted_bytes,
            added_bytes,
            room,
        } = *self;
        let why = if room.max_bytes <= room.disk_bytes {
            "by cache.max-size"
        } else {
            "on the cache's disk, beside cache.min-free"
        };
        write!(
            f,
            "it does not fit: all pins together would take {}, {} of that for this one, and there is room for {} {why}",
            shown(wanted_bytes),
            shown(added_bytes),
            shown(room.bytes())
        )
    }
}

/// Bytes as people read them.
fn shown(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut whole, mut part, mut unit) = (bytes, 0, "B");
    for next in UNITS {
        if whole < 1024 {
            break;
        }
        (whole, part, unit) = (whole / 1024, whole % 1024 * 10 / 1024, next);
    }
    if unit == "B" {
        format!("{whole} {unit}")
    } else {
        format!("{whole}.{part} {unit}")
    }
}

/// A rule: what is to be kept, and since when on whose word.
#[derive(Debug)]
struct Rule {
    /// `None`: it is one of the settings.
    given: Option<Pin>,
    project: Arc<Project>,
    pattern: Pattern,
}

impl Rule {
    /// Returns what it is about, as a path or pattern of the drive.
    fn text(&self) -> String {
        let below = String::from_utf8_lossy(self.pattern.as_bytes()).into_owned();
        match below.as_str() {
            "" => self.project.folder.clone(),
            below => format!("{}/{below}", self.project.folder),
        }
    }
}

/// All rules at one time.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Those of one project together.
    rules: Vec<Rule>,
    /// Of each project that has any, by its root: its patterns, and where its rules begin.
    scopes: HashMap<Ino, (Scope, usize)>,
}

impl Rules {
    fn new(projects: &[Arc<Project>], given: &[Pin]) -> Self {
        let mut all = Self::default();
        for project in projects {
            let first = all.rules.len();
            let of_settings = project.pins.iter().map(|text| {
                let path = Some(text).filter(|text| !is_pattern(text)).map(RelPath::new);
                match path {
                    Some(Ok(path)) => (None, Pattern::Path(path)),
                    _ => (None, Pattern::Glob(text.clone())),
                }
            });
            let given = given.iter().filter(|pin| pin.rule.root == project.root);
            let given = given.filter_map(|pin| Some((Some(pin.clone()), pattern_of(pin)?)));
            all.rules.extend(of_settings.chain(given).map(|(given, pattern)| Rule {
                given,
                project: Arc::clone(project),
                pattern,
            }));
            let patterns = all.rules.iter().skip(first).map(|rule| &rule.pattern);
            match Patterns::new(patterns) {
                Ok(patterns) if patterns.is_empty() => {}
                Ok(patterns) => {
                    let scope = Scope {
                        project: Arc::clone(project),
                        patterns: Arc::new(patterns),
                    };
                    all.scopes.insert(project.root, (scope, first));
                }
                // Each was compiled when it was given; only all of them together can be too much.
                Err(e) => {
                    warn!(project = %project.name, error = %e, "the pins of a project can't be used");
                    all.rules.truncate(first);
                }
            }
        }
        all
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Says whether a path of a project is covered by any.
    pub(super) fn cover(&self, project: &Project, below: &RelPath) -> bool {
        let scope = self.scopes.get(&project.root);
        scope.is_some_and(|(scope, _)| !scope.patterns.covering(below).is_empty())
    }

    /// Says whether a path of the drive is.
    pub(super) fn cover_in_drive(&self, path: &RelPath) -> bool {
        let folder = path.components().next().unwrap_or_default();
        let mut scopes = self.scopes.values().map(|(scope, _)| scope);
        let Some(scope) = scopes.find(|scope| scope.project.folder.as_bytes() == folder) else {
            return false;
        };
        let below = path.as_bytes().get(folder.len()..).unwrap_or_default();
        let below = RelPath::new(below).unwrap_or_default();
        !scope.patterns.covering(&below).is_empty()
    }

    fn scopes(&self) -> Vec<Scope> {
        let mut scopes: Vec<_> = self
            .scopes
            .values()
            .map(|(scope, first)| (*first, scope.clone()))
            .collect();
        scopes.sort_by_key(|(first, _)| *first);
        scopes.into_iter().map(|(_, scope)| scope).collect()
    }
}

fn pattern_of(pin: &Pin) -> Option<Pattern> {
    let NewPin { is_glob, what, .. } = &pin.rule;
    let pattern = if *is_glob {
        String::from_utf8(what.clone()).ok().map(Pattern::Glob)
    } else {
        RelPath::new(what).ok().map(Pattern::Path)
    };
    if pattern.is_none() {
        warn!(pin = pin.id, "a pin in the store is neither path nor pattern");
    }
    pattern
}

/// What the last look at all that is pinned found, and what became of it since.
#[derive(Clone, Debug, Default)]
struct Known {
    wanted: Tally,
    failed: u64,
    failures: Vec<PinFailure>,
    unfitting: Tally,
    waiting_for: Vec<String>,
    fetching: usize,
}

/// A number of files and their bytes, and how much of that is here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tally {
    pub(super) files: u64,
    pub(super) bytes: u64,
    pub(super) resident_files: u64,
    pub(super) resident_bytes: u64,
}

impl Tally {
    pub(super) fn add(&mut self, look: &Look) {
        self.files += 1;
        self.bytes += look.len;
        self.resident_files += u64::from(look.is_here());
        self.resident_bytes += look.resident;
    }
}

/// The pins of a drive.
#[derive(Debug, Default)]
pub(super) struct Pins {
    rules: RwLock<Arc<Rules>>,
    /// One change of the rules at a time.
    changing: tokio::sync::Mutex<()>,
    wake: Arc<Notify>,
    /// One round of marks at a time, with the rules as they are then.
    marking: Mutex<()>,
    round: AtomicU64,
    known: Mutex<Known>,
}

impl Pins {
    pub(super) fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is under a name that may be pinned. Cheap: any number of calls cost one look.
    pub(super) fn look_soon(&self) {
        self.wake.notify_one();
    }

    /// The tree changed.
    pub(super) fn tree_changed(&self) {
        if !self.rules().is_empty() {
            self.look_soon();
        }
    }
}

/// How a covered file stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) id: ContentId,
    pub(super) len: u64,
    pub(super) resident: u64,
}

impl Look {
    pub(super) fn is_here(&self) -> bool {
        self.resident >= self.len
    }

    pub(super) fn missing(&self) -> u64 {
        self.len.saturating_sub(self.resident)
    }
}

impl Inner {
    /// Returns how a file stands whose bytes come from a site; `None` for one whose bytes are this machine's own.
    pub(super) fn look_at(&self, node: &Node) -> Option<Look> {
        if node.own && node.origin.is_none() {
            return None;
        }
        let id = self.content_id(node.ino, &content_version(node));
        let resident = match self.cache.residency(id, node.size) {
            Ok(backlot_cache::Residency::Full) => node.size,
            Ok(backlot_cache::Residency::Partial(bytes)) => bytes,
            Ok(backlot_cache::Residency::None) | Err(_) => 0,
        };
        Some(Look {
            id,
            len: node.size,
            resident,
        })
    }

    /// Returns what a path or pattern of the drive means: in which projects, and what there.
    pub(super) fn select(&self, text: &str) -> Result<Vec<(Arc<Project>, Pattern)>, PinError> {
        let text = text.trim_matches('/');
        let all = |pattern: &Pattern| self.projects.iter().map(|p| (Arc::clone(p), pattern.clone())).collect();
        if text.is_empty() {
            return Ok(all(&Pattern::Path(RelPath::root())));
        }
        let (first, rest) = text.split_once('/').unwrap_or((text, ""));
        let of_folder = |folder: &str| self.projects.iter().find(|p| p.folder == folder).cloned();
        let path = match RelPath::new(text) {
            Ok(path) => Some(path),
            Err(e) if !is_pattern(text) => return Err(e.into()),
            Err(_) => None,
        };
        // What is there by this name is meant, whatever its name looks like.
        if let Some(path) = &path
            && self.tree.resolve(path)?.is_some()
            && let Some(project) = of_folder(first)
        {
            return Ok(vec![(project, Pattern::Path(RelPath::new(rest)?))]);
        }
        if !is_pattern(text) {
            return Err(LookupError::NotFound(path.unwrap_or_default()).into());
        }
        let bad = |e: globset::Error| PinError::Pattern(text.to_owned(), e.kind().to_string());
        if first == "**" {
            compile_globs([text]).map_err(bad)?;
            return Ok(all(&Pattern::Glob(text.to_owned())));
        }
        let pattern = if is_pattern(rest) {
            compile_globs([rest]).map_err(bad)?;
            Pattern::Glob(rest.to_owned())
        } else {
            Pattern::Path(RelPath::new(rest)?)
        };
        let folder = compile_glob(first).map_err(bad)?.compile_matcher();
        let projects = self
            .projects
            .iter()
            .filter(|p| p.folder == first || folder.is_match(&p.folder));
        let found: Vec<_> = projects.map(|p| (Arc::clone(p), pattern.clone())).collect();
        if found.is_empty() {
            return Err(PinError::NoProject(text.to_owned()));
        }
        Ok(found)
    }

    /// Returns what selections mean together, for a walk.
    pub(super) fn scopes_of(&self, texts: &[String]) -> Result<Vec<Scope>, PinError> {
        let mut selected = Vec::new();
        for text in texts {
            selected.extend(self.select(text)?);
        }
        let mut scopes = Vec::new();
        for project in &self.projects {
            let of_project = selected
                .iter()
                .filter(|(p, _)| p.root == project.root)
                .map(|(_, what)| what);
            let patterns = Patterns::new(of_project).map_err(|e| PinError::Pattern(texts.join(" "), e.to_string()))?;
            if !patterns.is_empty() {
                scopes.push(Scope {
                    project: Arc::clone(project),
                    patterns: Arc::new(patterns),
                });
            }
        }
        Ok(scopes)
    }

    /// Says whether a node is pinned, by its first name.
    pub(super) fn is_pinned(&self, ino: Ino) -> bool {
        let rules = self.pins.rules();
        if rules.is_empty() {
            return false;
        }
        let place = self.place(ino).ok().flatten();
        place.is_some_and(|(project, below)| rules.cover(&project, &below))
    }

    /// Returns what pins may take: nobody else's bytes count, since those can be evicted.
    pub(super) fn room(&self) -> Room {
        let usage = self.cache.usage();
        let (_, free) = disk_space(&self.cache_dir);
        Room {
            max_bytes: usage.max_bytes,
            disk_bytes: usage
                .bytes
                .saturating_add(free)
                .saturating_sub(self.limits.cache_min_free),
        }
    }

    /// Goes through everything that rules cover. May take a while.
    fn survey(&self, rules: &Rules, mut each: impl FnMut(&Found, &Look)) -> Result<Tally, StateError> {
        let (mut walk, mut tally) = (Walk::new(rules.scopes()), Tally::default());
        while let Some(page) = walk.next(self)? {
            for found in &page {
                if let Some(look) = self.look_at(&found.node) {
                    tally.add(&look);
                    each(found, &look);
                }
            }
            if self.stop.is_cancelled() {
                return Err(StateError::Closed);
            }
        }
        Ok(tally)
    }

    /// Takes over the rules as they are stored now.
    pub(super) fn load_pins(&self) -> Result<(), StateError> {
        let rules = Rules::new(&self.projects, &self.store.read(|txn| txn.pins())?);
        *self.pins.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        self.pins.look_soon();
        Ok(())
    }

    /// Returns all rules with how far each is, as it is at this moment. Goes through all that is pinned.
    ///
    /// # Errors
    /// When the store can't be read.
    pub fn pins(&self) -> Result<PinsReport, StateError> {
        let rules = self.pins.rules();
        let mut tallies = vec![Tally::default(); rules.rules.len()];
        let wanted = self.survey(&rules, |found, look| {
            let first = rules.scopes.get(&found.project.root).map_or(0, |(_, first)| *first);
            for place in &*found.by {
                if let Some(tally) = tallies.get_mut(first + place) {
                    tally.add(look);
                }
            }
        })?;
        let reports = rules
            .rules
            .iter()
            .zip(&tallies)
            .map(|(rule, tally)| pin_report(rule, *tally));
        let mut total = self.pin_totals();
        total.set(wanted.files, wanted.bytes, wanted.resident_files, wanted.resident_bytes);
        Ok(PinsReport {
            rules: reports.collect(),
            total,
        })
    }

    /// Returns how far all pins are, as last looked.
    pub(super) fn pin_totals(&self) -> PinTotals {
        let (rules, known) = (self.pins.rules(), self.pins.known().clone());
        let mut totals = PinTotals {
            rules: rules.rules.len() as u64,
            failed: known.failed,
            failures: known.failures,
            unfitting_files: known.unfitting.files,
            unfitting_bytes: known.unfitting.bytes.saturating_sub(known.unfitting.resident_bytes),
            room_bytes: self.room().bytes(),
            waiting_for: known.waiting_for,
            fetching: known.fetching,
            ..PinTotals::default()
        };
        let wanted = known.wanted;
        let resident = self.cache.usage().pinned_bytes.min(wanted.bytes);
        let files = wanted.resident_files.min(wanted.files);
        totals.set(wanted.files, wanted.bytes, files, resident);
        totals
    }
}

fn pin_report(rule: &Rule, tally: Tally) -> PinReport {
    let given = rule.given.as_ref();
    PinReport {
        id: given.map(|pin| pin.id),
        what: rule.text(),
        is_pattern: matches!(rule.pattern, Pattern::Glob(_)),
        project: rule.project.name.0.clone(),
        note: given.and_then(|pin| pin.rule.note.clone()),
        who: given.map(|pin| pin.rule.who.clone()),
        at_ms: given.map(|pin| pin.at_ms),
        files: tally.files,
        bytes: tally.bytes,
        resident_files: tally.resident_files,
        resident_bytes: tally.resident_bytes,
    }
}

impl Drive {
    /// Keeps resident what paths and patterns cover, now and later, and returns the rules that say so. What is lacking is
    /// fetched in the background.
    ///
    /// # Errors
    /// See [`PinError`]; if all pins together would not fit none of these is set.
    pub async fn pin(&self, request: &PinRequest) -> Result<Vec<PinReport>, PinError> {
        let mut selected = Vec::new();
        for text in &request.paths {
            selected.extend(self.select(text)?);
        }
        if request.for_project {
            let mut known = std::collections::HashSet::new();
            selected.retain(|(project, _)| known.insert(project.root));
            for (_, what) in &mut selected {
                *what = Pattern::Path(RelPath::root());
            }
        }
        self.inner()
            .pin_selected(selected, request.note.clone(), &request.who)
            .await
    }

    /// Removes rules, given by number, by path or pattern; returns them. What no other rule covers may be evicted then.
    ///
    /// # Errors
    /// See [`PinError`]; nothing is removed then.
    pub async fn unpin(&self, what: &[String]) -> Result<Vec<PinReport>, PinError> {
        let _turn = self.pins.changing.lock().await;
        let rules = self.pins.rules();
        let mut gone: Vec<(u64, PinReport)> = Vec::new();
        for text in what {
            let wanted = text.trim_matches('/');
            let meant = |rule: &&Rule| {
                let number = rule.given.as_ref().map(|pin| pin.id.to_string());
                number.is_some_and(|number| number == *text) || rule.text() == wanted
            };
            let meant: Vec<&Rule> = rules.rules.iter().filter(meant).collect();
            let given = meant.iter().filter_map(|rule| Some((rule.given.as_ref()?.id, *rule)));
            let given: Vec<_> = given
                .map(|(id, rule)| (id, pin_report(rule, Tally::default())))
                .collect();
            match (given.is_empty(), meant.is_empty()) {
                (false, _) => gone.extend(given),
                (true, false) => return Err(PinError::FromSettings(text.clone())),
                (true, true) => return Err(PinError::NoPin(text.clone())),
            }
        }
        self.inner()
            .remove_pins(gone.iter().map(|(id, _)| *id).collect())
            .await?;
        Ok(gone.into_iter().map(|(_, report)| report).collect())
    }
}

impl Inner {
    /// Sets rules; see [`Drive::pin`].
    pub(super) async fn pin_selected(
        self: &Arc<Self>,
        selected: Vec<(Arc<Project>, Pattern)>,
        note: Option<String>,
        who: &str,
    ) -> Result<Vec<PinReport>, PinError> {
        let _turn = self.pins.changing.lock().await;
        let new: Vec<NewPin> = selected
            .into_iter()
            .map(|(project, pattern)| NewPin {
                root: project.root,
                is_glob: matches!(pattern, Pattern::Glob(_)),
                what: pattern.as_bytes().to_vec(),
                note: note.clone(),
                who: who.to_owned(),
            })
            .collect();
        let (drive, adding) = (Arc::clone(self), new.clone());
        let fits = tokio::task::spawn_blocking(move || drive.check_fit(&adding)).await;
        fits.unwrap_or(Err(StateError::Closed.into()))?;
        let now = now_ms();
        let ids = self
            .store
            .write_durable(move |txn| {
                new.iter()
                    .map(|pin| txn.add_pin(pin, now))
                    .collect::<Result<Vec<_>, _>>()
            })
            .await?;
        self.load_pins()?;
        // Before it is said that they are pinned: nothing of what is here goes from now on.
        self.mark_pins().await?;
        info!(rules = ids.len(), who, "pinned");
        let rules = self.pins.rules();
        let given = rules
            .rules
            .iter()
            .filter_map(|rule| Some((rule.given.as_ref()?.id, rule)));
        let set = given.filter(|(id, _)| ids.contains(id)).map(|(_, rule)| rule);
        Ok(set.map(|rule| pin_report(rule, Tally::default())).collect())
    }

    /// Removes rules by their numbers.
    pub(super) async fn remove_pins(self: &Arc<Self>, ids: Vec<u64>) -> Result<(), StateError> {
        let count = ids.len();
        self.store
            .write_durable(move |txn| ids.iter().try_for_each(|id| txn.remove_pin(*id).map(drop)))
            .await?;
        self.load_pins()?;
        // Before it is said that they are unpinned: it can be evicted from now on.
        self.mark_pins().await?;
        info!(rules = count, "unpinned");
        Ok(())
    }

    /// Returns the number of the rule about this very path, by its first name.
    pub(super) fn pin_of(&self, ino: Ino) -> Option<u64> {
        let rules = self.pins.rules();
        if rules.is_empty() {
            return None;
        }
        let (project, below) = self.place(ino).ok().flatten()?;
        let is_of = |rule: &&Rule| rule.project.root == project.root && rule.pattern == Pattern::Path(below.clone());
        rules
            .rules
            .iter()
            .filter(is_of)
            .find_map(|rule| rule.given.as_ref())
            .map(|pin| pin.id)
    }

    /// Holds what all rules with some new ones want against the room there is.
    fn check_fit(&self, new: &[NewPin]) -> Result<(), PinError> {
        let known = self.store.read(|txn| txn.pins())?;
        let is_known = |rule: &NewPin| {
            let same =
                |pin: &Pin| (pin.rule.root, pin.rule.is_glob, &pin.rule.what) == (rule.root, rule.is_glob, &rule.what);
            known.iter().any(same)
        };
        let added: Vec<Pin> = new
            .iter()
            .filter(|rule| !is_known(rule))
            .map(|rule| Pin {
                id: 0,
                rule: rule.clone(),
                at_ms: 0,
            })
            .collect();
        if added.is_empty() {
            return Ok(());
        }
        if known.len() + added.len() > MAX_RULES {
            return Err(PinError::TooMany);
        }
        let before = Rules::new(&self.projects, &known);
        let all: Vec<Pin> = known.iter().cloned().chain(added).collect();
        let wanted = self.survey(&Rules::new(&self.projects, &all), |_, _| {})?;
        let room = self.room();
        if wanted.bytes <= room.bytes() {
            return Ok(());
        }
        let before = self.survey(&before, |_, _| {})?;
        let added_bytes = wanted.bytes.saturating_sub(before.bytes);
        // One that adds nothing makes nothing worse.
        if added_bytes == 0 {
            return Ok(());
        }
        Err(PinError::TooMuch(TooMuch {
            wanted_bytes: wanted.bytes,
            added_bytes,
            room,
        }))
    }

    /// Begins to keep resident what is pinned.
    pub(super) fn start_pins(self: &Arc<Self>) {
        for site in self.sites.values() {
            tokio::spawn(keep::wake_when_up(Arc::downgrade(self), site.link().watch()));
        }
        tokio::spawn(keep::keep(Arc::downgrade(self), self.stop.clone()));
    }

    /// Marks in the cache and counts all that is pinned, and takes the marks off all else.
    async fn mark_pins(self: &Arc<Self>) -> Result<(), StateError> {
        let drive = Arc::clone(self);
        let marked = tokio::task::spawn_blocking(move || {
            let _turn = drive.pins.marking.lock().unwrap_or_else(PoisonError::into_inner);
            let round = drive.pins.round.fetch_add(1, Ordering::Relaxed) + 1;
            let wanted = drive.survey(&drive.pins.rules(), |_, look| drive.cache.pin(look.id, round))?;
            drive.cache.unpin_before(round);
            drive.pins.known().wanted = wanted;
            Ok(())
        });
        marked.await.unwrap_or(Err(StateError::Closed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_said_as_people_read_them() {
        assert_eq!(
            [0, 1023, 1024, 1536, 5 << 30].map(shown),
            ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "5.0 GiB"]
        );
        let said = TooMuch {
            wanted_bytes: 12 << 20,
            added_bytes: 5 << 20,
            room: Room {
                max_bytes: 8 << 20,
                disk_bytes: 1 << 40,
            },
        };
        let said = said.to_string();
        assert!(
            said.contains("take 12.0 MiB, 5.0 MiB of that") && said.contains("8.0 MiB by cache.max-size"),
            "{said}"
        );
    }
}
