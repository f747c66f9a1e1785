//! The bounded table of attempts of one side.
//!
//! Memory is taken once, on the way to the bound; a packet in the steady state allocates nothing. When the
//! bound is hit the attempt that would be looked at first goes, and is counted if it had no verdict yet.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

use crate::attempt::{Attempt, AttemptKey, Outcome, Phase, Side, answer_record};
use crate::record::{Instant, Record};

/// How far apart the records of two CPUs can be read in the wrong order: an answer waits so long for its SYN.
const SKEW: u64 = Instant::SECOND / 10;
/// No attempt is left unlooked at for longer, so a deadline that moves forward is never late by more.
const LOOK: u64 = 2 * Instant::SECOND;

/// Attempts of one side, by slot. Every used slot has exactly one entry in `looks`.
#[derive(Debug)]
pub(crate) struct Attempts {
    side: Side,
    bound: usize,
    slots: Vec<Option<Attempt>>,
    free: Vec<u32>,
    index: HashMap<AttemptKey, u32>,
    looks: BinaryHeap<Reverse<(Instant, u32)>>,
    /// Slots that ended since the last tick.
    ended: Vec<u32>,
    early: Early,
    evicted: u64,
    begun: u64,
}

impl Attempts {
    pub(crate) fn new(side: Side, bound: usize, max_early: usize) -> Self {
        Self {
            side,
            bound: bound.max(1),
            slots: Vec::new(),
            free: Vec::new(),
            index: HashMap::new(),
            looks: BinaryHeap::new(),
            ended: Vec::new(),
            early: Early::new(max_early),
            evicted: 0,
            begun: 0,
        }
    }

    /// A SYN.
    pub(crate) fn syn(&mut self, key: AttemptKey, at: Instant) {
        if let Some(attempt) = self.held(&key) {
            attempt.repeated(at);
            return;
        }
        self.begun += 1;
        let mut attempt = Attempt::begin(key, at);
        let early = self
            .early
            .take(&key)
            .is_some_and(|(outcome, answered)| attempt.answered(outcome, answered));
        if let Some(slot) = self.insert(attempt)
            && early
        {
            self.ended.push(slot);
        }
    }

    /// An answer.
    pub(crate) fn answer(&mut self, key: AttemptKey, outcome: Outcome, at: Instant) {
        let Some(&slot) = self.index.get(&key) else {
            self.early.put(key, outcome, at);
            return;
        };
        if let Some(attempt) = self.slot_mut(slot)
            && attempt.answered(outcome, at)
        {
            self.ended.push(slot);
        }
    }

    /// An attempt that was counted before a restart.
    pub(crate) fn counted(&mut self, key: AttemptKey, at: Instant, syns: u8) {
        if let Some(attempt) = self.held(&key) {
            attempt.phase = Phase::Counted;
            return;
        }
        let mut attempt = Attempt::begin(key, at);
        attempt.syns = syns;
        attempt.phase = Phase::Counted;
        self.insert(attempt);
    }

    fn held(&mut self, key: &AttemptKey) -> Option<&mut Attempt> {
        let slot = *self.index.get(key)?;
        self.slot_mut(slot)
    }

    pub(crate) fn slot(&self, slot: u32) -> Option<&Attempt> {
        self.slots.get(slot as usize)?.as_ref()
    }

    fn slot_mut(&mut self, slot: u32) -> Option<&mut Attempt> {
        self.slots.get_mut(slot as usize)?.as_mut()
    }

