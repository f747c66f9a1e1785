//! Which pod a namespace is: the cgroup of a process in it, and eth0's addresses, and no contradiction between them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use polproof_policy::Uid;
use polproof_policy::model::Pod;

/// What the witnesses say together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Identity {
    /// Nothing sound yet, for this reason; it may come.
    Unknown(String),
    /// This pod.
    Pod(Uid),
    /// They contradict each other: no verdict.
    Contradicted(String),
}

/// Why a pod of the view cannot own a namespace here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Elsewhere {
    HostNetwork,
    Finished,
}

/// The living pods of this node that have a network of their own, and the others by UID.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct NodePods {
    own: HashMap<Uid, Arc<Pod>>,
    /// This node's pods that cannot own a namespace.
    others: HashMap<Uid, Elsewhere>,
    by_address: HashMap<IpAddr, BTreeSet<Uid>>,
}

impl NodePods {
    pub(super) fn new<'a>(node: &str, pods: impl Iterator<Item = &'a Arc<Pod>>) -> Self {
        let mut this = Self::default();
        for pod in pods.filter(|pod| pod.node.as_deref() == Some(node)) {
            let why = if pod.host_network {
                Some(Elsewhere::HostNetwork)
            } else if pod.finished {
                Some(Elsewhere::Finished)
            } else {
                None
            };
            match why {
                Some(why) => {
                    this.others.insert(pod.uid.clone(), why);
                }
                None => {
                    for address in &pod.ips {
                        this.by_address
                            .entry(*address)
                            .or_default()
                            .insert(pod.uid.clone());
                    }
                    this.own.insert(pod.uid.clone(), Arc::clone(pod));
                }
            }
        }
        this
    }

    /// Pods that should be watched here.
    pub(super) fn expected(&self) -> impl Iterator<Item = &Arc<Pod>> {
        self.own.values()
    }

    pub(super) fn get(&self, uid: &Uid) -> Option<&Arc<Pod>> {
        self.own.get(uid)
    }
}

/// Weighs the witnesses. `by_cgroup` are the pods that processes in the namespace belong to; `retired` tells of a
/// pod whose namespace went away while it had just these addresses: its successor may have them now, so the
/// addresses alone prove nothing.
pub(super) fn identify(
    pods: &NodePods,
    by_cgroup: &BTreeSet<Uid>,
    addresses: &[IpAddr],
    retired: impl Fn(&Pod) -> bool,
) -> Identity {
    let by_address: BTreeSet<&Uid> = addresses
        .iter()
        .filter_map(|address| pods.by_address.get(address))
        .flatten()
        .collect();
    let mut cgroup = by_cgroup.iter();
    match (cgroup.next(), cgroup.next()) {
        (Some(one), Some(other)) => Identity::Contradicted(format!(
            "processes of two pods are in it: {} and {}",
            one.0, other.0
        )),
        (Some(uid), None) => {
            let belongs = format!("its processes belong to pod {}", uid.0);
            match pods.others.get(uid) {
                // It lives on in the view until its sandbox is gone.
                Some(Elsewhere::Finished) => {
                    return Identity::Unknown(format!("{belongs}, which has finished"));
                }
                Some(Elsewhere::HostNetwork) => {
                    return Identity::Contradicted(format!("{belongs} on the host's network"));
                }
                None => {}
            }
            let Some(pod) = pods.get(uid) else {
                return Identity::Unknown(format!(
                    "{belongs}, which the view of the cluster does not have on this node (yet; is --node-name right?)"
                ));
            };
            let disagree = !pod.ips.is_empty()
                && !addresses.is_empty()
                && !pod.ips.iter().any(|address| addresses.contains(address));
            if disagree {
                Identity::Contradicted(format!(
                    "its processes belong to pod {}, which has {}, but its eth0 has {}",
                    pod.id,
                    list(&pod.ips),
                    list(addresses)
                ))
            } else {
                Identity::Pod(uid.clone())
            }
        }
        (None, _) => {
            let mut found = by_address.iter();
            match (found.next(), found.next()) {
                (Some(one), Some(other)) => Identity::Contradicted(format!(
                    "two pods of this node claim its addresses {}: {} and {}",
                    list(addresses),
                    one.0,
                    other.0
                )),
                (Some(uid), None) => match pods.get(uid) {
                    Some(pod) if !retired(pod) => Identity::Pod((*uid).clone()),
                    _ => Identity::Unknown(format!(
                        "its addresses {} are those of pod {}, whose namespace has ended; they may have a new owner",
                        list(addresses),
                        uid.0
                    )),
                },
                (None, _) if addresses.is_empty() => Identity::Unknown(
                    "its eth0 has no address yet, and no process in it is known".to_owned(),
                ),
                (None, _) => Identity::Unknown(format!(
                    "no pod of this node has its addresses {}, and no process in it is known",
                    list(addresses)
                )),
            }
        }
    }
}

fn list(addresses: &[IpAddr]) -> String {
    let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    texts.join(", ")
}

/// Pods of the processes in the wanted namespaces (by the inode of their ns file; used within one listing only, since
/// inodes are reused).
pub(super) fn by_cgroup(proc_root: &Path, wanted: &HashSet<u64>) -> HashMap<u64, BTreeSet<Uid>> {
    let mut found: HashMap<u64, BTreeSet<Uid>> = HashMap::new();
    let Ok(entries) = std::fs::read_dir(proc_root) else {
        return found;
    };
    for entry in entries.flatten() {
        let is_process = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        if !is_process {
            continue;
        }
        // A process that ends meanwhile, or that we may not look at, tells nothing.
        let inode = std::fs::read_link(entry.path().join("ns/net"))
            .ok()
            .and_then(|link| inode_of_link(link.to_str()?));
        let Some(inode) = inode.filter(|inode| wanted.contains(inode)) else {
            continue;
        };
        if let Ok(text) = std::fs::read_to_string(entry.path().join("cgroup")) {
            let uids = text.lines().filter_map(pod_of_line);
            found.entry(inode).or_default().extend(uids);
        }
    }
    found
}

/// `net:[4026532000]`
fn inode_of_link(link: &str) -> Option<u64> {
    link.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok()
}

/// The UID in a line of /proc/PID/cgroup: the deepest path component that is or ends in `pod<uid>`, whatever the driver (systemd
/// writes `_` for `-` and appends `.slice`) and however deep the node itself is nested.
fn pod_of_line(line: &str) -> Option<Uid> {
    let path = line.splitn(3, ':').nth(2)?;
    path.rsplit('/').find_map(pod_of_component)
}

fn pod_of_component(component: &str) -> Option<Uid> {
    let component = component.strip_suffix(".slice").unwrap_or(component);
    let (before, uid) = component.rsplit_once("pod")?;
    if !(before.is_empty() || before.ends_with('-')) {
        return None;
    }
    let uid = uid.replace('_', "-");
    let is_hex = |text: &str| text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let lengths: Vec<_> = uid.split('-').map(str::len).collect();
    // API server's UIDs, and those that the kubelet hashes for static pods.
    let shape = lengths == [8, 4, 4, 4, 12] || lengths == [32];
    (shape && uid.split('-').all(is_hex)).then(|| Uid(uid.into()))
}

#[cfg(test)]
#[path = "identify_tests.rs"]
mod tests;
