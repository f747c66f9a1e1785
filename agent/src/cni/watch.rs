//! Reads the configuration again when a folder changes, and every 30 s in any case: a folder may appear later, and
//! a mount may hide changes from inotify.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use inotify::{Inotify, WatchMask};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::{CniHint, detect};

const REREAD: Duration = Duration::from_secs(30);
/// Installers write several files: read once when they are done.
const CALM: Duration = Duration::from_millis(200);

/// Follows the folders until cancelled. The first reading is there at once.
pub fn watch(
    folders: Vec<PathBuf>,
    cancel: CancellationToken,
) -> (
    watch::Receiver<Arc<[CniHint]>>,
    impl Future<Output = anyhow::Result<()>>,
) {
    let first: Arc<[CniHint]> = detect(&folders).into();
    say(&first);
    let (sender, receiver) = watch::channel(first);
    let task = async move {
        loop {
            let changed = change(&folders);
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = changed => tokio::time::sleep(CALM).await,
                () = tokio::time::sleep(REREAD) => {}
            }
            let read = folders.clone();
            let hints = tokio::task::spawn_blocking(move || detect(&read)).await?;
            sender.send_if_modified(|present| {
                if present[..] == hints[..] {
                    return false;
                }
                say(&hints);
                *present = hints.into();
                true
            });
        }
    };
    (receiver, task)
}

/// Ends when something changes in a folder; never where that cannot be watched.
async fn change(folders: &[PathBuf]) {
    let mask = WatchMask::CREATE
        | WatchMask::CLOSE_WRITE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF;
    let Ok(inotify) = Inotify::init() else {
        return std::future::pending().await;
    };
    let mut watched = false;
    for folder in folders {
        match inotify.watches().add(folder, mask) {
            Ok(_) => watched = true,
            Err(error) => {
                debug!(folder = %folder.display(), %error, "not watched; read every 30 s")
            }
        }
    }
    if !watched {
        return std::future::pending().await;
    }
    let mut buffer = [0; 4096];
    match inotify.into_event_stream(&mut buffer) {
        Ok(mut events) => {
            let _ = events.next().await;
        }
        Err(_) => std::future::pending().await,
    }
}

fn say(hints: &[CniHint]) {
    if hints.is_empty() {
        info!("no CNI configuration found; see --cni-conf-dir");
    }
    for hint in hints {
        info!(
            cni = hint.name,
            claim = ?hint.claim,
            evidence = hint.evidence,
            remedy = hint.remedy,
            "CNI configuration (a claim, not a proof)"
        );
    }
}
