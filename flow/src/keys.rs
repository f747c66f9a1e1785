//! What identifies a finding, and the question behind it.

use polproof_policy::{Direction, Endpoint, Query, Snapshot, Uid};

use crate::attempt::Side;
use crate::denier::{self, Denier};
use crate::expectation::Tuple;
use crate::finding::{DecidingPolicy, End, FindingKey, FindingKind, InconclusiveReason};
use crate::record::NetnsCookie;

fn end_of(endpoint: Endpoint<'_>) -> End {
    match endpoint {
        Endpoint::Pod(pod) => End::Pod(pod.id.clone(), pod.uid.clone()),
        Endpoint::Node(node) => End::Node(node.into()),
        Endpoint::External => End::External,
    }
}

/// The key of a denied connection that gets through.
pub(crate) fn denied(query: &Query<'_>, policies: &[(Direction, Denier)]) -> FindingKey {
    let deciding = policies.iter();
    let deciding = deciding.map(|(direction, denier)| denier.deciding(*direction));
    key_of(FindingKind::Unenforced, query, deciding.collect())
}

fn key_of(kind: FindingKind, query: &Query<'_>, mut policies: Vec<DecidingPolicy>) -> FindingKey {
    policies.sort_unstable();
    FindingKey {
        kind,
        source: end_of(query.source),
        source_ip: query.source_ip,
        destination: end_of(query.destination),
        destination_ip: query.destination_ip,
        protocol: query.protocol,
        port: query.port,
        policies,
    }
}

/// The key of a connection between two pods that is allowed, and a reason why nothing can be held against anybody.
///
/// # Errors
///
/// Something that is not evaluated may deny it.
pub(crate) fn allowed(
    snapshot: &Snapshot,
    kind: FindingKind,
    query: &Query<'_>,
) -> Result<FindingKey, InconclusiveReason> {
    if [query.source, query.destination]
        .into_iter()
        .any(|end| denier::may_be_denied(snapshot, end))
    {
        return Err(InconclusiveReason::ForeignPolicy);
    }
    let verdict = snapshot.evaluate(query);
    let policies = [
        (Direction::Ingress, &verdict.ingress),
        (Direction::Egress, &verdict.egress),
    ];
    let policies = policies
        .into_iter()
        .filter_map(|(direction, said)| denier::admitting(direction, said));
    Ok(key_of(kind, query, policies.collect()))
}

/// The question behind a finding, asked again of another snapshot. The namespace plays no part in it.
pub(crate) fn question(key: &FindingKey) -> Option<(Tuple, &Uid)> {
    let (side, own, own_ip, peer, peer_ip) = match (&key.destination, &key.source) {
        (End::Pod(_, own), peer) => (
            Side::Destination,
            own,
            key.destination_ip,
            peer,
            key.source_ip,
        ),
        (peer, End::Pod(_, own)) => (Side::Source, own, key.source_ip, peer, key.destination_ip),
        _ => return None,
    };
    let tuple = Tuple {
        side,
        netns: NetnsCookie(0),
        protocol: key.protocol,
        own: own_ip,
        peer: peer_ip,
        port: key.port,
        who: match peer {
            End::Pod(_, uid) => Some(uid.clone()),
            End::Node(_) | End::External => None,
        },
        seen_as: None,
    };
    Some((tuple, own))
}
