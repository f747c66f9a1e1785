//! The agent's types to the wire's. The only file of the agent that knows both.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use polproof_flow::finding::{
    Answer, DecidingPolicy, DeniedBy, End, Exposure, FindingDelta, FindingKind, InconclusiveReason,
    JudgedCounts, RecoveryCause, Sample,
};
use polproof_flow::record::{Event, Instant};
use polproof_policy::{Direction, NamespacedName, Protocol, Uid};
use polproof_proto::v1;

use super::spool::StoredBatch;
use super::vitals::{Coverage, Loss, ViewState, Vitals};
use crate::cni::{Claim, CniHint};
use crate::observe::KernelLacks;

mod witness;

pub use witness::{Malformed, inquiry_out, question_in, testimony_in, testimony_out};

/// The most rules that a finding lists; the reader knows the policy, and its generation.
const MAX_RULES: u32 = 1_000;
/// The most pods and refused objects that a heartbeat names.
const MAX_NAMED: usize = 100;

/// A batch. Times become wall time by the offset that held when the batch was made.
pub fn batch(stored: &StoredBatch) -> v1::Batch {
    let report = &stored.report;
    v1::Batch {
        sequence: stored.sequence,
        findings: report
            .findings
            .iter()
            .map(|d| finding(d, stored.wall_offset_ns))
            .collect(),
        inconclusive: report
            .inconclusive
            .iter()
            .map(|(reason, count)| v1::InconclusiveCount {
                reason: inconclusive(*reason).into(),
                count: *count,
            })
            .collect(),
        judged: (report.judged != JudgedCounts::default()).then(|| judged(&report.judged)),
        made: Some(wall(stored.committed, stored.wall_offset_ns)),
        exposure: (report.exposure != Exposure::default()).then(|| v1::Exposure {
            counts: report.exposure.counts.to_vec(),
            sum_ms: report.exposure.sum_ms,
        }),
    }
}

fn finding(delta: &FindingDelta, wall_offset_ns: i64) -> v1::FindingUpdate {
    let key = &delta.key;
    v1::FindingUpdate {
        key: Some(v1::FindingKey {
            kind: match key.kind {
                FindingKind::Unenforced => v1::FindingKind::Unenforced,
                FindingKind::OverBlocked => v1::FindingKind::OverBlocked,
                FindingKind::LateEnforcement => v1::FindingKind::LateEnforcement,
                FindingKind::StartupGap => v1::FindingKind::StartupGap,
                FindingKind::Survivor => v1::FindingKind::Survivor,
                FindingKind::ReplyLost => v1::FindingKind::ReplyLost,
            }
            .into(),
            source: Some(endpoint(&key.source, key.source_ip)),
            destination: Some(endpoint(&key.destination, key.destination_ip)),
            protocol: protocol(key.protocol).into(),
            destination_port: u32::from(key.port),
            policies: policies(&key.policies),
        }),
        observed: delta.observed,
        settled: delta.settled,
        retracted: delta.retracted,
        first_seen: Some(wall(delta.first, wall_offset_ns)),
        last_seen: Some(wall(delta.last, wall_offset_ns)),
        evidence: if delta.witnessed > 0 {
            v1::EvidenceLevel::TwoWitnesses
        } else {
            v1::EvidenceLevel::OneWitness
        }
        .into(),
        witnessed: delta.witnessed,
        recovered: delta.recovered.map(|over| v1::Recovery {
            at: Some(wall(over.at, wall_offset_ns)),
            cause: match over.cause {
                RecoveryCause::Enforced => v1::RecoveryCause::Enforced,
                RecoveryCause::Delivered => v1::RecoveryCause::Delivered,
                RecoveryCause::PolicyChanged => v1::RecoveryCause::PolicyChanged,
                RecoveryCause::PodGone => v1::RecoveryCause::PodGone,
                RecoveryCause::Closed => v1::RecoveryCause::Closed,
            }
            .into(),
        }),
        samples: delta
            .samples
            .iter()
            .map(|s| sample(s, wall_offset_ns))
            .collect(),
    }
}

fn protocol(protocol: Protocol) -> v1::Protocol {
    match protocol {
        Protocol::Tcp => v1::Protocol::Tcp,
        Protocol::Udp => v1::Protocol::Udp,
        Protocol::Sctp => v1::Protocol::Sctp,
    }
}

