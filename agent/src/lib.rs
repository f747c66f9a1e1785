//! The agent of a node: it watches the connection attempts of the node's pods, compares them
//! with what the policies make expected, and reports the contradictions to the collector.
//!
//! ```text
//! observe (ring) --Record--> judge (flow::Judge) --Report--> report::spool --> report::stream --> collector
//!    ^ attach                  ^ NetnsEvent   ^ Snapshot
//!   pods (netns discovery, identity)        cluster (API server or manifests)
//! ```
//!
//! It refuses to decide: verdicts are made in `polproof-flow`. It never changes a packet's fate, never answers
//! for the API server and depends on nothing of the collector but the wire.

mod addresses;
mod allocator;
pub mod cni;
pub mod config;
pub mod inpod;
pub mod judge;
pub mod observe;
pub mod pods;
mod privilege;
pub mod report;
mod run;
pub mod sockets;
pub mod telemetry;
mod uninstall;

pub use addresses::LocalAddresses;
pub use allocator::give_back_early;
pub use run::run;
pub use uninstall::{Removed, uninstall};
