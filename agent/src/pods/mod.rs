//! The pods of this node: finds their network namespaces, has the programs attached, and says which pod each one is.
//!
//! ```text
//! discover (inotify) --path--> watch (attach, throttled; hook asked again) --NetnsEvent--> judge
//!                                 ^ identify (cgroup, addresses) <-- View of the cluster
//!                                 ^ inside (what filters in there, which connections there are)
//! ```
//!
//! It refuses to guess: a namespace whose witnesses are silent stays unidentified, one whose witnesses disagree is
//! contradicted, and both are counted and listed with the reason. Attaching comes first, before any container
//! starts; identity may come later.

mod check;
mod coverage;
mod decide;
mod discover;
mod figures;
mod identify;
mod inside;
mod throttle;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;

use aya_log::EbpfLogger;
use polproof_cluster::View;
use polproof_flow::netns::NetnsEvent;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, watch as watch_channel};
use tokio_util::sync::CancellationToken;

use crate::observe::Observer;

pub use coverage::{PodsStats, Uncovered};

/// Settings of the pods' part.
#[derive(Clone, Debug)]
pub struct PodsConfig {
    /// Where the container runtime binds namespaces to files, as /run/netns.
    pub netns_dir: PathBuf,
    /// Root of the cgroup file system. Not read at present: /proc/PID/cgroup names the path in every cgroup version and from inside any
    /// cgroup namespace.
    pub cgroup_root: PathBuf,
    /// The host's /proc.
    pub proc_root: PathBuf,
    /// Name of this node in the cluster.
    pub node_name: String,
    /// Attaches a second at most; 10 to 20 keep the kernel's network lock free for the CNI.
    pub attach_per_second: u32,
}

/// Runs until cancelled. An error means that the agent cannot go on: the receiver of the events is gone, or an
/// internal task died.
pub async fn run(
    config: PodsConfig,
    mut observer: Observer,
    view: watch_channel::Receiver<Arc<View>>,
    events: mpsc::Sender<NetnsEvent>,
    stats: Arc<PodsStats>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let log = observer
        .take_log()
        .map(|log| tokio::spawn(forward_log(log, cancel.clone())));
    let outcome = tokio::select! {
        () = cancel.cancelled() => Ok(()),
        outcome = watch::Watcher::new(config, observer, view, events, stats).run() => outcome,
    };
    if let Some(log) = log {
        log.abort();
    }
    outcome
}

/// Hands the BPF programs' own messages to the `log` crate, and so to the agent's log.
async fn forward_log(log: EbpfLogger<&'static dyn log::Log>, cancel: CancellationToken) {
    // SAFETY: the descriptor is that of the logger's map, stays the same and is closed with it.
    let mut log = match unsafe { AsyncFd::register_with_interest(log, Interest::READABLE) } {
        Ok(log) => log,
        Err(error) => {
            let (_, error) = error.into_parts();
            tracing::warn!(%error, "the BPF programs' own log cannot be waited for");
            return;
        }
    };
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            ready = log.readable_mut() => match ready {
                Ok(mut guard) => {
                    guard.get_inner_mut().flush();
                    guard.clear_ready();
                }
                Err(error) => {
                    tracing::warn!(%error, "the BPF programs' own log cannot be waited for");
                    return;
                }
            },
        }
    }
}
