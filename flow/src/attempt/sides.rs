//! Both sides of a node and its flows, as the judge keeps them, for tests.

#![allow(clippy::panic)]

use std::collections::BTreeMap;

use polproof_policy::Protocol;

use super::*;
use crate::settings::Settings;
use crate::table::Attempts;
use crate::udp::{Flows, News};

/// Attempts by side, key and first SYN; SYNs until the end, whether it is unsure, and how it ended.
pub(crate) type Ends = BTreeMap<(Side, AttemptKey, Instant), (u8, bool, Outcome)>;

#[derive(Debug)]
pub(crate) struct Sides {
    pub(crate) destination: Attempts,
    pub(crate) source: Attempts,
    flows: Flows,
    due: Vec<u32>,
    pub(crate) ends: Ends,
    now: Instant,
}

impl Sides {
    pub(crate) fn new(settings: &Settings) -> Self {
        let mut sides = Self {
            destination: Attempts::new(Side::Destination, settings),
            source: Attempts::new(Side::Source, settings),
            flows: Flows::new(settings),
            due: Vec::new(),
            ends: Ends::new(),
            now: Instant(0),
        };
        sides.tick(Instant(0));
        sides
    }

    fn news(&mut self, (side, key, signal): News, at: Instant) {
        let attempts = match side {
            Side::Destination => &mut self.destination,
            Side::Source => &mut self.source,
        };
        match signal {
            Signal::Syn => attempts.syn(key, at),
            Signal::Begun { unsure } => attempts.flow(key, at, unsure),
            Signal::Answer(outcome, told) => attempts.answer(key, outcome, told, at),
            Signal::GoesOn { forward, .. } => attempts.goes_on(key, at, forward),
            Signal::Counted(syns) => attempts.counted(key, at, syns),
        }
    }

    pub(crate) fn read(&mut self, record: &Record) {
        let news = match record.protocol {
            Protocol::Udp => self.flows.read(record),
            Protocol::Tcp | Protocol::Sctp => read(record),
        };
        if let Some(news) = news {
            self.news(news, record.at);
        }
    }

    /// Notes what ended.
    pub(crate) fn tick(&mut self, now: Instant) {
        self.now = now;
        let mut begun = Vec::new();
        self.flows.due(now, &mut |news, at| begun.push((news, at)));
        for (news, at) in begun {
            self.news(news, at);
        }
        for side in [Side::Destination, Side::Source] {
            let attempts = match side {
                Side::Destination => &mut self.destination,
                Side::Source => &mut self.source,
            };
            attempts.due(now, &mut self.due);
            for slot in &self.due {
                let Some(attempt) = attempts.slot(*slot).copied() else {
                    continue;
                };
                let Phase::Ended(outcome) = attempt.phase else {
                    panic!("{attempt:?} is due");
                };
                let key = (side, attempt.key, attempt.first);
                let end = (attempt.syns, attempt.unsure, outcome);
                let twice = self.ends.insert(key, end);
                assert!(twice.is_none(), "{attempt:?} ends twice");
                attempts.close(*slot);
            }
        }
    }

    /// What another one would know after a restart.
    pub(crate) fn restarted(&self, settings: &Settings) -> Self {
        let mut records = Vec::new();
        self.destination.open(self.now, 10_000, &mut records);
        self.source.open(self.now, 10_000, &mut records);
        self.flows.open(&mut records);
        let mut again = Self {
            ends: self.ends.clone(),
            ..Self::new(settings)
        };
        for record in &records {
            again.read(record);
        }
        again.flows.restored(self.now);
        again.destination.forget_before(self.now);
        again.source.forget_before(self.now);
        again
    }
}
