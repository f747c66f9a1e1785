//! What is shown, in the shape of `-o json` and `-o yaml`: stable names in snake_case, times as RFC 3339 in UTC. Fields
//! may be added, never renamed. Counts are whole numbers; enums are lower-case words.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

mod kinds;

pub(crate) use kinds::{Exposure, KindCount, Recovered};

/// `polproof violations -o json`.
#[derive(Debug, Serialize)]
pub(crate) struct Violations {
    /// Newest first. With `--follow` each comes by itself, one a line.
    pub(crate) findings: Vec<Finding>,
    /// Attempts of the kind `unenforced` in all of them that are not taken back.
    pub(crate) violations: u64,
    /// The same of every kind that is there.
    pub(crate) attempts_by_kind: BTreeMap<&'static str, u64>,
}

/// One finding: all attempts with the same ends, port and deciding policies.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Finding {
    /// The same for the same finding, for ever.
    pub(crate) id: String,
    /// `unenforced`, `over_blocked`, `late_enforcement`, `startup_gap`, `survivor`, `reply_lost`.
    pub(crate) kind: &'static str,
    /// Node of the agent that saw it.
    pub(crate) node: String,
    /// Who connected.
    pub(crate) source: End,
    /// Who was reached.
    pub(crate) destination: End,
    /// Destination port.
    pub(crate) port: u32,
    /// `TCP`, `UDP`, `SCTP`.
    pub(crate) protocol: &'static str,
    /// Attempts that are not taken back.
    pub(crate) count: u64,
    /// Attempts seen.
    pub(crate) observed: u64,
    /// Of these, judged for good.
    pub(crate) settled: u64,
    /// Of these, taken back.
    pub(crate) retracted: u64,
    /// `provisional`: none is judged for good yet; `standing`: some are; `retracted`: all were taken back.
    pub(crate) state: State,
    /// `one_witness`, `two_witnesses`, `probe`.
    pub(crate) evidence: &'static str,
    /// Attempts that the witness at the other end confirms.
    pub(crate) witnessed: u64,
    /// That it has ended; null while it stands. It stands again when it is seen again.
    pub(crate) recovered: Option<Recovered>,
    /// First attempt.
    pub(crate) first_seen: Option<Timestamp>,
    /// Last attempt.
    pub(crate) last_seen: Option<Timestamp>,
    /// The policies that deny it; of `over_blocked` and `reply_lost` those that allow it.
    pub(crate) denied_by: Vec<Denier>,
    /// The newest attempts.
    pub(crate) samples: Vec<Sample>,
}

/// How sure a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum State {
    /// No attempt is judged for good yet.
    Provisional,
    /// Some are.
    Standing,
    /// All were taken back: the policies were changing.
    Retracted,
}

/// One end.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct End {
    /// `pod`, `node`, `external`.
    pub(crate) kind: &'static str,
    /// Of a pod.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) namespace: String,
    /// Of a pod or node.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    /// Of a pod or node, if known.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) uid: String,
    /// The address it had.
    pub(crate) address: String,
}

/// A policy that denies.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Denier {
    /// `ingress` or `egress`.
    pub(crate) direction: &'static str,
    /// `NetworkPolicy`, `AdminNetworkPolicy`, `BaselineAdminNetworkPolicy`, `ClusterNetworkPolicy`.
    pub(crate) kind: String,
    /// Its namespace; empty if it has none.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
    /// Its UID.
    pub(crate) uid: String,
    /// Its generation.
    pub(crate) generation: i64,
    /// Indices of its rules; none admits the connection.
    pub(crate) rules_without_match: Vec<u32>,
    /// Index of the rule that denies the connection, of a policy of the admin or baseline tier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) denying_rule: Option<u32>,
}