fn policies(deciding: &[DecidingPolicy]) -> Vec<v1::DecidingPolicy> {
    let mut sorted: Vec<_> = deciding.iter().collect();
    sorted.sort_by(|a, b| (a.direction, &a.id).cmp(&(b.direction, &b.id)));
    sorted
        .into_iter()
        .map(|p| v1::DecidingPolicy {
            policy_kind: p.kind.name().to_owned(),
            policy: Some(object(&p.id, &p.uid)),
            generation: p.generation,
            direction: match p.direction {
                Direction::Ingress => v1::Direction::Ingress,
                Direction::Egress => v1::Direction::Egress,
            }
            .into(),
            rules_without_match: match p.by {
                DeniedBy::NoRule(rules) => (0..rules.min(MAX_RULES)).collect(),
                DeniedBy::Rule(_) => Vec::new(),
            },
            denying_rule: match p.by {
                DeniedBy::NoRule(_) => None,
                DeniedBy::Rule(rule) => Some(rule),
            },
        })
        .collect()
}

fn object(id: &NamespacedName, uid: &Uid) -> v1::ObjectRef {
    v1::ObjectRef {
        namespace: id.namespace.as_ref().to_owned(),
        name: id.name.as_ref().to_owned(),
        uid: uid.0.as_ref().to_owned(),
    }
}

fn endpoint(end: &End, address: std::net::IpAddr) -> v1::Endpoint {
    use v1::endpoint::Kind;
    v1::Endpoint {
        kind: Some(match end {
            End::Pod(id, uid) => Kind::Pod(object(id, uid)),
            End::Node(name) => Kind::Node(v1::ObjectRef {
                name: name.as_ref().to_owned(),
                ..v1::ObjectRef::default()
            }),
            End::External => Kind::External(v1::External {}),
        }),
        address: address.to_string(),
    }
}

fn sample(sample: &Sample, wall_offset_ns: i64) -> v1::AttemptSample {
    let port = |address: SocketAddr| u32::from(address.port());
    let syn = &sample.syn;
    v1::AttemptSample {
        at: Some(wall(syn.at, wall_offset_ns)),
        source_address: syn.source.ip().to_string(),
        source_port: port(syn.source),
        destination_address: syn.destination.ip().to_string(),
        destination_port: port(syn.destination),
        isn: match syn.event {
            Event::Syn { isn } => isn,
            Event::Init { tag } => tag,
            Event::SynAck { .. }
            | Event::Rst { .. }
            | Event::Unreachable { .. }
            | Event::InitAck { .. }
            | Event::Abort { .. }
            | Event::Datagram => 0,
        },
        answer: match sample.answer {
            Answer::Accepted => v1::Answer::Accepted,
            Answer::Refused => v1::Answer::Refused,
            Answer::Delivered => v1::Answer::Delivered,
            Answer::Dropped => v1::Answer::Dropped,
            Answer::Rejected => v1::Answer::Rejected,
            Answer::ReplyLost => v1::Answer::ReplyLost,
            Answer::Established => v1::Answer::Established,
        }
        .into(),
    }
}

fn inconclusive(reason: InconclusiveReason) -> v1::InconclusiveReason {
    use InconclusiveReason as From;
    use v1::InconclusiveReason as To;
    match reason {
        From::WithinGrace => To::WithinGrace,
        From::SourceUnidentified => To::SourceUnidentified,
        From::SourceIsNode => To::SourceIsNode,
        From::SourceAmbiguous => To::SourceAmbiguous,
        From::DestinationUnidentified => To::DestinationUnidentified,
        From::HookShared => To::HookShared,
        From::NotAnswered => To::NotAnswered,
        From::ExpectationUnknown => To::ExpectationUnknown,
        From::RecordsLost => To::RecordsLost,
        From::ExpectationChanged => To::ExpectationChanged,
        From::SnapshotNotReady => To::SnapshotNotReady,
        From::StateEvicted => To::StateEvicted,
        From::AttachedLate => To::AttachedLate,
        From::ForeignPolicy => To::ForeignPolicy,
        From::NoWitness => To::NoWitness,
        From::WitnessIncomplete => To::WitnessIncomplete,
        From::NoControl => To::NoControl,
        From::TooFewAttempts => To::TooFewAttempts,
        From::DestinationNotReady => To::DestinationNotReady,
        From::AnsweredElsewhere => To::AnsweredElsewhere,
        From::InPodFilter => To::InPodFilter,
        From::FlowBegunBefore => To::FlowBegunBefore,
        From::MixedEndpoints => To::MixedEndpoints,
        From::TranslatedAddress => To::TranslatedAddress,
        From::NamedPort => To::NamedPort,
        From::UdpSilence => To::UdpSilence,
    }
}

