//! What may be claimed of a node, and of all together.
//!
//! | a violation in the recent window | denied connections proved stopped | a violation that has not ended | claim |
//! | --- | --- | --- | --- |
//! | yes | none in the window | | not enforced |
//! | yes | in the window too | | partial |
//! | no | since the last violation | yes | partial |
//! | no | since the last violation | no | enforced |
//! | no | none | | unproven |
//!
//! Only findings of the kind Unenforced are violations here: denied for long, and delivered. What was late, went through a new pod, survived a
//! change or was blocked is said beside, and disproves nothing. "Since" goes back a day at most: a proof grows old.

use std::time::Duration;

use polproof_proto::v1;

use crate::convert;
use crate::finding::{Kind, Wall};
use crate::store::{ACTIVITY_KEPT, MARGIN, Node, Tried};

/// Since when nothing was seen that disproves enforcement, on any node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Sight {
    last_violation: Option<(Wall, String)>,
    first_heard: Option<Wall>,
    /// What was reported after this began after the last violation.
    pub(super) counted_since: Wall,
}

impl Sight {
    pub(super) fn of(nodes: &[Node], now: Wall) -> Self {
        let last_violation = nodes
            .iter()
            .filter_map(|node| Some((node.last_violation?, node.node.clone())))
            .max();
        let oldest = now.minus(ACTIVITY_KEPT);
        let counted_since = last_violation.as_ref().map_or(oldest, |(last, _)| {
            Wall(
                last.0
                    .saturating_add(MARGIN.as_secs().cast_signed() * Wall::SECOND),
            )
            .max(oldest)
        });
        Self {
            last_violation,
            first_heard: nodes.iter().map(|node| node.first_heard).min(),
            counted_since,
        }
    }
}

/// All nodes together. An attempt leaves a pod of one node and arrives, or does not, at another: only here do the two
/// meet.
pub(super) fn overall(
    nodes: &[v1::NodeStatus],
    sight: &Sight,
    tried: Tried,
    now: Wall,
    window: Duration,
) -> v1::OverallStatus {
    let failing = nodes
        .iter()
        .filter(|node| {
            sight_of(node.last_violation.as_ref()).is_some_and(|last| last >= now.minus(window))
        })
        .count();
    let away = nodes.iter().filter(|node| !node.connected).count();
    let sum = |of: fn(&v1::NodeStatus) -> u64| nodes.iter().map(of).fold(0, u64::saturating_add);
    let recent = sum(|node| node.violations_recent);
    let stopped_recent = sum(|node| node.stopped_recent);
    let standing = sum(|node| node.violations_standing);
    let (state, mut reason) = if failing > 0 {
        not_enforced(
            recent,
            stopped_recent,
            &format!(
                "in the last {} on {failing} of {} nodes",
                seconds(window),
                nodes.len()
            ),
        )
    } else {
        let within_kept = |since: Wall| since >= now.minus(ACTIVITY_KEPT);
        let since = match (&sight.last_violation, sight.first_heard) {
            (Some((last, node)), _) if within_kept(*last) => format!(
                "since the last violation anywhere ({} ago, node {node})",
                seconds(last.until(now))
            ),
            (None, Some(heard)) if within_kept(heard) => {
                format!(
                    "since the first agent was heard of ({} ago)",
                    seconds(heard.until(now))
                )
            }
            _ => "in the last 24 h".to_owned(),
        };
        if tried.stopped > 0 {
            stopped(tried.stopped, standing, &since)
        } else if tried.unanswered > 0 {
            let reason = format!(
                "{} left pods {since}, and none was seen delivered; {PROOF}",
                attempts(tried.unanswered)
            );
            (v1::EnforcementState::Unproven, reason)
        } else {
            let reason =
                format!("no denied attempt left a pod {since}, so nothing tested the policies");
            (v1::EnforcementState::Unproven, reason)
        }
    };
    if away > 0 {
        reason.push_str(&format!(
            "; {away} of {} agents away, and nothing is seen there",
            nodes.len()
        ));
    }
    v1::OverallStatus {
        enforcement: state.into(),
        reason,
        denied_unanswered: tried.unanswered,
        counted_since: Some(convert::timestamp(sight.counted_since)),
        last_violation: sight
            .last_violation
            .as_ref()
            .map(|(last, _)| convert::timestamp(*last)),
        last_violation_node: sight
            .last_violation
            .as_ref()
            .map(|(_, node)| node.clone())
            .unwrap_or_default(),
        violations_recent: recent,
        agents_away: u32::try_from(away).unwrap_or(u32::MAX),
        denied_stopped: tried.stopped,
        violations_standing: standing,
    }
}

