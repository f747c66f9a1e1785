//! Answers that are read before their SYN, because two CPUs saw them.

use std::collections::{HashMap, VecDeque};

use crate::attempt::{AttemptKey, Outcome, Told};
use crate::record::Instant;

/// How far apart the records of two CPUs can be read in the wrong order.
pub(crate) const SKEW: u64 = Instant::SECOND / 10;
/// How long an answer waits for its SYN: a UDP flow is announced only when nothing older can come, and behind those that were read before it.
const WAIT: u64 = 2 * SKEW;

/// Answers that were read before their SYN. Most are no such thing but the end of an old connection (a RST
/// with ACK), so they have a small table of their own and go without being counted.
#[derive(Debug)]
pub(crate) struct Early {
    bound: usize,
    answers: HashMap<AttemptKey, (Outcome, Told, Instant)>,
    order: VecDeque<(Instant, AttemptKey)>,
}

impl Early {
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            bound: bound.max(1),
            answers: HashMap::new(),
            order: VecDeque::new(),
        }
    }

    pub(crate) fn put(&mut self, key: AttemptKey, outcome: Outcome, told: Told, at: Instant) {
        if let Some(held) = self.answers.get_mut(&key) {
            if outcome < held.0 {
                *held = (outcome, told, at);
            }
            return;
        }
        while self.order.len() >= self.bound {
            self.drop_oldest();
        }
        self.answers.insert(key, (outcome, told, at));
        self.order.push_back((at, key));
    }

    pub(crate) fn take(&mut self, key: &AttemptKey) -> Option<(Outcome, Told, Instant)> {
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

    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some((at, _)) = self.order.front()
            && at.plus(WAIT) < now
        {
            self.drop_oldest();
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&AttemptKey, Outcome, Told, Instant)> {
        self.order.iter().filter_map(|(_, key)| {
            let (outcome, told, at) = self.answers.get(key)?;
            Some((key, *outcome, *told, *at))
        })
    }
}
