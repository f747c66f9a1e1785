//! The walk behind a verdict, in plain values that people-facing code prints.
//!
//! ```text
//! Query --Snapshot::evaluate--> Verdict --+--> because: one sentence
//!                                         +--> tiers: Admin, NetworkPolicy, Baseline: what each comes to
//!                                         +--> policies that select the end, each rule: matches, or what is missing
//!                                         +--> the nearest miss, notes
//! ```

mod admin;
mod because;
mod deciding;
mod labels;
mod notes;
mod rule;
mod words;

use serde::Serializer;

use crate::evaluate::{
    Admits, Connection, Decision, DirectionVerdict, End, Expectation, PodEntry, Query,
    UnknownReason, isolation_of, walk,
};
use crate::model::{Action, Direction, Tier};
use crate::state::Snapshot;
use admin::{CameTo, rule_name};
use because::{Ends, name};
use labels::Census;
use words::{Miss, WHOLE, Words};

/// Lines about rules in one direction. What comes after them is shown only if it admits.
const MOST_LINES: usize = 500;

pub use deciding::{Deciding, deciding, outcome_word, reason_word};

/// The walk behind a verdict.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Explanation {
    /// `allow`, `deny` or `unknown: reason`.
    pub verdict: String,
    /// A stable word for why it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Egress first, then ingress.
    pub directions: Vec<DirectionExplanation>,
}

/// The walk of one direction.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DirectionExplanation {
    /// Which direction.
    #[serde(serialize_with = "lower")]
    pub direction: Direction,
    /// `allow`, `deny` or `unknown: reason`.
    pub verdict: String,
    /// A stable word for why it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// One sentence that says why.
    pub because: String,
    /// What each tier comes to, in order; none for an end that no policy governs.
    pub tiers: Vec<TierExplanation>,
    /// Each policy that selects the end in this direction, tier by tier, and its rules: what matches, or why not.
    pub policies: Vec<PolicyExplanation>,
    /// If no rule admits it: the rule that is nearest to it, and what is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nearest: Option<String>,
    /// What is worth knowing beside: policies that are not evaluated, that miss the end by a slip.
    pub notes: Vec<String>,
}

/// A tier, in the order of evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub enum TierName {
    /// AdminNetworkPolicy, and ClusterNetworkPolicy of tier Admin.
    Admin,
    /// networking.k8s.io/v1.
    NetworkPolicy,
    /// BaselineAdminNetworkPolicy, and ClusterNetworkPolicy of tier Baseline.
    Baseline,
}

impl TierName {
    /// As it is written.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "Admin",
            Self::NetworkPolicy => "NetworkPolicy",
            Self::Baseline => "Baseline",
        }
    }
}

/// What one tier comes to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct TierExplanation {
    /// Which.
    pub tier: TierName,
    /// In words.
    pub says: String,
    /// Whether the cluster has any policy of this tier.
    pub present: bool,
}

/// What one policy said.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct PolicyExplanation {
    /// `namespace/name`, or `name` of a policy of the whole cluster.
    pub policy: String,
    /// `NetworkPolicy`, `AdminNetworkPolicy`, `BaselineAdminNetworkPolicy`, `ClusterNetworkPolicy`.
    pub kind: String,
    /// Its tier.
    pub tier: TierName,
    /// Of an admin policy; the lower number goes first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u16>,
    /// One line a rule: "rule 0 admits: ..." or "rule 1 does not: port 80/TCP is not 5432/TCP".
    pub rules: Vec<String>,
}

/// `ingress`, `egress`.
fn lower<S: Serializer>(direction: &Direction, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(direction)
}

/// Explains a verdict. The verdict itself is the engine's; only the words are made here.
pub(crate) fn explain(snapshot: &Snapshot, query: &Query<'_>) -> Explanation {
    let verdict = snapshot.evaluate(query);
    let expectation = verdict.expectation();
    Explanation {
        verdict: outcome(expectation),
        reason: reason(expectation),
        directions: vec![
            explain_direction(snapshot, query, Direction::Egress, &verdict.egress),
            explain_direction(snapshot, query, Direction::Ingress, &verdict.ingress),
        ],
    }
}

