//! Connections to an address behind which several ends may be: a Service's, or a node's where it forwards a node port.
//!
//! Which end it will be is decided on the way. If the policies say the same of all, it does not matter.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use polproof_policy::model::{Pod, Service, ServicePort};
use polproof_policy::{
    Backend, Endpoint, Expectation, Family, IpOwner, Protocol, Query, Snapshot, UnknownReason,
};

use crate::expectation::{Call, Denial, Tuple, denied, isolating};
use crate::finding::InconclusiveReason;
use crate::here::Here;

/// Ends that are looked at: of more it is not known what is expected.
const BOUND: usize = 64;

/// The Service that a pod connects to with this address and port.
pub(crate) fn at<'s>(
    snapshot: &'s Snapshot,
    here: &Here,
    tuple: &Tuple,
) -> Option<(&'s Arc<Service>, &'s ServicePort)> {
    let Tuple {
        peer,
        protocol,
        port,
        ..
    } = *tuple;
    forwarded(snapshot, peer, protocol, port, |ip| {
        here.has(ip) || is_node(snapshot, ip)
    })
}

/// The Service that forwards this address and port; `node` says whether an address is a node's, which forwards node ports.
pub(crate) fn forwarded(
    snapshot: &Snapshot,
    ip: IpAddr,
    protocol: Protocol,
    port: u16,
    node: impl FnOnce(IpAddr) -> bool,
) -> Option<(&Arc<Service>, &ServicePort)> {
    let found = snapshot.service_at(ip, protocol, port);
    found.or_else(|| node(ip).then(|| snapshot.service_at_node_port(protocol, port))?)
}

/// Whether the cluster says that an address is a node's.
pub(crate) fn is_node(snapshot: &Snapshot, ip: IpAddr) -> bool {
    matches!(snapshot.owner(ip), IpOwner::Node(_))
}

/// An end behind a Service.
#[derive(Clone, Debug)]
pub(crate) struct Behind {
    pub(crate) pod: Arc<Pod>,
    pub(crate) ip: IpAddr,
    pub(crate) port: u16,
}

/// The pods behind a Service that may be reached from this address; `None` if there are others than pods, or too many.
pub(crate) fn behind(
    snapshot: &Snapshot,
    own: IpAddr,
    service: &Service,
    entry: &ServicePort,
) -> Option<Vec<Behind>> {
    let mut found: Vec<Behind> = Vec::new();
    for backend in snapshot.backends(service, entry) {
        if !backend.live || Family::of(backend.ip) != Family::of(own) {
            continue;
        }
        let (ip, port) = (backend.ip, backend.port);
        let pod = pod_of(snapshot, &backend)?;
        if found.len() >= BOUND {
            return None;
        }
        if !found.iter().any(|held| held.ip == ip && held.port == port) {
            found.push(Behind { pod, ip, port });
        }
    }
    Some(found)
}

fn pod_of(snapshot: &Snapshot, backend: &Backend) -> Option<Arc<Pod>> {
    if let Some(pod) = backend.pod.as_ref().and_then(|uid| snapshot.pod(uid)) {
        return (!pod.finished && !pod.host_network).then(|| Arc::clone(pod));
    }
    match snapshot.owner(backend.ip) {
        IpOwner::Pod(pod) => Some(pod),
        _ => None,
    }
}

/// What is expected of a connection from a pod to a Service, whichever end it reaches.
pub(crate) fn expected(
    snapshot: &Snapshot,
    tuple: &Tuple,
    own: &Pod,
    service: &Service,
    entry: &ServicePort,
) -> Call {
    let Some(behind) = behind(snapshot, tuple.own, service, entry) else {
        return Call::Undecided(InconclusiveReason::MixedEndpoints);
    };
    let (mut allow, mut deny, mut unknown): (Option<u64>, Option<Denial>, _) = (None, None, None);
    // The ends take part in what is expected: when one comes or goes, those who forward have work to do.
    let admit = |allow: &mut Option<u64>, end: &Behind, by: u64| {
        let mut hasher = DefaultHasher::new();
        (&end.pod.uid, end.ip, end.port, by).hash(&mut hasher);
        *allow = Some(allow.unwrap_or(0).wrapping_add(hasher.finish()));
    };
    for end in &behind {
        if end.pod.uid == own.uid {
            // It may reach itself, whatever the policies say.
            admit(&mut allow, end, 0);
            continue;
        }
        let query = query(tuple, own, end);
        let verdict = snapshot.evaluate(&query);
        match verdict.expectation() {
            Expectation::Allow => admit(&mut allow, end, isolating(&verdict)),
            // Which address it is compared with depends on where it is rewritten.
            Expectation::Unknown(UnknownReason::IpBlockOnPod) => {
                unknown = Some(InconclusiveReason::TranslatedAddress);
            }
            Expectation::Unknown(_) => unknown = Some(InconclusiveReason::ExpectationUnknown),
            Expectation::Deny => match (denied(snapshot, &verdict, &query), &mut deny) {
                (Call::Deny(new), None) => {
                    deny = Some(Denial {
                        key: Arc::clone(&new.key),
                        policies: new.policies.clone(),
                    });
                }
                (Call::Deny(new), Some(held)) => held.policies.extend(new.policies.iter().cloned()),
                (Call::Undecided(reason), _) => unknown = Some(reason),
                (Call::Allow(_) | Call::Exempt, _) => admit(&mut allow, end, 0),
            },
        }
    }
    match (allow, deny, unknown) {
        (Some(_), Some(_), _) => Call::Undecided(InconclusiveReason::MixedEndpoints),
        (_, _, Some(reason)) => Call::Undecided(reason),
        (Some(by), None, None) => Call::Allow(by),
        (None, Some(denial), None) => Call::Deny(Arc::new(denial)),
        // Nobody takes it.
        (None, None, None) => Call::Undecided(InconclusiveReason::DestinationNotReady),
    }
}

/// The question whether a pod may connect to this end.
pub(crate) fn query<'a>(tuple: &Tuple, own: &'a Pod, end: &'a Behind) -> Query<'a> {
    Query {
        source: Endpoint::Pod(own),
        source_ip: tuple.own,
        destination: Endpoint::Pod(&end.pod),
        destination_ip: end.ip,
        protocol: tuple.protocol,
        port: end.port,
    }
}