/// One attempt.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// When.
    pub(crate) at: Option<Timestamp>,
    /// `address:port`.
    pub(crate) source: String,
    /// `address:port`.
    pub(crate) destination: String,
    /// TCP initial sequence number or SCTP initiate tag; 0 for UDP.
    pub(crate) isn: u32,
    /// `accepted`, `refused` (the port is closed, but the packet got there), `delivered` (and not answered), `dropped`, `rejected`,
    /// `reply_lost`, `established`, `unknown`.
    pub(crate) answer: &'static str,
}

/// `polproof status -o json`.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    /// The collector's version.
    pub(crate) collector_version: String,
    /// The collector's clock.
    pub(crate) now: Option<Timestamp>,
    /// What "recent" means below.
    pub(crate) recent_window_seconds: u32,
    /// The collector's own view of the cluster; null without one.
    pub(crate) cluster: Option<Cluster>,
    /// All nodes together; null from an older collector.
    pub(crate) overall: Option<Overall>,
    /// By name.
    pub(crate) nodes: Vec<Node>,
}

/// Policies of one kind beside NetworkPolicy.
#[derive(Debug, Serialize)]
pub(crate) struct PolicyCount {
    /// The kind.
    pub(crate) kind: String,
    /// How many there are.
    pub(crate) count: u64,
    /// Whether verdicts take them into account.
    pub(crate) evaluated: bool,
}

/// All nodes together.
#[derive(Debug, Serialize)]
pub(crate) struct Overall {
    /// As of a node, of all of them.
    pub(crate) enforcement: &'static str,
    /// Why.
    pub(crate) enforcement_reason: String,
    /// Denied attempts that left pods of any node, unanswered.
    pub(crate) denied_unanswered: u64,
    /// Since when these are counted.
    pub(crate) counted_since: Option<Timestamp>,
    /// The last violation on any node.
    pub(crate) last_violation: Option<Timestamp>,
    /// And on which; empty for none.
    pub(crate) last_violation_node: String,
    /// Within the recent window.
    pub(crate) violations_recent: u64,
    /// Agents that do not talk to the collector.
    pub(crate) agents_away: u32,
    /// Denied connections proved stopped by both ends, counted as `denied_unanswered`.
    pub(crate) denied_stopped: u64,
    /// Unenforced findings that have not ended.
    pub(crate) violations_standing: u64,
}

/// A view of the cluster's objects.
#[derive(Debug, Serialize)]
pub(crate) struct Cluster {
    /// Whether all kinds have been read.
    pub(crate) ready: bool,
    /// `kubernetes` or `manifests`.
    pub(crate) source: String,
    /// NetworkPolicies.
    pub(crate) policies: u64,
    /// Policies of other kinds.
    pub(crate) other_policies: Vec<PolicyCount>,
    /// Pods.
    pub(crate) pods: u64,
    /// Objects left out, with the reason.
    pub(crate) refused: Vec<String>,
    /// Why it may be stale; empty if it is not.
    pub(crate) problem: String,
}

