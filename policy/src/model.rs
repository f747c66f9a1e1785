//! The objects of a cluster as the engine needs them: validated, typed, with nothing of
//! their source left.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

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

/// Labels, sorted by key.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

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
}

/// A Node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.uid`.
    pub uid: Uid,
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

/// A kind of object that the state keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// core/v1 Pod.
    Pod,
    /// core/v1 Namespace.
    Namespace,
    /// core/v1 Node.
    Node,
    /// networking.k8s.io/v1 NetworkPolicy.
    NetworkPolicy,
    /// core/v1 Service.
    Service,
    /// discovery.k8s.io/v1 EndpointSlice.
    EndpointSlice,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Namespace,
        Self::Node,
        Self::NetworkPolicy,
        Self::Pod,
        Self::Service,
        Self::EndpointSlice,
    ];
}

/// What identifies an object in the state: kind, namespace (empty for cluster-scoped kinds),
/// name and UID. A delete that names another UID than the one held does nothing: it is about
/// an earlier object of that name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// Namespace (empty if cluster-scoped) and name.
    pub id: NamespacedName,
    /// `metadata.uid`.
    pub uid: Uid,
}

/// An object of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Object {
    /// A Pod.
    Pod(Arc<Pod>),
    /// A Namespace.
    Namespace(Arc<Namespace>),
    /// A Node.
    Node(Arc<Node>),
    /// A NetworkPolicy.
    NetworkPolicy(Arc<NetworkPolicy>),
    /// A Service.
    Service(Arc<Service>),
    /// An EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
}

impl Object {
    /// The key of this object.
    pub fn key(&self) -> Key {
        let (kind, id, uid) = match self {
            Self::Pod(o) => (Kind::Pod, o.id.clone(), &o.uid),
            Self::Namespace(o) => (
                Kind::Namespace,
                NamespacedName::new("", o.name.clone()),
                &o.uid,
            ),
            Self::Node(o) => (Kind::Node, NamespacedName::new("", o.name.clone()), &o.uid),
            Self::NetworkPolicy(o) => (Kind::NetworkPolicy, o.id.clone(), &o.uid),
            Self::Service(o) => (Kind::Service, o.id.clone(), &o.uid),
            Self::EndpointSlice(o) => (Kind::EndpointSlice, o.id.clone(), &o.uid),
        };
        Key {
            kind,
            id,
            uid: uid.clone(),
        }
    }
}
