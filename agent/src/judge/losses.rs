//! What the kernel could not tell us of, in time: a witness that missed something must not say that there was nothing.
//!
//! The ring's own gaps show with the next record of the same CPU, which may be long in coming, and a packet that
//! could not be parsed leaves no record at all. So the counters are read as well: each second, and before a question is answered.

use anyhow::Context;
use polproof_flow::Judge;
use polproof_flow::record::Instant;
use tracing::warn;

use crate::observe::{CounterMap, ReadOutcome};

/// Read at least so often.
const PERIOD: u64 = Instant::SECOND;
/// Read at most so often, also while questions wait.
const ASKED: u64 = Instant::SECOND / 20;
/// A loss of before our start may lie so far back that nobody will ask for more.
const BEFORE: u64 = 180 * Instant::SECOND;

/// Everything that should have led to a record, or might have, and did not.
pub(super) fn read(counters: &CounterMap) -> anyhow::Result<u64> {
    let counters = counters
        .read()
        .context("read the counters of the BPF programs")?;
    Ok([
        counters.ring_full,
        counters.no_cookie,
        counters.unparsed,
        counters.datagrams_sampled,
    ]
    .into_iter()
    .fold(0, u64::saturating_add))
}

/// Tells the judge what reading the ring showed.
pub(super) fn notice(outcome: &ReadOutcome, now: Instant, judge: &mut Judge) {
    let lost = outcome.lost.saturating_add(outcome.undecodable).max(1);
    for span in [outcome.lost_in, outcome.unparsed_in, outcome.sampled_in]
        .into_iter()
        .flatten()
    {
        // A CPU may have been silent for long before its gap.
        let from = span.from.max(now.minus(BEFORE));
        tell(judge, from, span.to.max(from), lost);
    }
}

/// Reads the sum of all losses.
pub(super) type ReadLosses = Box<dyn FnMut() -> anyhow::Result<u64> + Send>;

/// Notices when the sum grows.
pub(super) struct Losses {
    read: ReadLosses,
    /// The sum, and when it was read.
    last: Option<(u64, Instant)>,
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
        let (known, from) = self.last.unwrap_or((0, now.minus(BEFORE)));
        let sum = match (self.read)() {
            Ok(sum) => {
                self.failing = false;
                sum
            }
            Err(error) => {
                if !self.failing {
                    warn!(
                        error = format!("{error:#}"),
                        "the counters of losses cannot be read: until they can, no attempt counts as not seen. It is tried again each second"
                    );
                }
                self.failing = true;
                known.saturating_add(1)
            }
        };
        // A sum that has shrunk is one of other maps.
        if sum != known {
            // What was counted while we read belongs to it.
            let until = crate::observe::now().max(now);
            tell(judge, from, until, sum.abs_diff(known));
        }
        let known = if self.failing { known } else { sum };
        self.last = Some((known, now));
    }
}

/// The judge takes a loss to lie within the second before the time that it is told; together these cover all.
fn tell(judge: &mut Judge, from: Instant, to: Instant, lost: u64) {
    let mut at = from.plus(Instant::SECOND);
    while at < to {
        judge.on_lost(at, lost);
        at = at.plus(Instant::SECOND);
    }
    judge.on_lost(to, lost);
}
