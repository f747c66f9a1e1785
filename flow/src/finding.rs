//! Findings: what contradicts the policies, and what could not be judged.

use std::net::IpAddr;
use std::sync::Arc;

use polproof_policy::{Direction, Kind, NamespacedName, Protocol, Uid};
use serde::{Deserialize, Serialize};

use crate::record::{Instant, Record};

/// One end of a finding.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum End {
    /// A pod, by name and UID.
    Pod(NamespacedName, Uid),
    /// A node, by name.
    Node(Arc<str>),
    /// An address outside the cluster.
    External,
}

/// What kind of contradiction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum FindingKind {
    /// Denied by the policies, delivered all the same.
    Unenforced,
}

/// A policy that denies: a NetworkPolicy that isolates an end and admits the connection by none of its rules, or one of the
/// admin or baseline tier with a rule that says so.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct DecidingPolicy {
    /// The direction that it denies.
    pub direction: Direction,
    /// Namespace (empty if cluster-scoped) and name.
    pub id: NamespacedName,
    /// NetworkPolicy, AdminNetworkPolicy, BaselineAdminNetworkPolicy or ClusterNetworkPolicy.
    pub kind: Kind,
    /// `metadata.uid`.
    pub uid: Uid,
    /// `metadata.generation`.
    pub generation: i64,
    /// What in it denies.
    pub by: DeniedBy,
}

/// What in a policy denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum DeniedBy {
    /// That it isolates: so many rules it has in the direction, all were looked at, and none matched.
    NoRule(u32),
    /// This rule of the direction, by index in the object as written.
    Rule(u32),
}

/// What identifies a finding: equal keys are one finding, counted.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct FindingKey {
    /// The kind.
    pub kind: FindingKind,
    /// Who connected.
    pub source: End,
    /// From which address.
    pub source_ip: IpAddr,
    /// Who was reached.
    pub destination: End,
    /// At which address.
    pub destination_ip: IpAddr,
    /// Transport.
    pub protocol: Protocol,
    /// Destination port.
    pub port: u16,
    /// Who denied it, sorted.
    pub policies: Vec<DecidingPolicy>,
}

/// How the pod answered a delivered attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Answer {
    /// SYN-ACK.
    Accepted,
    /// RST: the port is closed, and the packet got there.
    Refused,
}

/// One attempt, kept as an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The SYN.
    pub syn: Record,
    /// The answer.
    pub answer: Answer,
}

/// What happened to one finding since the last report.
///
/// The attempts counted in `observed` are judged for good together: later, as one, or (if they were old already)
/// in this very delta. That is why a report may hold two deltas of one key, though it rarely does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FindingDelta {
    /// Which finding.
    pub key: Arc<FindingKey>,
    /// New attempts, shown before their expectation has settled.
    pub observed: u64,
    /// Earlier attempts whose expectation has proved constant around them.
    pub settled: u64,
    /// Earlier attempts taken back.
    pub retracted: u64,
    /// First attempt of `observed` (or of the settled ones).
    pub first: Instant,
    /// Last attempt of `observed` (or of the settled ones).
    pub last: Instant,
    /// At most 3.
    pub samples: Vec<Sample>,
}

/// Why an attempt got no verdict (observation.md, section 9, as far as one witness can say).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum InconclusiveReason {
    /// The expectation is younger than the grace time, or its history too short.
    WithinGrace,
    /// The source address belongs to nothing known, inside a pod CIDR.
    SourceUnidentified,
    /// The source is another node: a masqueraded pod or a hostNetwork process.
    SourceIsNode,
    /// Several pods own the source address, or it changed hands.
    SourceAmbiguous,
    /// The namespace could not be matched to a pod.
    DestinationUnidentified,
    /// Another program shares the pod's eth0.
    HookShared,
    /// Delivered to eth0, but the pod's stack answered nothing.
    NotAnswered,
    /// The policies leave it open.
    ExpectationUnknown,
    /// Records were lost around the attempt.
    RecordsLost,
    /// The expectation changed within the settling time after it.
    ExpectationChanged,
    /// The agent had no complete view of the cluster yet.
    SnapshotNotReady,
    /// The bounded table of attempts was full.
    StateEvicted,
    /// The programs were attached only after the pod could already talk.
    AttachedLate,
    /// The policies deny it, and a policy of a CNI's own API, which is not evaluated, may admit it.
    ForeignPolicy,
}

impl InconclusiveReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 14] = [
        Self::WithinGrace,
        Self::SourceUnidentified,
        Self::SourceIsNode,
        Self::SourceAmbiguous,
        Self::DestinationUnidentified,
        Self::HookShared,
        Self::NotAnswered,
        Self::ExpectationUnknown,
        Self::RecordsLost,
        Self::ExpectationChanged,
        Self::SnapshotNotReady,
        Self::StateEvicted,
        Self::AttachedLate,
        Self::ForeignPolicy,
    ];
}

/// Deltas of judged attempts (see the wire's `JudgedCounts`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgedCounts {
    /// Delivered and allowed.
    pub allowed_delivered: u64,
    /// Delivered and denied.
    pub denied_delivered: u64,
    /// Left a pod though denied; answered by nothing or a rejection.
    pub denied_unanswered: u64,
    /// Left a pod though denied; answered.
    pub denied_answered: u64,
    /// Left a pod, allowed, answered.
    pub allowed_answered: u64,
}

/// Everything to report since the last time.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Findings that moved.
    pub findings: Vec<FindingDelta>,
    /// Attempts without a verdict.
    pub inconclusive: Vec<(InconclusiveReason, u64)>,
    /// Attempts with one.
    pub judged: JudgedCounts,
}

impl Report {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
            && self.inconclusive.is_empty()
            && self.judged == JudgedCounts::default()
    }
}
