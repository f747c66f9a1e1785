//! What one snapshot makes expected of one connection as a witness sees it: an address at the other end, a pod
//! at this one.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use polproof_policy::model::Pod;
use polproof_policy::{
    Decision, Direction, Endpoint, Expectation, IpOwner, NamespacedName, Protocol, Query, Snapshot,
    Uid, UnknownReason, Verdict,
};

use crate::attempt::Side;
use crate::denier::{self, Denier};
use crate::finding::{FindingKey, FindingKind, InconclusiveReason};
use crate::here::Here;
use crate::keys;
use crate::record::NetnsCookie;
use crate::services;

/// A connection without its ephemeral port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Tuple {
    pub(crate) side: Side,
    /// The witness's namespace.
    pub(crate) netns: NetnsCookie,
    pub(crate) protocol: Protocol,
    /// Address of the pod in it.
    pub(crate) own: IpAddr,
    /// Address at the other end: its own, also where it was translated on the way.
    pub(crate) peer: IpAddr,
    /// Destination port.
    pub(crate) port: u16,
    /// The pod at the other end, if a witness there named it: then the address does not decide who it is.
    pub(crate) who: Option<Uid>,
    /// The address that was seen in place of the other end's, if it was translated.
    pub(crate) seen_as: Option<IpAddr>,
}

