//! Pods that no policy and no Service can tell apart, as one.
//!
//! Two pods are of one class if they are of one namespace, the same selectors (of policies of all tiers, of Services, of DNS servers)
//! match their labels, they declare the same ports, and they have addresses of the same families, or none yet. Whatever does not
//! depend on an address itself has one answer for all pods of a class, so that lints look at workloads and not at their
//! thousands of replicas.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::cluster::Cluster;

use crate::model::{
    AdminPeer, ContainerPort, Family, Labels, NetworkPolicy, Peer, Pod, Requirement, Selector,
    Subject,
};

/// The number of a class.
pub(super) type ClassId = u32;

/// A selector of pods: that of a Service has labels only.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Wanted<'a> {
    labels: &'a Labels,
    expressions: &'a [Requirement],
}

impl<'a> From<&'a Selector> for Wanted<'a> {
    fn from(selector: &'a Selector) -> Self {
        Self {
            labels: &selector.match_labels,
            expressions: &selector.match_expressions,
        }
    }
}

impl Wanted<'_> {
    fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.expressions.is_empty()
    }

    fn matches(&self, labels: &Labels) -> bool {
        let has = |(key, value)| labels.get(key) == Some(value);
        self.labels.iter().all(has) && self.expressions.iter().all(|of| of.matches(labels))
    }
}

/// Living pods that are alike.
pub(super) struct Class<'a> {
    /// By name; never empty.
    pub(super) pods: Vec<&'a Arc<Pod>>,
    /// Not on the network of a node.
    pub(super) governed: bool,
    /// The declared ports' number: equal for equal ports.
    pub(super) ports_id: u32,
    /// Whether the pods have, or may get, an address of IPv4, of IPv6.
    pub(super) families: [bool; 2],
    namespace: usize,
}

impl<'a> Class<'a> {
    /// One of the pods.
    pub(super) fn pod(&self) -> Option<&'a Arc<Pod>> {
        self.pods.first().copied()
    }

    pub(super) fn ports(&self) -> &'a [ContainerPort] {
        self.pod().map_or(&[], |pod| &pod.ports)
    }
}

/// Every class, numbered so that those of one namespace lie together.
pub(super) struct Classes<'a> {
    all: Vec<Class<'a>>,
    spans: BTreeMap<Arc<str>, Range<ClassId>>,
    /// The classes of each selector but the empty one, ascending.
    selected: HashMap<Wanted<'a>, Vec<ClassId>>,
    /// For each namespace selector, whether it matches the namespaces in their order.
    namespaces: HashMap<&'a Selector, Vec<bool>>,
}

/// What tells the pods of a namespace apart.
#[derive(PartialEq, Eq, Hash)]
struct Alike {
    selectors: Vec<u32>,
    ports: u32,
    host_network: bool,
    families: [bool; 2],
    /// Whether its addresses are known.
    placed: bool,
}

impl<'a> Cluster<'a> {
    /// The classes of the living pods.
    pub(super) fn classes(&self) -> &Classes<'a> {
        self.classes.get_or_init(|| Classes::new(self))
    }
}

