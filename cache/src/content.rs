//! One content: what of it is here, reading it, filling it.
//!
//! Owns: [`Content`] and the order of its locks. Refuses to know: paths of users, sites, why bytes are wanted.
//! Invariants: a granule's bit is set only after its bytes were written; a granule is served only if its bytes were
//! written through, or checked through, the very descriptor they are read from; dropping waits for reads and fills in
//! flight on this content, so none of them can meet a hole where it saw a bit.
//!
//! Each content has a `ground`: held for reading while bits are used, bytes read or written; held for writing only
//! when the ground itself moves (file lost, granules dropped). Readers and fillers never wait for each other on it.

mod damage;

use std::fs::File;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};

use bytes::Bytes;
use twox_hash::XxHash3_64;

use crate::files::OpenFile;
use crate::segments::{Bits, Layout, SEGMENT_GRANULES, Segment, SegmentKey, by_segment, runs, small};
use crate::sync::{lock, read, write};
use crate::{CacheError, ContentId, GRANULE, Shared, files};

/// What a read found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Hit {
    /// All of the range, clipped to the content's length.
    Full(Bytes),
    /// Nothing was read: these byte ranges (whole granules, clipped to the length, ascending) must be filled first.
    Missing(Vec<Range<u64>>),
}

/// What a verification found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Verified {
    /// Bytes that were looked at.
    pub bytes: u64,
    /// Granules that were wrong or gone, and are dropped.
    pub bad_granules: u64,
    /// The data file may have been handed out, so all of it was dropped with them.
    pub dropped_whole: bool,
}

/// A handle on one content. Cheap to clone; while one is alive, the content is not evicted.
#[derive(Clone)]
pub struct Content(pub(crate) Arc<Inner>);

pub(crate) struct Inner {
    shared: Arc<Shared>,
    id: ContentId,
    pub(crate) layout: Layout,
    /// Key of the current incarnation; see [`SegmentKey`].
    ground: RwLock<u64>,
    /// A data file was created through this handle, which nobody may have filled since.
    created: AtomicBool,
    /// Somebody has it for its bytes, not for looking at them alone.
    pub(crate) is_used: AtomicBool,
}

/// The part of an operation that lies in one segment.
struct Piece {
    no: u64,
    within: Range<usize>,
    segment: Arc<Segment>,
}

impl Piece {
    fn granules(&self) -> impl Iterator<Item = (usize, u64)> + use<> {
        let first = self.no * SEGMENT_GRANULES;
        self.within.clone().map(move |i| (i, first + i as u64))
    }
}

/// Granules read in one go to check them: 1 MiB.
const CHECK_GRANULES: usize = 16;
/// Number of times a read starts again when what it found damaged was mended under it.
const READ_ATTEMPTS: usize = 3;
/// Number of times a fill starts again when the data file vanishes under it.
const FILL_ATTEMPTS: usize = 4;

impl Content {
    /// Returns the content's id.
    #[must_use]
    pub fn id(&self) -> ContentId {
        self.0.id
    }

