//! The bounded spool on disk: what was judged and is not yet with the collector, and where to go on after a
//! crash.
//!
//! One [`SpoolWriter::append`] commits a report, the position in the ring up to which records are consumed, and
//! the attempts that are still open, in one frame with a checksum. Either all of it survives or none.
//!
//! ```text
//! DIR/instance                        "polproof-spool 3", a UUID and a number: the identity that sequence numbers above it belong to
//! DIR/acknowledged                    the highest number that the collector has confirmed
//! DIR/lock                            held by the one agent that uses the folder
//! DIR/00000000000000000042.segment    frames; named by a number that only grows
//! DIR/format-2/                       the files of another version of the agent
//! ```
//!
//! - A report that says something gets the next sequence number, or several when it is too long for one batch.
//!   A report that says nothing is a checkpoint without a number.
//! - Nothing is handed to the stream before it is synced to the disk. A number that the collector has seen is
//!   therefore never given out again, not even after a power cut. `append` itself does not sync: surviving the
//!   death of the process needs none.
//! - When the folder is full (`max_bytes`, or the disk itself) the oldest segment goes, and its batches are counted
//!   as dropped.
//! - What another version of the agent wrote is set aside, and what of it was not delivered is counted as dropped: nobody
//!   upgrades a fleet to find its agents refusing to start.
//! - A segment whose batches are confirmed stays until its provisional findings have settled: after a crash they
//!   are needed to settle or retract each of them exactly once.

mod aside;
mod entry;
mod reader;
mod recover;
mod segment;
mod state;
#[cfg(test)]
mod tests;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

pub use entry::{Checkpoint, Entry, Recovered, StoredBatch};
pub use reader::SpoolReader;
pub use state::SpoolStats;
pub use writer::SpoolWriter;

/// Version of everything on disk. A spool of another version is set aside, never guessed at.
pub const DISK_VERSION: u32 = 3;

/// Where the spool lies and how large it may grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolConfig {
    /// Folder; made if it is missing.
    pub dir: PathBuf,
    /// Bound of all segments together, in bytes. Reached, the oldest segment is dropped.
    pub max_bytes: u64,
    /// Size at which a segment is closed and the next one begun, in bytes.
    pub segment_bytes: u64,
}

impl SpoolConfig {
    /// Default of `max_bytes`: 256 MiB.
    pub const MAX_BYTES: u64 = 256 * 1024 * 1024;
    /// Default of `segment_bytes`: 4 MiB.
    pub const SEGMENT_BYTES: u64 = 4 * 1024 * 1024;

    /// A spool of default size in a folder.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            max_bytes: Self::MAX_BYTES,
            segment_bytes: Self::SEGMENT_BYTES,
        }
    }
}

/// Opens a spool.
#[derive(Debug)]
pub struct Spool;

impl Spool {
    /// Opens or makes the spool of a folder, repairs what a crash left, and says where to go on.
    ///
    /// # Errors
    /// The folder cannot be used, or another agent uses it.
    pub fn open(config: SpoolConfig) -> Result<(SpoolWriter, SpoolReader, Recovered), SpoolError> {
        recover::open(config)
    }
}

/// What can go wrong with the spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The disk (or the quota) is full. Nothing of the entry was kept; the same entry may be appended again.
    #[error(
        "the spool cannot write {needed} bytes to {}: the disk is full. Free space on it, move --state-dir to another \
         disk, or lower --spool-max-bytes; until then new reports wait in the agent and records may be lost (counted)",
        path.display()
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// Bytes of the entry.
        needed: u64,
    },
    /// A file operation failed.
    #[error("the spool cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another process holds the lock.
    #[error(
        "the spool {} is in use by another polproof-agent. Stop it, or give this one its own --state-dir",
        dir.display()
    )]
    Locked {
        /// The folder.
        dir: PathBuf,
    },
    /// One entry is larger than the spool may hold.
    #[error(
        "a report of {bytes} bytes does not fit into the spool of {max} bytes. Raise --spool-max-bytes"
    )]
    TooLarge {
        /// Size of the entry.
        bytes: u64,
        /// Bound.
        max: u64,
    },
    /// An entry could not be encoded or decoded.
    #[error("a spool entry cannot be {action}: {source}")]
    Codec {
        /// "encoded" or "decoded".
        action: &'static str,
        /// Why not.
        source: postcard::Error,
    },
    /// The sizes make no sense.
    #[error(
        "the spool's bound of {max_bytes} bytes is too small for segments of {segment_bytes} bytes: it must hold at least two. \
         Raise --spool-max-bytes"
    )]
    Sizes {
        /// `max_bytes`.
        max_bytes: u64,
        /// `segment_bytes`.
        segment_bytes: u64,
    },
}

impl SpoolError {
    fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io {
            action,
            path,
            source,
        }
    }
}