impl<'a> Classes<'a> {
    fn new(cluster: &Cluster<'a>) -> Self {
        let (index, namespace_selectors) = collect(cluster);
        let mut classes = Self {
            all: Vec::new(),
            spans: BTreeMap::new(),
            selected: HashMap::new(),
            namespaces: HashMap::new(),
        };
        let mut ports: HashMap<&[ContainerPort], u32> = HashMap::new();
        let mut matching: Vec<Vec<ClassId>> = vec![Vec::new(); index.all.len()];
        for (namespace, pods) in &cluster.living {
            let first = classes.next();
            let mut alike: HashMap<Alike, ClassId> = HashMap::new();
            for pod in pods.iter().copied() {
                let next = u32::try_from(ports.len()).unwrap_or(u32::MAX);
                let key = Alike {
                    selectors: index.matching(&pod.labels),
                    ports: *ports.entry(&pod.ports).or_insert(next),
                    host_network: pod.host_network,
                    families: families(pod),
                    placed: !pod.ips.is_empty(),
                };
                if let Some(class) = alike.get(&key) {
                    if let Some(class) = classes.all.get_mut(*class as usize) {
                        class.pods.push(pod);
                    }
                    continue;
                }
                let class = classes.next();
                for selector in &key.selectors {
                    if let Some(matching) = matching.get_mut(*selector as usize) {
                        matching.push(class);
                    }
                }
                classes.all.push(Class {
                    pods: vec![pod],
                    governed: !pod.host_network,
                    ports_id: key.ports,
                    families: key.families,
                    namespace: classes.spans.len(),
                });
                alike.insert(key, class);
            }
            let span = first..classes.next();
            classes.spans.insert(Arc::clone(namespace), span);
        }
        classes.selected = index.all.into_iter().zip(matching).collect();
        let names = cluster.living.keys();
        let labels: Vec<Labels> = names
            .map(|namespace| cluster.snapshot.namespace_labels(namespace))
            .collect();
        for selector in namespace_selectors {
            classes
                .namespaces
                .entry(selector)
                .or_insert_with(|| labels.iter().map(|of| selector.matches(of)).collect());
        }
        classes
    }

    fn next(&self) -> ClassId {
        u32::try_from(self.all.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn get(&self, class: ClassId) -> Option<&Class<'a>> {
        self.all.get(class as usize)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (ClassId, &Class<'a>)> {
        (0..).zip(&self.all)
    }

    pub(super) const fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether pods of a class are governed.
    pub(super) fn is_governed(&self, class: ClassId) -> bool {
        self.get(class).is_some_and(|class| class.governed)
    }

    /// The classes that a policy selects, ascending, hostNetwork ones included.
    pub(super) fn selected_by(&self, policy: &'a NetworkPolicy) -> Vec<ClassId> {
        self.own(&policy.id.namespace, (&policy.pod_selector).into())
    }

    /// The classes that a selector peer of a policy in `namespace` matches, ascending, hostNetwork ones included.
    pub(super) fn of_peer(&self, peer: &'a Peer, namespace: &str) -> Vec<ClassId> {
        match peer {
            Peer::IpBlock { .. } => Vec::new(),
            Peer::Pods {
                namespaces: None,
                pods: None,
            } => self.own(namespace, Wanted::from(&EVERYTHING)),
            Peer::Pods {
                namespaces: None,
                pods: Some(pods),
            } => self.own(namespace, pods.into()),
            Peer::Pods {
                namespaces: Some(namespaces),
                pods,
            } => self.of_namespaces(namespaces, pods.as_ref()),
        }
    }

    /// The classes that selectors of namespaces and pods match, ascending.
    pub(super) fn of_namespaces(
        &self,
        namespaces: &'a Selector,
        pods: Option<&'a Selector>,
    ) -> Vec<ClassId> {
        let Some(namespaces) = self.namespaces.get(namespaces) else {
            return Vec::new();
        };
        let pods = Wanted::from(pods.unwrap_or(&EVERYTHING));
        let inside = |class: &ClassId| {
            self.get(*class)
                .and_then(|class| namespaces.get(class.namespace))
                .is_some_and(|matches| *matches)
        };
        if pods.is_empty() {
            return (0..self.next()).filter(inside).collect();
        }
        let selected = self.selected.get(&pods).map_or(&[][..], Vec::as_slice);
        selected.iter().copied().filter(inside).collect()
    }

    /// The classes of a namespace with these labels.
    pub(super) fn behind(&self, namespace: &str, labels: &'a Labels) -> Vec<ClassId> {
        let expressions = &[];
        self.own(
            namespace,
            Wanted {
                labels,
                expressions,
            },
        )
    }

    fn own(&self, namespace: &str, wanted: Wanted<'_>) -> Vec<ClassId> {
        let Some(span) = self.spans.get(namespace) else {
            return Vec::new();
        };
        if wanted.is_empty() {
            return span.clone().collect();
        }
        let selected = self.selected.get(&wanted).map_or(&[][..], Vec::as_slice);
        let first = selected.partition_point(|class| *class < span.start);
        selected
            .iter()
            .skip(first)
            .copied()
            .take_while(|class| *class < span.end)
            .collect()
    }
}

static EVERYTHING: Selector = Selector {
    match_labels: BTreeMap::new(),
    match_expressions: Vec::new(),
};

/// A pod without addresses may get one of either family.
fn families(pod: &Pod) -> [bool; 2] {
    let has = |family| pod.ips.iter().any(|ip| Family::of(*ip) == family);
    let unknown = pod.ips.is_empty();
    [unknown || has(Family::V4), unknown || has(Family::V6)]
}

/// The distinct selectors of pods, by a label that they require.
#[derive(Default)]
struct Index<'a> {
    all: Vec<Wanted<'a>>,
    known: HashMap<Wanted<'a>, ()>,
    by_label: HashMap<(&'a str, &'a str), Vec<u32>>,
    others: Vec<u32>,
}

impl<'a> Index<'a> {
    fn add(&mut self, wanted: Wanted<'a>) {
        if wanted.is_empty() || self.known.insert(wanted, ()).is_some() {
            return;
        }
        let id = u32::try_from(self.all.len()).unwrap_or(u32::MAX);
        self.all.push(wanted);
        match wanted.labels.iter().next() {
            Some((key, value)) => self.by_label.entry((key, value)).or_default().push(id),
            None => self.others.push(id),
        }
    }

