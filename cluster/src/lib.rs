//! The cluster as a value: Kubernetes objects from an API server or from manifests, kept in a
//! [`polproof_policy::State`] and published as immutable [`View`]s.
//!
//! ```text
//! kubernetes: one watch a kind --Update--\
//!                                         owner (State) --View--> tokio watch channel
//! manifests:  files, followed  --Update--/
//! ```
//!
//! It refuses to judge: what an object means is `polproof-policy`'s, and an object that the engine
//! refuses is named in the view, never evaluated leniently. It never writes to a cluster: its verbs
//! are get, list and watch. A source that is away keeps the last good view and says so in
//! [`View::problem`]; a delete is never lost, because a list replaces everything as a diff.

mod error;
pub mod kubernetes;
pub mod manifests;
mod object;
mod owner;

use std::sync::Arc;
use std::time::SystemTime;

use polproof_policy::{Snapshot, State};

pub use error::ClusterError;

/// Where a view comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceKind {
    /// An API server.
    Kubernetes,
    /// A file or folder of manifests.
    Manifests,
}

/// An object that is left out of the snapshot because no API server would take it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Which: kind, namespace and name, and the file if it comes from one.
    pub object: String,
    /// The field, what is wrong with it and what to write instead.
    pub reason: String,
}

/// The cluster at one moment, as far as it is known.
#[derive(Clone, Debug)]
pub struct View {
    /// The objects.
    pub snapshot: Snapshot,
    /// When this view was made.
    pub at: SystemTime,
    /// Whether every kind has been listed. Before that the snapshot has holes and must not be
    /// used for verdicts. Once true it stays true.
    pub ready: bool,
    /// Where it comes from.
    pub source: SourceKind,
    /// Objects that are left out, by name.
    pub refused: Arc<[Refused]>,
    /// Why the view may be behind the cluster, what was tried and what to do; `None` while the
    /// source answers.
    pub problem: Option<String>,
}

impl View {
    /// The view before anything is known.
    pub fn empty(source: SourceKind) -> Self {
        Self {
            snapshot: State::new().snapshot(),
            at: SystemTime::now(),
            ready: false,
            source,
            refused: Arc::from([]),
            problem: None,
        }
    }
}
