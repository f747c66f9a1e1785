//! The lab and the harness for tests that need a kernel, namespaces or an API server.
//!
//! It refuses to be linked into anything that ships. Everything that it makes on the machine (namespaces, mounts,
//! pins, processes) it takes down again, also after a crash of an earlier run.

pub mod cluster;
pub mod deployment;
pub mod foreign;
pub mod lab;
pub mod netns;
