//! From packets to findings, as pure functions of records, snapshots and time.
//!
//! ```text
//! record::Record --attempt--> Attempt --verdict (x policy::Snapshot history)--> finding::FindingDelta
//! ```
//!
//! It refuses to know the kernel's layout, the wire's and the API server's, and the clock: time
//! is an argument. `Inconclusive(reason)` is a value here, never an error.

mod answers;
mod attempt;
mod basis;
mod control;
mod denier;
mod early;
mod expectation;
mod exposure;
pub mod finding;
mod here;
mod history;
mod inquiries;
mod join;
pub mod judge;
mod keys;
mod ledger;
mod losses;
mod memo;
mod namespaces;
pub mod netns;
mod recent;
pub mod record;
mod recovery;
mod restored;
mod services;
mod settings;
mod settled;
mod startup;
mod survivor;
mod table;
mod tally;
mod udp;
mod undone;
pub mod witness;

pub use here::Here;
pub use judge::Judge;
pub use namespaces::Binding;
pub use restored::Restored;
pub use settings::Settings;
pub use tally::Tally;
