//! From packets to findings, as pure functions of records, snapshots and time.
//!
//! ```text
//! record::Record --attempt--> Attempt --verdict (x policy::Snapshot history)--> finding::FindingDelta
//! ```
//!
//! It refuses to know the kernel's layout, the wire's and the API server's, and the clock: time
//! is an argument. `Inconclusive(reason)` is a value here, never an error.

pub mod finding;
pub mod netns;
pub mod record;