/// One node.
#[derive(Debug, Serialize)]
pub(crate) struct Node {
    /// Its name.
    pub(crate) node: String,
    /// `enforced`, `not_enforced`, `partial`, `unproven`: what was proved.
    pub(crate) enforcement: &'static str,
    /// Why.
    pub(crate) enforcement_reason: String,
    /// What the CNI's files claim.
    pub(crate) cni: Vec<Cni>,
    /// Whether its agent talks to the collector.
    pub(crate) connected: bool,
    /// When it was last heard of.
    pub(crate) last_heartbeat: Option<Timestamp>,
    /// When it was first heard of.
    pub(crate) first_heard: Option<Timestamp>,
    /// The agent's version.
    pub(crate) agent_version: String,
    /// The kernel's.
    pub(crate) kernel_release: String,
    /// What the kernel lacks; null if the agent does not tell, which is not "nothing".
    pub(crate) kernel_lacks: Option<Vec<KernelLack>>,
    /// Pods that should be watched.
    pub(crate) pods_expected: u64,
    /// Pods that are.
    pub(crate) pods_watched: u64,
    /// Those that are not, with the reason.
    pub(crate) pods_unwatched: Vec<String>,
    /// Denied connections delivered, all that are stored.
    pub(crate) violations: u64,
    /// Within the recent window.
    pub(crate) violations_recent: u64,
    /// The last of them.
    pub(crate) last_violation: Option<Timestamp>,
    /// Unenforced findings that have not ended.
    pub(crate) violations_standing: u64,
    /// Denied connections of its pods proved stopped since the last violation, within the last 24 h.
    pub(crate) stopped_since: u64,
    /// Within the recent window.
    pub(crate) stopped_recent: u64,
    /// Findings that are not taken back.
    pub(crate) findings: u64,
    /// The same by kind.
    pub(crate) kinds: Vec<KindCount>,
    /// How late enforcement was.
    pub(crate) exposure: Exposure,
    /// Counts of judged attempts.
    pub(crate) judged: Judged,
    /// Attempts without a verdict, by reason.
    pub(crate) inconclusive: BTreeMap<String, u64>,
    /// What was lost.
    pub(crate) loss: Loss,
    /// The agent's view of the cluster; null if unknown.
    pub(crate) cluster: Option<Cluster>,
}

/// What judged attempts came to, in total.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Judged {
    /// Delivered and allowed.
    pub(crate) allowed_delivered: u64,
    /// Delivered and denied.
    pub(crate) denied_delivered: u64,
    /// Left a pod though denied, answered by nothing or a rejection.
    pub(crate) denied_unanswered: u64,
    /// Left a pod though denied, and were answered.
    pub(crate) denied_answered: u64,
    /// Left a pod, allowed and answered.
    pub(crate) allowed_answered: u64,
    /// Left a pod though denied, and were proved stopped by both ends.
    pub(crate) denied_stopped: u64,
    /// Delivered though denied, within the grace time or in connections older than the policies.
    pub(crate) denied_in_grace: u64,
}

/// What was lost, and so makes the figures too low.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Loss {
    /// Records that the kernel could not hand over.
    pub(crate) ring_records_lost: u64,
    /// Packets that could not be read.
    pub(crate) packets_unparsed: u64,
    /// Attempts forgotten for lack of room.
    pub(crate) attempts_evicted: u64,
    /// Batches that the agent dropped for lack of room.
    pub(crate) batches_dropped: u64,
    /// Network namespaces without a pod.
    pub(crate) pods_unidentified: u64,
    /// Batches that never reached the collector.
    pub(crate) batches_missing: u64,
    /// Findings that the collector could not use.
    pub(crate) findings_refused: u64,
}

impl Loss {
    /// What makes figures too low. Unidentified pods are coverage, not loss.
    pub(crate) fn total(&self) -> u64 {
        [
            self.packets_unparsed,
            self.attempts_evicted,
            self.batches_dropped.max(self.batches_missing),
            self.findings_refused,
        ]
        .into_iter()
        .fold(self.ring_records_lost, u64::saturating_add)
    }
}

/// Something that the agent would use and the kernel does not have.
#[derive(Debug, Serialize)]
pub(crate) struct KernelLack {
    /// For example `tcx`.
    pub(crate) name: String,
    /// In words.
    pub(crate) what: String,
    /// What it means for verdicts.
    pub(crate) consequence: String,
    /// What to do.
    pub(crate) remedy: String,
}

/// A claim of the node's files about its CNI.
#[derive(Debug, Serialize)]
pub(crate) struct Cni {
    /// For example `flannel`.
    pub(crate) name: String,
    /// `enforces`, `does_not_enforce`, `depends`, `unknown`.
    pub(crate) claim: &'static str,
    /// Where that was read.
    pub(crate) evidence: String,
    /// What to do.
    pub(crate) remedy: String,
}

