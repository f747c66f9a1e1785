//! Our own consumer of the pinned BPF ring buffer.
//!
//! A usual consumer hands space back to the kernel as it reads. Here the consumer position, which lives in
//! the pinned map and so survives the agent, is the durable cursor: it may move only after what was read has been
//! committed. So [`RingReader::read`] walks ahead of it, and [`RingReader::release`] moves it.
//!
//! Layout (Documentation/bpf/ringbuf.rst): one page with the consumer position, writable; one page with the producer
//! position and then the data twice in a row, read-only, so that a record that wraps is contiguous. Before each
//! record stand 8 bytes: length with a busy and a discard bit, and a page offset.
//!
//! Every page that is mapped counts as memory of the agent, those of the data even twice. So of the data only a window is mapped, which
//! moves on with the reading: two system calls for every [`WINDOW`] bytes.
//!
//! # Waiting
//!
//! The kernel wakes a waiting reader only for a record at exactly the consumer position. A reader that is ahead
//! of it is not woken. Forcing a wake-up for every record would cost the traffic an inter-processor interrupt each; instead
//! the reader asks [`RingReader::must_poll`] before it waits:
//!
//! * `Some(ZERO)`: records are there, read on;
//! * `Some(interval)`: something read is not released yet; wait for the descriptor *or* the interval;
//! * `None`: all is read and released; the kernel will wake the descriptor for the next record.

use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::time::Duration;

use aya::maps::MapData;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use polproof_agent_common::PacketRecord;
use polproof_flow::record::Record;
use serde::{Deserialize, Serialize};
use tracing::warn;
use zerocopy::FromBytes;

use super::decode::{Decoded, from_packet};
use super::error::ObserveError;
use super::identity::Generations;
use super::netns::boot_id;
use super::outcome::{ReadOutcome, Sequences};

/// The kernel is still writing the record.
const BUSY: u32 = 1 << 31;
/// A record with its header.
const ENTRY: usize = HEADER as usize + size_of::<PacketRecord>();
/// The record was given up.
const DISCARD: u32 = 1 << 30;
/// Before each record.
const HEADER: u64 = 8;
/// How much of the data is mapped at a time: some 2,500 records.
const WINDOW: usize = 256 * 1024;
/// How often to look while the kernel does not wake us; well below the second in which a finding must show.
const POLL: Duration = Duration::from_millis(20);

/// Which ring a position belongs to: a position means nothing in another one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RingId {
    /// The boot of the node.
    pub boot_id: String,
    /// The kernel's id of the map.
    pub map_id: u32,
}

/// A mapped range of the ring.
#[derive(Debug)]
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping is memory shared with the kernel, not bound to a thread; all access goes through `RingReader`.
unsafe impl Send for Mapping {}
// SAFETY: through a shared reference only atomic loads are made; what writes takes `&mut`.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(
        map: BorrowedFd<'_>,
        offset: usize,
        length: usize,
        protection: ProtFlags,
    ) -> io::Result<Self> {
        let size = NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: the kernel chooses the address, so nothing of ours is mapped over.
        let start = unsafe { mmap(None, size, protection, MapFlags::MAP_SHARED, map, offset) }?;
        Ok(Self {
            start: start.cast(),
            length,
        })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is the one that was mapped, and nothing borrows it any more. Failure would leave it mapped.
        let _ = unsafe { munmap(self.start.cast(), self.length) };
    }
}

/// The part of the data that is mapped.
#[derive(Debug)]
struct Window {
    mapping: Mapping,
    /// Where it begins, in bytes from the beginning of the data.
    from: usize,
}

/// The one consumer of the record ring. See the module's text for how to wait on it.
#[derive(Debug)]
pub struct RingReader {
    map: MapData,
    id: RingId,
    consumer: Mapping,
    producer: Mapping,
    /// Holds the position, if it could be mapped.
    window: Option<Window>,
    page: usize,
    size: u64,
    /// Whether it was said that a window cannot be mapped.
    complained: bool,
    /// Read up to here.
    position: u64,
    /// Handed back to the kernel up to here.
    released: u64,
    sequences: Sequences,
    /// Where the kernel's number of a namespace is no identity.
    generations: Option<Arc<Generations>>,
}

impl RingReader {
    /// Maps the ring; reading begins where the last reader released.
    pub(super) fn new(map: MapData) -> Result<Self, ObserveError> {
        let map_id = map.info()?.id();
        let failed = |source| ObserveError::Inside {
            what: "map the record ring (mmap)",
            source,
        };
        let size = max_entries(&map).map_err(failed)?;
        let page = page_size().map_err(failed)?;
        let consumer = Mapping::new(
            map.fd().as_fd(),
            0,
            page,
            ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        )
        .map_err(failed)?;
        let producer =
            Mapping::new(map.fd().as_fd(), page, page, ProtFlags::PROT_READ).map_err(failed)?;
        let mut this = Self {
            map,
            id: RingId {
                boot_id: boot_id(),
                map_id,
            },
            consumer,
            producer,
            window: None,
            page,
            size,
            complained: false,
            position: 0,
            released: 0,
            sequences: Sequences::default(),
            generations: None,
        };
        this.released = this.consumer_position().load(Ordering::Acquire);
        this.position = this.released;
        this.window = Some(this.map_window().map_err(failed)?);
        Ok(this)
    }

