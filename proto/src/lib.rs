//! The wire between agent, collector and command line: gRPC messages and services.
//!
//! ```text
//! proto/polproof/v1/*.proto --tests/generated.rs--> src/gen/polproof.v1.rs (checked in)
//! ```
//!
//! It refuses to hold logic: nothing here converts, validates or decides. Each side has one `convert.rs`
//! that knows both these messages and its own types; nobody else reads them.
//!
//! The generated code is checked in so that a build needs no `protoc`. After a change of a `.proto` file run
//! `UPDATE=1 cargo test -p polproof-proto`; without it the same test says that the two differ.

/// Version 1 of the wire. Fields are only ever added, with new numbers.
#[allow(
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::wildcard_imports,
    reason = "generated code; its documentation is in the .proto files"
)]
pub mod v1 {
    include!("gen/polproof.v1.rs");
}

/// The largest message that either side accepts, in bytes. A batch of 1,000 findings with 3 samples each
/// stays below 2 MiB; the rest is room for long names.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;

/// The most findings that one `Batch` may hold; an agent splits what is more.
pub const MAX_FINDINGS_PER_BATCH: usize = 1_000;