/// Who is at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Pod(Uid),
    Node(Arc<str>),
    /// One of the ends behind it.
    Service(NamespacedName),
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
    /// By these policies, or in spite of them: of another set of isolating policies the number is another one.
    Allow(u64),
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
            (Call::Allow(before), Call::Allow(after)) if before == after => Call::Allow(*after),
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

    /// Whether this is not known yet: one of the ends is a pod that the view does not hold, or not with its address.
    pub(crate) fn is_unknown(&self, tuple: &Tuple) -> bool {
        matches!(
            (&self.peer, &self.call),
            (
                Peer::Unidentified,
                Call::Undecided(
                    InconclusiveReason::DestinationUnidentified
                        | InconclusiveReason::SourceUnidentified
                )
            )
        ) || (self.peer == Peer::External && may_stand_for_another(tuple.peer))
    }

    /// Whether this is what a finding of this key tells of: an allowance, or a denial of the same two ends of which a policy
    /// that decided then decides still, of the same generation.
    pub(crate) fn upholds(&self, key: &FindingKey) -> bool {
        let denial = match &self.call {
            Call::Allow(_) => return tells_of_allowance(key.kind),
            Call::Deny(denial) if !tells_of_allowance(key.kind) => denial,
            Call::Deny(_) | Call::Exempt | Call::Undecided(_) => return false,
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

/// Whether a finding of this kind tells of a connection that must get through.
pub(crate) const fn tells_of_allowance(kind: FindingKind) -> bool {
    match kind {
        FindingKind::OverBlocked | FindingKind::ReplyLost => true,
        FindingKind::Unenforced
        | FindingKind::LateEnforcement
        | FindingKind::StartupGap
        | FindingKind::Survivor => false,
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
    let service = match tuple.side {
        Side::Source => services::at(snapshot, here, tuple),
        Side::Destination => None,
    };
    if here.has(tuple.peer) && tuple.who.is_none() && service.is_none() {
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
    if let Some((service, entry)) = service {
        return Judgement {
            peer: Peer::Service(service.id.clone()),
            call: services::expected(snapshot, tuple, own, service, entry),
        };
    }
    // As a destination, a link-local address is a fine target of a rule: clouds serve metadata there.
    let link_local_target = matches!(tuple.side, Side::Source) && is_link_local(tuple.peer);
    if names_nobody(tuple.peer) && !link_local_target {
        return undecided(Peer::Unidentified, InconclusiveReason::SourceUnidentified);
    }
    let owner = match &tuple.who {
        None => snapshot.owner(tuple.peer),
        Some(who) => match snapshot.pod(who) {
            // Its address may not be in its status yet.
            Some(pod)
                if !pod.finished
                    && !pod.host_network
                    && (pod.ips.is_empty() || pod.ips.contains(&tuple.peer)) =>
            {
                IpOwner::Pod(Arc::clone(pod))
            }
            Some(_) | None => {
                return undecided(Peer::Unidentified, InconclusiveReason::SourceUnidentified);
            }
        },
    };
    let other: Arc<Pod>;
    let node: Arc<str>;
    let (peer, end) = match owner {
        IpOwner::Pod(pod) => {
            let peer = Peer::Pod(pod.uid.clone());
            if pod.uid == own.uid {
                return exempt(peer);
            }
            other = pod;
            (peer, Endpoint::Pod(&other))
        }
        IpOwner::Node(name) if name == here.node => return exempt(Peer::Node(name)),
        IpOwner::Node(name) => {
            node = name;
            (Peer::Node(Arc::clone(&node)), Endpoint::Node(&node))
        }
        IpOwner::Ambiguous => {
            return undecided(Peer::Ambiguous, InconclusiveReason::SourceAmbiguous);
        }
        IpOwner::UnknownInPodCidr | IpOwner::Service(_) => {
            return undecided(Peer::Unidentified, InconclusiveReason::SourceUnidentified);
        }
        IpOwner::Nobody => (Peer::External, Endpoint::External),
    };
    let query = asked(tuple, own, end);
    let verdict = snapshot.evaluate(&query);
    let expectation = verdict.expectation();
    // Behind a node's address may be any pod, or the node itself: what is allowed to the node or left open may be denied to
    // the pod. Where nobody may, it does not matter who it is.
    let nobody_may = || {
        expectation == Expectation::Deny
            && tuple.side == Side::Destination
            && !snapshot.ingress_depends_on_source(uid, tuple.protocol, tuple.port)
    };
    let call = match expectation {
        _ if matches!(peer, Peer::Node(_)) && !nobody_may() => {
            Call::Undecided(InconclusiveReason::SourceIsNode)
        }
        Expectation::Allow => Call::Allow(isolating(&verdict)),
        Expectation::Unknown(reason) => Call::Undecided(open(reason, tuple)),
        // Somebody may use the port, and this may be somebody, behind an address that a node or a load balancer
        // put in its place.
        Expectation::Deny
            if tuple.side == Side::Destination
                && peer == Peer::External
                && may_stand_for_another(tuple.peer)
                && !nobody_may() =>
        {
            Call::Undecided(InconclusiveReason::SourceUnidentified)
        }
        Expectation::Deny if admits_translated(snapshot, tuple, &query, &verdict) => {
            Call::Undecided(InconclusiveReason::TranslatedAddress)
        }
        Expectation::Deny => denied(snapshot, &verdict, &query),
    };
    Judgement { peer, call }
}

/// A number for the policies that isolate either end. When one comes or is edited, the enforcer has work to do, also where
/// nothing is to change.
pub(crate) fn isolating(verdict: &Verdict<'_>) -> u64 {
    let mut hasher = DefaultHasher::new();
    for said in [&verdict.ingress, &verdict.egress] {
        for policy in said.isolating {
            (&policy.uid, policy.generation).hash(&mut hasher);
        }
        if let Decision::Admin(by) = said.decision {
            (&by.policy.uid, by.policy.generation).hash(&mut hasher);
        }
    }
    hasher.finish()
}

/// The engine's question about a connection between a pod and the other end.
pub(crate) fn asked<'q>(tuple: &Tuple, own: &'q Pod, end: Endpoint<'q>) -> Query<'q> {
    let own = Endpoint::Pod(own);
    let (source, source_ip, destination, destination_ip) = match tuple.side {
        Side::Destination => (end, tuple.peer, own, tuple.own),
        Side::Source => (own, tuple.own, end, tuple.peer),
    };
    Query {
        source,
        source_ip,
        destination,
        destination_ip,
        protocol: tuple.protocol,
        port: tuple.port,
    }
}

/// Why there is no expectation, as a finding's reader has to know it.
pub(crate) fn open(reason: UnknownReason, tuple: &Tuple) -> InconclusiveReason {
    match reason {
        UnknownReason::IpBlockOnPod if tuple.seen_as.is_some() => {
            InconclusiveReason::TranslatedAddress
        }
        _ => InconclusiveReason::ExpectationUnknown,
    }
}

/// Whether a rule admits the address that stood in place of the sender's: who enforces may have seen only that one.
fn admits_translated(
    snapshot: &Snapshot,
    tuple: &Tuple,
    query: &Query<'_>,
    verdict: &Verdict<'_>,
) -> bool {
    let Some(seen_as) = tuple.seen_as.filter(|ip| *ip != tuple.peer) else {
        return false;
    };
    if tuple.side != Side::Destination || verdict.egress.expectation == Expectation::Deny {
        return false;
    }
    let translated = Query {
        source: Endpoint::External,
        source_ip: seen_as,
        ..*query
    };
    snapshot.evaluate(&translated).ingress.expectation != Expectation::Deny
}

/// Whom a denial accuses: those who deny in a direction in which no policy of a CNI's own may admit it all the same.
pub(crate) fn denied(snapshot: &Snapshot, verdict: &Verdict<'_>, query: &Query<'_>) -> Call {
    let mut policies = Vec::new();
    let mut reason = InconclusiveReason::ForeignPolicy;
    for (direction, said, end) in [
        (Direction::Ingress, &verdict.ingress, query.destination),
        (Direction::Egress, &verdict.egress, query.source),
    ] {
        if said.expectation == Expectation::Deny
            && !denier::may_be_admitted(snapshot, direction, end)
        {
            let before = policies.len();
            policies.extend(denier::of(said).map(|denier| (direction, denier)));
            // One policy by which it may be admitted is enough.
            let unresolved = policies.iter().skip(before).any(|(direction, denier)| {
                denier.names_unknown_port(*direction, query.protocol, query.destination)
            });
            if unresolved {
                policies.truncate(before);
                reason = InconclusiveReason::NamedPort;
            }
        }
    }
    if policies.is_empty() {
        return Call::Undecided(reason);
    }
    let key = Arc::new(keys::denied(query, &policies));
    Call::Deny(Arc::new(Denial { key, policies }))
}
