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

mod counts;
mod error;
pub mod kubernetes;
pub mod manifests;
mod object;
mod owner;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use polproof_policy::{Key, Kind, NamespacedName, Snapshot, State};

pub use counts::{PolicyCount, spoken};
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
    /// Its kind, namespace and name.
    pub key: Key,
    /// Which: kind, namespace and name, and the file if it comes from one.
    pub object: String,
    /// The field, what is wrong with it and what to write instead.
    pub reason: String,
}

/// A place in a file of manifests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The file; `-` for standard input.
    pub file: PathBuf,
    /// The first line of the document, from 1.
    pub line: u64,
}

/// Where objects stand, refused ones included.
pub type Origins = BTreeMap<(Kind, NamespacedName), Origin>;

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
    /// Where each object stands, if it comes from files.
    pub origins: Arc<Origins>,
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
            origins: Arc::default(),
            problem: None,
        }
    }
}
