//! The addresses of the node's network namespace: its traffic to its own pods is exempt.
//!
//! They are read again and again: the bridge of a node comes with its first pod, and what kubelet sends from there to
//! probe that pod must not look like a stranger's.

mod read;

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// At least so often; well below the age at which an accusation becomes final.
const REREAD: Duration = Duration::from_secs(5);
/// Once more this long after a pod came: its CNI may give the bridge its address after the pod.
const ONCE_MORE: Duration = Duration::from_secs(1);
/// At most so often, however many pods come.
const CALM: Duration = Duration::from_millis(200);

/// The addresses as they are read, and the way to have them read at once.
#[derive(Clone, Debug)]
pub struct LocalAddresses {
    /// Sorted, without loopback.
    pub present: watch::Receiver<Arc<[IpAddr]>>,
    /// Tell it when a pod came.
    pub again: Arc<Notify>,
}

impl LocalAddresses {
    /// Addresses that never change.
    #[cfg(test)]
    pub(crate) fn fixed(addresses: &[IpAddr]) -> Self {
        Self {
            present: watch::channel(Arc::from(addresses)).1,
            again: Arc::default(),
        }
    }
}

/// Follows the addresses of `host_netns`, else of our own namespace, until cancelled. The first reading is there at once; a later one that fails keeps what was
/// read before it.
///
/// # Errors
/// They cannot be read.
pub(crate) fn follow(
    host_netns: Option<PathBuf>,
    cancel: CancellationToken,
) -> anyhow::Result<(LocalAddresses, impl Future<Output = anyhow::Result<()>>)> {
    follow_by(move || read::of_node(host_netns.as_deref()), cancel)
}

fn follow_by(
    read: impl Fn() -> anyhow::Result<Vec<IpAddr>> + Clone + Send + 'static,
    cancel: CancellationToken,
) -> anyhow::Result<(LocalAddresses, impl Future<Output = anyhow::Result<()>>)> {
    let (sender, present) = watch::channel(Arc::from(read()?));
    let again = Arc::new(Notify::new());
    let asked = Arc::clone(&again);
    let task = async move {
        let mut pause = REREAD;
        let mut failing = false;
        loop {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = asked.notified() => pause = ONCE_MORE,
                () = tokio::time::sleep(pause) => pause = REREAD,
            }
            // A dump of the kernel's, which may have to wait for its network lock.
            match tokio::task::spawn_blocking(read.clone()).await? {
                Ok(found) => {
                    failing = false;
                    let new = sender.send_if_modified(|known: &mut Arc<[IpAddr]>| {
                        let new = known[..] != found[..];
                        if new {
                            *known = found.into();
                        }
                        new
                    });
                    if new {
                        info!(
                            addresses = sender.borrow().len(),
                            "the node's own addresses have changed"
                        );
                    }
                }
                Err(error) => {
                    if !failing {
                        warn!(
                            error = format!("{error:#}"),
                            "the node's own addresses cannot be read: those known stay exempt, and new ones of the node count as strangers' until it works again; it is tried every 5 s"
                        );
                    }
                    failing = true;
                }
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                () = tokio::time::sleep(CALM) => {}
            }
        }
    };
    Ok((LocalAddresses { present, again }, task))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::sync::Mutex;

    use anyhow::Context;

    use super::*;

    const LONG: Duration = Duration::from_secs(30);

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_read_is_sorted_and_no_loopback() {
        let read = read::of_node(None).unwrap();
        assert!(read.is_sorted() && !read.iter().any(IpAddr::is_loopback));
    }

    #[tokio::test]
    async fn changes_are_seen_when_asked_for_and_in_any_case_and_a_failure_changes_nothing() {
        let there = Arc::new(Mutex::new(Some(vec![ip("10.0.0.1")])));
        let kernel = Arc::clone(&there);
        let (refusals, mut refused) = watch::channel(0);
        let read = move || {
            let held = kernel.lock().unwrap().clone();
            if held.is_none() {
                refusals.send_modify(|refusals| *refusals += 1);
            }
            held.context("the kernel says no")
        };
        let cancel = CancellationToken::new();
        let (mut local, task) = follow_by(read, cancel.clone()).unwrap();
        let task = tokio::spawn(task);
        assert_eq!(local.present.borrow_and_update()[..], [ip("10.0.0.1")]);

        let bridge = vec![ip("10.0.0.1"), ip("10.244.0.1")];
        *there.lock().unwrap() = Some(bridge.clone());
        let asked = std::time::Instant::now();
        local.again.notify_one();
        tokio::time::timeout(LONG, local.present.changed())
            .await
            .unwrap()
            .unwrap();
        println!("seen after {:?}", asked.elapsed());
        assert_eq!(local.present.borrow_and_update()[..], bridge[..]);

        *there.lock().unwrap() = None;
        local.again.notify_one();
        // The second refusal comes after the first was dealt with.
        let waiting = refused.wait_for(|refusals| *refusals >= 2);
        tokio::time::timeout(LONG, waiting).await.unwrap().unwrap();
        assert_eq!(local.present.borrow()[..], bridge[..]);
        // Nobody asks: it is read all the same.
        *there.lock().unwrap() = Some(vec![ip("fd00::1")]);
        tokio::time::timeout(LONG, local.present.changed())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(local.present.borrow()[..], [ip("fd00::1")]);
        cancel.cancel();
        tokio::time::timeout(LONG, task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
    }
}