fn sight_of(at: Option<&prost_types::Timestamp>) -> Option<Wall> {
    convert::moment("", at.copied()).ok()
}

/// What a node allows to claim. A violation disproves enforcement; silence proves nothing, and a denied attempt that
/// died may have died of anything: "enforced" needs the witnesses of both ends, and a positive control.
pub(super) fn enforcement(
    node: &Node,
    now: Wall,
    window: Duration,
) -> (v1::EnforcementState, String) {
    let (state, mut reason) = match node.last_violation {
        Some(last) if last >= now.minus(window) => not_enforced(
            node.violations_recent,
            node.stopped_recent,
            &format!("in the last {}", seconds(window)),
        ),
        last => {
            let unanswered = node.unanswered_since;
            let since = match last {
                Some(last) => format!("the last violation, {} ago", seconds(last.until(now))),
                None => "the agent was first heard of".to_owned(),
            };
            if node.stopped_since > 0 {
                let old = last
                    .unwrap_or(node.first_heard)
                    .lt(&now.minus(ACTIVITY_KEPT));
                let since = if old {
                    "in the last 24 h".to_owned()
                } else {
                    format!("since {since}")
                };
                stopped(
                    node.stopped_since,
                    node.violations_standing,
                    &format!("{since}, and none was seen delivered to its pods"),
                )
            } else if unanswered > 0 {
                let reason = format!(
                    "{unanswered} denied attempts left its pods unanswered since {since}, and none was seen \
                     delivered to them; {PROOF}"
                );
                (v1::EnforcementState::Unproven, reason)
            } else {
                let reason = format!(
                    "no denied attempt left its pods since {since}, and none was seen delivered to them"
                );
                (v1::EnforcementState::Unproven, reason)
            }
        }
    };
    reason.push_str(&beside(node, now));
    (state, reason)
}

const PROOF: &str =
    "a proof needs the word of the witness at the other end, and a positive control";

/// A violation in the recent window.
fn not_enforced(recent: u64, stopped: u64, when: &str) -> (v1::EnforcementState, String) {
    // A violation whose batch is being taken back in part is still one.
    let delivered = delivered(recent.max(1));
    if stopped > 0 {
        (
            v1::EnforcementState::Partial,
            format!("{delivered} {when}, and {stopped} proved stopped at the same time"),
        )
    } else {
        (
            v1::EnforcementState::NotEnforced,
            format!("{delivered} {when}"),
        )
    }
}

/// No violation since, and proofs.
fn stopped(count: u64, standing: u64, since: &str) -> (v1::EnforcementState, String) {
    let proof = format!(
        "every denied connection that was tried and could be judged was stopped: {count} proved by both ends {since}"
    );
    if standing == 0 {
        return (v1::EnforcementState::Enforced, proof);
    }
    let (findings, stand) = if standing == 1 {
        ("1 finding".to_owned(), "stands: it was")
    } else {
        (format!("{standing} findings"), "stand: they were")
    };
    (
        v1::EnforcementState::Partial,
        format!("{proof}; but {findings} of before {stand} not seen stopped since"),
    )
}

/// What disproves nothing and should be known all the same.
fn beside(node: &Node, now: Wall) -> String {
    let day = now.minus(ACTIVITY_KEPT);
    let said: Vec<String> = [
        (Kind::LateEnforcement, "enforced late"),
        (Kind::StartupGap, "open while a pod started"),
        (Kind::Survivor, "survived a change of policy"),
        (Kind::OverBlocked, "blocked though allowed"),
        (Kind::ReplyLost, "without its answer though allowed"),
    ]
    .into_iter()
    .filter_map(|(kind, what)| {
        let of = node
            .kinds
            .iter()
            .find(|of| i64::from(of.kind) == kind.number() && of.last >= day)?;
        Some(format!("{} {what}", of.findings))
    })
    .collect();
    if said.is_empty() {
        return String::new();
    }
    format!(
        "; connections of other kinds in the last 24 h: {}",
        said.join(", ")
    )
}

fn delivered(count: u64) -> String {
    if count == 1 {
        "1 denied connection was delivered".to_owned()
    } else {
        format!("{count} denied connections were delivered")
    }
}

fn attempts(count: u64) -> String {
    if count == 1 {
        "1 denied attempt".to_owned()
    } else {
        format!("{count} denied attempts")
    }
}

fn seconds(duration: Duration) -> String {
    match duration.as_secs() {
        s if s < 120 => format!("{s} s"),
        s if s < 7_200 => format!("{} min", s / 60),
        s if s < 172_800 => format!("{} h", s / 3_600),
        s => format!("{} days", s / 86_400),
    }
}

#[cfg(test)]
#[path = "enforcement_tests.rs"]
mod tests;