    /// Returns the length of the whole content in bytes, whatever is here of it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.0.layout.len
    }

    /// Has it count as used now, and when the last handle is let go.
    pub fn mark_used(&self) {
        if !self.0.is_used.swap(true, Ordering::AcqRel) {
            lock(&self.0.shared.books).touch(self.0.id);
        }
    }

    /// True for a content of no bytes, which is always fully here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if every byte is here.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.resident_bytes() == self.len()
    }

    /// Returns the number of bytes that are here.
    #[must_use]
    pub fn resident_bytes(&self) -> u64 {
        lock(&self.0.shared.books).get(self.0.id).map_or(0, |s| s.resident)
    }

    /// Returns what of `range` is not here, as byte ranges of whole granules, clipped to the length, merged, ascending.
    ///
    /// # Errors
    /// [`CacheError::Index`] if the index can't be read.
    pub fn missing(&self, range: Range<u64>) -> Result<Vec<Range<u64>>, CacheError> {
        self.0.mending(|| self.0.missing(&range))
    }

    /// Reads `range`, clipped to the length, if all of it is here. A granule that is due for verification and does not
    /// match its checksum is dropped, counted and reported as missing.
    ///
    /// # Errors
    /// [`CacheError::Index`] if the index can't be read, [`CacheError::Io`] if the data file can't be opened. Bytes that
    /// can't be read from it are no error but missing.
    pub fn read(&self, range: Range<u64>) -> Result<Hit, CacheError> {
        self.0.mending(|| self.0.read(&range))
    }

    /// Takes in bytes from a site: whole granules starting at `at`; the last one ends where the content ends. Granules
    /// that are here already stay as they are.
    ///
    /// # Errors
    /// [`CacheError::Misaligned`]; [`CacheError::Full`], [`CacheError::ReadOnly`] or [`CacheError::Io`] if the bytes
    /// can't be written, in which case none of the missing granules is recorded.
    pub fn fill(&self, at: u64, data: &[u8]) -> Result<(), CacheError> {
        let filled = self
            .0
            .shared
            .bound_changes()
            .and_then(|()| self.0.mending(|| self.0.fill(at, data)));
        if matches!(filled, Err(CacheError::Full { .. } | CacheError::ReadOnly { .. })) {
            self.0.shared.counters.refused_fills.fetch_add(1, Ordering::Relaxed);
        }
        filled
    }

    /// Returns the data file itself, read-only, for the kernel to read from, if all of it is here and every granule was
    /// written or checked in this process. Reads no byte: what is due for a check is for [`Content::check`].
    ///
    /// The bytes of that file never change, whatever becomes of the content.
    ///
    /// # Errors
    /// As [`Content::read`].
    pub fn whole_file(&self) -> Result<Option<File>, CacheError> {
        self.0.mending(|| self.0.whole_file())
    }

    /// Notes that all of it is right, if all of it is here and every granule was written or checked in this process; says
    /// whether that is so. [`Content::whole_file`] has it from there, without another look at each granule.
    ///
    /// # Errors
    /// As [`Content::read`].
    pub fn prove(&self) -> Result<bool, CacheError> {
        self.0.mending(|| self.0.proven(false)).map(|file| file.is_some())
    }

    /// Reads what of `range` is here and due for verification, and drops what does not match its checksum, as a read would.
    /// Says whether all of the range is here and right.
    ///
    /// # Errors
    /// As [`Content::read`].
    pub fn check(&self, range: Range<u64>) -> Result<bool, CacheError> {
        self.0.mending(|| self.0.check(&range))
    }

    /// Reads what of `range` is here and holds it against its checksums, whether that was done before or not; drops and
    /// counts what does not match: with all else, if the data file may have been handed out. Returns the bytes looked at
    /// and the granules dropped. Of a content that nobody uses, what is looked at is the disk, not the system's memory.
    ///
    /// # Errors
    /// As [`Content::read`].
    pub fn verify(&self, range: Range<u64>) -> Result<Verified, CacheError> {
        self.0.mending(|| self.0.verify(&range))
    }

    /// Drops every granule that `range` touches and gives its space back; all granules, if the data file may have been
    /// handed out. Returns the bytes dropped.
    ///
    /// # Errors
    /// [`CacheError::Index`] if the index can't be read.
    pub fn drop_granules(&self, range: Range<u64>) -> Result<u64, CacheError> {
        self.0.mending(|| self.0.drop_granules(&range))
    }
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content")
            .field("id", &self.id())
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Inner {
    pub(crate) fn new(shared: Arc<Shared>, id: ContentId, layout: Layout, key: u64, is_used: bool) -> Self {
        Self {
            shared,
            id,
            layout,
            ground: RwLock::new(key),
            created: AtomicBool::new(false),
            is_used: AtomicBool::new(is_used),
        }
    }

    /// Runs `op`; if it finds the index damaged, starts the cache anew and runs it again.
    fn mending<T>(&self, op: impl Fn() -> Result<T, CacheError>) -> Result<T, CacheError> {
        self.shared.check_open()?;
        match op() {
            Err(CacheError::Index { .. }) if self.shared.index_damaged.load(Ordering::Acquire) => {
                self.shared.ensure_attached()?;
                op()
            }
            other => other,
        }
    }

    fn missing(&self, range: &Range<u64>) -> Result<Vec<Range<u64>>, CacheError> {
        let range = self.layout.clip(range);
        let granules = self.layout.granules_of(&range);
        let key = read(&self.ground);
        let summary = lock(&self.shared.books).get(self.id).copied();
        match summary {
            Some(s) if s.resident == self.layout.len => Ok(Vec::new()),
            Some(s) if s.resident > 0 => Ok(self.byte_ranges(absent(&self.pieces(*key, granules)?))),
            _ if granules.is_empty() => Ok(Vec::new()),
            _ => Ok(vec![self.layout.bytes_of(&granules)]),
        }
    }

    fn read(&self, range: &Range<u64>) -> Result<Hit, CacheError> {
        let range = self.layout.clip(range);
        if range.is_empty() {
            return Ok(Hit::Full(Bytes::new()));
        }
        let mut bad = Vec::new();
        for _ in 0..READ_ATTEMPTS {
            match self.read_once(&range)? {
                Found::Hit(hit) => return Ok(hit),
                Found::Damaged(key, granules) => {
                    self.condemn(key, &granules)?;
                    let missing = self.missing(&range)?;
                    if !missing.is_empty() {
                        return Ok(Hit::Missing(missing));
                    }
                    bad = granules;
                }
            }
        }
        Ok(Hit::Missing(self.byte_ranges(bad)))
    }

    /// Reads a range that is not empty.
    fn read_once(&self, range: &Range<u64>) -> Result<Found, CacheError> {
        let range = range.clone();
        let granules = self.layout.granules_of(&range);
        let ground = read(&self.ground);
        let key = *ground;
        let pieces = self.pieces(key, granules.clone())?;
        let absent = absent(&pieces);
        if !absent.is_empty() {
            return Ok(Found::Hit(Hit::Missing(self.byte_ranges(absent))));
        }
        let Some(file) = self.shared.files.get(key, self.id).map_err(|e| self.io("open", 0, e))? else {
            drop(ground);
            self.lost(key);
            return Ok(Found::Hit(Hit::Missing(vec![self.layout.bytes_of(&granules)])));
        };
        let due = checks_due(&pieces, &file);
        // A checksum needs all of its granule.
        let span = if due.is_empty() {
            range.clone()
        } else {
            self.layout.bytes_of(&granules)
        };
        let wanted = small(span.end - span.start);
        let buf = file.read_at(span.start, wanted).unwrap_or_else(|error| {
            tracing::warn!(content = %self.id, %error, "cached bytes cannot be read; fetching them again");
            Vec::new()
        });
        // Beyond the end of a file that was cut short there is nothing, whatever the bits say.
        let lost = (span.start + buf.len() as u64) / GRANULE..granules.end;
        let lost = if buf.len() < wanted { lost } else { 0..0 };
        let mut bad: Vec<u64> = due
            .iter()
            .filter(|(granule, checksum)| {
                !lost.contains(granule) && self.checksum_in(&buf, &span, *granule) != Some(*checksum)
            })
            .map(|(granule, _)| *granule)
            .collect();
        bad.extend(lost);
        if !bad.is_empty() {
            return Ok(Found::Damaged(key, bad));
        }
        if !due.is_empty() {
            for piece in &pieces {
                piece
                    .segment
                    .write(|bits| piece.within.clone().for_each(|i| bits.set_verified(i, file.instance)));
            }
        }
        let bytes = Bytes::from(buf).slice(small(range.start - span.start)..small(range.end - span.start));
        Ok(Found::Hit(Hit::Full(bytes)))
    }

    fn whole_file(&self) -> Result<Option<File>, CacheError> {
        let Some(file) = self.proven(true)? else {
            return Ok(None);
        };
        file.for_reading().map(Some).map_err(|e| self.io("open", 0, e))
    }

    fn fill(&self, at: u64, data: &[u8]) -> Result<(), CacheError> {
        let len = data.len() as u64;
        let misaligned = CacheError::Misaligned { at, len };
        let Some(end) = at.checked_add(len) else {
            return Err(misaligned);
        };
        if !at.is_multiple_of(GRANULE)
            || end > self.layout.len
            || !end.is_multiple_of(GRANULE) && end != self.layout.len
        {
            return Err(misaligned);
        }
        let granules = self.layout.granules_of(&(at..end));
        for _ in 0..FILL_ATTEMPTS {
            if self.fill_into_file(&granules, at, data)? {
                return Ok(());
            }
            self.prepare_file(len)?;
        }
        Err(self.io("keep", len, std::io::ErrorKind::NotFound.into()))
    }

    /// False if there is no file that the bytes could go to.
    fn fill_into_file(&self, granules: &Range<u64>, at: u64, data: &[u8]) -> Result<bool, CacheError> {
        let slice = |bytes: &Range<u64>| {
            data.get(small(bytes.start - at)..small(bytes.end - at))
                .unwrap_or_default()
        };
        let key = read(&self.ground);
        self.shared.check_open()?;
        if read(&self.shared.attached).is_none() {
            return Ok(false);
        }
        let pieces = self.pieces(*key, granules.clone())?;
        let absent = absent(&pieces);
        if absent.is_empty() {
            return Ok(true);
        }
        let Some(file) = self
            .shared
            .files
            .get(*key, self.id)
            .map_err(|e| self.io("open", 0, e))?
        else {
            return Ok(false);
        };
        if !file.is_linked() {
            return Ok(false);
        }
        if !file.writable {
            return Err(CacheError::ReadOnly {
                path: self.shared.files.path(self.id),
            });
        }
        let checksums: Vec<(u64, u64)> = absent
            .iter()
            .map(|&granule| {
                (
                    granule,
                    XxHash3_64::oneshot(slice(&self.layout.bytes_of(&(granule..granule + 1)))),
                )
            })
            .collect();
        for run in runs(absent) {
            let bytes = self.layout.bytes_of(&run);
            file.write_all_at(slice(&bytes), bytes.start)
                .map_err(|e| self.io("write", bytes.end - bytes.start, e))?;
        }
        // From here on the bytes are there, and may be read.
        self.change(
            *key,
            &pieces,
            |bits, i, granule| {
                let found = checksums
                    .binary_search_by_key(&granule, |(g, _)| *g)
                    .ok()
                    .and_then(|n| checksums.get(n));
                found.is_some_and(|(_, checksum)| bits.insert(i, *checksum, file.instance))
            },
            Change::Added,
        );
        Ok(true)
    }

    /// Gives this content a data file to be filled, empty; a lost one is struck off first.
    fn prepare_file(&self, needed: u64) -> Result<(), CacheError> {
        if read(&self.shared.attached).is_none() {
            self.shared.ensure_attached()?;
        }
        let created = {
            let mut key = write(&self.ground);
            let current = self
                .shared
                .files
                .get(*key, self.id)
                .map_err(|e| self.io("open", 0, e))?;
            if current.is_some_and(|file| file.is_linked()) {
                return Ok(());
            }
            self.new_key(&mut key);
            self.shared
                .files
                .create(*key, self.id, self.layout.len)
                .map_err(|e| self.io("create", needed, e))
        };
        match created {
            Err(e) if e.is_not_found() => self.shared.ensure_attached(),
            Err(e) => Err(e),
            Ok(()) => {
                self.created.store(true, Ordering::Relaxed);
                Ok(())
            }
        }
    }

    fn drop_granules(&self, range: &Range<u64>) -> Result<u64, CacheError> {
        let granules = self.layout.granules_of(&self.layout.clip(range));
        let mut key = write(&self.ground);
        if granules.is_empty() {
            return Ok(0);
        }
        if self.is_lent(*key) {
            return Ok(self.drop_whole(&mut key));
        }
        lock(&self.shared.proven).remove(&*key);
        let pieces = self.pieces(*key, granules)?;
        let dropped = runs(present(&pieces).into_iter().map(|(granule, _)| granule));
        let (_, bytes) = self.change(*key, &pieces, |bits, i, _| bits.remove(i), Change::Removed);
        if let Ok(Some(file)) = self.shared.files.get(*key, self.id) {
            for run in dropped {
                let hole = self.layout.bytes_of(&run);
                file.punch(hole.start, hole.end - hole.start);
            }
        }
        Ok(bytes)
    }

    /// Applies `each` to the granules of `pieces` and books those for which it says true. Returns their number
    /// and their bytes.
    fn change(
        &self,
        key: u64,
        pieces: &[Piece],
        each: impl Fn(&mut Bits, usize, u64) -> bool,
        change: Change,
    ) -> (u64, u64) {
        let mut total = (0, 0);
        for piece in pieces {
            let (mut granules, mut bytes) = (0, 0);
            piece.segment.write(|bits| {
                for (i, granule) in piece.granules() {
                    if each(bits, i, granule) {
                        granules += 1;
                        bytes += self.layout.size_of(&(granule..granule + 1));
                    }
                }
            });
            if granules > 0 {
                let mut books = lock(&self.shared.books);
                match change {
                    Change::Added => books.add(self.id, key, self.layout, granules, bytes),
                    Change::Removed => books.sub(self.id, key, granules, bytes),
                }
                books.segment_changed(
                    self.id,
                    SegmentKey {
                        content: key,
                        no: piece.no,
                    },
                    self.layout,
                    &piece.segment,
                );
                total = (total.0 + granules, total.1 + bytes);
            }
        }
        total
    }

    /// The data file of incarnation `key` is gone: so are its bits.
    fn lost(&self, key: u64) {
        let mut ground = write(&self.ground);
        if *ground == key && matches!(self.shared.files.get(key, self.id), Ok(None)) {
            tracing::debug!(content = %self.id, "data file is gone; fetching it again");
            self.new_key(&mut ground);
        }
    }

    /// Forgets all that is known of this content. Waits for its reads and fills in flight.
    pub(crate) fn start_over(&self) {
        self.new_key(&mut write(&self.ground));
    }

    /// Returns once every fill that began before has ended.
    pub(crate) fn wait_for_fills(&self) {
        drop(write(&self.ground));
    }

    fn new_key(&self, ground: &mut u64) {
        self.shared.files.forget(*ground);
        lock(&self.shared.proven).remove(&*ground);
        let _forgotten = lock(&self.shared.books).remove(self.id);
        *ground = self.shared.new_key();
    }

    /// The segments that hold `granules`, loaded.
    fn pieces(&self, key: u64, granules: Range<u64>) -> Result<Vec<Piece>, CacheError> {
        let piece = |(no, within)| {
            let at = SegmentKey { content: key, no };
            let segment = self.shared.segments.get(at);
            let granules = self.layout.segment_len(no);
            let load = || {
                // A content that is not on the books has no rows. Asked under the segment's lock: one that was filled,
                // written and unloaded since is on the books by now.
                let known = lock(&self.shared.books).get(self.id).is_some_and(|s| s.key == key);
                let index = read(&self.shared.attached).as_ref().map(|a| Arc::clone(&a.index));
                index
                    .filter(|_| known)
                    .map_or_else(|| Ok(Bits::empty(granules)), |index| index.segment(at, granules))
            };
            segment.load(load).map_err(|e| self.shared.index_failed(e))?;
            Ok(Piece { no, within, segment })
        };
        by_segment(granules).map(piece).collect()
    }

    fn byte_ranges(&self, granules: Vec<u64>) -> Vec<Range<u64>> {
        runs(granules).iter().map(|run| self.layout.bytes_of(run)).collect()
    }

    /// Checksum of a granule in `buf`, which starts at `span.start`; `None` if `buf` does not hold all of it.
    fn checksum_in(&self, buf: &[u8], span: &Range<u64>, granule: u64) -> Option<u64> {
        let bytes = self.layout.bytes_of(&(granule..granule + 1));
        let from = bytes.start.checked_sub(span.start)?;
        buf.get(small(from)..small(bytes.end - span.start))
            .map(XxHash3_64::oneshot)
    }

    fn io(&self, op: &'static str, needed: u64, source: std::io::Error) -> CacheError {
        CacheError::from_io(op, &self.shared.files.path(self.id), needed, source)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut live = lock(&self.shared.live);
        // Another handle may have been opened since the last one of this was let go.
        if live.get(&self.id).is_none_or(|c| c.strong_count() > 0) {
            return;
        }
        live.remove(&self.id);
        let filled = {
            let mut books = lock(&self.shared.books);
            if *self.is_used.get_mut() {
                books.touch(self.id);
            }
            books.get(self.id).is_some()
        };
        // A file that was created and never filled (full disk, say) is on no list: it goes with the handle.
        if !filled && *self.created.get_mut() && !self.shared.is_closed() {
            self.shared.files.forget(*read(&self.ground));
            let file = self.shared.files.discard(self.id);
            drop(live);
            file.iter().for_each(|path| files::delete(path));
        }
    }
}

