//! Opening a spool: what a crash left is cut off, what is damaged is stepped over, and what must go on is found.

use std::collections::{BTreeSet, VecDeque};
use std::fs::{File, OpenOptions};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use nix::fcntl::{Flock, FlockArg};
use polproof_flow::finding::FindingDelta;
use polproof_flow::record::Instant;
use tokio::sync::watch;
use tracing::{info, warn};

use super::aside;
use super::entry::{Checkpoint, Entry, Recovered, Stored};
use super::segment::{self, HEADER_BYTES, Header, Step};
use super::state::{Segment, Shared, SpoolStats, State, read_acknowledged};
use super::writer::{Active, observed_until};
use super::{DISK_VERSION, SpoolConfig, SpoolError, SpoolReader, SpoolWriter};

pub(super) const INSTANCE: &str = "instance";
const LOCK: &str = "lock";
const TITLE: &str = "polproof-spool";
const ABOVE: &str = "numbers above";

pub(super) fn open(
    config: SpoolConfig,
) -> Result<(SpoolWriter, SpoolReader, Recovered), SpoolError> {
    if config.max_bytes / 2 < config.segment_bytes {
        return Err(SpoolError::Sizes {
            max_bytes: config.max_bytes,
            segment_bytes: config.segment_bytes,
        });
    }
    let dir = config.dir.as_path();
    std::fs::create_dir_all(dir).map_err(SpoolError::io("create the folder", dir))?;
    let lock = lock(dir)?;
    let dropped = aside::set_aside(dir)?;
    let acknowledged = read_acknowledged(dir);
    let identity = match read_identity(dir)? {
        Some(identity) => identity,
        None => new_identity(dir, acknowledged)?,
    };

    let mut scan = Scan {
        state: State {
            segments: VecDeque::new(),
            next_sequence: 1,
            acknowledged: 0,
            recovered: 0,
            durable: 0,
            dirty: BTreeSet::new(),
            dirty_dir: true,
            settled_until: Instant(0),
            boot_id: String::new(),
        },
        recovered: Recovered::default(),
    };
    let files = segment::list(dir).map_err(SpoolError::io("list", dir))?;
    let next_id = files.last().map_or(1, |(id, _)| id.saturating_add(1));
    for (id, path) in &files {
        scan.segment(*id, path)?;
    }
    let Scan {
        mut state,
        recovered,
    } = scan;
    state.next_sequence = state.next_sequence.max(acknowledged.saturating_add(1));
    state.acknowledged = acknowledged;
    state.recovered = state.next_sequence.saturating_sub(1);

    // Go on in the last segment, if it was the last file and has whole frames.
    let active = match state.segments.back() {
        Some(last) => {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .open(&last.path)
                .map_err(SpoolError::io("open", &last.path))?;
            // What lies behind the last whole frame goes; only then may more be appended.
            file.set_len(last.bytes)
                .map_err(SpoolError::io("shorten", &last.path))?;
            Some(Active {
                id: last.id,
                path: last.path.clone(),
                file,
                bytes: last.bytes,
            })
        }
        None => None,
    };
    // An earlier process may have died before they were synced.
    state.dirty = state.segments.iter().map(|s| s.id).collect();

    let stats = Arc::new(SpoolStats::default());
    stats.corrupt.store(recovered.corrupt, Ordering::Relaxed);
    stats.batches_dropped.store(dropped, Ordering::Relaxed);
    let shared = Shared {
        dir: dir.to_owned(),
        appended: watch::Sender::new(state.next_sequence),
        stats,
        state: Mutex::new(state),
        _lock: lock,
    };
    {
        let state = shared.lock();
        shared.publish(&state);
        info!(
            dir = %dir.display(),
            instance = identity.uuid,
            segments = state.segments.len(),
            next_sequence = state.next_sequence,
            acknowledged,
            unsettled = recovered.unsettled.len(),
            truncated_bytes = recovered.truncated_bytes,
            "spool opened"
        );
    }
    let writer = SpoolWriter {
        shared: Arc::new(shared),
        config,
        active,
        next_id,
    };
    let reader = SpoolReader::new(&writer, identity);
    Ok((writer, reader, recovered))
}

/// One pass over all segments, oldest first.
struct Scan {
    state: State,
    recovered: Recovered,
}

impl Scan {
    fn segment(&mut self, id: u64, path: &Path) -> Result<(), SpoolError> {
        let bytes = std::fs::read(path).map_err(SpoolError::io("read", path))?;
        let from = match segment::read_header(&bytes) {
            Header::Known { first_sequence } => {
                self.state.next_sequence = self.state.next_sequence.max(first_sequence);
                HEADER_BYTES
            }
            // Of another version none is here any more.
            Header::Version(_) | Header::Torn => {
                self.recovered.truncated_bytes += bytes.len() as u64;
                return remove(path);
            }
            Header::Corrupt => {
                self.damage(path, 0, HEADER_BYTES);
                HEADER_BYTES
            }
        };
        let mut held: Option<Segment> = None;
        for step in segment::scan(&bytes, usize::try_from(from).unwrap_or(usize::MAX)) {
            match step {
                Step::Frame(offset, frame) => {
                    // A number is never given out twice, even if the frame cannot be decoded.
                    self.state.next_sequence = self.state.next_sequence.max(frame.next_sequence());
                    let observed = self.entry(path, offset, frame.payload);
                    let end = (offset + frame.bytes()) as u64;
                    let segment = held.get_or_insert_with(|| Segment {
                        id,
                        path: path.to_owned(),
                        bytes: end,
                        first_sequence: frame.first_sequence,
                        next_sequence: frame.next_sequence(),
                        observed_until: observed,
                    });
                    segment.bytes = end;
                    segment.next_sequence = frame.next_sequence();
                    segment.observed_until = segment.observed_until.max(observed);
                }
                Step::Damaged { from, to } => self.damage(path, from, to as u64 - from as u64),
                Step::Tail { from } => {
                    let cut = (bytes.len() - from) as u64;
                    self.recovered.truncated_bytes += cut;
                    info!(segment = %path.display(), bytes = cut, "an unfinished entry at the end of a spool segment was cut off; \
                         what it said is read again from the ring");
                }
            }
        }
        match held {
            Some(segment) => {
                self.state.segments.push_back(segment);
                Ok(())
            }
            None => remove(path),
        }
    }

