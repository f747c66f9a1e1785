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
    /// Denied by the policies for long, delivered all the same.
    Unenforced,
    /// Allowed by the policies; left the source and never reached its destination, though the way was open.
    OverBlocked,
    /// Denied since not long ago, but for longer than any propagation takes; delivered.
    LateEnforcement,
    /// Delivered to or from a new pod under policies that were there before it.
    StartupGap,
    /// A connection that was there before the policies that deny it now.
    Survivor,
    /// Allowed, delivered and answered; the answer never came back.
    ReplyLost,
}

impl FindingKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [
        Self::Unenforced,
        Self::OverBlocked,
        Self::LateEnforcement,
        Self::StartupGap,
        Self::Survivor,
        Self::ReplyLost,
    ];
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
    /// Who denied it, sorted. Of [`FindingKind::OverBlocked`] and [`FindingKind::ReplyLost`]: the policies that isolate either end and allow
    /// it.
    pub policies: Vec<DecidingPolicy>,
}

/// What became of an attempt, as far as it was witnessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Answer {
    /// SYN-ACK.
    Accepted,
    /// RST: the port is closed, and the packet got there.
    Refused,
    /// It reached the pod's eth0, where nothing but the pod's own stack could take it, and was not answered.
    Delivered,
    /// It left its source and reached nobody; nothing came back.
    Dropped,
    /// It left its source and reached nobody; a RST or an ICMP error came back.
    Rejected,
    /// It was accepted, and the acceptance did not come back.
    ReplyLost,
    /// It was accepted before, and goes on.
    Established,
}

/// One attempt, kept as an example.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The SYN, or what stands for it.
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
    /// Earlier attempts that the witness at the other end has seen too, or (of those that were not delivered) says that it has not.
    pub witnessed: u64,
    /// That it has ended, if it has; later than `last`.
    pub recovered: Option<Recovery>,
    /// First attempt of `observed` (or of the settled ones).
    pub first: Instant,
    /// Last attempt of `observed` (or of the settled ones).
    pub last: Instant,
    /// At most 3.
    pub samples: Vec<Sample>,
}

/// The end of what a finding tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recovery {
    /// When it was noticed.
    pub at: Instant,
    /// By what.
    pub cause: RecoveryCause,
}

/// Why a finding is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum RecoveryCause {
    /// The same connection was tried again, and was stopped.
    Enforced,
    /// The same connection was tried again, and got through.
    Delivered,
    /// The policies no longer say what they said: one was changed or deleted, or labels were.
    PolicyChanged,
    /// One of its pods is gone.
    PodGone,
    /// The connection has ended.
    Closed,
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
    /// It died on the way, as far as its source saw, and no witness at the destination could be asked.
    NoWitness,
    /// The witness at the other end cannot say that it did not see it.
    WitnessIncomplete,
    /// It was not delivered, but nothing else was seen to get through at that time.
    NoControl,
    /// It was not delivered, once or twice.
    TooFewAttempts,
    /// It was not delivered to a pod that was not ready.
    DestinationNotReady,
    /// Something answered, though the destination never saw it: a proxy, or a backend that nobody knows.
    AnsweredElsewhere,
    /// It reached the pod, where a filter of the pod's own (netfilter, tc, XDP) may have decided.
    InPodFilter,
    /// It belongs to a flow that is older than the policies that deny it.
    FlowBegunBefore,
    /// It went to a Service whose endpoints are expected to be treated differently, and it is not known which one it was.
    MixedEndpoints,
    /// An ipBlock decides, and the address that it was compared with may have been translated.
    TranslatedAddress,
    /// A named port decides, and no pod says which it is.
    NamedPort,
    /// A datagram was not answered, which says nothing.
    UdpSilence,
}

impl InconclusiveReason {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 26] = [
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
        Self::NoWitness,
        Self::WitnessIncomplete,
        Self::NoControl,
        Self::TooFewAttempts,
        Self::DestinationNotReady,
        Self::AnsweredElsewhere,
        Self::InPodFilter,
        Self::FlowBegunBefore,
        Self::MixedEndpoints,
        Self::TranslatedAddress,
        Self::NamedPort,
        Self::UdpSilence,
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
    /// Left a pod though denied, and a complete witness at the destination did not see it, while something else got through on the same
    /// way: proof that it was stopped.
    pub denied_stopped: u64,
    /// Packets of flows that are older than the policies that deny them, or attempts within the grace time: delivered, no violation.
    pub denied_in_grace: u64,
}

/// For how long connections still got through after policies began to deny them, by upper bound in milliseconds; the last has none.
pub const EXPOSURE_BOUNDS_MS: [u64; 10] =
    [10, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000];

/// Changes to a denial, by how long afterwards the last connection got through: one count for each of [`EXPOSURE_BOUNDS_MS`], and one for
/// more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposure {
    /// Not cumulative.
    pub counts: [u64; EXPOSURE_BOUNDS_MS.len() + 1],
    /// Sum of the times, in milliseconds.
    pub sum_ms: u64,
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
    /// How late enforcement was, of changes within the grace time.
    pub exposure: Exposure,
}

impl Report {
    /// Whether there is nothing to say.
    pub fn is_empty(&self) -> bool {
        self.findings.is_empty()
            && self.inconclusive.is_empty()
            && self.judged == JudgedCounts::default()
            && self.exposure == Exposure::default()
    }
}
