//! The one consumer of records: feeds them, the news of namespaces and the views of the cluster to
//! [`polproof_flow::Judge`], commits its reports, and then hands the ring's space back to the kernel.
//!
//! ```text
//! RingReader --Record--\
//! NetnsEvent -----------> task (flow::Judge) --Entry--> SpoolWriter, then RingReader::release
//! own addresses --------|        \--views, bindings--> keep (disk, for the next start)
//! View -----------------|
//! loss counters --------|
//! witnesses <-----------/  questions, testimonies (report::witness)
//! ```
//!
//! It refuses to decide (that is `polproof-flow`'s) and to hold what it cannot commit: while the spool cannot be
//! written, reports are kept in memory up to a bound and the ring is emptied all the same, so that packets go
//! on being seen.
//!
//! # Its own thread
//!
//! An append is a blocking write of a file, and evaluating is plain work. So the task runs on a thread of its own
//! with a single-threaded runtime: a slow disk delays the judge alone, and the ring buffers meanwhile.
//!
//! # Exactly once
//!
//! One append commits a report, the position up to which records are consumed and what leads to the open attempts
//! again; only then is the position released. Killed before the append, the records are read again; killed after
//! it, they are skipped. Either way each attempt is in one report.

mod bench;
mod commit;
mod keep;
mod losses;
mod records;
mod stats;
mod task;
#[cfg(test)]
mod tests;
mod witnesses;

pub use stats::{JudgeStats, KindStats, Words};
pub use task::{JudgeTask, run};
