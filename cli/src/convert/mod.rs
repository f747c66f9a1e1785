//! Wire messages to what is shown. Nothing else in this crate reads the fields of an answer.

mod explain;

use std::net::{IpAddr, SocketAddr};

use jiff::Timestamp;
use polproof_policy::Protocol;
use polproof_proto::v1;

use crate::args::FindingKind;
use crate::printable::printable;
use crate::view::{
    Cluster, Cni, Denier, End, Exposure, Finding, Judged, KernelLack, KindCount, Loss, Node,
    Overall, PolicyCount, Recovered, Sample, State, Status,
};

pub(crate) use explain::{Answered, answered, replied, walks};

/// Upper bounds of the exposure histogram on the wire, in milliseconds; the last count has none.
const EXPOSURE_BOUNDS_MS: [u64; 10] = [10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000];

fn time(time: Option<prost_types::Timestamp>) -> Option<Timestamp> {
    let time = time?;
    Timestamp::new(time.seconds, time.nanos).ok()
}

/// A moment for a question.
pub(crate) fn timestamp(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    }
}

/// A finding.
pub(crate) fn finding(finding: v1::Finding) -> Finding {
    let key = finding.key.unwrap_or_default();
    // After a gap in the batches more may be settled than was seen observed.
    let count = finding
        .observed
        .saturating_sub(finding.retracted)
        .max(finding.settled);
    Finding {
        kind: kind(key.kind()),
        witnessed: finding.witnessed,
        recovered: finding.recovered.map(|recovered| Recovered {
            at: time(recovered.at),
            cause: match recovered.cause() {
                v1::RecoveryCause::Unspecified => "unknown",
                v1::RecoveryCause::Enforced => "enforced",
                v1::RecoveryCause::Delivered => "delivered",
                v1::RecoveryCause::PolicyChanged => "policy_changed",
                v1::RecoveryCause::PodGone => "pod_gone",
                v1::RecoveryCause::Closed => "closed",
            },
        }),
        protocol: match key.protocol() {
            v1::Protocol::Unspecified => "unknown",
            v1::Protocol::Tcp => "TCP",
            v1::Protocol::Udp => "UDP",
            v1::Protocol::Sctp => "SCTP",
        },
        state: match (count, finding.settled) {
            (0, _) => State::Retracted,
            (_, 0) => State::Provisional,
            _ => State::Standing,
        },
        evidence: match v1::EvidenceLevel::try_from(finding.evidence) {
            Ok(v1::EvidenceLevel::OneWitness) => "one_witness",
            Ok(v1::EvidenceLevel::TwoWitnesses) => "two_witnesses",
            Ok(v1::EvidenceLevel::Probe) => "probe",
            Ok(v1::EvidenceLevel::Unspecified) | Err(_) => "unknown",
        },
        port: key.destination_port,
        source: end(key.source),
        destination: end(key.destination),
        denied_by: key.policies.into_iter().map(denier).collect(),
        id: printable(finding.id),
        node: printable(finding.node),
        count,
        observed: finding.observed,
        settled: finding.settled,
        retracted: finding.retracted,
        first_seen: time(finding.first_seen),
        last_seen: time(finding.last_seen),
        samples: finding.samples.iter().map(sample).collect(),
    }
}

fn kind(kind: v1::FindingKind) -> &'static str {
    match kind {
        v1::FindingKind::Unspecified => "unknown",
        v1::FindingKind::Unenforced => "unenforced",
        v1::FindingKind::OverBlocked => "over_blocked",
        v1::FindingKind::LateEnforcement => "late_enforcement",
        v1::FindingKind::StartupGap => "startup_gap",
        v1::FindingKind::Survivor => "survivor",
        v1::FindingKind::ReplyLost => "reply_lost",
    }
}

/// A kind for a question.
pub(crate) fn kind_number(kind: FindingKind) -> i32 {
    match kind {
        FindingKind::Unenforced => v1::FindingKind::Unenforced,
        FindingKind::OverBlocked => v1::FindingKind::OverBlocked,
        FindingKind::LateEnforcement => v1::FindingKind::LateEnforcement,
        FindingKind::StartupGap => v1::FindingKind::StartupGap,
        FindingKind::Survivor => v1::FindingKind::Survivor,
        FindingKind::ReplyLost => v1::FindingKind::ReplyLost,
    }
    .into()
}