    fn insert(&mut self, attempt: Attempt) -> Option<u32> {
        if self.index.len() >= self.bound {
            self.evict();
        }
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                let slot = u32::try_from(self.slots.len()).ok()?;
                self.slots.push(None);
                slot
            }
        };
        *self.slots.get_mut(slot as usize)? = Some(attempt);
        self.index.insert(attempt.key, slot);
        let look = attempt.deadline(self.side).min(attempt.first.plus(LOOK));
        self.looks.push(Reverse((look, slot)));
        Some(slot)
    }

    fn evict(&mut self) {
        if let Some(Reverse((_, slot))) = self.looks.pop()
            && let Some(attempt) = self.remove(slot)
            && attempt.phase != Phase::Counted
        {
            self.evicted += 1;
        }
    }

    fn remove(&mut self, slot: u32) -> Option<Attempt> {
        let attempt = self.slots.get_mut(slot as usize)?.take()?;
        self.index.remove(&attempt.key);
        self.free.push(slot);
        Some(attempt)
    }

    /// Collects the slots whose verdict is due into `out`, in the order of their first SYN so that the order
    /// of reading does not matter. No record from before `now` may come any more, but for [`SKEW`].
    pub(crate) fn due(&mut self, now: Instant, out: &mut Vec<u32>) {
        out.clear();
        for slot in self.ended.drain(..) {
            // The slot may have been evicted, and be another attempt's by now.
            let ended = |attempt: &Attempt| matches!(attempt.phase, Phase::Ended(_));
            if let Some(Some(attempt)) = self.slots.get(slot as usize)
                && ended(attempt)
            {
                out.push(slot);
            }
        }
        while let Some(&Reverse((look, slot))) = self.looks.peek() {
            if look > now {
                break;
            }
            self.looks.pop();
            let side = self.side;
            let Some(attempt) = self.slot_mut(slot) else {
                continue;
            };
            let deadline = attempt.deadline(side);
            if deadline > now {
                let next = deadline.min(now.plus(LOOK));
                self.looks.push(Reverse((next, slot)));
                continue;
            }
            match attempt.phase {
                Phase::Counted => {
                    self.remove(slot);
                    continue;
                }
                Phase::Open => attempt.phase = Phase::Ended(Outcome::Silent),
                Phase::Ended(_) | Phase::Waiting(..) => {}
            }
            out.push(slot);
            self.looks.push(Reverse((now.plus(LOOK), slot)));
        }
        let slots = &self.slots;
        out.sort_unstable_by_key(|slot| {
            slots
                .get(*slot as usize)
                .and_then(Option::as_ref)
                .map(|attempt| (attempt.first, attempt.key))
        });
        out.dedup();
        self.early.expire(now);
    }

    /// The verdict is given.
    pub(crate) fn close(&mut self, slot: u32) {
        if let Some(attempt) = self.slot_mut(slot) {
            attempt.phase = Phase::Counted;
        }
    }

    /// The verdict waits.
    pub(crate) fn wait(&mut self, slot: u32, outcome: Outcome, until: Instant) {
        if let Some(attempt) = self.slot_mut(slot) {
            attempt.phase = Phase::Waiting(outcome, until);
        }
    }

    /// Slots that wait, as of now.
    pub(crate) fn waiting(&self, out: &mut Vec<u32>) {
        for (slot, attempt) in (0_u32..).zip(&self.slots) {
            if let Some(Attempt {
                phase: Phase::Waiting(..),
                ..
            }) = attempt
            {
                out.push(slot);
            }
        }
        let slots = &self.slots;
        out.sort_unstable_by_key(|slot| {
            slots
                .get(*slot as usize)
                .and_then(Option::as_ref)
                .map(|attempt| (attempt.first, attempt.key))
        });
    }

    /// Attempts evicted without a verdict since the last call.
    pub(crate) fn take_evicted(&mut self) -> u64 {
        std::mem::take(&mut self.evicted)
    }

    /// Attempts that began, ever.
    pub(crate) fn begun(&self) -> u64 {
        self.begun
    }

    /// Attempts in the table.
    pub(crate) fn len(&self) -> usize {
        self.index.len()
    }

    /// When to tick next.
    pub(crate) fn next_look(&self) -> Option<Instant> {
        self.looks.peek().map(|Reverse((look, _))| *look)
    }

    /// Whether an attempt has ended since the last tick.
    pub(crate) fn has_ended(&self) -> bool {
        !self.ended.is_empty()
    }

    /// Records that lead to this state again: open attempts first, then those whose repetitions are to be
    /// ignored, at most `bound` of each.
    pub(crate) fn open(&self, now: Instant, bound: usize, out: &mut Vec<Record>) {
        let start = out.len();
        for attempt in self.slots.iter().flatten() {
            if attempt.phase != Phase::Counted && out.len() - start < bound {
                attempt.replay(self.side, out);
            }
        }
        for (key, outcome, at) in self.early.iter() {
            out.extend(answer_record(self.side, key, outcome, at));
        }
        let start = out.len();
        for attempt in self.slots.iter().flatten() {
            if attempt.phase == Phase::Counted
                && attempt.may_repeat(now)
                && out.len() - start < bound
            {
                out.push(attempt.counted_marker(self.side));
            }
        }
    }
}

/// Answers that were read before their SYN. Most are no such thing but the end of an old connection (a RST
/// with ACK), so they have a small table of their own and go without being counted.
#[derive(Debug)]
struct Early {
    bound: usize,
    answers: HashMap<AttemptKey, (Outcome, Instant)>,
    order: VecDeque<(Instant, AttemptKey)>,
}

impl Early {
    fn new(bound: usize) -> Self {
        Self {
            bound: bound.max(1),
            answers: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    fn put(&mut self, key: AttemptKey, outcome: Outcome, at: Instant) {
        if let Some((held, held_at)) = self.answers.get_mut(&key) {
            if outcome < *held {
                *held = outcome;
                *held_at = at;
            }
            return;
        }
        while self.order.len() >= self.bound {
            self.drop_oldest();
        }
        self.answers.insert(key, (outcome, at));
        self.order.push_back((at, key));
    }

    fn take(&mut self, key: &AttemptKey) -> Option<(Outcome, Instant)> {
        // Its place in `order` stays until it expires.
        if self.answers.is_empty() {
            return None;
        }
        self.answers.remove(key)
    }

    fn drop_oldest(&mut self) {
        if let Some((_, key)) = self.order.pop_front() {
            self.answers.remove(&key);
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((at, _)) = self.order.front()
            && at.plus(SKEW) < now
        {
            self.drop_oldest();
        }
    }

    fn iter(&self) -> impl Iterator<Item = (&AttemptKey, Outcome, Instant)> {
        self.order.iter().filter_map(|(_, key)| {
            let (outcome, at) = self.answers.get(key)?;
            Some((key, *outcome, *at))
        })
    }
}
