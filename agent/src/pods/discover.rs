//! Which namespace files there are: inotify as the alarm, a listing of the directory as the truth. So an overflow
//! of inotify's queue, or a directory that is made later, loses nothing.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use inotify::{EventMask, Inotify, WatchMask};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// While the directory is not there: the runtime makes it with its first pod.
const ABSENT: Duration = Duration::from_millis(200);

/// Something happened to a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is there.
    Appeared(PathBuf),
    /// It is gone, or another of the same name took its place (an `Appeared` follows).
    Vanished(PathBuf),
}

/// The watched directory.
#[derive(Debug)]
pub(super) struct Discovery {
    directory: PathBuf,
    inotify: Option<AsyncFd<Inotify>>,
    known: BTreeSet<PathBuf>,
    /// The reason why the directory cannot be watched, once logged.
    problem: Option<String>,
}

impl Discovery {
    pub(super) fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            inotify: None,
            known: BTreeSet::new(),
            problem: None,
        }
    }

    /// Waits for the next changes. Safe to cancel: what was noticed is returned at once.
    pub(super) async fn changes(&mut self) -> Vec<Change> {
        loop {
            let changes = if self.inotify.is_none() {
                if let Err(error) = self.watch() {
                    let changes = self.rescan(&BTreeSet::new());
                    self.say(&error);
                    if changes.is_empty() {
                        tokio::time::sleep(ABSENT).await;
                    }
                    changes
                } else {
                    self.problem = None;
                    self.rescan(&BTreeSet::new())
                }
            } else {
                let replaced = self.wait().await;
                self.rescan(&replaced)
            };
            if !changes.is_empty() {
                return changes;
            }
        }
    }

    fn say(&mut self, error: &io::Error) {
        let problem = error.to_string();
        if self.problem.as_ref() != Some(&problem) {
            tracing::warn!(
                directory = %self.directory.display(), %error,
                "cannot watch the directory of network namespaces: no new pod is seen until it can be (is --netns-dir right, and mounted into the agent's container?)"
            );
            self.problem = Some(problem);
        }
    }

    fn watch(&mut self) -> io::Result<()> {
        let inotify = Inotify::init()?;
        inotify.watches().add(
            &self.directory,
            WatchMask::CREATE
                | WatchMask::MOVED_TO
                | WatchMask::DELETE
                | WatchMask::MOVED_FROM
                | WatchMask::DELETE_SELF
                | WatchMask::MOVE_SELF
                | WatchMask::ONLYDIR,
        )?;
        // SAFETY: the descriptor of an `Inotify` is its own, stays the same and is closed with it.
        let inotify = unsafe { AsyncFd::register_with_interest(inotify, Interest::READABLE) }
            .map_err(|error| error.into_parts().1)?;
        self.inotify = Some(inotify);
        Ok(())
    }

    /// Waits for inotify; returns files whose name was taken away in between.
    async fn wait(&mut self) -> BTreeSet<PathBuf> {
        let mut removed = BTreeSet::new();
        let Some(inotify) = &mut self.inotify else {
            return removed;
        };
        let mut lost = false;
        match inotify.readable_mut().await {
            Ok(mut guard) => {
                let mut buffer = [0_u8; 16 * 1024];
                loop {
                    match guard.get_inner_mut().read_events(&mut buffer) {
                        Ok(events) => {
                            for event in events {
                                lost |= event.mask.intersects(
                                    EventMask::DELETE_SELF
                                        | EventMask::MOVE_SELF
                                        | EventMask::IGNORED
                                        | EventMask::UNMOUNT,
                                );
                                if event
                                    .mask
                                    .intersects(EventMask::DELETE | EventMask::MOVED_FROM)
                                    && let Some(name) = event.name
                                {
                                    removed.insert(self.directory.join(name));
                                }
                            }
                        }
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            guard.clear_ready();
                            break;
                        }
                        Err(error) => {
                            tracing::warn!(%error, "inotify cannot be read; starting it anew");
                            lost = true;
                            break;
                        }
                    }
                }
            }
            Err(error) => {
                tracing::warn!(%error, "inotify cannot be waited for; starting it anew");
                lost = true;
            }
        }
        if lost {
            self.inotify = None;
        }
        removed
    }

    /// Compares the directory with what is known.
    fn rescan(&mut self, removed: &BTreeSet<PathBuf>) -> Vec<Change> {
        let present = list(&self.directory);
        let mut changes: Vec<_> = self
            .known
            .iter()
            .filter(|path| removed.contains(*path) || !present.contains(*path))
            .cloned()
            .map(Change::Vanished)
            .collect();
        changes.extend(
            present
                .iter()
                .filter(|path| removed.contains(*path) || !self.known.contains(*path))
                .cloned()
                .map(Change::Appeared),
        );
        self.known = present;
        changes
    }
}

fn list(directory: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(directory)
        .map(|entries| {
            entries
                .flatten()
                .filter(|entry| entry.file_type().is_ok_and(|kind| !kind.is_dir()))
                .map(|entry| entry.path())
                .collect()
        })
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    async fn next(discovery: &mut Discovery) -> Vec<Change> {
        tokio::time::timeout(Duration::from_secs(10), discovery.changes())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn a_directory_that_comes_fills_is_replaced_and_goes() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("netns");
        let mut discovery = Discovery::new(directory.clone());
        // Not there yet: waits.
        assert!(
            tokio::time::timeout(Duration::from_millis(50), discovery.changes())
                .await
                .is_err()
        );
        std::fs::create_dir(&directory).unwrap();
        let a = directory.join("a");
        std::fs::write(&a, "").unwrap();
        assert_eq!(next(&mut discovery).await, [Change::Appeared(a.clone())]);

        let b = directory.join("b");
        std::fs::write(&b, "").unwrap();
        assert_eq!(next(&mut discovery).await, [Change::Appeared(b.clone())]);

        // The same name at once again is another namespace.
        std::fs::remove_file(&a).unwrap();
        std::fs::write(&a, "").unwrap();
        let mut changes = next(&mut discovery).await;
        if changes.len() == 1 {
            changes.extend(next(&mut discovery).await);
        }
        assert_eq!(
            changes,
            [Change::Vanished(a.clone()), Change::Appeared(a.clone())]
        );

        std::fs::remove_dir_all(&directory).unwrap();
        let mut gone = Vec::new();
        while gone.len() < 2 {
            gone.extend(next(&mut discovery).await);
        }
        gone.sort_by_key(|change| format!("{change:?}"));
        assert_eq!(gone, [Change::Vanished(a), Change::Vanished(b.clone())]);

        std::fs::create_dir(&directory).unwrap();
        std::fs::write(&b, "").unwrap();
        assert_eq!(next(&mut discovery).await, [Change::Appeared(b)]);
    }
}
