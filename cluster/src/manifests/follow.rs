//! Following the changes of a file or folder.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{contents, take};
use crate::owner::{Owner, Update};
use crate::{ClusterError, SourceKind, View};

/// Quiet time after a change before the files are read: a `git pull` or an editor's save is several
/// changes.
const SETTLE: Duration = Duration::from_millis(50);
/// Changes that never become quiet are read after this.
const AT_MOST: Duration = Duration::from_millis(500);
/// Files are also read this often: a change on a network file system sends no event.
const ANYWAY: Duration = Duration::from_secs(60);
/// While something is wrong, this often.
const AGAIN: Duration = Duration::from_secs(5);

/// The part of the source that problems are about.
const PART: &str = "manifests";

pub(super) fn start(
    path: &Path,
    cancel: CancellationToken,
) -> Result<watch::Receiver<Arc<View>>, ClusterError> {
    // Absolute, so that a later change of the working directory is no change of the source.
    let path = std::path::absolute(path).map_err(|error| ClusterError::Unreadable {
        path: path.to_owned(),
        problem: error.to_string(),
    })?;
    let (changed, changes) = mpsc::channel(1);
    // The watch first, then the reading: a change in between is seen twice rather than not at all.
    let watcher = arm(&path, &changed)?;
    let mut follower = Follower {
        owner: Owner::new(SourceKind::Manifests),
        path,
    };
    match contents(&follower.path) {
        Err(error @ (ClusterError::Unreadable { .. } | ClusterError::TooMuch { .. })) => {
            return Err(error);
        }
        first => follower.take(first),
    };
    let (views, reader) = watch::channel(Arc::new(follower.owner.view()));
    tokio::spawn(run(follower, watcher, changed, changes, views, cancel));
    Ok(reader)
}

struct Follower {
    owner: Owner,
    path: PathBuf,
}

impl Follower {
    /// Takes a reading in. Whether the view is another one now, and whether all is well.
    fn take(&mut self, reading: Result<super::Contents, ClusterError>) -> (bool, bool) {
        match reading {
            Ok(contents) => {
                for (kind, count) in &contents.ignored {
                    info!(
                        kind,
                        count, "manifests of a kind that decides nothing are passed over"
                    );
                }
                let changed = take(&mut self.owner, contents);
                let healed = self.owner.take(Update::Problem(PART, None));
                (changed || healed, true)
            }
            Err(error) => {
                let text =
                    format!("{error}; until then the manifests count as they were last read whole");
                let changed = self.owner.take(Update::Problem(PART, Some(text.clone())));
                if changed {
                    warn!("{text}");
                }
                (changed, false)
            }
        }
    }
}

async fn run(
    mut follower: Follower,
    mut watcher: RecommendedWatcher,
    changed: mpsc::Sender<()>,
    mut changes: mpsc::Receiver<()>,
    views: watch::Sender<Arc<View>>,
    cancel: CancellationToken,
) {
    let mut well = follower.owner.view().problem.is_none();
    loop {
        tokio::select! {
            () = cancel.cancelled() => break,
            () = views.closed() => break,
            () = tokio::time::sleep(if well { ANYWAY } else { AGAIN }) => {}
            _ = changes.recv() => settle(&mut changes).await,
        }
        // A folder that was replaced is another inode, which the old watch does not know.
        let rearmed = arm(&follower.path, &changed);
        let path = follower.path.clone();
        let reading = tokio::task::spawn_blocking(move || contents(&path)).await;
        let reading = match (reading, rearmed) {
            (Err(_), _) => continue, // the runtime shuts down
            (Ok(Ok(_)), Err(error)) => Err(error),
            (Ok(reading), rearmed) => {
                if let Ok(rearmed) = rearmed {
                    watcher = rearmed;
                }
                reading
            }
        };
        let changed;
        (changed, well) = follower.take(reading);
        if changed {
            views.send_replace(Arc::new(follower.owner.view()));
        }
    }
    drop(watcher);
}

/// Waits until the changes pause.
async fn settle(changes: &mut mpsc::Receiver<()>) {
    let until_quiet =
        async { while let Ok(Some(())) = tokio::time::timeout(SETTLE, changes.recv()).await {} };
    let _ = tokio::time::timeout(AT_MOST, until_quiet).await;
}

/// Watches the path, and the folder that holds it: a replaced file, folder or link is a change there.
fn arm(path: &Path, changed: &mpsc::Sender<()>) -> Result<RecommendedWatcher, ClusterError> {
    let follow = |error: notify::Error| ClusterError::Follow {
        path: path.to_owned(),
        problem: error.to_string(),
    };
    let sender = changed.clone();
    let ours = path.to_owned();
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let matters = match &event {
            // Our own reading is no change, nor is what else happens in the folder above.
            Ok(event) if !event.need_rescan() => {
                !matches!(event.kind, EventKind::Access(_))
                    && event.paths.iter().any(|changed| is_ours(changed, &ours))
            }
            // Something was lost: look.
            _ => true,
        };
        if matters {
            // A full queue means that a reading is due already.
            let _ = sender.try_send(());
        }
    })
    .map_err(follow)?;
    match path.metadata() {
        Ok(meta) if meta.is_dir() => {
            watcher
                .watch(path, RecursiveMode::Recursive)
                .map_err(follow)?;
        }
        Ok(_) => {}
        Err(error) => {
            return Err(ClusterError::Unreadable {
                path: path.to_owned(),
                problem: error.to_string(),
            });
        }
    }
    if let Some(parent) = path.parent() {
        watcher
            .watch(parent, RecursiveMode::NonRecursive)
            .map_err(follow)?;
    }
    Ok(watcher)
}

/// Whether a changed path can change the manifests. The `..` names are the links by which a mounted
/// ConfigMap switches all its files at once.
fn is_ours(changed: &Path, ours: &Path) -> bool {
    changed.starts_with(ours)
        || changed
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with(".."))
}
