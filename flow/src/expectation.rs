//! What one snapshot makes expected of one connection as a witness sees it: an address at the other end, a pod
//! at this one.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use polproof_policy::model::Pod;
use polproof_policy::{
    Direction, Endpoint, Expectation, IpOwner, Protocol, Query, Snapshot, Uid, Verdict,
};

use crate::attempt::Side;
use crate::denier::{self, Denier};
use crate::finding::{End, FindingKey, FindingKind, InconclusiveReason};
use crate::here::Here;
use crate::record::NetnsCookie;

/// A connection without its ephemeral port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tuple {
    pub(crate) side: Side,
    /// The witness's namespace.
    pub(crate) netns: NetnsCookie,
    /// Address of the pod in it.
    pub(crate) own: IpAddr,
    /// Address at the other end.
    pub(crate) peer: IpAddr,
    /// Destination port.
    pub(crate) port: u16,
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Pod(Uid),
    Node(Arc<str>),
    External,
    /// Several pods.
    Ambiguous,
    /// Nobody that can be named.
    Unidentified,
}

/// A denial.
#[derive(Debug)]
pub(crate) struct Denial {
    pub(crate) key: Arc<FindingKey>,
    /// Those that deny, or, over a time, those that denied throughout it.
    pub(crate) policies: Vec<(Direction, Denier)>,
}

/// What is to be said of an attempt under one snapshot.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    /// No policy speaks of it: the pod's own node, or the pod itself.
    Exempt,
    Allow,
    Deny(Arc<Denial>),
    Undecided(InconclusiveReason),
}

/// A call, and the identity that it rests on.
#[derive(Clone, Debug)]
pub(crate) struct Judgement {
    pub(crate) peer: Peer,
    pub(crate) call: Call,
}

impl Judgement {
    /// The judgement that holds over a time in which first `self` and then `later` held; `None` if it changed.
    ///
    /// Two denials are one only if some policy denied throughout, unchanged: where one took over from another,
    /// or was edited or replaced, enforcement may lag, and that is no violation.
    pub(crate) fn through(&self, later: &Self) -> Option<Self> {
        if self.peer != later.peer {
            return None;
        }
        let call = match (&self.call, &later.call) {
            (Call::Exempt, Call::Exempt) => Call::Exempt,
            (Call::Allow, Call::Allow) => Call::Allow,
            (Call::Undecided(before), Call::Undecided(after)) if before == after => {
                Call::Undecided(*after)
            }
            (Call::Deny(before), Call::Deny(after)) => {
                if before.policies == after.policies {
                    Call::Deny(Arc::clone(after))
                } else {
                    let policies: Vec<_> = after
                        .policies
                        .iter()
                        .filter(|(direction, policy)| {
                            before
                                .policies
                                .iter()
                                .any(|(d, p)| d == direction && p.same_policy(policy))
                        })
                        .cloned()
                        .collect();
                    if policies.is_empty() {
                        return None;
                    }
                    Call::Deny(Arc::new(Denial {
                        key: Arc::clone(&after.key),
                        policies,
                    }))
                }
            }
            _ => return None,
        };
        Some(Self {
            peer: self.peer.clone(),
            call,
        })
    }

    /// Why an attempt under `self` cannot be judged when `before` held within the grace time.
    pub(crate) fn because(&self, before: &Self) -> InconclusiveReason {
        match (&before.peer, &self.peer) {
            (Peer::Pod(old), Peer::Pod(new)) if old != new => InconclusiveReason::SourceAmbiguous,
            (Peer::Ambiguous, Peer::Pod(_)) => InconclusiveReason::SourceAmbiguous,
            _ => InconclusiveReason::WithinGrace,
        }
    }

    /// Whether this is the denial that a finding of this key tells of: the same two ends, and a policy that
    /// decided then decides still, of the same generation.
    pub(crate) fn upholds(&self, key: &FindingKey) -> bool {
        let Call::Deny(denial) = &self.call else {
            return false;
        };
        denial.key.source == key.source
            && denial.key.destination == key.destination
            && denial.key.policies.iter().any(|now| {
                key.policies.iter().any(|then| {
                    then.kind == now.kind
                        && then.uid == now.uid
                        && then.generation == now.generation
                        && then.direction == now.direction
                })
            })
    }
}

/// Addresses that identify nobody: they are valid on one link only, or no sender's at all.
fn names_nobody(ip: IpAddr) -> bool {
    let ip = ip.to_canonical();
    ip.is_unspecified()
        || ip.is_multicast()
        || ip.is_loopback()
        || is_link_local(ip)
        || ip == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn is_link_local(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    }
}

/// Addresses of private use (RFC 1918, RFC 6598, RFC 4193). One that no object of the cluster names is as likely a
/// tunnel, a second interface of a node or a masquerading gateway as a client of its own: not every CNI
/// takes its addresses from `spec.podCIDRs`.
fn may_stand_for_another(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, ..] = v4.octets();
            v4.is_private() || (a == 100 && b & 0xc0 == 64)
        }
        IpAddr::V6(v6) => v6.is_unique_local(),
    }
}

