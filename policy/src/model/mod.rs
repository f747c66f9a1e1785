//! The objects of a cluster as the engine needs them: validated, typed, with nothing of
//! their source left.

mod admin;
mod foreign;
mod object;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use admin::{Action, AdminKind, AdminPeer, AdminPolicy, AdminPort, AdminRule, Subject, Tier};
pub use foreign::{ForeignEffect, ForeignKind, ForeignPolicy, ForeignScope};
pub use object::{Key, Kind, Object};

/// `metadata.uid`: tells two objects of one name apart over time.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Uid(pub Arc<str>);

/// A namespaced name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct NamespacedName {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
}

impl NamespacedName {
    /// Joins a namespace and a name.
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for NamespacedName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// A transport protocol that NetworkPolicy knows (core/v1 `Protocol`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Protocol {
    /// TCP (RFC 9293).
    Tcp,
    /// UDP (RFC 768).
    Udp,
    /// SCTP (RFC 9260).
    Sctp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Sctp => "SCTP",
        })
    }
}

/// The direction of a rule, seen from the pod that the policy selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Direction {
    /// Into the selected pod.
    Ingress,
    /// Out of the selected pod.
    Egress,
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ingress => "ingress",
            Self::Egress => "egress",
        })
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub const fn of(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

/// The label that every namespace has, whatever its object says: its own name.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Labels, sorted by key.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// The annotations of an object that are ours, `polproof.io/...`; the others are not kept.
pub type Annotations = BTreeMap<Arc<str>, Arc<str>>;

/// A port that a container declares (`containers[].ports[]`; sidecars included, ordinary
/// init containers not).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerPort {
    /// `name`, if any.
    pub name: Option<Arc<str>>,
    /// `containerPort`, 1..=65535.
    pub number: u16,
    /// `protocol`, TCP by default.
    pub protocol: Protocol,
}

/// A Pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace and name.
    pub id: NamespacedName,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `status.podIPs`, in order; empty before the pod has a network.
    pub ips: Vec<IpAddr>,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// Phase Succeeded or Failed: owns neither labels nor addresses any more.
    pub finished: bool,
    /// Declared ports.
    pub ports: Vec<ContainerPort>,
    /// The controlling owner, `(kind, name)`.
    pub owner: Option<(Arc<str>, Arc<str>)>,
    /// Annotations `polproof.io/...`.
    pub annotations: Annotations,
}

impl Pod {
    /// The workload that a person would name, `(kind, name)`: a ReplicaSet that a Deployment made (its name ends with the
    /// pod's `pod-template-hash`) is that Deployment, a Job that a CronJob made (its name ends with the minute of its
    /// schedule) is that CronJob; a pod without an owner is itself, `(Pod, name)`.
    pub fn workload(&self) -> (Arc<str>, Arc<str>) {
        let Some((kind, name)) = &self.owner else {
            return (Arc::from("Pod"), Arc::clone(&self.id.name));
        };
        let made_by = match &**kind {
            "ReplicaSet" => self
                .labels
                .get("pod-template-hash")
                .and_then(|hash| name.strip_suffix(&**hash)?.strip_suffix('-'))
                .map(|made_by| ("Deployment", made_by)),
            "Job" => name
                .rsplit_once('-')
                .filter(|(_, minute)| {
                    minute.len() >= 8 && minute.bytes().all(|b| b.is_ascii_digit())
                })
                .map(|(made_by, _)| ("CronJob", made_by)),
            _ => None,
        };
        match made_by {
            Some((kind, name)) if !name.is_empty() => (Arc::from(kind), Arc::from(name)),
            Some(_) | None => (Arc::clone(kind), Arc::clone(name)),
        }
    }
}

/// A Namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.labels`; `kubernetes.io/metadata.name` is set by the engine, whatever is here.
    pub labels: Labels,
    /// Annotations `polproof.io/...`.
    pub annotations: Annotations,
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `status.addresses` that are IP addresses.
    pub addresses: Vec<IpAddr>,
    /// `spec.podCIDRs`.
    pub pod_cidrs: Vec<IpNet>,
}

/// A label selector (meta/v1 `LabelSelector`), validated. Empty selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Selector {
    /// `matchLabels`.
    pub match_labels: BTreeMap<Arc<str>, Arc<str>>,
    /// `matchExpressions`, ANDed.
    pub match_expressions: Vec<Requirement>,
}

