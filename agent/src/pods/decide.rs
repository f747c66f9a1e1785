//! Identities: when the witnesses are asked, and what becomes of their answers.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use polproof_flow::netns::NetnsEvent;
use polproof_flow::record::NetnsCookie;
use polproof_policy::Uid;

use super::identify::{Identity, by_cgroup, identify};
use super::watch::{Namespace, Watched, Watcher};

/// When to try again to identify what is not, while nothing changes on the node: doubling from the first to the second,
/// for the walk through /proc is not free.
pub(super) const IDENTIFY_AGAIN: Duration = Duration::from_millis(500);
const IDENTIFY_RARELY: Duration = Duration::from_secs(30);
impl Watcher {
    /// Weighs the witnesses of every watched namespace.
    pub(super) async fn identify_all(&mut self) -> anyhow::Result<()> {
        let undecided: Vec<PathBuf> = self
            .namespaces
            .iter()
            .filter_map(|(path, namespace)| match namespace {
                Namespace::Watched(watched) if !matches!(watched.identity, Identity::Pod(_)) => {
                    Some(path.clone())
                }
                _ => None,
            })
            .collect();
        let proc_root = self.config.proc_root.clone();
        let (found, by_pods) = self
            .observe(move |observer| {
                let mut found = Vec::new();
                let mut inodes = HashSet::new();
                for path in undecided {
                    let addresses = observer.addresses(&path).unwrap_or_default();
                    let inode = std::fs::metadata(&path).map(|meta| meta.ino()).ok();
                    inodes.extend(inode);
                    found.push((path, inode, addresses));
                }
                let by_pods = if inodes.is_empty() {
                    HashMap::new()
                } else {
                    by_cgroup(&proc_root, &inodes)
                };
                (found, by_pods)
            })
            .await?;
        for (path, inode, addresses) in found {
            self.new_addresses(&path, addresses).await?;
            let of_pods = inode
                .and_then(|inode| by_pods.get(&inode))
                .cloned()
                .unwrap_or_default();
            self.decide(&path, &of_pods).await?;
        }
        // Those decided are looked at again against the new view: an address that moved is a contradiction.
        let decided: Vec<_> = self
            .namespaces
            .iter()
            .filter_map(|(path, namespace)| match namespace {
                Namespace::Watched(Watched {
                    identity: Identity::Pod(uid),
                    ..
                }) if self.pods.get(uid).is_some() => Some((path.clone(), uid.clone())),
                _ => None,
            })
            .collect();
        for (path, uid) in decided {
            self.decide(&path, &BTreeSet::from([uid])).await?;
        }
        self.identified = Instant::now();
        self.identify = self.identified + self.identify_again;
        self.identify_again = (self.identify_again * 2).min(IDENTIFY_RARELY);
        self.renew_figures();
        Ok(())
    }

    async fn decide(&mut self, path: &Path, of_pods: &BTreeSet<Uid>) -> anyhow::Result<()> {
        let Some(Namespace::Watched(watched)) = self.namespaces.get(path) else {
            return Ok(());
        };
        let netns = watched.netns;
        let mut identity = identify(&self.pods, of_pods, &watched.attached.addresses, |pod| {
            self.retired.get(&pod.uid) == Some(&pod.ips)
        });
        if let Identity::Pod(uid) = &identity
            && let Some(other) = self.owner(uid, netns)
        {
            identity = Identity::Contradicted(format!(
                "pod {} is already found in namespace {}",
                uid.0, other.0
            ));
        }
        let Some(Namespace::Watched(watched)) = self.namespaces.get_mut(path) else {
            return Ok(());
        };
        if watched.identity == identity {
            return Ok(());
        }
        watched.identity = identity.clone();
        self.asking.reselect = true;
        match identity {
            Identity::Pod(pod) => {
                tracing::info!(path = %path.display(), netns = netns.0, pod = %pod.0, "identified");
                self.retired.remove(&pod);
                self.send(NetnsEvent::Identified { netns, pod }).await
            }
            Identity::Contradicted(why) => {
                tracing::warn!(path = %path.display(), netns = netns.0, why, "contradicted: no verdict for this pod");
                self.send(NetnsEvent::Contradicted { netns, why }).await
            }
            // Nothing was claimed of it before, or what was is contradicted elsewhere.
            Identity::Unknown(_) => Ok(()),
        }
    }

    /// Another namespace that is this pod's.
    fn owner(&self, uid: &Uid, but: NetnsCookie) -> Option<NetnsCookie> {
        self.namespaces
            .values()
            .find_map(|namespace| match namespace {
                Namespace::Watched(watched)
                    if watched.netns != but && watched.identity == Identity::Pod(uid.clone()) =>
                {
                    Some(watched.netns)
                }
                _ => None,
            })
    }
}
