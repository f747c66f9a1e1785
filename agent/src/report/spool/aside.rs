//! A spool of another version of the agent: set aside whole, so that an upgrade (or a rollback) begins with an empty one
//! instead of never beginning.
//!
//! Its files move into `format-N` below the spool's folder, the identity last: a `format-N` that has one is complete, and
//! makes room for the next. So at most one spool of each format is kept.

use std::path::{Path, PathBuf};

use tracing::warn;

use super::SpoolError;
use super::recover::{INSTANCE, version_of_identity};
use super::segment::{self, HEADER_BYTES, Header, Step};
use super::state::{ACKNOWLEDGED, read_acknowledged};

/// Moves the files away if any of them is of another version. Returns how many batches that the collector has not confirmed
/// are lost with them, at least.
pub(super) fn set_aside(dir: &Path) -> Result<u64, SpoolError> {
    let segments = segment::list(dir).map_err(SpoolError::io("list", dir))?;
    let Some(found) = other_version(dir, &segments)? else {
        return Ok(0);
    };
    let lost = unconfirmed(&segments, read_acknowledged(dir))?;
    let aside = dir.join(format!("format-{found}"));
    if aside.join(INSTANCE).exists() {
        std::fs::remove_dir_all(&aside).map_err(SpoolError::io("remove", &aside))?;
    }
    std::fs::create_dir_all(&aside).map_err(SpoolError::io("create the folder", &aside))?;
    let names = segments.iter().filter_map(|(_, path)| path.file_name());
    let names = names.map(PathBuf::from);
    for name in names.chain([ACKNOWLEDGED.into(), INSTANCE.into()]) {
        let from = dir.join(&name);
        match std::fs::rename(&from, aside.join(&name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(SpoolError::io("move away", &from)(error));
            }
            Ok(()) | Err(_) => {}
        }
    }
    warn!(
        format = found,
        segments = segments.len(),
        batches = lost,
        aside = %aside.display(),
        "the spool was written by another version of the agent, in a format that this one cannot read: it was set aside, and a new \
         one begins. What the collector had not confirmed is counted as batches dropped. To deliver it, run the version that wrote \
         it with these files in its spool folder; else remove the folder"
    );
    Ok(lost)
}

/// The version of the first file that has another one than ours.
fn other_version(dir: &Path, segments: &[(u64, PathBuf)]) -> Result<Option<u32>, SpoolError> {
    if let Some(found) = version_of_identity(dir)? {
        return Ok(Some(found));
    }
    for (_, path) in segments {
        if let Header::Version(found) = segment::read_header(&read(path)?) {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// How many batches are not confirmed. A format whose frames are not like ours has at least one a segment.
fn unconfirmed(segments: &[(u64, PathBuf)], acknowledged: u64) -> Result<u64, SpoolError> {
    let mut lost = 0_u64;
    for (_, path) in segments {
        let bytes = read(path)?;
        let from = usize::try_from(HEADER_BYTES).unwrap_or(usize::MAX);
        let mut frames = 0_u64;
        for step in segment::scan(&bytes, from) {
            if let Step::Frame(_, frame) = step {
                frames += 1;
                let above = frame.first_sequence.max(acknowledged.saturating_add(1));
                lost = lost.saturating_add(frame.next_sequence().saturating_sub(above));
            }
        }
        if frames == 0 && bytes.len() > from {
            lost = lost.saturating_add(1);
        }
    }
    Ok(lost)
}

fn read(path: &Path) -> Result<Vec<u8>, SpoolError> {
    std::fs::read(path).map_err(SpoolError::io("read", path))
}
