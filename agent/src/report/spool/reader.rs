//! The reading side: batches in order, and receipts.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::watch;
use tracing::warn;

use super::entry::{Entry, Stored, StoredBatch};
use super::recover::{self, Identity};
use super::segment::{self, FRAME_HEADER_BYTES, HEADER_BYTES, Step};
use super::state::{Shared, SpoolStats, write_acknowledged};
use super::{SpoolError, SpoolWriter};

/// Hands out batches and takes receipts. See [`super::Spool::open`]. Its methods block on files.
#[derive(Debug)]
pub struct SpoolReader {
    shared: Arc<Shared>,
    identity: Identity,
    /// Number of the segment and offset of the frame that comes next.
    segment: u64,
    offset: u64,
    file: Option<(u64, File)>,
    /// The number that comes next, if it is still there.
    next: u64,
    pending: VecDeque<StoredBatch>,
}

impl SpoolReader {
    pub(super) fn new(writer: &SpoolWriter, identity: Identity) -> Self {
        Self {
            shared: Arc::clone(&writer.shared),
            identity,
            segment: 0,
            offset: HEADER_BYTES,
            file: None,
            next: 1,
            pending: VecDeque::new(),
        }
    }

    /// Identity that the sequence numbers belong to, a UUID.
    pub fn instance(&self) -> &str {
        &self.identity.uuid
    }

    /// Counters.
    pub fn stats(&self) -> Arc<SpoolStats> {
        Arc::clone(&self.shared.stats)
    }

    /// The lowest number that is still on disk, or the next one if none is.
    pub fn first_sequence(&self) -> u64 {
        let state = self.shared.lock();
        state
            .segments
            .front()
            .map_or(state.next_sequence, |s| s.first_sequence)
            .max(self.identity.above.saturating_add(1))
    }

    /// The number that the next batch will get.
    pub fn next_sequence(&self) -> u64 {
        self.shared.lock().next_sequence
    }

    /// Changes with every batch that is appended; holds [`Self::next_sequence`].
    pub fn appended(&self) -> watch::Receiver<u64> {
        self.shared.appended.subscribe()
    }

    /// Makes the batch with this number the next one to read, or the first one after it that is still there and
    /// belongs to the present identity.
    pub fn seek(&mut self, sequence: u64) {
        let sequence = sequence.max(self.identity.above.saturating_add(1));
        let state = self.shared.lock();
        let at = state
            .segments
            .iter()
            .rev()
            .find(|s| s.first_sequence <= sequence)
            .or_else(|| state.segments.front());
        self.segment = at.map_or(0, |s| s.id);
        drop(state);
        self.offset = HEADER_BYTES;
        self.next = sequence;
        self.pending.clear();
    }

    /// The next batches, at most `max`; none if there is nothing new. What it returns is synced to the disk.
    ///
    /// # Errors
    /// The disk does not work.
    pub fn read(&mut self, max: usize) -> Result<Vec<StoredBatch>, SpoolError> {
        let durable = self.sync()?;
        while self.pending.len() < max {
            let Some((path, committed)) = self.position() else {
                break;
            };
            if !self.open(&path)? {
                // Dropped in the meantime: `position` goes on behind it.
                self.segment += 1;
                self.offset = HEADER_BYTES;
                continue;
            }
            let bytes = self.next_bytes(&path, committed)?;
            let Some(frame) = segment::read_frame(&bytes) else {
                self.skip_damage(&path, committed)?;
                continue;
            };
            let end = frame.next_sequence();
            if end > durable {
                break;
            }
            self.offset += frame.bytes() as u64;
            if frame.batches == 0 || end <= self.next {
                continue;
            }
            match postcard::from_bytes::<Stored<Entry>>(frame.payload) {
                Ok(stored) => {
                    let next = self.next;
                    let batches = stored.into_batches(frame.first_sequence);
                    self.pending
                        .extend(batches.into_iter().filter(|b| b.sequence >= next));
                    self.next = end;
                }
                Err(error) => {
                    self.shared.stats.corrupt.fetch_add(1, Ordering::Relaxed);
                    warn!(segment = %path.display(), %error, "a spool entry cannot be decoded and is skipped; the collector will count its batches as missing");
                }
            }
        }
        let count = max.min(self.pending.len());
        Ok(self.pending.drain(..count).collect())
    }

    /// The collector has everything up to this number: what nobody needs any more is removed.
    ///
    /// # Errors
    /// The number cannot be written down. It holds for this process all the same.
    pub fn acknowledge(&mut self, sequence: u64) -> Result<(), SpoolError> {
        let mut state = self.shared.lock();
        if sequence <= state.acknowledged {
            return Ok(());
        }
        state.acknowledged = sequence.min(state.next_sequence.saturating_sub(1));
        let acknowledged = state.acknowledged;
        self.shared.trim(&mut state);
        self.shared.publish(&state);
        drop(state);
        write_acknowledged(&self.shared.dir, acknowledged)
    }

