//! What is known of pairs of classes. The engine is asked once for each thing that rules can tell of a peer, and
//! what it says holds for all that look alike to them.

use std::collections::HashSet;
use std::sync::Arc;

use smallvec::SmallVec;

use super::classes::{Class, Classes, Member, Seen, Signature};
use super::ports::{Access, CellId, Cells, PROTOCOLS, Ports};
use super::rules::Reach;
use crate::evaluate::{Endpoint, Query};
use crate::model::{Direction, Node, Object, Pod, Uid};
use crate::state::{Snapshot, State};

impl Member {
    pub(super) fn endpoint(&self) -> Endpoint<'_> {
        match &self.pod {
            Some(pod) => Endpoint::Pod(pod),
            None => Endpoint::External,
        }
    }

    fn is(&self, other: &Self) -> bool {
        match (&self.pod, &other.pod) {
            (Some(one), Some(two)) => one.uid == two.uid,
            _ => false,
        }
    }

    fn shares_node(&self, other: &Self) -> bool {
        self.node().is_some() && self.node() == other.node()
    }
}

/// Numbers that both sorted lists have.
fn common(left: &[u32], right: &[u32]) -> SmallVec<[u32; 6]> {
    let mut found = SmallVec::new();
    // Most often one is much shorter than the other.
    let (short, long) = if left.len() <= right.len() {
        (left, right)
    } else {
        (right, left)
    };
    if long.len() > 8 * short.len() {
        found.extend(
            short
                .iter()
                .copied()
                .filter(|of| long.binary_search(of).is_ok()),
        );
        return found;
    }
    let mut long = long.iter().peekable();
    for of in short {
        while long.next_if(|other| *other < of).is_some() {}
        if long.next_if_eq(&of).is_some() {
            found.push(*of);
        }
    }
    found
}

/// Two members of classes between which the relation is as wanted.
fn pair<'a>(
    source: &'a Class,
    destination: &'a Class,
    own_node: bool,
) -> Option<(&'a Member, &'a Member)> {
    let (left, right) = (&source.members, &destination.members);
    let (one, two) = (left.first()?, right.first()?);
    let hosts = source.seen == Seen::Host || destination.seen == Seen::Host;
    if own_node {
        let nodes: HashSet<_> = left.iter().filter_map(Member::node).collect();
        let near = right
            .iter()
            .filter(|of| of.node().is_some_and(|node| nodes.contains(node)));
        return near
            .flat_map(|two| left.iter().map(move |one| (one, two)))
            .find(|(one, two)| one.shares_node(two) && !one.is(two));
    }
    let fits = |one: &Member, two: &Member| !(one.is(two) || hosts && one.shares_node(two));
    left.iter()
        .map(|of| (of, two))
        .chain(right.iter().map(|of| (one, of)))
        .find(|(one, two)| fits(one, two))
}

impl Classes {
    /// One half of the verdict between two classes, on different nodes where that matters.
    pub(super) fn half(
        &mut self,
        snapshot: &Snapshot,
        cells: &mut Cells,
        direction: Direction,
        source: usize,
        destination: usize,
        own_node: bool,
    ) -> Option<CellId> {
        let (from, to) = (self.classes.get(source)?, self.classes.get(destination)?);
        let (governed, peer) = match direction {
            Direction::Egress => (self.egress.get(from.egress)?, self.peers.get(to.peer)?),
            Direction::Ingress => (self.ingress.get(to.ingress)?, self.peers.get(from.peer)?),
        };
        let named = direction == Direction::Egress && !governed.reach.names.is_empty();
        let signature = Signature {
            family: from.family,
            seen: peer.seen,
            own_node,
            profile: if named { peer.profile } else { 0 },
            atoms: common(&governed.atoms, &peer.atoms),
        };
        if let Some(known) = governed.known.get(&signature) {
            return Some(*known);
        }
        let ports = match pair(from, to, own_node) {
            Some((one, two)) => ports(snapshot, direction, &governed.reach, one, two),
            None if own_node => return None,
            // Nobody there is another one; a twin of one of them would be.
            None => {
                let (one, two) = (from.members.first()?, to.members.first()?);
                let twins = self.twins(snapshot, one, two)?;
                ports(&twins.0, direction, &governed.reach, &twins.1, &twins.2)
            }
        };
        let id = cells.id(ports);
        let governed = match direction {
            Direction::Egress => self.egress.get_mut(self.classes.get(source)?.egress)?,
            Direction::Ingress => self
                .ingress
                .get_mut(self.classes.get(destination)?.ingress)?,
        };
        governed.known.insert(signature, id);
        Some(id)
    }