    /// Has every record's namespace looked up, since the programs write inode numbers.
    pub(super) fn translate_by(&mut self, generations: Arc<Generations>) {
        self.generations = Some(generations);
    }

    /// Which ring this is.
    pub fn id(&self) -> RingId {
        self.id.clone()
    }

    /// Read up to here; a position for [`Self::release`] and [`Self::seek`]. Bytes since the ring was made.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Skips what was committed before a crash: records up to `position`, which must have come from this ring
    /// ([`RingId`]), are read over (so that a loss right after them is still noticed) and released. Says whether it did: a
    /// position before the consumer's or after the producer's is ignored.
    pub fn seek(&mut self, position: u64) -> bool {
        let producer = self.producer_position().load(Ordering::Acquire);
        if position < self.position || position > producer {
            return false;
        }
        while self.position < position {
            let Some(entry) = self.next(position) else {
                break;
            };
            if let Entry::Record(packet) = entry {
                self.sequences.gap(&packet);
            }
        }
        self.position = position;
        self.move_window();
        self.release(position);
        true
    }

    /// Appends up to `max` records, each with the position after it, and moves on; releases none of them. Fewer than `max`
    /// means that no more are ready.
    pub fn read(&mut self, out: &mut Vec<(u64, Record)>, max: usize) -> ReadOutcome {
        let mut outcome = ReadOutcome::default();
        let producer = self.producer_position().load(Ordering::Acquire);
        let mut taken = 0;
        while taken < max {
            let before = self.position;
            let Some(entry) = self.next(producer) else {
                break;
            };
            if let Entry::Record(packet) = &entry {
                if let Some((lost, span)) = self.sequences.gap(packet) {
                    outcome.add_lost(lost, span);
                }
                match from_packet(packet) {
                    Ok(Decoded::Record(mut record)) => {
                        if let Some(generations) = &self.generations {
                            record.netns = generations.whose(record.netns, record.at);
                        }
                        out.push((self.position, record));
                        taken += 1;
                        continue;
                    }
                    Ok(Decoded::Unparsed(at)) => outcome.add_unparsed(at),
                    Ok(Decoded::Sampled(at)) => outcome.add_sampled(at),
                    Err(_) => outcome.add_undecodable(packet),
                }
            } else if matches!(entry, Entry::Foreign) {
                outcome.undecodable += 1;
            }
            // Nobody will commit what gave no record. If nothing before it waits for that either, it is done with: else we
            // would poll until the next record.
            if self.released == before {
                self.release(self.position);
            }
        }
        outcome
    }

    /// Hands everything before `position` back to the kernel. Positions that were not read yet, and those already
    /// released, change nothing.
    pub fn release(&mut self, position: u64) {
        let position = position.min(self.position);
        if position <= self.released {
            return;
        }
        self.released = position;
        self.consumer_position().store(position, Ordering::Release);
        // The kernel publishes a record and then looks at our position; we publish the position and then look for
        // records (`must_poll`). With a full barrier on both sides one of the two sees the other.
        fence(Ordering::SeqCst);
    }

    /// Whether the descriptor alone may be waited for; see the module's text.
    pub fn must_poll(&self) -> Option<Duration> {
        let producer = self.producer_position().load(Ordering::Acquire);
        let ready = |header: u32| header & BUSY == 0;
        if self.position < producer && self.header().is_some_and(ready) {
            return Some(Duration::ZERO);
        }
        (self.position != self.released || self.window.is_none()).then_some(POLL)
    }

    /// The entry at the position, if it is complete and before `limit`; steps over it.
    fn next(&mut self, limit: u64) -> Option<Entry> {
        if self.position >= limit {
            return None;
        }
        if self.window.is_none() {
            self.move_window();
        }
        let header = self.header()?;
        if header & BUSY != 0 {
            return None;
        }
        let length = u64::from(header & !(BUSY | DISCARD));
        let next = self.position + (length + HEADER).next_multiple_of(HEADER);
        if length > self.size || next > limit {
            // Not the kernel's writing: stay, rather than read beyond what is there.
            return None;
        }
        let entry = if header & DISCARD != 0 {
            Entry::Discarded
        } else if length == size_of::<PacketRecord>() as u64 {
            if self.here(ENTRY).is_none() {
                self.move_window();
            }
            match PacketRecord::read_from_bytes(&self.packet()?) {
                Ok(packet) => Entry::Record(packet),
                Err(_) => Entry::Foreign,
            }
        } else {
            Entry::Foreign
        };
        self.position = next;
        if self.here(HEADER as usize).is_none() {
            self.move_window();
        }
        Some(entry)
    }