    /// Takes over what an entry says. Returns `last` of its youngest provisional finding.
    fn entry(&mut self, path: &Path, offset: usize, payload: &[u8]) -> Instant {
        let entry = match postcard::from_bytes::<Stored<Entry>>(payload) {
            Ok(stored) => stored.entry,
            Err(error) => {
                self.recovered.corrupt += 1;
                warn!(segment = %path.display(), offset, %error, "a spool entry cannot be decoded and is skipped");
                return Instant(0);
            }
        };
        let observed = observed_until(&entry);
        if self.state.boot_id != entry.ring.boot_id {
            self.recovered.unsettled.clear();
        }
        self.state.follow(&entry);
        let settled = entry.settled_until;
        let open = |d: &FindingDelta| d.observed > 0 && d.last > settled;
        self.recovered.unsettled.retain(open);
        self.recovered
            .unsettled
            .extend(entry.report.findings.into_iter().filter(open));
        self.recovered.last = Some(Checkpoint {
            ring: entry.ring,
            position: entry.position,
            open: entry.open,
            settled_until: entry.settled_until,
            committed: entry.committed,
        });
        observed
    }

    fn damage(&mut self, path: &Path, offset: usize, bytes: u64) {
        self.recovered.corrupt += 1;
        warn!(
            segment = %path.display(),
            offset,
            bytes,
            "a spool segment is damaged: these bytes are skipped, and what they held is lost. Check the disk"
        );
    }
}

fn remove(path: &Path) -> Result<(), SpoolError> {
    std::fs::remove_file(path).map_err(SpoolError::io("remove", path))
}

fn lock(dir: &Path) -> Result<Flock<File>, SpoolError> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(SpoolError::io("open", &path))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, errno)| {
        if errno == nix::errno::Errno::EWOULDBLOCK {
            SpoolError::Locked {
                dir: dir.to_owned(),
            }
        } else {
            SpoolError::io("lock", &path)(errno.into())
        }
    })
}

/// Whom the sequence numbers belong to.
#[derive(Debug)]
pub(super) struct Identity {
    /// A UUID.
    pub(super) uuid: String,
    /// Numbers up to this one belonged to an earlier identity and were delivered under it: they are never sent
    /// under this one.
    pub(super) above: u64,
}

/// What the file with the identity says, if it is there.
fn read_instance(dir: &Path) -> Result<Option<String>, SpoolError> {
    let path = dir.join(INSTANCE);
    match std::fs::read(&path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(SpoolError::io("read", &path)(error)),
    }
}

fn version(line: Option<&str>) -> Option<u32> {
    let number = line?.strip_prefix(TITLE)?;
    number.trim().parse().ok()
}

/// The version of the identity, if it is another one than ours.
pub(super) fn version_of_identity(dir: &Path) -> Result<Option<u32>, SpoolError> {
    let text = read_instance(dir)?;
    let found = text.and_then(|text| version(text.lines().next()));
    Ok(found.filter(|found| *found != DISK_VERSION))
}

/// The identity of the folder, if it has a valid one.
fn read_identity(dir: &Path) -> Result<Option<Identity>, SpoolError> {
    let Some(text) = read_instance(dir)? else {
        return Ok(None);
    };
    let mut lines = text.lines();
    let version = version(lines.next());
    let uuid = lines.next().and_then(|l| uuid::Uuid::parse_str(l).ok());
    let above = lines
        .next()
        .and_then(|l| l.strip_prefix(ABOVE))
        .and_then(|n| n.trim().parse::<u64>().ok());
    match (version, uuid, above) {
        (Some(DISK_VERSION), Some(uuid), Some(above)) => Ok(Some(Identity {
            uuid: uuid.to_string(),
            above,
        })),
        _ => {
            warn!(
                file = %dir.join(INSTANCE).display(),
                "the spool's identity is damaged: it gets a new one. What was delivered but not yet noted as such is \
                 counted twice by the collector"
            );
            Ok(None)
        }
    }
}

/// Writes a new identity in one step and returns it.
pub(super) fn new_identity(dir: &Path, above: u64) -> Result<Identity, SpoolError> {
    let uuid = uuid::Uuid::new_v4().to_string();
    let path = dir.join(INSTANCE);
    let fresh = dir.join("instance.new");
    std::fs::write(
        &fresh,
        format!("{TITLE} {DISK_VERSION}\n{uuid}\n{ABOVE} {above}\n"),
    )
    .and_then(|()| File::open(&fresh)?.sync_all())
    .and_then(|()| std::fs::rename(&fresh, &path))
    .map_err(SpoolError::io("write", &path))?;
    Ok(Identity { uuid, above })
}
