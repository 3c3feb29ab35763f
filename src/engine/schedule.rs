//! Who may fetch from a site next: a bounded number of slots, given to the highest priority first. What is small takes a
//! part of a slot: it costs the link a round trip and hardly anything else.
//!
//! Owns: the order of waiting. Refuses to know: what is fetched. Invariants: a demand never waits behind background work;
//! pins and frames ahead never take every slot; a priority may rise while waiting, never fall; requests are bounded in
//! number whatever they ask for.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

/// Why bytes are wanted; later is more urgent.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Priority {
    /// A pin, or an admin's `hydrate`: whenever there is room.
    Pin,
    /// A frame that is about to be opened, if the sequence is played on.
    Sequence,
    /// The bytes that a sequential reader will ask for next.
    ReadAhead,
    /// Somebody waits for it in a `read`.
    Demand,
}

/// Fetches of one site share its slots. Demands take one at once, up to `DEMAND_FACTOR` times the slots.
#[derive(Debug)]
pub struct Slots {
    limit: usize,
    inner: Mutex<Inner>,
}

/// Demands may run this many times the slots that background work shares: enough that a reader never queues behind
/// another one's window, few enough that a thousand readers don't open a thousand requests.
const DEMAND_FACTOR: usize = 4;
/// One slot in so many is kept free of what nobody reads yet: a file that is opened begins at once, beside a sequence.
const KEPT_FREE: usize = 4;
/// Fetches of little that share a slot.
const PARTS: usize = 4;
/// What one part of a slot is for.
const PART: u64 = 128 << 10;
/// Requests that there are at most for each slot, however small: all that background work may make, and as many demands as
/// there may be of large ones.
const MOST: usize = PARTS + DEMAND_FACTOR;

#[derive(Debug, Default)]
struct Inner {
    running: usize,
    /// Parts of slots that those take.
    parts: usize,
    next_ticket: u64,
    waiting: BTreeMap<(Reverse<Priority>, u64), (usize, oneshot::Sender<Slot>)>,
}

/// A slot in use; dropping it lets the next one in.
#[derive(Debug)]
pub struct Slot {
    of: Arc<Slots>,
    /// What it takes; `None` once that was given back.
    parts: Option<usize>,
}

/// A place in the queue; dropping it leaves the queue.
#[derive(Debug)]
pub struct Ticket {
    of: Arc<Slots>,
    key: (Reverse<Priority>, u64),
    granted: oneshot::Receiver<Slot>,
}

