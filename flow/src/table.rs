//! The bounded table of attempts of one side.
//!
//! Memory is taken once, on the way to the bound; a packet in the steady state allocates nothing. When the
//! bound is hit the attempt that would be looked at first goes, and is counted if it had no verdict yet.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

use polproof_policy::Protocol;

use crate::attempt::{Attempt, AttemptKey, Outcome, Phase, Side, Told, answer_record};
use crate::early::Early;
use crate::recent::Recent;
use crate::record::{Instant, Record};
use crate::settings::Settings;

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
            self.begin(Attempt::begin(key, at));
            return;
        };
        if let Some(attempt) = self.slots.get_mut(slot as usize).and_then(Option::as_mut) {
            if attempt.may_be_repeated_at(at) {
                attempt.repeated(at);
                attempt.remembered = self.recent.repeated(attempt.remembered, &key, at);
            } else {
                // The number was chosen again. The old one is counted, and its look serves the new one.
                *attempt = Attempt::begin(key, at);
                attempt.remembered = self.recent.begin(&key, at, false);
                self.begun += 1;
            }
        }
    }

    /// The first datagram of a UDP flow.
    pub(crate) fn flow(&mut self, key: AttemptKey, at: Instant, unsure: bool) {
        let attempt = Attempt {
            unsure,
            ..Attempt::begin(key, at)
        };
        match self.held(&key) {
            // Counted long ago, and forgotten by the table of flows alone.
            Some(held) if held.phase == Phase::Counted => *held = attempt,
            Some(_) => return,
            None => {
                self.begin(attempt);
                return;
            }
        }
        self.recent.begin(&key, at, false);
        self.begun += 1;
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
            if key.protocol == Protocol::Udp {
                self.recent.answered(0, &key, outcome, at);
            }
            self.early.put(key, outcome, told, at);
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
        if let Some(attempt) = self.held(&key) {
            attempt.phase = Phase::Counted;
            return;
        }
        let mut attempt = Attempt::begin(key, at);
        attempt.syns = syns;
        attempt.phase = Phase::Counted;
        attempt.remembered = self.recent.begin(&key, at, false);
        self.insert(attempt);
    }

    /// The attempts of the last minutes.
    pub(crate) fn recent(&self) -> &Recent {
        &self.recent
    }

    /// What was before a restart is not remembered.
    pub(crate) fn forget_before(&mut self, at: Instant) {
        self.recent.forget_before(at);
    }

    fn held(&mut self, key: &AttemptKey) -> Option<&mut Attempt> {
        let slot = *self.index.get(key)?;
        self.slot_mut(slot)
    }

    /// How far an attempt is, if it is in the table.
    pub(crate) fn phase(&self, key: &AttemptKey) -> Option<Phase> {
        let slot = *self.index.get(key)?;
        self.slot(slot).map(|attempt| attempt.phase)
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
        for (key, outcome, told, at) in self.early.iter() {
            out.extend(answer_record(self.side, key, outcome, told, at));
        }
        let start = out.len();
        for attempt in self.slots.iter().flatten() {
            // The table of flows knows those of UDP.
            if attempt.phase == Phase::Counted
                && attempt.key.protocol != Protocol::Udp
                && attempt.may_repeat(now)
                && out.len() - start < bound
            {
                out.push(attempt.counted_marker(self.side));
            }
        }
    }
}

#[cfg(test)]
mod tests;