    /// The verdict between two classes.
    pub(super) fn both(
        &mut self,
        snapshot: &Snapshot,
        cells: &mut Cells,
        source: usize,
        destination: usize,
        own_node: bool,
    ) -> Option<CellId> {
        let egress = self.half(
            snapshot,
            cells,
            Direction::Egress,
            source,
            destination,
            own_node,
        )?;
        let ingress = self.half(
            snapshot,
            cells,
            Direction::Ingress,
            source,
            destination,
            own_node,
        )?;
        Some(cells.and(egress, ingress))
    }

    /// A cluster with the two pods and a twin of one, on a node like its own if it is on the host's network.
    fn twins(
        &self,
        snapshot: &Snapshot,
        one: &Member,
        two: &Member,
    ) -> Option<(Snapshot, Member, Member)> {
        let host = |member: &Member| member.pod.as_ref().is_some_and(|pod| pod.host_network);
        let second = one.is(two) || host(two);
        let of = if second { two } else { one };
        let original = of.pod.as_ref()?;
        let mut twin = Pod::clone(original);
        twin.uid = Uid(Arc::from(format!("{}/twin", original.uid.0)));
        twin.id.name = Arc::from(format!("{}/twin", original.id.name));
        let mut state = State::new();
        let namespaces = [one, two].map(|of| of.pod.as_ref().map(|pod| &pod.id.namespace));
        for namespace in snapshot.namespaces() {
            if namespaces.contains(&Some(&namespace.name)) {
                state.apply(Object::Namespace(Arc::clone(namespace)));
            }
        }
        for node in snapshot.nodes() {
            let held = [one, two].iter().any(|of| of.node() == Some(&node.name));
            if held {
                state.apply(Object::Node(Arc::clone(node)));
            }
            if host(of) && of.node() == Some(&node.name) {
                let name: Arc<str> = Arc::from(format!("{}/twin", node.name));
                twin.node = Some(Arc::clone(&name));
                let mut node = Node::clone(node);
                node.uid = Uid(Arc::from(format!("{}/twin", node.uid.0)));
                node.name = name;
                state.apply(Object::Node(Arc::new(node)));
            }
        }
        if host(of) && twin.node == original.node {
            twin.node = None;
        }
        for policy in snapshot.admin_policies() {
            state.apply(Object::AdminPolicy(Arc::clone(policy)));
        }
        for namespace in namespaces.into_iter().flatten() {
            for compiled in self.policies.in_namespace(namespace) {
                state.apply(Object::NetworkPolicy(Arc::clone(&compiled.policy)));
            }
        }
        for pod in [one, two].into_iter().filter_map(|of| of.pod.as_ref()) {
            state.apply(Object::Pod(Arc::clone(pod)));
        }
        let twin = Arc::new(twin);
        state.apply(Object::Pod(Arc::clone(&twin)));
        state.set_refused_policies(snapshot.refused_policies());
        let twin = Member {
            pod: Some(twin),
            ip: of.ip,
        };
        let (one, two) = if second {
            (one.clone(), twin)
        } else {
            (twin, two.clone())
        };
        Some((state.snapshot(), one, two))
    }
}

/// Asks the engine once between each two ports at which the verdict may change.
fn ports(
    snapshot: &Snapshot,
    direction: Direction,
    reach: &Reach,
    source: &Member,
    destination: &Member,
) -> Ports {
    let mut cuts = reach
        .cuts
        .clone()
        .map(|cuts| cuts.into_iter().collect::<Vec<u16>>());
    for port in destination.pod.iter().flat_map(|pod| &pod.ports) {
        if port
            .name
            .as_ref()
            .is_some_and(|name| reach.names.contains(name))
        {
            let at = PROTOCOLS.iter().position(|of| *of == port.protocol);
            if let Some(cuts) = at.and_then(|at| cuts.get_mut(at)) {
                cuts.push(port.number);
                cuts.extend(port.number.checked_add(1));
            }
        }
    }
    Ports::from_cuts(&cuts, |protocol, port| {
        let verdict = snapshot.evaluate(&Query {
            source: source.endpoint(),
            source_ip: source.ip,
            destination: destination.endpoint(),
            destination_ip: destination.ip,
            protocol,
            port,
        });
        Access::from(match direction {
            Direction::Egress => verdict.egress.expectation,
            Direction::Ingress => verdict.ingress.expectation,
        })
    })
}
