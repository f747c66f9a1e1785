//! What one append commits, and what an open gives back.

use polproof_flow::finding::{DeniedBy, FindingDelta, Report};
use polproof_flow::record::{Instant, Record};
use serde::{Deserialize, Serialize};

use crate::observe::RingId;

/// What one append commits at once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What was judged since the last entry; may be empty.
    pub report: Report,
    /// The ring that `position` belongs to.
    pub ring: RingId,
    /// Records before this position are consumed.
    pub position: u64,
    /// Records of attempts that were open then: consumed, but not yet decided.
    pub open: Vec<Record>,
    /// Attempts up to this moment are judged for good.
    pub settled_until: Instant,
    /// When the entry was made.
    pub committed: Instant,
    /// Realtime less monotonic clock at that time, in nanoseconds.
    pub wall_offset_ns: i64,
}

/// The part of the last entry that says where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The ring that `position` belongs to.
    pub ring: RingId,
    /// Records before this position are consumed.
    pub position: u64,
    /// Records of attempts that were open.
    pub open: Vec<Record>,
    /// Attempts up to this moment are judged for good.
    pub settled_until: Instant,
    /// When it was made.
    pub committed: Instant,
}

/// What an open found on disk.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Where to go on; none in a new spool.
    pub last: Option<Checkpoint>,
    /// Provisional findings of the last boot that were neither settled nor retracted: every delta with
    /// `observed` attempts whose `last` lies after the checkpoint's `settled_until`, oldest first.
    pub unsettled: Vec<FindingDelta>,
    /// Places where frames could not be read and were skipped.
    pub corrupt: u64,
    /// Bytes of an unfinished last frame that were cut off.
    pub truncated_bytes: u64,
}

/// One batch as the reader hands it to the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredBatch {
    /// Its number, from 1.
    pub sequence: u64,
    /// What it reports. Of an entry that was split, the first batch has the counts.
    pub report: Report,
    /// Realtime less monotonic clock, in nanoseconds.
    pub wall_offset_ns: i64,
    /// When its entry was made.
    pub committed: Instant,
}

/// What a frame holds. `cuts` are the indices in `entry.report.findings` at which a new batch begins, so that
/// the split is what it was when the numbers were given out, whatever a later version would choose.
#[derive(Serialize, Deserialize)]
pub(super) struct Stored<E> {
    pub(super) cuts: Vec<u32>,
    pub(super) entry: E,
}

/// Largest estimated size of a batch on the wire, in bytes.
const MAX_BATCH_WEIGHT: usize = 2 * 1024 * 1024;

/// Where to cut a report into batches.
pub(super) fn cuts(report: &Report) -> Vec<u32> {
    let mut cuts = Vec::new();
    let (mut count, mut weight) = (0_usize, 0_usize);
    for (index, delta) in (0_u32..).zip(&report.findings) {
        let own = weigh(delta);
        if count == polproof_proto::MAX_FINDINGS_PER_BATCH
            || (count > 0 && weight.saturating_add(own) > MAX_BATCH_WEIGHT)
        {
            cuts.push(index);
            (count, weight) = (0, 0);
        }
        count += 1;
        weight = weight.saturating_add(own);
    }
    cuts
}

/// A generous estimate of a finding's size on the wire: names are at most 253 bytes, most are short.
fn weigh(delta: &FindingDelta) -> usize {
    let policies: usize = delta
        .key
        .policies
        .iter()
        .map(|p| {
            let rules = match p.by {
                DeniedBy::NoRule(rules) => usize::try_from(rules).unwrap_or(usize::MAX),
                DeniedBy::Rule(_) => 1,
            };
            rules
                .saturating_mul(3)
                .saturating_add(96 + p.id.namespace.len() + p.id.name.len() + p.uid.0.len())
        })
        .fold(0, usize::saturating_add);
    policies.saturating_add(1024 + delta.samples.len() * 128)
}

impl Stored<Entry> {
    /// The batches of this entry, the first of which has the number `first`.
    pub(super) fn into_batches(self, first: u64) -> Vec<StoredBatch> {
        let Self { cuts, entry } = self;
        let (wall_offset_ns, committed) = (entry.wall_offset_ns, entry.committed);
        let mut rest = entry.report;
        if rest.is_empty() {
            return Vec::new();
        }
        let mut parts = Vec::with_capacity(cuts.len() + 1);
        for cut in cuts.iter().rev() {
            let at = usize::try_from(*cut)
                .unwrap_or(usize::MAX)
                .min(rest.findings.len());
            parts.push(Report {
                findings: rest.findings.split_off(at),
                ..Report::default()
            });
        }
        parts.push(rest);
        (first..)
            .zip(parts.into_iter().rev())
            .map(|(sequence, report)| StoredBatch {
                sequence,
                report,
                wall_offset_ns,
                committed,
            })
            .collect()
    }
}
