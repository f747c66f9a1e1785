//! The bounded table of attempts of one side that have no verdict yet.
//!
//! Memory is taken once, on the way to the bound; a packet in the steady state allocates nothing. When the
//! bound is hit the attempt that would be looked at first goes, and is counted. With its verdict an attempt leaves the table: the
//! [memory](crate::recent) tells its repetitions from new ones, for as long as there are so few of them that it holds them all.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use polproof_policy::Protocol;

use crate::attempt::{
    Attempt, AttemptKey, Outcome, Phase, Side, Told, answer_record, counted_marker,
};
use crate::early::Early;
use crate::recent::Recent;
use crate::record::{Instant, Record};
use crate::settings::Settings;

/// No attempt is left unlooked at for longer, so a deadline that moves forward is never late by more.
const LOOK: u64 = 2 * Instant::SECOND;

/// Entries of `looks` without an attempt are thrown out when there are so many more of them than of the others.
const IDLE_LOOKS: usize = 1_024;

/// When to look at which slot, and which attempt it must hold then.
type Look = Reverse<(Instant, u32, u32)>;

/// Attempts of one side, by slot. Every attempt has exactly one entry in `looks`; those that have left may have one, too.
#[derive(Debug)]
pub(crate) struct Attempts {
    side: Side,
    bound: usize,
    slots: Vec<Option<Attempt>>,
    free: Vec<u32>,
    index: HashMap<AttemptKey, u32>,
    looks: BinaryHeap<Look>,
    /// Number of the next attempt; they wrap.
    next: u32,
    /// Slots that ended since the last tick.
    ended: Vec<u32>,
    early: Early,
    recent: Recent,
    evicted: u64,
    begun: u64,
}

impl Attempts {
    pub(crate) fn new(side: Side, settings: &Settings) -> Self {
        Self {
            side,
            bound: settings.max_attempts.max(1),
            slots: Vec::new(),
            free: Vec::new(),
            index: HashMap::new(),
            looks: BinaryHeap::new(),
            next: 0,
            ended: Vec::new(),
            early: Early::new(settings.max_early),
            recent: Recent::new(settings.max_remembered, settings.remember)
                .with_udp_window(settings.udp_window),
            evicted: 0,
            begun: 0,
        }
    }