/// Judges a connection to or from the pod `uid` under a snapshot.
pub(crate) fn judge(snapshot: &Snapshot, here: &Here, tuple: &Tuple, uid: &Uid) -> Judgement {
    let undecided = |peer, reason| Judgement {
        peer,
        call: Call::Undecided(reason),
    };
    let exempt = |peer| Judgement {
        peer,
        call: Call::Exempt,
    };
    if here.has(tuple.peer) {
        return exempt(Peer::Node(Arc::clone(&here.node)));
    }
    let Some(own) = snapshot
        .pod(uid)
        .filter(|pod| !pod.finished && pod.ips.contains(&tuple.own))
    else {
        return undecided(
            Peer::Unidentified,
            InconclusiveReason::DestinationUnidentified,
        );
    };
    // As a destination, a link-local address is a fine target of a rule: clouds serve metadata there.
    let link_local_target = matches!(tuple.side, Side::Source) && is_link_local(tuple.peer);
    if names_nobody(tuple.peer) && !link_local_target {
        return undecided(Peer::Unidentified, InconclusiveReason::SourceUnidentified);
    }
    let other: Arc<Pod>;
    let (peer, end) = match snapshot.owner(tuple.peer) {
        IpOwner::Pod(pod) => {
            let peer = Peer::Pod(pod.uid.clone());
            if pod.uid == own.uid {
                return exempt(peer);
            }
            other = pod;
            (peer, Endpoint::Pod(&other))
        }
        IpOwner::Node(node) => {
            let own_node = node == here.node;
            let peer = Peer::Node(node);
            return if own_node {
                exempt(peer)
            } else {
                undecided(peer, InconclusiveReason::SourceIsNode)
            };
        }
        IpOwner::Ambiguous => {
            return undecided(Peer::Ambiguous, InconclusiveReason::SourceAmbiguous);
        }
        IpOwner::UnknownInPodCidr | IpOwner::Service(_) => {
            return undecided(Peer::Unidentified, InconclusiveReason::SourceUnidentified);
        }
        IpOwner::Nobody => (Peer::External, Endpoint::External),
    };
    let query = match tuple.side {
        Side::Destination => Query {
            source: end,
            source_ip: tuple.peer,
            destination: Endpoint::Pod(own),
            destination_ip: tuple.own,
            protocol: Protocol::Tcp,
            port: tuple.port,
        },
        Side::Source => Query {
            source: Endpoint::Pod(own),
            source_ip: tuple.own,
            destination: end,
            destination_ip: tuple.peer,
            protocol: Protocol::Tcp,
            port: tuple.port,
        },
    };
    let verdict = snapshot.evaluate(&query);
    let call = match verdict.expectation() {
        Expectation::Allow => Call::Allow,
        Expectation::Unknown(_) => Call::Undecided(InconclusiveReason::ExpectationUnknown),
        // Somebody may use the port, and this may be somebody, behind an address that a node or a load balancer
        // put in its place. Where nobody may, it does not matter who it is.
        Expectation::Deny
            if tuple.side == Side::Destination
                && peer == Peer::External
                && may_stand_for_another(tuple.peer)
                && snapshot.ingress_depends_on_source(uid, Protocol::Tcp, tuple.port) =>
        {
            Call::Undecided(InconclusiveReason::SourceUnidentified)
        }
        Expectation::Deny => denied(snapshot, &verdict, &query),
    };
    Judgement { peer, call }
}

/// Whom a denial accuses: those who deny in a direction in which no policy of a CNI's own may admit it all the same.
fn denied(snapshot: &Snapshot, verdict: &Verdict<'_>, query: &Query<'_>) -> Call {
    let mut policies = Vec::new();
    for (direction, said, end) in [
        (Direction::Ingress, &verdict.ingress, query.destination),
        (Direction::Egress, &verdict.egress, query.source),
    ] {
        if said.expectation == Expectation::Deny
            && !denier::may_be_admitted(snapshot, direction, end)
        {
            policies.extend(denier::of(said).map(|denier| (direction, denier)));
        }
    }
    if policies.is_empty() {
        return Call::Undecided(InconclusiveReason::ForeignPolicy);
    }
    let key = Arc::new(finding_key(query, &policies));
    Call::Deny(Arc::new(Denial { key, policies }))
}

fn end_of(endpoint: Endpoint<'_>) -> End {
    match endpoint {
        Endpoint::Pod(pod) => End::Pod(pod.id.clone(), pod.uid.clone()),
        Endpoint::Node(node) => End::Node(node.into()),
        Endpoint::External => End::External,
    }
}

fn finding_key(query: &Query<'_>, policies: &[(Direction, Denier)]) -> FindingKey {
    let mut deciding: Vec<_> = policies
        .iter()
        .map(|(direction, denier)| denier.deciding(*direction))
        .collect();
    deciding.sort_unstable();
    FindingKey {
        kind: FindingKind::Unenforced,
        source: end_of(query.source),
        source_ip: query.source_ip,
        destination: end_of(query.destination),
        destination_ip: query.destination_ip,
        protocol: query.protocol,
        port: query.port,
        policies: deciding,
    }
}

/// The question behind a finding, asked again of another snapshot. The namespace plays no part in it.
pub(crate) fn question(key: &FindingKey) -> Option<(Tuple, &Uid)> {
    let End::Pod(_, uid) = &key.destination else {
        return None;
    };
    let tuple = Tuple {
        side: Side::Destination,
        netns: NetnsCookie(0),
        own: key.destination_ip,
        peer: key.source_ip,
        port: key.port,
    };
    Some((tuple, uid))
}
