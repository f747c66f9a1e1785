//! From a judged report to the collector, through a disk.
//!
//! ```text
//! judge --Entry--> spool::SpoolWriter --segments on disk--> spool::SpoolReader --> convert --> stream --gRPC--> collector
//!                        ^                                        | receipts
//!                        +------- Recovered (after a crash) ------+
//! ```
//!
//! The spool is the only queue between judging and the collector: it is bounded, it counts what it drops, and
//! it survives `kill -9`. What the stream does never slows the judge.
//!
//! It refuses to judge, and to merge or reorder what was judged.

mod connect;
pub mod convert;
mod diagnose;
pub mod problem;
pub mod spool;
pub mod stream;
pub mod vitals;
pub mod witness;