    /// Maps the window that begins with the position's page.
    fn map_window(&self) -> io::Result<Window> {
        // The size is a power of two, and a multiple of the page.
        let within = usize::try_from(self.position & (self.size - 1)).map_err(io::Error::other)?;
        let size = usize::try_from(self.size).map_err(io::Error::other)?;
        let from = within - within % self.page;
        // The data is there twice, so whatever begins in the first half is whole.
        let mapping = Mapping::new(
            self.map.fd().as_fd(),
            2 * self.page + from,
            WINDOW.min(2 * size - from),
            ProtFlags::PROT_READ,
        )?;
        Ok(Window { mapping, from })
    }

    /// Has the position in the window. Without memory for that nothing is read, and what is lost then is counted like any loss.
    fn move_window(&mut self) {
        // Not both at a time.
        self.window = None;
        match self.map_window() {
            Ok(window) => {
                self.window = Some(window);
                self.complained = false;
            }
            Err(error) if !self.complained => {
                self.complained = true;
                warn!(%error, "the record ring cannot be mapped (mmap), so nothing is seen: it is tried again many times a second. Raise the memory limit of the agent, or vm.max_map_count");
            }
            Err(_) => {}
        }
    }

    fn consumer_position(&self) -> &AtomicU64 {
        // SAFETY: the page is mapped as long as `self` lives, and aligned; its first word is the consumer position.
        unsafe { self.consumer.start.cast().as_ref() }
    }

    fn producer_position(&self) -> &AtomicU64 {
        // SAFETY: as above; the page is read-only, and only loads are made.
        unsafe { self.producer.start.cast().as_ref() }
    }

    /// Where the data of the position is in memory, if so many bytes of it are in the window.
    fn here(&self, bytes: usize) -> Option<*const u8> {
        let window = self.window.as_ref()?;
        let within = usize::try_from(self.position & (self.size - 1)).ok()?;
        // Where a window reaches into the second half, the first half's beginning may be in it too.
        let offset = match within.checked_sub(window.from) {
            Some(offset) => offset,
            None => within + usize::try_from(self.size).ok()? - window.from,
        };
        let fits = offset
            .checked_add(bytes)
            .is_some_and(|end| end <= window.mapping.length);
        fits.then(|| {
            let start = window.mapping.start.as_ptr().cast_const();
            start.wrapping_add(offset)
        })
    }

    /// The first word at the position, if it is in the window.
    fn header(&self) -> Option<u32> {
        let here = self.here(HEADER as usize)?;
        // SAFETY: inside the window, which is mapped as long as `self` holds it, and aligned to 8: positions are multiples of 8. The
        // page is read-only, and only a load is made. The kernel writes the word with release order when the record is complete.
        let header = unsafe { AtomicU32::from_ptr(here.cast_mut().cast()) };
        Some(header.load(Ordering::Acquire))
    }

    /// What follows the header at the position, if all of it is in the window.
    fn packet(&self) -> Option<[u8; size_of::<PacketRecord>()]> {
        let here = self.here(ENTRY)?.wrapping_add(HEADER as usize);
        let mut bytes = [0; size_of::<PacketRecord>()];
        // SAFETY: `here` says that header and record are inside the window; the kernel does not write to a committed record before it
        // is released.
        unsafe { std::ptr::copy_nonoverlapping(here, bytes.as_mut_ptr(), bytes.len()) };
        Some(bytes)
    }
}

impl AsFd for RingReader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.map.fd().as_fd()
    }
}

impl AsRawFd for RingReader {
    fn as_raw_fd(&self) -> RawFd {
        self.map.fd().as_fd().as_raw_fd()
    }
}

/// One entry of the ring.
enum Entry {
    Record(PacketRecord),
    /// Of another length.
    Foreign,
    Discarded,
}

fn page_size() -> io::Result<usize> {
    // SAFETY: no precondition.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).map_err(io::Error::other)
}

/// Size of the ring in bytes: that of the pinned map, which an earlier agent may have made with another setting.
fn max_entries(map: &MapData) -> io::Result<u64> {
    let path = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
    let text = std::fs::read_to_string(path)?;
    text.lines()
        .find_map(|line| line.strip_prefix("max_entries:"))
        .and_then(|value| value.trim().parse::<u64>().ok())
        .filter(|size| size.is_power_of_two())
        .ok_or_else(|| io::Error::other("the kernel does not say the ring's size"))
}