    /// Begins a new identity, because the collector has numbers of the present one that the disk has lost (a damaged
    /// or restored disk). What was on disk when the spool was opened is taken for delivered: it was numbered before.
    ///
    /// # Errors
    /// The identity cannot be written down.
    pub fn renew(&mut self) -> Result<(), SpoolError> {
        let recovered = self.shared.lock().recovered;
        self.identity = recover::new_identity(&self.shared.dir, recovered)?;
        self.acknowledge(recovered)
    }

    /// Syncs what was appended. Returns the number below which everything is durable.
    fn sync(&self) -> Result<u64, SpoolError> {
        let (dirty, new_names, next) = {
            let mut state = self.shared.lock();
            if self.next < state.durable {
                // There is still enough to read without a wait for the disk.
                return Ok(state.durable);
            }
            (
                std::mem::take(&mut state.dirty),
                std::mem::take(&mut state.dirty_dir),
                state.next_sequence,
            )
        };
        let dir = &self.shared.dir;
        let segments = dirty.iter().map(|id| segment::path(dir, *id));
        let synced = segments
            .chain(new_names.then(|| dir.clone()))
            .try_for_each(|path| match File::open(&path).and_then(|f| f.sync_data()) {
                // Dropped in the meantime.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
                result => result.map_err(SpoolError::io("sync", &path)),
            });
        if let Err(error) = synced {
            let mut state = self.shared.lock();
            state.dirty.extend(dirty);
            state.dirty_dir |= new_names;
            return Err(error);
        }
        let mut state = self.shared.lock();
        state.durable = next;
        Ok(next)
    }

    /// Moves to where there is something to read: path and committed bytes of that segment.
    fn position(&mut self) -> Option<(std::path::PathBuf, u64)> {
        let state = self.shared.lock();
        for segment in &state.segments {
            if segment.id < self.segment {
                continue;
            }
            if segment.id > self.segment {
                self.segment = segment.id;
                self.offset = HEADER_BYTES;
            }
            if self.offset < segment.bytes {
                return Some((segment.path.clone(), segment.bytes));
            }
        }
        None
    }

    /// Opens the present segment. False: it is gone.
    fn open(&mut self, path: &std::path::Path) -> Result<bool, SpoolError> {
        if self
            .file
            .as_ref()
            .is_some_and(|(id, _)| *id == self.segment)
        {
            return Ok(true);
        }
        match File::open(path) {
            Ok(file) => {
                self.file = Some((self.segment, file));
                Ok(true)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(SpoolError::io("open", path)(error)),
        }
    }

    /// The bytes of the next frame, as far as its header can be believed.
    fn next_bytes(&self, path: &std::path::Path, committed: u64) -> Result<Vec<u8>, SpoolError> {
        let left = committed.saturating_sub(self.offset);
        let head = self.bytes(path, left.min(FRAME_HEADER_BYTES as u64))?;
        let length = segment::frame_bytes(&head).unwrap_or(0).min(left);
        self.bytes(path, length)
    }

    fn bytes(&self, path: &std::path::Path, count: u64) -> Result<Vec<u8>, SpoolError> {
        let mut bytes = vec![0; usize::try_from(count).unwrap_or(usize::MAX)];
        let Some((_, file)) = &self.file else {
            return Ok(Vec::new());
        };
        match file.read_exact_at(&mut bytes, self.offset) {
            Ok(()) => Ok(bytes),
            // Shortened by somebody else: no frame there.
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => Ok(Vec::new()),
            Err(error) => Err(SpoolError::io("read", path)(error)),
        }
    }

    /// Goes to the next whole frame of the segment, or to its end.
    fn skip_damage(&mut self, path: &std::path::Path, committed: u64) -> Result<(), SpoolError> {
        let rest = self.bytes(path, committed.saturating_sub(self.offset))?;
        let skipped = match segment::scan(&rest, 0).next() {
            Some(Step::Damaged { to, .. }) => to as u64,
            _ => committed.saturating_sub(self.offset),
        };
        self.shared.stats.corrupt.fetch_add(1, Ordering::Relaxed);
        warn!(
            segment = %path.display(),
            offset = self.offset,
            bytes = skipped,
            "a spool segment is damaged: these bytes are skipped, and the collector will count their batches as missing. Check the disk"
        );
        self.offset += skipped;
        Ok(())
    }
}
