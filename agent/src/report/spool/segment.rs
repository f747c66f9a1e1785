//! One segment file: a header, then frames. All integers are little-endian.
//!
//! ```text
//! header  magic 8 | version u32 | first sequence u64 | CRC-32 of these u32
//! frame   magic 4 | payload length u32 | first sequence u64 | batches u32 | CRC-32 u32 | payload
//! ```
//!
//! A frame's checksum covers its header too, so that a damaged length is noticed. Behind a damaged frame the scan
//! looks for the next one that is whole: damage costs the frames it touches, not the rest of the file.

use std::io;
use std::path::{Path, PathBuf};

use super::DISK_VERSION;

pub(super) const HEADER_BYTES: u64 = 24;
pub(super) const FRAME_HEADER_BYTES: usize = 24;
const FILE_MAGIC: [u8; 8] = *b"ppspool\n";
const FRAME_MAGIC: [u8; 4] = *b"ppf\x01";
const SUFFIX: &str = "segment";

/// Path of the segment with this number.
pub(super) fn path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:020}.{SUFFIX}"))
}

/// The segments of a folder, oldest first.
pub(super) fn list(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(dir)? {
        let path = file?.path();
        if path.extension().and_then(|e| e.to_str()) != Some(SUFFIX) {
            continue;
        }
        let id = path.file_stem().and_then(|s| s.to_str());
        if let Some(id) = id.and_then(|s| s.parse().ok()) {
            found.push((id, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The header of a new segment.
pub(super) fn header(first_sequence: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(24);
    bytes.extend_from_slice(&FILE_MAGIC);
    bytes.extend_from_slice(&DISK_VERSION.to_le_bytes());
    bytes.extend_from_slice(&first_sequence.to_le_bytes());
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

/// What the first bytes of a file say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Header {
    /// Ours, with the sequence number that was next when it was begun.
    Known { first_sequence: u64 },
    /// Whole, but of another version.
    Version(u32),
    /// Shorter than a header: its creation was interrupted.
    Torn,
    /// Damaged.
    Corrupt,
}

/// Reads the header of a file.
pub(super) fn read_header(bytes: &[u8]) -> Header {
    let Some((magic, rest)) = bytes.split_first_chunk::<8>() else {
        return Header::Torn;
    };
    let Some((version, rest)) = rest.split_first_chunk::<4>() else {
        return Header::Torn;
    };
    let Some((first, rest)) = rest.split_first_chunk::<8>() else {
        return Header::Torn;
    };
    let Some(crc) = rest.first_chunk::<4>() else {
        return Header::Torn;
    };
    let checked = bytes.get(..20).unwrap_or_default();
    if *magic != FILE_MAGIC || crc32fast::hash(checked) != u32::from_le_bytes(*crc) {
        return Header::Corrupt;
    }
    match u32::from_le_bytes(*version) {
        DISK_VERSION => Header::Known {
            first_sequence: u64::from_le_bytes(*first),
        },
        other => Header::Version(other),
    }
}

/// A whole frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    /// Number of its first batch, or the one that would be next if it has none.
    pub(super) first_sequence: u64,
    /// How many batches it has.
    pub(super) batches: u32,
    /// The postcard bytes.
    pub(super) payload: &'a [u8],
}

impl Frame<'_> {
    /// Bytes of the frame on disk.
    pub(super) fn bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.payload.len()
    }
    /// The number after its last batch.
    pub(super) fn next_sequence(&self) -> u64 {
        self.first_sequence.saturating_add(u64::from(self.batches))
    }
}

/// The bytes of a frame. None: the payload is longer than a length can say.
pub(super) fn frame(first_sequence: u64, batches: u32, payload: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&FRAME_MAGIC);
    bytes.extend_from_slice(&u32::try_from(payload.len()).ok()?.to_le_bytes());
    bytes.extend_from_slice(&first_sequence.to_le_bytes());
    bytes.extend_from_slice(&batches.to_le_bytes());
    let crc = checksum(&bytes, payload);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes.extend_from_slice(payload);
    Some(bytes)
}

fn checksum(head: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(payload);
    hasher.finalize()
}

/// The lengths of a frame header: `(payload length, first sequence, batches, checksum)`.
fn read_frame_header(bytes: &[u8]) -> Option<(usize, u64, u32, u32)> {
    let (magic, rest) = bytes.split_first_chunk::<4>()?;
    if *magic != FRAME_MAGIC {
        return None;
    }
    let (length, rest) = rest.split_first_chunk::<4>()?;
    let (first, rest) = rest.split_first_chunk::<8>()?;
    let (batches, rest) = rest.split_first_chunk::<4>()?;
    let crc = rest.first_chunk::<4>()?;
    Some((
        usize::try_from(u32::from_le_bytes(*length)).ok()?,
        u64::from_le_bytes(*first),
        u32::from_le_bytes(*batches),
        u32::from_le_bytes(*crc),
    ))
}

/// The frame at the beginning of these bytes, if it is whole.
pub(super) fn read_frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let (length, first_sequence, batches, crc) = read_frame_header(bytes)?;
    let end = FRAME_HEADER_BYTES.checked_add(length)?;
    let payload = bytes.get(FRAME_HEADER_BYTES..end)?;
    let head = bytes.get(..FRAME_HEADER_BYTES - 4)?;
    (checksum(head, payload) == crc).then_some(Frame {
        first_sequence,
        batches,
        payload,
    })
}

/// A step of a scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step<'a> {
    /// A whole frame, at this offset.
    Frame(usize, Frame<'a>),
    /// These bytes are damaged; a whole frame follows.
    Damaged { from: usize, to: usize },
    /// From here to the end there is no whole frame.
    Tail { from: usize },
}

/// Walks the frames of a segment from an offset.
pub(super) fn scan(bytes: &[u8], from: usize) -> impl Iterator<Item = Step<'_>> {
    let mut at = from;
    std::iter::from_fn(move || {
        let rest = bytes.get(at..)?;
        if rest.is_empty() {
            return None;
        }
        if let Some(frame) = read_frame(rest) {
            let offset = at;
            at += frame.bytes();
            return Some(Step::Frame(offset, frame));
        }
        let from = at;
        match (at + 1..bytes.len()).find(|&to| bytes.get(to..).and_then(read_frame).is_some()) {
            Some(to) => {
                at = to;
                Some(Step::Damaged { from, to })
            }
            None => {
                at = bytes.len();
                Some(Step::Tail { from })
            }
        }
    })
}

/// Bytes that a frame has in all, by its unverified header.
pub(super) fn frame_bytes(head: &[u8]) -> Option<u64> {
    let (length, ..) = read_frame_header(head)?;
    Some((FRAME_HEADER_BYTES + length) as u64)
}
