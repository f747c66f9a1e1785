//! Short visits to network namespaces, and the clock and boot that records belong to.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sched::{CloneFlags, setns};
use nix::time::{ClockId, clock_gettime};
use polproof_flow::record::Instant;

use super::error::ObserveError;

/// The moment, on the clock that the BPF programs read (CLOCK_MONOTONIC).
pub fn now() -> Instant {
    // CLOCK_MONOTONIC exists on every Linux and is never negative.
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(std::time::Duration::from)
        .unwrap_or_default();
    Instant(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// Realtime less monotonic clock at this moment, in nanoseconds: added to an [`Instant`] it gives wall time.
pub fn wall_offset_ns() -> i64 {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    i64::try_from(wall)
        .unwrap_or(i64::MAX)
        .saturating_sub(i64::try_from(now().0).unwrap_or(i64::MAX))
}

/// The kernel's id of this boot: monotonic times and namespace cookies mean nothing outside it. Empty if
/// /proc/sys/kernel/random/boot_id cannot be read.
pub fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default()
}

/// Runs `work` on a thread of its own inside the namespace that `path` is bound to. No descriptor of the namespace
/// outlives the call: one that did would keep the pod's interfaces alive.
pub(crate) fn visit<T: Send>(
    path: &Path,
    work: impl FnOnce() -> Result<T, ObserveError> + Send,
) -> Result<T, ObserveError> {
    let failed = |source: io::Error| ObserveError::Enter {
        path: path.to_owned(),
        source,
    };
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("netns-visit".to_owned())
            .spawn_scoped(scope, || {
                let file = File::open(path).map_err(failed)?;
                setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
                    .map_err(|errno| failed(errno.into()))?;
                drop(file);
                work()
            })
            .map_err(failed)?
            .join()
            .map_err(|_| {
                failed(io::Error::other(
                    "the thread inside it panicked, which is a bug",
                ))
            })?
    })
}