    /// A SYN.
    pub(crate) fn syn(&mut self, key: AttemptKey, at: Instant) {
        let Some(&slot) = self.index.get(&key) else {
            match self.recent.decided(&key, at) {
                Some(place) => {
                    self.recent.repeated(place, &key, at);
                }
                None => self.begin(Attempt::begin(key, at)),
            }
            return;
        };
        if let Some(attempt) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) {
            attempt.repeated(at);
            attempt.remembered = self.recent.repeated(attempt.remembered, &key, at);
        }
    }

    /// The first datagram of a UDP flow.
    pub(crate) fn flow(&mut self, key: AttemptKey, at: Instant, unsure: bool) {
        // One that has its verdict was forgotten by the table of flows, and is another.
        if !self.index.contains_key(&key) {
            self.begin(Attempt {
                unsure,
                ..Attempt::begin(key, at)
            });
        }
    }

    /// A further datagram of a UDP flow that is no new attempt.
    pub(crate) fn goes_on(&mut self, key: AttemptKey, at: Instant, forward: bool) {
        if forward {
            self.recent.begin(&key, at, true);
        } else {
            self.recent.answered(0, &key, Outcome::Accepted, at);
        }
    }

    fn begin(&mut self, mut attempt: Attempt) {
        self.begun += 1;
        let key = attempt.key;
        attempt.remembered = self.recent.begin(&key, attempt.first, false);
        let early = self.early.take(&key);
        if let Some((outcome, told, at)) = early {
            attempt.answered(outcome, told, at);
            self.recent.answered(attempt.remembered, &key, outcome, at);
        }
        if let Some(slot) = self.insert(attempt)
            && early.is_some()
        {
            self.ended.push(slot);
        }
    }

    /// An answer.
    pub(crate) fn answer(&mut self, key: AttemptKey, outcome: Outcome, told: Told, at: Instant) {
        let Some(&slot) = self.index.get(&key) else {
            let decided = self.recent.decided(&key, at);
            if decided.is_some() || key.protocol == Protocol::Udp {
                let place = decided.unwrap_or(0);
                self.recent.answered(place, &key, outcome, at);
            }
            // Else its SYN was not read yet.
            if decided.is_none() {
                self.early.put(key, outcome, told, at);
            }
            return;
        };
        if let Some(attempt) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) {
            self.recent.answered(attempt.remembered, &key, outcome, at);
            if attempt.answered(outcome, told, at) {
                self.ended.push(slot);
            }
        }
    }

    /// An attempt that was counted before a restart.
    pub(crate) fn counted(&mut self, key: AttemptKey, at: Instant, syns: u8) {
        match self.index.get(&key) {
            Some(&slot) => self.close(slot),
            None => self.recent.restore(&key, at, syns),
        }
    }

    /// The attempts of the last minutes.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
    }

    /// What was before a restart is not remembered.
    pub(crate) fn forget_before(&mut self, at: Instant) {
        self.recent.forget_before(at);
    }

    /// Whether an attempt is there that has no verdict yet.
    pub(crate) fn has(&self, key: &AttemptKey) -> bool {
        self.index.contains_key(key)
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
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        *self.slots.get_mut(slot as usize)? = Some(Attempt { number, ..attempt });
        self.index.insert(attempt.key, slot);
        let look = attempt.deadline(self.side).min(attempt.first.plus(LOOK));
        self.looks.push(Reverse((look, slot, number)));
        Some(slot)
    }

    fn evict(&mut self) {
        while let Some(Reverse((_, slot, number))) = self.looks.pop() {
            if self.is_at(slot, number) {
                self.remove(slot);
                self.evicted += 1;
                return;
            }
        }
    }

    fn is_at(&self, slot: u32, number: u32) -> bool {
        self.slot(slot)
            .is_some_and(|attempt| attempt.number == number)
    }

    fn remove(&mut self, slot: u32) -> Option<Attempt> {
        let attempt = self.slots.get_mut(slot as usize)?.take()?;
        self.index.remove(&attempt.key);
        self.free.push(slot);
        Some(attempt)
    }

    /// Collects the slots whose verdict is due into `out`, in the order of their first SYN so that the order
    /// of reading does not matter. No record from before `now` may come any more, but for [`SKEW`](crate::early::SKEW).
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
        while let Some(&Reverse((look, slot, number))) = self.looks.peek() {
            if look > now {
                break;
            }
            self.looks.pop();
            let side = self.side;
            let Some(attempt) = self
                .slot_mut(slot)
                .filter(|attempt| attempt.number == number)
            else {
                continue;
            };
            let deadline = attempt.deadline(side);
            if deadline > now {
                let next = deadline.min(now.plus(LOOK));
                self.looks.push(Reverse((next, slot, number)));
                continue;
            }
            if attempt.phase == Phase::Open {
                attempt.phase = Phase::Ended(Outcome::Silent);
            }
            out.push(slot);
            self.looks.push(Reverse((now.plus(LOOK), slot, number)));
        }
        self.sort_by_first_syn(out);
        out.dedup();
        self.early.expire(now);
        self.recent.expire(now);
    }

    /// So that the order of reading does not matter.
    fn sort_by_first_syn(&self, slots: &mut [u32]) {
        slots.sort_unstable_by_key(|slot| {
            self.slot(*slot).map(|attempt| (attempt.first, attempt.key))
        });
    }

    /// The verdict is given.
    pub(crate) fn close(&mut self, slot: u32) {
        let Some(attempt) = self.remove(slot) else {
            return;
        };
        self.recent.decide(attempt.remembered, &attempt.key);
        if self.looks.len() > 2 * self.index.len() + IDLE_LOOKS {
            let mut looks = std::mem::take(&mut self.looks);
            looks.retain(|Reverse((_, slot, number))| self.is_at(*slot, *number));
            self.looks = looks;
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
        self.sort_by_first_syn(out);
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
        self.looks.peek().map(|Reverse((look, ..))| *look)
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
            if out.len() - start < bound {
                attempt.replay(self.side, out);
            }
        }
        for (key, outcome, told, at) in self.early.iter() {
            out.extend(answer_record(self.side, key, outcome, told, at));
        }
        // The table of flows knows those of UDP.
        let decided = self.recent.repeatable(now);
        out.extend(
            decided
                .filter(|(key, ..)| key.protocol != Protocol::Udp)
                .take(bound)
                .map(|(key, last, syns)| counted_marker(&key, self.side, last, syns)),
        );
    }
}

#[cfg(test)]
mod tests;
