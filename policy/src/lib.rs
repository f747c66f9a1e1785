//! What the NetworkPolicies of a cluster make expected.
//!
//! This crate answers one question: given the objects of a cluster at one moment, must a
//! connection between two ends be let through or not, and which policies and rules decide?
//!
//! ```text
//! model::Object --apply/delete/reset--> state::State --snapshot()--> state::Snapshot
//!                                                                       | evaluate(&Query) -> Verdict
//!                                                                       | explain(&Query)  -> Explanation
//!                                              as people ask            | ask::ask         -> Reply
//!                                              every pair, every port   | connectivity     -> Connectivity
//!                                              what is wrong            | lint::audit      -> Audit
//!                                              and how to mend it       | remedy::remedy   -> Remedy
//! ```
//!
//! What a rule does is said once, in `evaluate`; `reference` says it again, naively, for tests alone. Everything else asks the
//! engine, and reads policies only for what they can tell apart, for words, or for what is wrong with their text.
//!
//! It refuses to know anything of the world: no API server, no clock, no file, no task, no
//! log. Objects come in as values and verdicts go out as values, so that every line of
//! `semantics` can be tested with a table.

#![forbid(unsafe_code)]

pub mod ask;
pub mod compile;
pub mod connectivity;
pub mod evaluate;
pub mod explain;
pub mod lint;
pub mod model;
#[cfg(feature = "reference")]
pub mod reference;
pub mod remedy;
mod selector;
mod similar;
pub mod state;

pub use evaluate::{
    AdminRef, Decision, DirectionVerdict, Endpoint, Expectation, PolicyRef, Query, UnknownReason,
    Verdict,
};
pub use model::{Direction, Family, Key, Kind, NamespacedName, Object, Protocol, Uid};
pub use state::{Backend, Change, IpOwner, Snapshot, State};
