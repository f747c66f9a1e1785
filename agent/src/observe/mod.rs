//! The kernel's side of the agent: loads the BPF programs, attaches them in the pods' namespaces, reads their records.
//!
//! ```text
//! load (maps, programs, pins) --> attach (table of hooks) --> tcx | clsact --> exclusive (is eth0 ours alone?)
//!   ^ capabilities           \--> ring (consumer) --> decode --> flow::record::Record
//! ```
//!
//! It refuses to know pods, policies and findings, and keeps no namespace open: every visit is a thread that enters,
//! works and ends. What the programs need to survive a restart (maps, links) is pinned below
//! `<bpf-dir>/abi-<version>/`, so that nothing is missed while no agent runs.

mod attach;
mod btf;
mod bytecode;
mod capabilities;
mod clsact;
mod counters;
mod datagrams;
mod decode;
mod error;
mod exclusive;
mod identity;
mod links;
mod load;
mod means;
mod netlink;
mod netns;
mod outcome;
mod ring;
mod tc;
mod tcx;

pub use attach::Attached;
pub use bytecode::bpf_object;
pub use capabilities::{Capabilities, KernelLacks, capabilities};
pub(crate) use clsact::{Swept, sweep};
pub use counters::{CounterMap, Counters};
pub use decode::{DecodeError, Decoded, decode};
pub use error::ObserveError;
pub use identity::Identity;
pub use load::{ObserveConfig, Observer};
pub use means::Means;
pub(crate) use netlink::{Attributes, dump_of, u32_at};
pub(crate) use netns::visit;
pub use netns::{boot_id, now, wall_offset_ns};
pub use outcome::{ReadOutcome, Span};
pub use ring::{RingId, RingReader};