fn outcome(expectation: Expectation) -> String {
    match expectation {
        Expectation::Allow | Expectation::Deny => outcome_word(expectation).to_owned(),
        Expectation::Unknown(reason) => format!("unknown: {reason}"),
    }
}

fn reason(expectation: Expectation) -> Option<String> {
    reason_word(expectation).map(str::to_owned)
}

fn explain_direction(
    snapshot: &Snapshot,
    query: &Query<'_>,
    direction: Direction,
    verdict: &DirectionVerdict<'_>,
) -> DirectionExplanation {
    let connection = snapshot.connection(query);
    let (governed, governed_ip, peer, peer_ip) = match direction {
        Direction::Egress => (
            connection.source,
            connection.source_ip,
            connection.destination,
            connection.destination_ip,
        ),
        Direction::Ingress => (
            connection.destination,
            connection.destination_ip,
            connection.source,
            connection.source_ip,
        ),
    };
    let ends = Ends {
        direction,
        end: governed,
        governed: name(governed, governed_ip),
        peer: name(peer, peer_ip),
    };
    let mut explanation = DirectionExplanation {
        direction,
        verdict: outcome(verdict.expectation),
        reason: reason(verdict.expectation),
        because: ends.because(verdict, snapshot),
        tiers: Vec::new(),
        policies: Vec::new(),
        nearest: None,
        notes: Vec::new(),
    };
    if let End::Pod(entry) | End::Host(entry) = governed {
        let words = Words {
            snapshot,
            census: Census::new(snapshot),
            direction,
            governed: entry,
            peer,
            peer_ip,
            destination: connection.destination,
            protocol: connection.protocol,
            port: connection.port,
        };
        walk_tiers(&words, &connection, &ends, verdict, &mut explanation);
    }
    explanation
}

fn walk_tiers(
    words: &Words<'_>,
    connection: &Connection<'_, '_>,
    ends: &Ends<'_>,
    verdict: &DirectionVerdict<'_>,
    explanation: &mut DirectionExplanation,
) {
    let admin = admin::walk(words, Tier::Admin);
    let (policies, nearest) = network_policies(words, connection);
    let baseline = admin::walk(words, Tier::Baseline);
    let by_admin = matches!(verdict.decision, Decision::Admin(by) if by.policy.tier == Tier::Admin);
    let isolated = !isolation_of(words.direction, words.governed)
        .policies
        .is_empty();
    let own = words.direction;
    explanation.tiers = vec![
        TierExplanation {
            tier: TierName::Admin,
            present: !matches!(admin.came_to, CameTo::Empty),
            says: tier_says(&admin.came_to, ends, verdict, Tier::Admin),
        },
        TierExplanation {
            tier: TierName::NetworkPolicy,
            present: true,
            says: if by_admin {
                "not reached: the Admin tier has decided".to_owned()
            } else if !isolated {
                format!("no NetworkPolicy selects {} for {own}", ends.governed)
            } else {
                match verdict.decision {
                    Decision::Rule(_) | Decision::NoRule | Decision::Exempt => {
                        explanation.because.clone()
                    }
                    Decision::Admin(_) | Decision::NotGoverned | Decision::NotIsolated => format!(
                        "{} select {} for {own}",
                        counted(policies.len(), "NetworkPolicy", "NetworkPolicies"),
                        ends.governed
                    ),
                }
            },
        },
        TierExplanation {
            tier: TierName::Baseline,
            present: !matches!(baseline.came_to, CameTo::Empty),
            says: if matches!(baseline.came_to, CameTo::Empty) {
                tier_says(&baseline.came_to, ends, verdict, Tier::Baseline)
            } else if by_admin {
                "not reached: the Admin tier has decided".to_owned()
            } else if isolated {
                format!(
                    "not reached: {} isolated by NetworkPolicies",
                    is(&ends.governed)
                )
            } else {
                tier_says(&baseline.came_to, ends, verdict, Tier::Baseline)
            },
        },
    ];
    if matches!(verdict.decision, Decision::NoRule) {
        explanation.nearest = nearest;
    }
    explanation.policies = admin.policies;
    explanation.policies.extend(policies);
    explanation.policies.extend(baseline.policies);
    explanation.notes = notes::notes(words, verdict.expectation);
}