fn kind_count(of: &v1::KindCount) -> KindCount {
    KindCount {
        kind: kind(of.kind()),
        findings: of.findings,
        attempts: of.attempts,
        standing: of.standing,
        last_seen: time(of.last_seen),
    }
}

fn end(end: Option<v1::Endpoint>) -> End {
    let end = end.unwrap_or_default();
    let (kind, object) = match end.kind {
        Some(v1::endpoint::Kind::Pod(pod)) => ("pod", pod),
        Some(v1::endpoint::Kind::Node(node)) => ("node", node),
        Some(v1::endpoint::Kind::External(v1::External {})) => {
            ("external", v1::ObjectRef::default())
        }
        None => ("unknown", v1::ObjectRef::default()),
    };
    End {
        kind,
        namespace: printable(object.namespace),
        name: printable(object.name),
        uid: printable(object.uid),
        address: printable(end.address),
    }
}

fn denier(policy: v1::DecidingPolicy) -> Denier {
    let direction = direction(policy.direction);
    let object = policy.policy.unwrap_or_default();
    Denier {
        direction,
        kind: printable(policy.policy_kind),
        namespace: printable(object.namespace),
        name: printable(object.name),
        uid: printable(object.uid),
        generation: policy.generation,
        rules_without_match: policy.rules_without_match,
        denying_rule: policy.denying_rule,
    }
}

fn direction(number: i32) -> &'static str {
    match v1::Direction::try_from(number) {
        Ok(v1::Direction::Ingress) => "ingress",
        Ok(v1::Direction::Egress) => "egress",
        Ok(v1::Direction::Unspecified) | Err(_) => "unknown",
    }
}

fn sample(sample: &v1::AttemptSample) -> Sample {
    Sample {
        at: time(sample.at),
        source: socket(&sample.source_address, sample.source_port),
        destination: socket(&sample.destination_address, sample.destination_port),
        isn: sample.isn,
        answer: match v1::Answer::try_from(sample.answer) {
            Ok(v1::Answer::Accepted) => "accepted",
            Ok(v1::Answer::Refused) => "refused",
            Ok(v1::Answer::Delivered) => "delivered",
            Ok(v1::Answer::Dropped) => "dropped",
            Ok(v1::Answer::Rejected) => "rejected",
            Ok(v1::Answer::ReplyLost) => "reply_lost",
            Ok(v1::Answer::Established) => "established",
            Ok(v1::Answer::Unspecified) | Err(_) => "unknown",
        },
    }
}

fn socket(address: &str, port: u32) -> String {
    match (address.parse::<IpAddr>(), u16::try_from(port)) {
        (Ok(address), Ok(port)) => SocketAddr::new(address, port).to_string(),
        _ => printable(format!("{address}:{port}")),
    }
}

/// The answer of GetStatus.
pub(crate) fn status(status: v1::GetStatusResponse) -> Status {
    let mut nodes: Vec<Node> = status.nodes.into_iter().map(node).collect();
    nodes.sort_by(|a, b| a.node.cmp(&b.node));
    Status {
        collector_version: printable(status.collector_version),
        now: time(status.now),
        recent_window_seconds: status.recent_window_seconds,
        cluster: status.snapshot.map(cluster),
        overall: status.overall.map(overall),
        nodes,
    }
}

fn cluster(state: v1::SnapshotState) -> Cluster {
    Cluster {
        ready: state.ready,
        source: printable(state.source),
        policies: state.policies,
        other_policies: state
            .other_policies
            .into_iter()
            .map(|of| PolicyCount {
                kind: printable(of.kind),
                count: of.count,
                evaluated: of.evaluated,
            })
            .collect(),
        pods: state.pods,
        refused: state.refused.into_iter().map(printable).collect(),
        problem: printable(state.problem),
    }
}

fn enforcement(state: v1::EnforcementState) -> &'static str {
    match state {
        v1::EnforcementState::Enforced => "enforced",
        v1::EnforcementState::NotEnforced => "not_enforced",
        v1::EnforcementState::Partial => "partial",
        v1::EnforcementState::Unproven | v1::EnforcementState::Unspecified => "unproven",
    }
}

fn overall(overall: v1::OverallStatus) -> Overall {
    Overall {
        enforcement: enforcement(overall.enforcement()),
        enforcement_reason: printable(overall.reason),
        denied_unanswered: overall.denied_unanswered,
        counted_since: time(overall.counted_since),
        last_violation: time(overall.last_violation),
        last_violation_node: printable(overall.last_violation_node),
        violations_recent: overall.violations_recent,
        agents_away: overall.agents_away,
        denied_stopped: overall.denied_stopped,
        violations_standing: overall.violations_standing,
    }
}

