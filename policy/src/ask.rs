//! Questions as people put them: "may shop/web connect to shop/db, port 5432?"
//!
//! An end is `namespace/pod` or an address. The answer is one [`Explanation`] for each address family that both
//! ends have.

use std::net::IpAddr;
use std::sync::Arc;

use crate::evaluate::{Endpoint, Query};
use crate::explain::Explanation;
use crate::model::{Family, NamespacedName, Pod, Protocol};
use crate::similar::distance;
use crate::state::{IpOwner, Snapshot};

/// How many similar names an error offers.
const OFFERED: usize = 3;

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskError {
    /// An end is neither `namespace/pod` nor an address.
    Unreadable {
        /// As it was written.
        end: String,
    },
    /// No pod of that name.
    NoPod {
        /// `namespace/pod`.
        pod: String,
        /// Names like it.
        near: Vec<String>,
    },
    /// The pod has ended, or has no address yet.
    NoAddress {
        /// `namespace/pod`.
        pod: String,
        /// Whether it has ended.
        finished: bool,
    },
    /// The address is a Service's.
    Service {
        /// The address.
        address: IpAddr,
        /// `namespace/name` of the Service.
        service: String,
    },
    /// Several living pods claim the address.
    Ambiguous {
        /// The address.
        address: IpAddr,
    },
    /// One end has only IPv4 addresses, the other only IPv6.
    NoCommonFamily,
}

impl std::fmt::Display for AskError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreadable { end } => write!(
                f,
                "{end:?} is neither NAMESPACE/POD nor an IP address; for example shop/web-0 or 10.0.0.7"
            ),
            Self::NoPod { pod, near } if near.is_empty() => {
                write!(f, "there is no pod {pod}; `kubectl get pods -A` lists them")
            }
            Self::NoPod { pod, near } => {
                write!(
                    f,
                    "there is no pod {pod}; did you mean {}?",
                    near.join(" or ")
                )
            }
            Self::NoAddress {
                pod,
                finished: true,
            } => {
                write!(
                    f,
                    "pod {pod} has ended, so no policy applies to it any more; ask for a running one"
                )
            }
            Self::NoAddress {
                pod,
                finished: false,
            } => write!(
                f,
                "pod {pod} has no address (status.podIPs is empty); ask again when it runs"
            ),
            Self::Service { address, service } => write!(
                f,
                "{address} belongs to Service {service}, and policies apply after it is rewritten; ask for one of its pods"
            ),
            Self::Ambiguous { address } => write!(
                f,
                "several pods claim {address} at the moment; ask by NAMESPACE/POD"
            ),
            Self::NoCommonFamily => write!(
                f,
                "one end has only IPv4 and the other only IPv6 addresses: they cannot connect"
            ),
        }
    }
}

impl std::error::Error for AskError {}

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// For which family.
    pub family: Family,
    /// The address that stood for the source.
    pub source_ip: IpAddr,
    /// The address that stood for the destination.
    pub destination_ip: IpAddr,
    /// The verdict and the walk to it.
    pub explanation: Explanation,
}

enum End {
    Pod(Arc<Pod>),
    Node(Arc<str>, Vec<IpAddr>),
    External(IpAddr),
}

impl End {
    /// The first address of a family.
    fn address(&self, family: Family) -> Option<IpAddr> {
        let addresses = match self {
            Self::Pod(pod) => pod.ips.as_slice(),
            Self::Node(_, addresses) => addresses.as_slice(),
            Self::External(address) => std::slice::from_ref(address),
        };
        addresses
            .iter()
            .copied()
            .find(|address| Family::of(*address) == family)
    }

    fn endpoint(&self) -> Endpoint<'_> {
        match self {
            Self::Pod(pod) => Endpoint::Pod(pod),
            Self::Node(name, _) => Endpoint::Node(name),
            Self::External(_) => Endpoint::External,
        }
    }
}