fn is(who: &str) -> String {
    format!("{who} is")
}

/// `1 policy`, `2 policies`.
fn counted(number: usize, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

fn tier_says(
    came_to: &CameTo,
    ends: &Ends<'_>,
    verdict: &DirectionVerdict<'_>,
    tier: Tier,
) -> String {
    // What the engine says goes first: it is the verdict.
    if let Decision::Admin(by) = verdict.decision
        && by.policy.tier == tier
    {
        let does = match verdict.expectation {
            Expectation::Allow => "allows it",
            Expectation::Deny | Expectation::Unknown(UnknownReason::RefusedPolicy) => "denies it",
            Expectation::Unknown(_) => "may decide it, which the API leaves open",
        };
        return format!("{} {does}", rule_name(by.policy, ends.direction, by.rule));
    }
    match came_to {
        CameTo::Empty => "the cluster has no policy of this tier".to_owned(),
        CameTo::NobodySelects(held) => format!(
            "none of {} of this tier selects {}",
            counted(*held, "policy", "policies"),
            ends.governed
        ),
        CameTo::NoMatch(selecting) => format!(
            "{} {} {}, and no rule matches",
            counted(*selecting, "policy", "policies"),
            if *selecting == 1 { "selects" } else { "select" },
            ends.governed
        ),
        CameTo::Rule { action, rule } => match action {
            Action::Pass => match tier {
                Tier::Admin => format!("{rule} passes it on to the NetworkPolicies"),
                Tier::Baseline => format!("{rule} passes it on"),
            },
            Action::Allow => format!("{rule} allows it"),
            Action::Deny => format!("{rule} denies it"),
        },
    }
}

/// The NetworkPolicies that isolate the end, and the rule that is nearest to admitting.
fn network_policies(
    words: &Words<'_>,
    connection: &Connection<'_, '_>,
) -> (Vec<PolicyExplanation>, Option<String>) {
    let direction = words.direction;
    let entry: &PodEntry = words.governed;
    let policies = &isolation_of(direction, entry).policies;
    let mut lines: Vec<Vec<String>> = vec![Vec::new(); policies.len()];
    let mut nearest: Option<(usize, String)> = None;
    let mut written = 0;
    let mut left_out = 0;
    for (position, index, level) in walk(direction, entry, connection) {
        written += 1;
        if written > MOST_LINES && level == Admits::No {
            left_out += 1;
            continue;
        }
        let (Some(policy), Some(lines)) = (policies.get(position), lines.get_mut(position)) else {
            continue;
        };
        let rules = match direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        let Some(rule) = rules.get(index) else {
            continue;
        };
        let rule = words.rule(index, rule, level, &policy.id.namespace);
        lines.push(rule.line);
        if let Some(Miss { distance, text }) = rule.miss
            // What lacks two things is not near.
            && distance < 2 * WHOLE
            && nearest.as_ref().is_none_or(|(least, _)| distance < *least)
        {
            nearest = Some((
                distance,
                format!("rule {index} of policy {}: {text}", policy.id),
            ));
        }
    }
    let mut shown: Vec<PolicyExplanation> = policies
        .iter()
        .zip(lines)
        // Of too many, only those that say something.
        .filter(|(_, rules)| left_out == 0 || !rules.is_empty())
        .map(|(policy, mut rules)| {
            if rules.is_empty() {
                rules.push(format!("it has no {direction} rules, so it admits nothing"));
            }
            PolicyExplanation {
                policy: policy.id.to_string(),
                kind: "NetworkPolicy".to_owned(),
                tier: TierName::NetworkPolicy,
                priority: None,
                rules,
            }
        })
        .collect();
    if left_out > 0
        && let Some(last) = shown.last_mut()
    {
        last.rules.push(format!(
            "and {left_out} more rules, of this and other policies, that do not"
        ));
    }
    (shown, nearest.map(|(_, text)| text))
}