fn node(node: v1::NodeStatus) -> Node {
    let enforcement = enforcement(node.enforcement());
    let coverage = node.coverage.unwrap_or_default();
    let loss = node.loss.unwrap_or_default();
    let judged = node.judged.unwrap_or_default();
    let exposure = node.exposure.unwrap_or_default();
    Node {
        node: printable(node.node),
        enforcement,
        enforcement_reason: printable(node.enforcement_reason),
        cni: node.cni.into_iter().map(cni).collect(),
        connected: node.connected,
        last_heartbeat: time(node.last_heartbeat),
        first_heard: time(node.first_heard),
        agent_version: printable(node.agent_version),
        kernel_release: printable(node.kernel_release),
        kernel_lacks: node
            .kernel
            .map(|kernel| kernel.lacks.into_iter().map(lack).collect()),
        pods_expected: coverage.pods_expected,
        pods_watched: coverage.pods_watched,
        pods_unwatched: coverage
            .unwatched
            .into_iter()
            .map(|unwatched| {
                let pod = unwatched.pod.unwrap_or_default();
                printable(if pod.name.is_empty() {
                    unwatched.reason
                } else {
                    format!("{}/{}: {}", pod.namespace, pod.name, unwatched.reason)
                })
            })
            .collect(),
        violations: node.violations,
        violations_recent: node.violations_recent,
        last_violation: time(node.last_violation),
        violations_standing: node.violations_standing,
        stopped_since: node.stopped_since,
        stopped_recent: node.stopped_recent,
        findings: node.findings,
        kinds: node.kinds.iter().map(kind_count).collect(),
        exposure: Exposure::new(&EXPOSURE_BOUNDS_MS, &exposure.counts, exposure.sum_ms),
        judged: Judged {
            allowed_delivered: judged.allowed_delivered,
            denied_delivered: judged.denied_delivered,
            denied_unanswered: judged.denied_unanswered,
            denied_answered: judged.denied_answered,
            allowed_answered: judged.allowed_answered,
            denied_stopped: judged.denied_stopped,
            denied_in_grace: judged.denied_in_grace,
        },
        inconclusive: node
            .inconclusive
            .into_iter()
            .map(|count| (reason(count.reason), count.count))
            .collect(),
        loss: Loss {
            ring_records_lost: loss.ring_records_lost,
            packets_unparsed: loss.packets_unparsed,
            attempts_evicted: loss.attempts_evicted,
            batches_dropped: loss.batches_dropped,
            pods_unidentified: loss.pods_unidentified,
            batches_missing: node.batches_missing,
            findings_refused: node.findings_refused,
        },
        cluster: node.snapshot.map(cluster),
    }
}

/// "INCONCLUSIVE_REASON_WITHIN_GRACE" as "within_grace"; a number that only a newer collector knows as it is.
fn reason(number: i32) -> String {
    match v1::InconclusiveReason::try_from(number) {
        Ok(reason) => reason
            .as_str_name()
            .trim_start_matches("INCONCLUSIVE_REASON_")
            .to_lowercase(),
        Err(_) => format!("reason_{number}"),
    }
}

fn lack(lack: v1::KernelLack) -> KernelLack {
    KernelLack {
        name: printable(lack.name),
        what: printable(lack.what),
        consequence: printable(lack.consequence),
        remedy: printable(lack.remedy),
    }
}

fn cni(hint: v1::CniHint) -> Cni {
    Cni {
        claim: match hint.claim() {
            v1::EnforcementClaim::Unspecified => "unknown",
            v1::EnforcementClaim::Enforces => "enforces",
            v1::EnforcementClaim::DoesNotEnforce => "does_not_enforce",
            v1::EnforcementClaim::Depends => "depends",
        },
        name: printable(hint.name),
        evidence: printable(hint.evidence),
        remedy: printable(hint.remedy),
    }
}

/// A transport for a question.
pub(crate) fn protocol(protocol: Protocol) -> i32 {
    match protocol {
        Protocol::Tcp => v1::Protocol::Tcp,
        Protocol::Udp => v1::Protocol::Udp,
        Protocol::Sctp => v1::Protocol::Sctp,
    }
    .into()
}