/// What one attempt of a read found.
enum Found {
    Hit(Hit),
    /// These granules of an incarnation are wrong or gone.
    Damaged(u64, Vec<u64>),
}

#[derive(Clone, Copy)]
enum Change {
    Added,
    Removed,
}

fn absent(pieces: &[Piece]) -> Vec<u64> {
    let mut absent = Vec::new();
    for piece in pieces {
        piece.segment.read(|bits| {
            absent.extend(
                piece
                    .granules()
                    .filter(|(i, _)| !bits.has(*i))
                    .map(|(_, granule)| granule),
            )
        });
    }
    absent
}

/// Granules that are here, with their checksums.
fn present(pieces: &[Piece]) -> Vec<(u64, u64)> {
    let mut here = Vec::new();
    for piece in pieces {
        piece.segment.read(|bits| {
            here.extend(
                piece
                    .granules()
                    .filter(|(i, _)| bits.has(*i))
                    .filter_map(|(i, granule)| Some((granule, *bits.checksums().get(i)?))),
            );
        });
    }
    here
}

/// Granules that were neither written nor checked through this descriptor yet, with their checksums.
fn checks_due(pieces: &[Piece], file: &OpenFile) -> Vec<(u64, u64)> {
    let mut due = Vec::new();
    for piece in pieces {
        piece.segment.read(|bits| {
            due.extend(
                piece
                    .granules()
                    .filter_map(|(i, granule)| Some((granule, bits.check_due(i, file.instance)?))),
            );
        });
    }
    due
}