    /// Those that match, ascending.
    fn matching(&self, labels: &Labels) -> Vec<u32> {
        let by_label = labels
            .iter()
            .filter_map(|(key, value)| self.by_label.get(&(&**key, &**value)));
        let mut found: Vec<u32> = self
            .others
            .iter()
            .chain(by_label.flatten())
            .copied()
            .filter(|id| {
                let wanted = self.all.get(*id as usize);
                wanted.is_some_and(|wanted| wanted.matches(labels))
            })
            .collect();
        found.sort_unstable();
        found
    }
}

/// The selectors of pods and those of namespaces.
fn collect<'a>(cluster: &Cluster<'a>) -> (Index<'a>, Vec<&'a Selector>) {
    let mut pods = Index::default();
    let mut namespaces = Vec::new();
    let mut both = |of_namespaces: Option<&'a Selector>, of_pods: Option<&'a Selector>| {
        namespaces.extend(of_namespaces);
        if let Some(selector) = of_pods {
            pods.add(selector.into());
        }
    };
    for policy in cluster.policies.values().flatten() {
        both(None, Some(&policy.pod_selector));
        for peer in policy
            .ingress
            .iter()
            .chain(&policy.egress)
            .flat_map(|rule| &rule.peers)
        {
            if let Peer::Pods { namespaces, pods } = peer {
                both(namespaces.as_ref(), pods.as_ref());
            }
        }
    }
    for policy in cluster.snapshot.admin_policies() {
        match &policy.subject {
            Subject::Namespaces(namespaces) => both(Some(namespaces), None),
            Subject::Pods { namespaces, pods } => both(Some(namespaces), Some(pods)),
        }
        for peer in policy
            .ingress
            .iter()
            .chain(&policy.egress)
            .flat_map(|rule| &rule.peers)
        {
            match peer {
                AdminPeer::Namespaces(namespaces) => both(Some(namespaces), None),
                AdminPeer::Pods { namespaces, pods } => both(Some(namespaces), Some(pods)),
                AdminPeer::Nodes(_)
                | AdminPeer::Networks(_)
                | AdminPeer::DomainNames(_)
                | AdminPeer::Unrecognised => {}
            }
        }
    }
    // Who is a DNS server is asked by labels, too.
    for (_, labels) in &cluster.options.dns {
        pods.add(labels.into());
    }
    for labels in cluster
        .snapshot
        .services()
        .filter_map(|service| service.selector.as_ref())
    {
        pods.add(Wanted {
            labels,
            expressions: &[],
        });
    }
    (pods, namespaces)
}
