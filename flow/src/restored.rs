//! What a judge takes over from the one before a restart.

use polproof_policy::Snapshot;

use crate::finding::FindingDelta;
use crate::namespaces::Binding;
use crate::record::{Instant, Record};

/// What is left of a judge of before a restart, on the same boot of the same node.
#[derive(Debug, Default)]
pub struct Restored {
    /// Views of the cluster, oldest first, with the time from which each was in force.
    pub views: Vec<(Instant, Snapshot)>,
    /// Namespaces and their pods.
    pub bindings: Vec<Binding>,
    /// [`Judge::open_attempts`](crate::Judge::open_attempts) of the last report that was written.
    pub open: Vec<Record>,
    /// Written deltas with `observed` attempts later than `settled_until`.
    pub unsettled: Vec<FindingDelta>,
    /// [`Judge::settled_until`](crate::Judge::settled_until) of the last report that was written.
    pub settled_until: Instant,
}