/// `polproof explain -o json`.
#[derive(Debug, Serialize)]
pub(crate) struct Explanation {
    /// As asked.
    pub(crate) source: String,
    /// As asked, without the port.
    pub(crate) destination: String,
    /// Asked port.
    pub(crate) port: u16,
    /// `TCP`, `UDP`, `SCTP`.
    pub(crate) protocol: &'static str,
    /// `allow`, `deny`, `unknown`, or `mixed` if the families or the pods differ.
    pub(crate) verdict: String,
    /// What is worth knowing of the ends: a Service's address that is rewritten, pods without an address.
    pub(crate) notes: Vec<String>,
    /// One for each address family that both ends have.
    pub(crate) families: Vec<Family>,
}

/// The answer for one address family.
#[derive(Debug, Serialize)]
pub(crate) struct Family {
    /// `IPv4` or `IPv6`.
    pub(crate) family: String,
    /// `allow`, `deny` or `unknown: reason`; `mixed` if the pods of the ends differ.
    pub(crate) verdict: String,
    /// A stable word for why it is unknown.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    /// How many pairs of pods there are, by outcome.
    pub(crate) pairs: Pairs,
    /// The pair that is walked through.
    #[serde(flatten)]
    pub(crate) walked: Walked,
    /// The verdict of that pair.
    #[serde(skip)]
    pub(crate) first: String,
    /// One pair of each other outcome.
    pub(crate) others: Vec<Case>,
}

/// Pairs of pods by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Pairs {
    /// Allowed.
    pub(crate) allow: u64,
    /// Denied.
    pub(crate) deny: u64,
    /// Left open.
    pub(crate) unknown: u64,
}

/// A pair of ends that stands for all with another outcome.
#[derive(Debug, Serialize)]
pub(crate) struct Case {
    /// `allow`, `deny` or `unknown: reason`.
    pub(crate) verdict: String,
    /// A stable word for why it is unknown.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    /// The pair.
    #[serde(flatten)]
    pub(crate) walked: Walked,
}

/// A pair of ends and the walk to its verdict.
#[derive(Debug, Serialize)]
pub(crate) struct Walked {
    /// Who connects.
    pub(crate) source: String,
    /// The address that stood for the source.
    pub(crate) source_address: String,
    /// To whom.
    pub(crate) destination: String,
    /// The address that stood for the destination.
    pub(crate) destination_address: String,
    /// The port that the policies see.
    pub(crate) port: u32,
    /// Egress of the source, ingress of the destination.
    pub(crate) directions: Vec<Walk>,
}

/// One direction.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Walk {
    /// `egress` or `ingress`.
    pub(crate) direction: &'static str,
    /// `allow`, `deny` or `unknown: reason`.
    pub(crate) verdict: String,
    /// A stable word for why it is unknown.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) reason: String,
    /// Why.
    pub(crate) because: String,
    /// What each tier comes to; none for an end that no policy governs.
    pub(crate) tiers: Vec<Tier>,
    /// Each policy that selects the end, tier by tier.
    pub(crate) policies: Vec<Policy>,
    /// The rule that is nearest to admitting, and what is missing; empty if one admits.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) nearest: String,
    /// What is worth knowing beside.
    pub(crate) notes: Vec<String>,
}

/// One tier.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Tier {
    /// `Admin`, `NetworkPolicy`, `Baseline`.
    pub(crate) tier: &'static str,
    /// What it comes to.
    pub(crate) says: String,
    /// Whether the cluster has any policy of this tier.
    pub(crate) present: bool,
}

/// What one policy says.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Policy {
    /// `namespace/name`, or `name` of a policy of the whole cluster.
    pub(crate) policy: String,
    /// `NetworkPolicy`, `AdminNetworkPolicy`, `BaselineAdminNetworkPolicy`, `ClusterNetworkPolicy`.
    pub(crate) kind: String,
    /// Its tier.
    pub(crate) tier: &'static str,
    /// Of an admin policy; the lower number goes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) priority: Option<u32>,
    /// A line for each rule.
    pub(crate) rules: Vec<String>,
}
