//! What the writer and the reader of one spool share.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use polproof_flow::record::Instant;
use tokio::sync::watch;
use tracing::warn;

use super::SpoolError;

/// Counters of a spool, since the agent started.
#[derive(Debug, Default)]
pub struct SpoolStats {
    /// Entries written.
    pub entries: AtomicU64,
    /// Batches that got a number.
    pub batches: AtomicU64,
    /// Unconfirmed batches dropped because the spool or the disk was full, or set aside because another version of the agent
    /// wrote them.
    pub batches_dropped: AtomicU64,
    /// Places where frames could not be read.
    pub corrupt: AtomicU64,
    /// Appends that failed.
    pub append_errors: AtomicU64,
    /// Bytes on disk.
    pub bytes: AtomicU64,
    /// Segments on disk.
    pub segments: AtomicU64,
    /// Batches on disk that the collector has not confirmed.
    pub unconfirmed: AtomicU64,
}

/// A segment with at least one entry.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) id: u64,
    pub(super) path: PathBuf,
    /// Committed bytes: what lies behind them is not there.
    pub(super) bytes: u64,
    pub(super) first_sequence: u64,
    /// The number after its last batch.
    pub(super) next_sequence: u64,
    /// `last` of its youngest provisional finding; needed until that has settled.
    pub(super) observed_until: Instant,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) segments: VecDeque<Segment>,
    pub(super) next_sequence: u64,
    /// Numbers up to this one are with the collector.
    pub(super) acknowledged: u64,
    /// Numbers up to this one were on disk when the spool was opened.
    pub(super) recovered: u64,
    /// Numbers below this one are synced.
    pub(super) durable: u64,
    /// Segments with bytes that are not. Numbers, not files: an open file would keep the space of a dropped one.
    pub(super) dirty: BTreeSet<u64>,
    /// Whether there is a segment whose name is not.
    pub(super) dirty_dir: bool,
    pub(super) settled_until: Instant,
    pub(super) boot_id: String,
}

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) dir: PathBuf,
    pub(super) state: Mutex<State>,
    pub(super) stats: Arc<SpoolStats>,
    /// The next sequence number, for whoever waits for batches.
    pub(super) appended: watch::Sender<u64>,
    /// Keeps the folder ours.
    pub(super) _lock: nix::fcntl::Flock<File>,
}

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and its fields are valid one by one.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn publish(&self, state: &State) {
        let set = |gauge: &AtomicU64, value: u64| gauge.store(value, Ordering::Relaxed);
        set(
            &self.stats.bytes,
            state.segments.iter().map(|s| s.bytes).sum(),
        );
        set(&self.stats.segments, state.segments.len() as u64);
        let oldest = state
            .segments
            .front()
            .map_or(state.next_sequence, |s| s.first_sequence);
        let from = oldest.max(state.acknowledged.saturating_add(1));
        set(
            &self.stats.unconfirmed,
            state.next_sequence.saturating_sub(from),
        );
    }

    /// Removes the oldest segments that nobody needs. Returns how many.
    pub(super) fn trim(&self, state: &mut State) -> usize {
        let mut removed = 0;
        while state.segments.len() > 1
            && state.segments.front().is_some_and(|s| {
                s.next_sequence <= state.acknowledged.saturating_add(1)
                    && s.observed_until <= state.settled_until
            })
        {
            self.drop_oldest(state);
            removed += 1;
        }
        removed
    }

    /// Removes the oldest segment, needed or not, and counts what it still held.
    pub(super) fn drop_oldest(&self, state: &mut State) {
        let Some(segment) = state.segments.pop_front() else {
            return;
        };
        state.dirty.remove(&segment.id);
        let from = segment
            .first_sequence
            .max(state.acknowledged.saturating_add(1));
        let lost = segment.next_sequence.saturating_sub(from);
        if lost > 0 {
            self.stats
                .batches_dropped
                .fetch_add(lost, Ordering::Relaxed);
            warn!(
                batches = lost,
                segment = %segment.path.display(),
                "the spool is full: dropped the oldest batches that the collector has not confirmed; \
                 its figures for this node are incomplete until then. Bring the collector back or raise --spool-max-bytes"
            );
        }
        if let Err(error) = std::fs::remove_file(&segment.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            warn!(segment = %segment.path.display(), %error, "an old spool segment cannot be removed; remove it by hand");
        }
    }
}

pub(super) const ACKNOWLEDGED: &str = "acknowledged";

/// Reads the confirmed number; 0 if there is none or it is damaged, which only means that the collector is asked.
pub(super) fn read_acknowledged(dir: &Path) -> u64 {
    let Ok(bytes) = std::fs::read(dir.join(ACKNOWLEDGED)) else {
        return 0;
    };
    match (bytes.first_chunk::<8>(), bytes.get(8..12)) {
        (Some(number), Some(crc)) if crc32fast::hash(number).to_le_bytes() == *crc => {
            u64::from_le_bytes(*number)
        }
        _ => 0,
    }
}

/// Writes the confirmed number over the old one.
pub(super) fn write_acknowledged(dir: &Path, number: u64) -> Result<(), SpoolError> {
    use std::os::unix::fs::FileExt;
    let path = dir.join(ACKNOWLEDGED);
    let number = number.to_le_bytes();
    let mut bytes = [0; 12];
    let (head, tail) = bytes.split_at_mut(8);
    head.copy_from_slice(&number);
    tail.copy_from_slice(&crc32fast::hash(&number).to_le_bytes());
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .and_then(|file| file.write_all_at(&bytes, 0))
        .map_err(SpoolError::io("write", &path))
}
