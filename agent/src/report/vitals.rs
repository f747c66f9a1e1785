//! What a heartbeat says: the state of the agent besides its findings, gathered afresh each time.

use std::time::SystemTime;

use polproof_cluster::PolicyCount;
use polproof_policy::{NamespacedName, Uid};

use crate::cni::CniHint;
use crate::observe::KernelLacks;

/// A pod of the node that is not watched, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unwatched {
    /// The pod, where it is known.
    pub pod: Option<(NamespacedName, Uid)>,
    /// Why it is not watched.
    pub reason: String,
}

/// Pods of the node by how they are watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Pods with a network of their own that the cluster places on the node.
    pub expected: u64,
    /// Of these, with a complete witness.
    pub watched: u64,
    /// The others, as far as they are worth naming.
    pub unwatched: Vec<Unwatched>,
}

/// What was lost since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Loss {
    /// Records that did not fit into the ring.
    pub ring_records: u64,
    /// Packets whose headers could not be walked.
    pub packets_unparsed: u64,
    /// Attempts that left a full table before they were decided.
    pub attempts_evicted: u64,
    /// Batches dropped from the spool.
    pub batches_dropped: u64,
    /// Namespaces that could not be matched to a pod.
    pub pods_unidentified: u64,
}

/// State of the agent's view of the cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewState {
    /// All kinds were listed.
    pub ready: bool,
    /// "kubernetes" or "manifests".
    pub source: String,
    /// NetworkPolicies.
    pub policies: u64,
    /// Policies of other kinds.
    pub other_policies: Vec<PolicyCount>,
    /// Pods of the cluster.
    pub pods: u64,
    /// Objects refused by validation, with the reason; the first 20.
    pub refused: Vec<String>,
    /// Why the view is stale, if it is.
    pub problem: Option<String>,
}

/// All of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vitals {
    /// When it was gathered.
    pub at: SystemTime,
    /// How many pods are watched.
    pub coverage: Coverage,
    /// What was lost.
    pub loss: Loss,
    /// What the node's files claim of its CNI.
    pub cni: Vec<CniHint>,
    /// The view of the cluster.
    pub view: ViewState,
    /// What the running kernel does not have.
    pub kernel_lacks: Vec<KernelLacks>,
}

/// Gathers the vitals. Called from the stream's task: it must not block.
pub type Gather = Box<dyn Fn() -> Vitals + Send + Sync>;