/// Answers a question.
///
/// # Errors
/// An end that cannot be found, or ends that cannot connect at all.
pub fn ask(
    snapshot: &Snapshot,
    source: &str,
    destination: &str,
    port: u16,
    protocol: Protocol,
) -> Result<Vec<Answer>, AskError> {
    let source = end(snapshot, source)?;
    let destination = end(snapshot, destination)?;
    let answers: Vec<Answer> = [Family::V4, Family::V6]
        .into_iter()
        .filter_map(|family| {
            let source_ip = source.address(family)?;
            let destination_ip = destination.address(family)?;
            let explanation = snapshot.explain(&Query {
                source: source.endpoint(),
                source_ip,
                destination: destination.endpoint(),
                destination_ip,
                protocol,
                port,
            });
            Some(Answer {
                family,
                source_ip,
                destination_ip,
                explanation,
            })
        })
        .collect();
    if answers.is_empty() {
        return Err(AskError::NoCommonFamily);
    }
    Ok(answers)
}

fn end(snapshot: &Snapshot, text: &str) -> Result<End, AskError> {
    if let Ok(address) = text.parse::<IpAddr>() {
        let address = address.to_canonical();
        return match snapshot.owner(address) {
            // Asked by this address, answered for this address.
            IpOwner::Pod(pod) => Ok(End::Pod(Arc::new(Pod {
                ips: vec![address],
                ..(*pod).clone()
            }))),
            IpOwner::Node(name) => Ok(End::Node(name, vec![address])),
            IpOwner::Nobody | IpOwner::UnknownInPodCidr => Ok(End::External(address)),
            IpOwner::Service(service) => Err(AskError::Service {
                address,
                service: service.to_string(),
            }),
            IpOwner::Ambiguous => Err(AskError::Ambiguous { address }),
        };
    }
    let unreadable = || AskError::Unreadable {
        end: text.to_owned(),
    };
    let (namespace, name) = text.split_once('/').ok_or_else(unreadable)?;
    if namespace.is_empty() || name.is_empty() || name.contains('/') {
        return Err(unreadable());
    }
    let Some(pod) = snapshot.pod_named(&NamespacedName::new(namespace, name)) else {
        return Err(AskError::NoPod {
            pod: text.to_owned(),
            near: near(snapshot, namespace, name),
        });
    };
    if pod.finished || pod.ips.is_empty() {
        return Err(AskError::NoAddress {
            pod: text.to_owned(),
            finished: pod.finished,
        });
    }
    match (&pod.node, pod.host_network) {
        // On the network it is its node.
        (Some(node), true) => Ok(End::Node(Arc::clone(node), pod.ips.clone())),
        _ => Ok(End::Pod(Arc::clone(pod))),
    }
}

/// Pods whose name is like the one asked for: the same name in another namespace, what begins with it, or a slip of
/// the keyboard.
fn near(snapshot: &Snapshot, namespace: &str, name: &str) -> Vec<String> {
    let mut found: Vec<(usize, String)> = snapshot
        .pods()
        .filter(|pod| !pod.finished)
        .filter_map(|pod| {
            let slips = |asked: &str, there: &str| {
                let slips = distance(asked, there);
                (slips <= (asked.chars().count() / 3).clamp(1, 2)).then_some(slips)
            };
            let rank = if *pod.id.namespace == *namespace {
                slips(name, &pod.id.name)
                    // "web" for "web-7d4b9-x2x": what `kubectl get deployments` shows.
                    .or_else(|| pod.id.name.starts_with(name).then_some(3))
            } else if *pod.id.name == *name {
                Some(slips(namespace, &pod.id.namespace).unwrap_or(4))
            } else {
                None
            };
            rank.map(|rank| (rank, pod.id.to_string()))
        })
        .collect();
    found.sort();
    found.truncate(OFFERED);
    found.into_iter().map(|(_, full)| full).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_cluster_says_what_is_wrong() {
        let snapshot = crate::State::new().snapshot();
        let ask = |source, destination| ask(&snapshot, source, destination, 80, Protocol::Tcp);
        assert!(matches!(
            ask("web", "10.0.0.1"),
            Err(AskError::Unreadable { .. })
        ));
        assert!(matches!(
            ask("a/b", "10.0.0.1"),
            Err(AskError::NoPod { .. })
        ));
        assert_eq!(ask("::1", "10.0.0.1"), Err(AskError::NoCommonFamily));
        assert_eq!(
            ask("10.0.0.2", "10.0.0.1").map(|answers| answers.len()),
            Ok(1)
        );
    }
}