/// One requirement of `matchExpressions`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Requirement {
    /// The key is there with one of the values.
    In(Arc<str>, Vec<Arc<str>>),
    /// The key is missing or has none of the values.
    NotIn(Arc<str>, Vec<Arc<str>>),
    /// The key is there, with any value, the empty one included.
    Exists(Arc<str>),
    /// The key is missing.
    DoesNotExist(Arc<str>),
}

/// One entry of `from` or `to`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Peer {
    /// Selectors, ANDed; at least one is present. No namespace selector means the policy's
    /// own namespace; no pod selector means every pod.
    Pods {
        /// `namespaceSelector`.
        namespaces: Option<Selector>,
        /// `podSelector`.
        pods: Option<Selector>,
    },
    /// `ipBlock`, host bits cleared.
    IpBlock {
        /// `cidr`.
        cidr: IpNet,
        /// `except`.
        except: Vec<IpNet>,
    },
}

/// The port of one entry of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum PortMatch {
    /// Every port of the protocol.
    Any,
    /// `port` to `endPort`, both included; equal for a single port.
    Range(u16, u16),
    /// A name, resolved on the destination pod.
    Named(Arc<str>),
}

/// One entry of `ports`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PolicyPort {
    /// `protocol`.
    pub protocol: Protocol,
    /// `port`, `endPort`.
    pub port: PortMatch,
    /// Whether `endPort` is written, be it equal to `port`.
    pub end_port_written: bool,
}

/// One entry of `ingress` or `egress`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// `from` or `to`; empty means everyone.
    pub peers: Vec<Peer>,
    /// `ports`; empty means every port of every protocol.
    pub ports: Vec<PolicyPort>,
}

/// A networking.k8s.io/v1 NetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkPolicy {
    /// Namespace and name.
    pub id: NamespacedName,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.generation`, 0 where the source has none.
    pub generation: i64,
    /// `spec.podSelector`.
    pub pod_selector: Selector,
    /// Effective types: whether it isolates for ingress.
    pub isolates_ingress: bool,
    /// Effective types: whether it isolates for egress.
    pub isolates_egress: bool,
    /// `spec.ingress` as written (indices are those of the object), even if ineffective.
    pub ingress: Vec<Rule>,
    /// `spec.egress` as written.
    pub egress: Vec<Rule>,
    /// What was written and what is the API's default.
    pub written: Written,
    /// Annotations `polproof.io/...`.
    pub annotations: Annotations,
}

/// Which fields of a NetworkPolicy's spec are there, whatever they come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// `policyTypes` is there and not empty.
    pub policy_types: bool,
    /// `ingress` is there, be it empty.
    pub ingress: bool,
    /// `egress` is there, be it empty.
    pub egress: bool,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// `name`.
    pub name: Option<Arc<str>>,
    /// `port`.
    pub port: u16,
    /// `nodePort`, if one is given.
    pub node_port: Option<u16>,
    /// `protocol`.
    pub protocol: Protocol,
    /// `targetPort`; the port itself where nothing is written.
    pub target: TargetPort,
}

/// The port of the pods behind a Service's port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum TargetPort {
    /// A number.
    Number(u16),
    /// A name, resolved on each pod.
    Name(Arc<str>),
}

/// A core/v1 Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Namespace and name.
    pub id: NamespacedName,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `spec.clusterIPs` without "None", plus externalIPs and load-balancer addresses.
    pub addresses: Vec<IpAddr>,
    /// `spec.clusterIPs` alone, without "None".
    pub cluster_ips: Vec<IpAddr>,
    /// `spec.selector`; `None` if absent or empty, so that it selects nothing.
    pub selector: Option<Labels>,
    /// `spec.ports`.
    pub ports: Vec<ServicePort>,
}

/// One endpoint of a slice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SliceEndpoint {
    /// `addresses`.
    pub addresses: Vec<IpAddr>,
    /// `targetRef.uid` if it is a Pod.
    pub pod: Option<Uid>,
    /// `conditions.ready` (absent counts as ready).
    pub ready: bool,
    /// `conditions.terminating`.
    pub terminating: bool,
}

/// A discovery.k8s.io/v1 EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Namespace and name of the slice.
    pub id: NamespacedName,
    /// `metadata.uid`.
    pub uid: Uid,
    /// Label `kubernetes.io/service-name`.
    pub service: Option<Arc<str>>,
    /// `ports`: name, number, protocol.
    pub ports: Vec<(Option<Arc<str>>, u16, Protocol)>,
    /// `endpoints`.
    pub endpoints: Vec<SliceEndpoint>,
}