impl Slots {
    /// Makes `limit` slots (at least one).
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit: limit.max(1),
            inner: Mutex::default(),
        })
    }

    /// Queues for a slot to fetch so many bytes.
    pub fn queue(self: &Arc<Self>, priority: Priority, bytes: u64) -> Ticket {
        let (tx, rx) = oneshot::channel();
        let parts = usize::try_from(bytes.div_ceil(PART)).unwrap_or(PARTS).clamp(1, PARTS);
        let mut inner = self.lock();
        let key = (Reverse(priority), inner.next_ticket);
        inner.next_ticket += 1;
        inner.waiting.insert(key, (parts, tx));
        drop(inner);
        self.let_in();
        Ticket {
            of: Arc::clone(self),
            key,
            granted: rx,
        }
    }

    /// Raises a waiting ticket to `priority`, keeping its age. Without effect on one that was let in already.
    pub fn raise(self: &Arc<Self>, ticket: &mut Ticket, priority: Priority) {
        if ticket.key.0.0 >= priority {
            return;
        }
        let mut inner = self.lock();
        if let Some(waiting) = inner.waiting.remove(&ticket.key) {
            ticket.key.0 = Reverse(priority);
            inner.waiting.insert(ticket.key, waiting);
        }
        drop(inner);
        self.let_in();
    }

    /// Returns how many fetches run and how many tickets wait.
    pub fn load(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.running, inner.waiting.len())
    }

    fn let_in(self: &Arc<Self>) {
        loop {
            let mut inner = self.lock();
            let Some((key, (parts, _))) = inner.waiting.first_key_value() else {
                return;
            };
            let (key, parts) = (*key, *parts);
            let slots = match key.0.0 {
                Priority::Demand => self.limit * DEMAND_FACTOR,
                Priority::ReadAhead => self.limit,
                Priority::Sequence | Priority::Pin => self.limit - self.limit / KEPT_FREE,
            };
            if inner.parts + parts > slots * PARTS || inner.running >= self.limit * MOST {
                return;
            }
            let Some((_, tx)) = inner.waiting.remove(&key) else {
                return;
            };
            inner.running += 1;
            inner.parts += parts;
            drop(inner);
            let slot = Slot {
                of: Arc::clone(self),
                parts: Some(parts),
            };
            if let Err(mut slot) = tx.send(slot) {
                // Its ticket went at this moment. Given back by hand: Slot's Drop would come in here again.
                slot.give_back();
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ticket {
    /// Waits to be let in. `None` only if the slots themselves are gone.
    pub async fn granted(&mut self) -> Option<Slot> {
        (&mut self.granted).await.ok()
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // Whoever comes after it may be let in now: it may have been too large.
        if self.of.lock().waiting.remove(&self.key).is_some() {
            self.of.let_in();
        }
    }
}

impl Slot {
    /// Makes its room free; says whether it had any still.
    fn give_back(&mut self) -> bool {
        let Some(parts) = self.parts.take() else { return false };
        let mut inner = self.of.lock();
        inner.running -= 1;
        inner.parts -= parts;
        true
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if self.give_back() {
            self.of.let_in();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    const LARGE: u64 = 2 << 20;

    fn now(ticket: &mut Ticket) -> Option<Slot> {
        ticket.granted().now_or_never().flatten()
    }

    #[test]
    fn a_demand_never_waits_behind_background_work() {
        let slots = Slots::new(1);
        let mut first = slots.queue(Priority::ReadAhead, LARGE);
        let running = now(&mut first).expect("a free slot");
        let mut second = slots.queue(Priority::ReadAhead, LARGE);
        assert!(now(&mut second).is_none());
        let mut demand = slots.queue(Priority::Demand, LARGE);
        let demand_slot = now(&mut demand).expect("demands come in over the limit");
        drop(running);
        assert!(now(&mut second).is_none(), "the demand's slot counts");
        drop(demand_slot);
        assert!(now(&mut second).is_some());
    }

    #[test]
    fn frames_ahead_leave_slots_to_readers_and_go_before_pins() {
        let slots = Slots::new(4);
        let mut ahead: Vec<_> = (0..4).map(|_| slots.queue(Priority::Sequence, LARGE)).collect();
        let mut running: Vec<_> = ahead.iter_mut().take(3).map(|t| now(t).expect("free")).collect();
        assert!(now(&mut ahead[3]).is_none(), "the last one is a reader's");
        let mut pin = slots.queue(Priority::Pin, LARGE);
        let mut read = slots.queue(Priority::ReadAhead, LARGE);
        let slot = now(&mut read).expect("kept free");
        drop(slot);
        running.pop();
        assert!(now(&mut pin).is_none());
        assert!(now(&mut ahead[3]).is_some());
    }

    #[test]
    fn a_raised_ticket_overtakes() {
        let slots = Slots::new(1);
        let mut holder = slots.queue(Priority::Pin, LARGE);
        let slot = now(&mut holder).expect("a free slot");
        let mut older = slots.queue(Priority::Pin, LARGE);
        let mut younger = slots.queue(Priority::Pin, LARGE);
        slots.raise(&mut younger, Priority::ReadAhead);
        drop(slot);
        assert!(now(&mut older).is_none());
        assert!(now(&mut younger).is_some());
    }

    #[test]
    fn a_dropped_ticket_gives_its_slot_back() {
        let slots = Slots::new(1);
        drop(slots.queue(Priority::Pin, LARGE));
        let mut next = slots.queue(Priority::Pin, LARGE);
        assert!(now(&mut next).is_some());
        assert_eq!(slots.load(), (0, 0));
    }

    #[test]
    fn who_gave_up_waiting_is_out_of_the_queue_however_many_they_are() {
        let slots = Slots::new(1);
        let holder = now(&mut slots.queue(Priority::Pin, LARGE)).expect("a free slot");
        let given_up: Vec<_> = (0..200_000).map(|_| slots.queue(Priority::Pin, LARGE)).collect();
        assert_eq!(slots.load(), (1, 200_000));
        drop(given_up);
        assert_eq!(slots.load(), (1, 0));
        let mut live = slots.queue(Priority::Pin, LARGE);
        assert!(now(&mut live).is_none());
        drop(holder);
        assert!(now(&mut live).is_some());
        assert_eq!(slots.load(), (0, 0));
    }

    #[test]
    fn who_gives_up_at_the_head_of_the_queue_lets_smaller_ones_in() {
        let slots = Slots::new(1);
        let most = now(&mut slots.queue(Priority::ReadAhead, 2 * PART)).expect("a free slot");
        let mut large = slots.queue(Priority::ReadAhead, LARGE);
        let mut small = slots.queue(Priority::ReadAhead, PART);
        assert!(now(&mut large).is_none() && now(&mut small).is_none());
        drop(large);
        assert!(now(&mut small).is_some());
        drop(most);
        assert_eq!(slots.load(), (0, 0));
    }

    #[test]
    fn small_fetches_share_slots_and_are_bounded_in_number() {
        let slots = Slots::new(4);
        let mut small: Vec<_> = (0..20).map(|_| slots.queue(Priority::Sequence, 8 << 10)).collect();
        let mut running: Vec<_> = small.iter_mut().filter_map(now).collect();
        assert_eq!(running.len(), 12, "three slots of four, four of them in each");
        let mut large = slots.queue(Priority::ReadAhead, LARGE);
        let slot = now(&mut large).expect("the slot that was kept free");
        drop((slot, large));
        let mut demands: Vec<_> = (0..40).map(|_| slots.queue(Priority::Demand, 1)).collect();
        running.extend(demands.iter_mut().filter_map(now));
        assert_eq!(running.len(), 32, "demands never wait behind those, but are bounded");
        drop((running, small, demands));
        assert_eq!(slots.load(), (0, 0));
    }
}
