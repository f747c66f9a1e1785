//! From packets to findings, as pure functions of records, snapshots and time.
//!
//! ```text
//! record::Record --attempt--> Attempt --verdict (x policy::Snapshot history)--> finding::FindingDelta
//! ```
//!
//! It refuses to know the kernel's layout, the wire's and the API server's, and the clock: time
//! is an argument. `Inconclusive(reason)` is a value here, never an error.

mod attempt;
mod denier;
mod early;
mod expectation;
pub mod finding;
mod here;
mod history;
pub mod judge;
mod ledger;
mod namespaces;
pub mod netns;
pub mod record;
mod restored;
mod settings;
mod table;
mod tally;
pub mod witness;

pub use here::Here;
pub use judge::Judge;
pub use namespaces::Binding;
pub use restored::Restored;
pub use settings::Settings;
pub use tally::Tally;
