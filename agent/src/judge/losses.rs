//! What the kernel could not tell us of, in time: a witness that missed something must not say that there was nothing.
//!
//! The ring's own gaps show with the next record of the same CPU, which may be long in coming, and a packet that
//! could not be parsed leaves no record at all. So the counters are read as well: each second, and before a question is answered.

use anyhow::Context;
use polproof_flow::Judge;
use polproof_flow::record::Instant;
use tracing::warn;

use crate::observe::{CounterMap, ReadOutcome, Span};

/// Read at least so often.
const PERIOD: u64 = Instant::SECOND;
/// Read at most so often, also while questions wait.
const ASKED: u64 = Instant::SECOND / 20;
/// A loss of before our start may lie so far back that nobody will ask for more.
const BEFORE: u64 = 180 * Instant::SECOND;

/// What the kernel counts of what should have led to a record, or might have, and did not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    /// Records that could not be written.
    pub(super) lost: u64,
    /// Packets that could not be read.
    pub(super) unparsed: u64,
    /// Datagrams of new tuples that were left out.
    pub(super) sampled: u64,
}

/// Reads the counters.
pub(super) fn read(counters: &CounterMap) -> anyhow::Result<Sums> {
    let counters = counters
        .read()
        .context("read the counters of the BPF programs")?;
    Ok(Sums {
        lost: counters.ring_full.saturating_add(counters.no_cookie),
        unparsed: counters.unparsed,
        sampled: counters.datagrams_sampled,
    })
}

/// Tells the judge what reading the ring showed.
pub(super) fn notice(outcome: &ReadOutcome, now: Instant, judge: &mut Judge) {
    // A CPU may have been silent for long before its gap.
    let clamped = |span: Span| {
        let from = span.from.max(before(now));
        (from, span.to.max(from))
    };
    if let Some((from, to)) = outcome.lost_in.map(clamped) {
        judge.on_lost(from, to);
    }
    if let Some((from, to)) = outcome.unparsed_in.map(clamped) {
        judge.on_unparsed(from, to);
    }
    if let Some((from, to)) = outcome.sampled_in.map(clamped) {
        judge.on_sampled(from, to);
    }
}

/// How far back a loss is told if it is not known when it was.
pub(super) fn before(now: Instant) -> Instant {
    now.minus(BEFORE)
}

/// Reads all that is counted of losses.
pub(super) type ReadLosses = Box<dyn FnMut() -> anyhow::Result<Sums> + Send>;

/// Notices when a sum grows.
pub(super) struct Losses {
    read: ReadLosses,
    /// The sums, and when they were read.
    last: Option<(Sums, Instant)>,
    failing: bool,
}

impl Losses {
    pub(super) fn new(read: ReadLosses) -> Self {
        Self {
            read,
            last: None,
            failing: false,
        }
    }

    /// Reads if it is time to (`asked`: somebody waits for an answer), and tells the judge.
    pub(super) fn poll(&mut self, now: Instant, asked: bool, judge: &mut Judge) {
        let age = self.last.map_or(u64::MAX, |(_, at)| now.since(at));
        if age < PERIOD && !(asked && age >= ASKED) {
            return;
        }
        let (known, from) = self.last.unwrap_or((Sums::default(), before(now)));
        let read = (self.read)();
        // What was counted while we read belongs to it.
        let until = crate::observe::now().max(now);
        let sums = match read {
            Ok(sums) => {
                self.failing = false;
                sums
            }
            Err(error) => {
                if !self.failing {
                    warn!(
                        error = format!("{error:#}"),
                        "the counters of losses cannot be read: until they can, no attempt counts as not seen. It is tried again each second"
                    );
                }
                self.failing = true;
                judge.on_lost(from, until);
                known
            }
        };
        // A sum that has shrunk is one of other maps.
        if sums.lost != known.lost {
            judge.on_lost(from, until);
        }
        if sums.unparsed != known.unparsed {
            judge.on_unparsed(from, until);
        }
        if sums.sampled != known.sampled {
            judge.on_sampled(from, until);
        }
        self.last = Some((sums, now));
    }
}
