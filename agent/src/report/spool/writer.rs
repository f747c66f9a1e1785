//! The appending side. One task owns it; it blocks on file writes and syncs nothing.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use polproof_flow::record::Instant;

use super::entry::{Entry, Stored, cuts};
use super::segment::{self, HEADER_BYTES};
use super::state::{Segment, Shared, SpoolStats, State};
use super::{SpoolConfig, SpoolError};

/// Appends entries. See [`super::Spool::open`].
#[derive(Debug)]
pub struct SpoolWriter {
    pub(super) shared: Arc<Shared>,
    pub(super) config: SpoolConfig,
    pub(super) active: Option<Active>,
    /// Number of the next segment file.
    pub(super) next_id: u64,
}

/// The segment that is written to.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) id: u64,
    pub(super) path: PathBuf,
    pub(super) file: File,
    /// Committed bytes.
    pub(super) bytes: u64,
}

impl SpoolWriter {
    /// Counters.
    pub fn stats(&self) -> Arc<SpoolStats> {
        Arc::clone(&self.shared.stats)
    }

    /// Commits one entry: after `Ok` it survives the death of the process, after `Err` nothing of it is there
    /// and the same entry may be tried again.
    ///
    /// An entry whose report is empty is a checkpoint and gets no sequence number. Blocks on a file write.
    ///
    /// # Errors
    /// The disk is full ([`SpoolError::Full`]) even after the oldest segments were dropped, or does not work.
    pub fn append(&mut self, entry: &Entry) -> Result<(), SpoolError> {
        let result = self.try_append(entry);
        if result.is_err() {
            self.shared
                .stats
                .append_errors
                .fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    fn try_append(&mut self, entry: &Entry) -> Result<(), SpoolError> {
        let cuts = cuts(&entry.report);
        let batches = if entry.report.is_empty() {
            0
        } else {
            u32::try_from(cuts.len() + 1).unwrap_or(u32::MAX)
        };
        let payload =
            postcard::to_stdvec(&Stored { cuts, entry }).map_err(|source| SpoolError::Codec {
                action: "encoded",
                source,
            })?;
        let first_sequence = self.shared.lock().next_sequence;
        let too_large = |bytes: u64| SpoolError::TooLarge {
            bytes,
            max: self.config.max_bytes,
        };
        let frame = segment::frame(first_sequence, batches, &payload)
            .ok_or_else(|| too_large(payload.len() as u64))?;
        let needed = frame.len() as u64;
        if needed + HEADER_BYTES > self.config.max_bytes {
            return Err(too_large(needed));
        }
        self.bound(needed);
        loop {
            match self.write(first_sequence, &frame) {
                Ok(()) => break,
                Err(error) if is_full(&error.1) => {
                    if !self.make_room() {
                        return Err(SpoolError::Full {
                            path: error.0,
                            needed,
                        });
                    }
                }
                Err((path, source)) => return Err(SpoolError::io("write to", &path)(source)),
            }
        }
        self.commit(entry, first_sequence, batches, needed);
        Ok(())
    }

    /// Writes a frame behind the committed bytes, into a new segment if the active one is long enough.
    fn write(&mut self, first_sequence: u64, frame: &[u8]) -> Result<(), (PathBuf, io::Error)> {
        let needed = frame.len() as u64;
        if let Some(active) = &self.active
            && active.bytes + needed <= self.config.segment_bytes
        {
            if let Err(error) = active.file.write_all_at(frame, active.bytes) {
                let path = active.path.clone();
                // What was written of it must not be taken for a frame; where it cannot be cut off, the segment is left.
                if active.file.set_len(active.bytes).is_err() {
                    self.active = None;
                }
                return Err((path, error));
            }
            return Ok(());
        }
        let id = self.next_id;
        let path = segment::path(&self.config.dir, id);
        let written = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&path)
            .and_then(|file| {
                file.write_all_at(&segment::header(first_sequence), 0)?;
                file.write_all_at(frame, HEADER_BYTES)?;
                Ok(file)
            });
        match written {
            Ok(file) => {
                self.next_id += 1;
                self.active = Some(Active {
                    id,
                    path,
                    file,
                    bytes: HEADER_BYTES,
                });
                Ok(())
            }
            Err(error) => {
                // Best effort: an unfinished segment is recognised when the spool is opened.
                let _ = std::fs::remove_file(&path);
                Err((path, error))
            }
        }
    }

    fn commit(&mut self, entry: &Entry, first_sequence: u64, batches: u32, needed: u64) {
        let Some(active) = &mut self.active else {
            return;
        };
        active.bytes += needed;
        let shared = &self.shared;
        let mut state = shared.lock();
        let next_sequence = first_sequence.saturating_add(u64::from(batches));
        state.follow(entry);
        let observed_until = observed_until(entry);
        let known = state.segments.back_mut().filter(|s| s.id == active.id);
        if let Some(segment) = known {
            segment.bytes = active.bytes;
            segment.next_sequence = next_sequence;
            segment.observed_until = segment.observed_until.max(observed_until);
        } else {
            state.segments.push_back(Segment {
                id: active.id,
                path: active.path.clone(),
                bytes: active.bytes,
                first_sequence,
                next_sequence,
                observed_until,
            });
            // The name of a new file is only durable with its folder.
            state.dirty_dir = true;
        }
        state.dirty.insert(active.id);
        state.next_sequence = next_sequence;
        shared.trim(&mut state);
        shared.publish(&state);
        drop(state);
        shared.stats.entries.fetch_add(1, Ordering::Relaxed);
        shared
            .stats
            .batches
            .fetch_add(u64::from(batches), Ordering::Relaxed);
        self.bound(0);
        self.shared.appended.send_if_modified(|next| {
            let changed = *next != next_sequence;
            *next = next_sequence;
            changed
        });
    }

    /// Keeps the bound. The newest segment stays: it has the checkpoint.
    fn bound(&self, needed: u64) {
        let mut state = self.shared.lock();
        let total = |state: &State| state.segments.iter().map(|s| s.bytes).sum::<u64>();
        while state.segments.len() > 1 && total(&state) + needed > self.config.max_bytes {
            self.shared.drop_oldest(&mut state);
        }
        self.shared.publish(&state);
    }

    /// Frees disk space: first what nobody needs, then the oldest. False: there is nothing to free.
    fn make_room(&self) -> bool {
        let mut state = self.shared.lock();
        if self.shared.trim(&mut state) == 0 {
            if state.segments.len() < 2 {
                return false;
            }
            self.shared.drop_oldest(&mut state);
        }
        self.shared.publish(&state);
        true
    }
}

impl State {
    /// Takes over what an entry says about settling. Moments of another boot cannot be compared, and what was
    /// provisional then never settles.
    pub(super) fn follow(&mut self, entry: &Entry) {
        if self.boot_id != entry.ring.boot_id {
            self.boot_id.clone_from(&entry.ring.boot_id);
            for segment in &mut self.segments {
                segment.observed_until = Instant(0);
            }
        }
        self.settled_until = entry.settled_until;
    }
}

/// `last` of the youngest provisional finding of an entry.
pub(super) fn observed_until(entry: &Entry) -> Instant {
    entry
        .report
        .findings
        .iter()
        .filter(|d| d.observed > 0)
        .map(|d| d.last)
        .max()
        .unwrap_or(Instant(0))
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}
