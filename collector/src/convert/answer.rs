//! Our own types to wire messages.

use std::net::IpAddr;

use polproof_flow::finding::{Exposure, JudgedCounts};
use polproof_policy::{Direction, Protocol, ask, explain};
use polproof_proto::v1;
use prost_types::Timestamp;

use crate::finding::{Denier, End, Finding, Sample, Wall};
use crate::store::KindCount;

/// A moment for the wire.
pub fn timestamp(wall: Wall) -> Timestamp {
    Timestamp {
        seconds: wall.0.div_euclid(Wall::SECOND),
        nanos: i32::try_from(wall.0.rem_euclid(Wall::SECOND)).unwrap_or(0),
    }
}

/// A finding for the wire.
pub fn finding(finding: Finding) -> v1::Finding {
    let key = finding.key;
    v1::Finding {
        witnessed: finding.witnessed,
        recovered: finding.recovered.map(|recovered| v1::Recovery {
            at: Some(timestamp(recovered.at)),
            cause: i32::from(recovered.cause),
        }),
        id: finding.id,
        node: finding.node,
        observed: finding.observed,
        settled: finding.settled,
        retracted: finding.retracted,
        first_seen: Some(timestamp(finding.first)),
        last_seen: Some(timestamp(finding.last)),
        evidence: i32::from(finding.evidence),
        samples: finding.samples.iter().map(sample_out).collect(),
        key: Some(v1::FindingKey {
            kind: i32::try_from(key.kind.number()).unwrap_or(0),
            source: Some(end_out(key.source, key.source_ip)),
            destination: Some(end_out(key.destination, key.destination_ip)),
            protocol: protocol(key.protocol).into(),
            destination_port: u32::from(key.port),
            policies: key.policies.into_iter().map(denier_out).collect(),
        }),
    }
}

fn end_out(end: End, ip: IpAddr) -> v1::Endpoint {
    let kind = match end {
        End::External => v1::endpoint::Kind::External(v1::External {}),
        End::Pod {
            namespace,
            name,
            uid,
        } => v1::endpoint::Kind::Pod(v1::ObjectRef {
            namespace,
            name,
            uid,
        }),
        End::Node { name, uid } => v1::endpoint::Kind::Node(v1::ObjectRef {
            namespace: String::new(),
            name,
            uid,
        }),
    };
    v1::Endpoint {
        kind: Some(kind),
        address: ip.to_string(),
    }
}

fn direction(direction: Direction) -> i32 {
    match direction {
        Direction::Ingress => v1::Direction::Ingress,
        Direction::Egress => v1::Direction::Egress,
    }
    .into()
}

fn denier_out(denier: Denier) -> v1::DecidingPolicy {
    v1::DecidingPolicy {
        policy_kind: denier.kind,
        policy: Some(v1::ObjectRef {
            namespace: denier.namespace,
            name: denier.name,
            uid: denier.uid,
        }),
        generation: denier.generation,
        direction: direction(denier.direction),
        rules_without_match: denier.rules,
        denying_rule: denier.rule,
    }
}

fn sample_out(sample: &Sample) -> v1::AttemptSample {
    v1::AttemptSample {
        at: Some(timestamp(sample.at)),
        source_address: sample.source.ip().to_string(),
        source_port: u32::from(sample.source.port()),
        destination_address: sample.destination.ip().to_string(),
        destination_port: u32::from(sample.destination.port()),
        isn: sample.isn,
        answer: i32::from(sample.answer),
    }
}

/// Counts for the wire.
pub fn judged(judged: &JudgedCounts) -> v1::JudgedCounts {
    v1::JudgedCounts {
        allowed_delivered: judged.allowed_delivered,
        denied_delivered: judged.denied_delivered,
        denied_unanswered: judged.denied_unanswered,
        denied_answered: judged.denied_answered,
        allowed_answered: judged.allowed_answered,
        denied_stopped: judged.denied_stopped,
        denied_in_grace: judged.denied_in_grace,
    }
}

/// A histogram for the wire.
pub fn exposure(exposure: &Exposure) -> v1::Exposure {
    v1::Exposure {
        counts: exposure.counts.to_vec(),
        sum_ms: exposure.sum_ms,
    }
}

/// Counts of one kind for the wire.
pub fn kind_count(of: &KindCount) -> v1::KindCount {
    v1::KindCount {
        kind: of.kind,
        findings: of.findings,
        attempts: of.attempts,
        standing: of.standing,
        last_seen: Some(timestamp(of.last)),
    }
}

/// A transport for the wire.
pub(super) fn protocol(protocol: Protocol) -> v1::Protocol {
    match protocol {
        Protocol::Tcp => v1::Protocol::Tcp,
        Protocol::Udp => v1::Protocol::Udp,
        Protocol::Sctp => v1::Protocol::Sctp,
    }
}

/// An answer for the wire.
pub fn explanation(answer: ask::Answer) -> v1::Explanation {
    let family = ask::family_name(answer.family);
    let mut cases = answer.cases.into_iter().map(|case| explained(family, case));
    let mut first = cases.next().unwrap_or_default();
    first.others = cases.collect();
    first
}

fn explained(family: &str, case: ask::Case) -> v1::Explanation {
    v1::Explanation {
        family: family.to_owned(),
        verdict: case.explanation.verdict,
        reason: case.explanation.reason.unwrap_or_default(),
        directions: case
            .explanation
            .directions
            .into_iter()
            .map(walked)
            .collect(),
        source: case.source,
        source_address: case.source_ip.to_string(),
        destination: case.destination,
        destination_address: case.destination_ip.to_string(),
        port: u32::from(case.port),
        pairs: case.pairs as u64,
        others: Vec::new(),
    }
}

fn walked(walked: explain::DirectionExplanation) -> v1::DirectionExplanation {
    v1::DirectionExplanation {
        direction: direction(walked.direction),
        verdict: walked.verdict,
        reason: walked.reason.unwrap_or_default(),
        because: walked.because,
        policies: walked
            .policies
            .into_iter()
            .map(|policy| v1::PolicyExplanation {
                policy: policy.policy,
                rules: policy.rules,
                kind: policy.kind,
                tier: tier(policy.tier),
                priority: policy.priority.map(u32::from),
            })
            .collect(),
        tiers: walked
            .tiers
            .into_iter()
            .map(|said| v1::TierExplanation {
                tier: tier(said.tier),
                says: said.says,
                present: said.present,
            })
            .collect(),
        nearest: walked.nearest.unwrap_or_default(),
        notes: walked.notes,
    }
}

fn tier(tier: explain::TierName) -> i32 {
    match tier {
        explain::TierName::Admin => v1::PolicyTier::Admin,
        explain::TierName::NetworkPolicy => v1::PolicyTier::NetworkPolicy,
        explain::TierName::Baseline => v1::PolicyTier::Baseline,
    }
    .into()
}