fn judged(counts: &JudgedCounts) -> v1::JudgedCounts {
    v1::JudgedCounts {
        allowed_delivered: counts.allowed_delivered,
        denied_delivered: counts.denied_delivered,
        denied_unanswered: counts.denied_unanswered,
        denied_answered: counts.denied_answered,
        allowed_answered: counts.allowed_answered,
        denied_stopped: counts.denied_stopped,
        denied_in_grace: counts.denied_in_grace,
    }
}

/// Wall time of a moment of the monotonic clock.
fn wall(at: Instant, wall_offset_ns: i64) -> prost_types::Timestamp {
    timestamp(i128::from(at.0) + i128::from(wall_offset_ns))
}

fn timestamp(nanoseconds: i128) -> prost_types::Timestamp {
    const SECOND: i128 = 1_000_000_000;
    prost_types::Timestamp {
        seconds: i64::try_from(nanoseconds.div_euclid(SECOND)).unwrap_or(0),
        nanos: i32::try_from(nanoseconds.rem_euclid(SECOND)).unwrap_or(0),
    }
}

fn system_time(at: SystemTime) -> prost_types::Timestamp {
    match at.duration_since(UNIX_EPOCH) {
        Ok(since) => timestamp(i128::try_from(since.as_nanos()).unwrap_or(0)),
        Err(before) => timestamp(-i128::try_from(before.duration().as_nanos()).unwrap_or(0)),
    }
}

/// A heartbeat.
pub fn heartbeat(vitals: &Vitals) -> v1::Heartbeat {
    v1::Heartbeat {
        sent: Some(system_time(vitals.at)),
        coverage: Some(coverage(&vitals.coverage)),
        loss: Some(loss(vitals.loss)),
        cni: vitals.cni.iter().map(hint).collect(),
        snapshot: Some(snapshot(&vitals.view)),
        // Sent even if nothing lacks: unset would say that nobody looked.
        kernel: Some(v1::Kernel {
            lacks: vitals.kernel_lacks.iter().copied().map(lack).collect(),
        }),
    }
}

fn lack(lack: KernelLacks) -> v1::KernelLack {
    v1::KernelLack {
        name: lack.name().to_owned(),
        what: lack.what().to_owned(),
        consequence: lack.consequence().to_owned(),
        remedy: lack.remedy().to_owned(),
    }
}

fn coverage(coverage: &Coverage) -> v1::Coverage {
    v1::Coverage {
        pods_expected: coverage.expected,
        pods_watched: coverage.watched,
        unwatched: coverage
            .unwatched
            .iter()
            .take(MAX_NAMED)
            .map(|u| v1::UnwatchedPod {
                pod: u.pod.as_ref().map(|(id, uid)| object(id, uid)),
                reason: u.reason.clone(),
            })
            .collect(),
    }
}

fn loss(loss: Loss) -> v1::Loss {
    v1::Loss {
        ring_records_lost: loss.ring_records,
        packets_unparsed: loss.packets_unparsed,
        attempts_evicted: loss.attempts_evicted,
        batches_dropped: loss.batches_dropped,
        pods_unidentified: loss.pods_unidentified,
    }
}

fn hint(hint: &CniHint) -> v1::CniHint {
    v1::CniHint {
        name: hint.name.clone(),
        claim: match hint.claim {
            Claim::Enforces => v1::EnforcementClaim::Enforces,
            Claim::DoesNotEnforce => v1::EnforcementClaim::DoesNotEnforce,
            Claim::Depends => v1::EnforcementClaim::Depends,
        }
        .into(),
        evidence: hint.evidence.clone(),
        remedy: hint.remedy.clone(),
    }
}

fn snapshot(view: &ViewState) -> v1::SnapshotState {
    v1::SnapshotState {
        ready: view.ready,
        source: view.source.clone(),
        policies: view.policies,
        pods: view.pods,
        refused: view.refused.iter().take(20).cloned().collect(),
        problem: view.problem.clone().unwrap_or_default(),
        other_policies: view
            .other_policies
            .iter()
            .map(|of| v1::PolicyCount {
                kind: of.kind.to_owned(),
                count: of.count,
                evaluated: of.evaluated,
            })
            .collect(),
    }
}
