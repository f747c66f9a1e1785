//! The kernel's side of the agent: loads the BPF programs, attaches them in the pods' namespaces, reads their records.
//!
//! ```text
//! load (maps, programs, pins) --> attach (table of hooks) --> exclusive (is eth0 ours alone?)
//!                            \--> ring (consumer) --> decode --> flow::record::Record
//! ```
//!
//! It refuses to know pods, policies and findings, and keeps no namespace open: every visit is a thread that enters,
//! works and ends. What the programs need to survive a restart (maps, links) is pinned below
//! `<bpf-dir>/abi-<version>/`, so that nothing is missed while no agent runs.

mod attach;
mod btf;
mod bytecode;
mod counters;
mod datagrams;
mod decode;
mod error;
mod exclusive;
mod load;
mod netlink;
mod netns;
mod outcome;
mod ring;

pub use attach::Attached;
pub use bytecode::bpf_object;
pub use counters::Counters;
pub use decode::{Decoded, DecodeError, decode};
pub use error::ObserveError;
pub use load::{ObserveConfig, Observer};
pub use netns::{boot_id, now};
pub use outcome::{ReadOutcome, Span};
pub use ring::{RingId, RingReader};
