//! What of this node is watched, as figures for `/metrics` and as a list for people.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use polproof_policy::{NamespacedName, Uid};

use crate::observe::Counters;

/// Something of this node that is not watched soundly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uncovered {
    /// The pod; `None` for a namespace that could not be matched to one.
    pub pod: Option<(NamespacedName, Uid)>,
    /// Why, in words.
    pub reason: String,
}

/// Figures of the pods' part: gauges unless said otherwise.
#[derive(Debug, Default)]
pub struct PodsStats {
    /// Namespace files there are.
    pub namespaces: AtomicU64,
    /// Of those, with our programs attached.
    pub attached: AtomicU64,
    /// Attached, but which pod is unknown.
    pub unidentified: AtomicU64,
    /// Attached, but the witnesses of the identity contradict each other.
    pub contradicted: AtomicU64,
    /// Attached, but eth0 is not ours alone.
    pub hooks_shared: AtomicU64,
    /// Living pods of this node with a network of their own.
    pub pods_expected: AtomicU64,
    /// Of those, identified, attached and alone on their eth0. The others are in [`Self::coverage`], with the reason.
    pub pods_watched: AtomicU64,
    /// Failed tries to attach since the start, those for a missing eth0 not counted. A counter.
    pub attach_failures: AtomicU64,
    /// Dead links removed since the start. A counter.
    pub links_collected: AtomicU64,
    /// Attached, and something filters in the pod's own namespace.
    pub filtered_inside: AtomicU64,
    /// Identified, and selected by a policy: their connections are listed.
    pub pods_selected: AtomicU64,
    /// Times that the programs were found detached, and attached again. A counter.
    pub gaps: AtomicU64,
    /// Lists of connections. A counter.
    pub socket_lists: AtomicU64,
    /// Lists that could not be had. A counter.
    pub socket_failures: AtomicU64,
    /// Connections left out of the lists, which are bounded. A counter.
    pub sockets_left_out: AtomicU64,
    /// Connections left out since it is not certain who opened them. A counter.
    pub sockets_undecided: AtomicU64,
    uncovered: Mutex<Vec<Uncovered>>,
    kernel: Mutex<Counters>,
}

impl PodsStats {
    /// What is not watched soundly, and why. At most 1,000 entries.
    pub fn coverage(&self) -> Vec<Uncovered> {
        self.uncovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The BPF programs' counters, at most a second old.
    pub fn kernel(&self) -> Counters {
        *self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_coverage(&self, mut uncovered: Vec<Uncovered>) {
        uncovered.truncate(1000);
        *self
            .uncovered
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = uncovered;
    }

    pub(super) fn set_kernel(&self, counters: Counters) {
        *self.kernel.lock().unwrap_or_else(PoisonError::into_inner) = counters;
    }
}

/// Sets a gauge from a count of things in memory.
pub(super) fn set(gauge: &AtomicU64, count: usize) {
    gauge.store(u64::try_from(count).unwrap_or(u64::MAX), Ordering::Relaxed);
}
