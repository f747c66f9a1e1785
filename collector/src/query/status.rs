//! The status of every node, and what may be claimed of it.

use std::time::Duration;

use polproof_proto::v1;
use prost::Message as _;
use tonic::Status;

use super::Query;
use crate::convert;
use crate::finding::Wall;
use crate::ingest::agents::Live;
use crate::store::{ACTIVITY_KEPT, Node};

impl Query {
    pub(super) async fn status(&self) -> Result<v1::GetStatusResponse, Status> {
        let now = Wall::now();
        let stored = self
            .store
            .nodes(now.minus(self.recent_window))
            .await
            .map_err(|error| self.failed(&error))?;
        let mut live = self.agents.live(now);
        let sight = Sight::of(&stored, now);
        let unanswered = self
            .store
            .unanswered(sight.counted_since)
            .await
            .map_err(|error| self.failed(&error))?;
        let nodes: Vec<v1::NodeStatus> = stored
            .into_iter()
            .map(|node| {
                let live = live.remove(&node.node);
                node_status(node, live, now, self.recent_window)
            })
            .collect();
        let overall = overall(&nodes, &sight, unanswered, now, self.recent_window);
        Ok(v1::GetStatusResponse {
            overall: Some(overall),
            collector_version: env!("CARGO_PKG_VERSION").to_owned(),
            now: Some(convert::timestamp(now)),
            nodes,
            snapshot: self.snapshot_state(),
            recent_window_seconds: u32::try_from(self.recent_window.as_secs()).unwrap_or(u32::MAX),
        })
    }
}

/// An attempt is given up 8 s after its first packet, and reported soon after: what is reported this long after a
/// violation began after it, clocks that differ a little included.
const MARGIN: Duration = Duration::from_secs(30);

/// Since when nothing was seen that disproves enforcement, on any node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Sight {
    last_violation: Option<(Wall, String)>,
    first_heard: Option<Wall>,
    /// Unanswered attempts reported after this began after the last violation.
    counted_since: Wall,
}

impl Sight {
    fn of(nodes: &[Node], now: Wall) -> Self {
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
fn overall(
    nodes: &[v1::NodeStatus],
    sight: &Sight,
    unanswered: u64,
    now: Wall,
    window: Duration,
) -> v1::OverallStatus {
    let failing = nodes
        .iter()
        .filter(|node| node.enforcement() == v1::EnforcementState::NotEnforced)
        .count();
    let away = nodes.iter().filter(|node| !node.connected).count();
    let recent = nodes
        .iter()
        .map(|node| node.violations_recent)
        .fold(0, u64::saturating_add);
    let (state, mut reason) = if failing > 0 {
        (
            v1::EnforcementState::NotEnforced,
            format!(
                "{} in the last {} on {failing} of {} nodes",
                delivered(recent.max(1)),
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
        let reason = if unanswered > 0 {
            format!(
                "{} left pods {since}, and none was seen delivered; a proof needs probes, with a positive control",
                if unanswered == 1 {
                    "1 denied attempt".to_owned()
                } else {
                    format!("{unanswered} denied attempts")
                }
            )
        } else {
            format!("no denied attempt left a pod {since}, so nothing tested the policies")
        };
        (v1::EnforcementState::Unproven, reason)
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
        denied_unanswered: unanswered,
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
    }
}

fn delivered(count: u64) -> String {
    if count == 1 {
        "1 denied connection was delivered".to_owned()
    } else {
        format!("{count} denied connections were delivered")
    }
}

fn node_status(node: Node, live: Option<Live>, now: Wall, window: Duration) -> v1::NodeStatus {
    let (enforcement, reason) = enforcement(&node, now, window);
    let heartbeat = live
        .as_ref()
        .and_then(|live| live.heartbeat.clone())
        // After a restart the agent's last words are those that were stored.
        .or_else(|| v1::Heartbeat::decode(node.heartbeat.as_deref()?).ok())
        .unwrap_or_default();
    let last_heard = live
        .as_ref()
        .map_or(node.last_heard, |live| live.last_heard.max(node.last_heard));
    let (agent_version, kernel_release) = match &live {
        Some(live) => (live.agent_version.clone(), live.kernel_release.clone()),
        None => (node.agent_version, node.kernel_release),
    };
    v1::NodeStatus {
        node: node.node,
        agent_version,
        kernel_release,
        connected: live.is_some_and(|live| live.connected),
        last_heartbeat: Some(convert::timestamp(last_heard)),
        coverage: heartbeat.coverage,
        loss: heartbeat.loss,
        cni: heartbeat.cni,
        snapshot: heartbeat.snapshot,
        judged: Some(convert::judged(&node.judged)),
        inconclusive: node
            .inconclusive
            .into_iter()
            .map(|(reason, count)| v1::InconclusiveCount { reason, count })
            .collect(),
        batches_missing: node.batches_missing,
        findings: node.findings,
        violations: node.violations,
        last_violation: node.last_violation.map(convert::timestamp),
        enforcement: enforcement.into(),
        enforcement_reason: reason,
        first_heard: Some(convert::timestamp(node.first_heard)),
        findings_refused: node.findings_refused,
        violations_recent: node.violations_recent,
    }
}

/// What one witness allows to claim. A violation disproves enforcement; silence proves nothing, and a denied attempt
/// that died may have died of anything: "enforced" needs a second witness or a probe, and a positive control.
fn enforcement(node: &Node, now: Wall, window: Duration) -> (v1::EnforcementState, String) {
    let unanswered = node.unanswered_since;
    match node.last_violation {
        Some(last) if last >= now.minus(window) => (
            v1::EnforcementState::NotEnforced,
            format!(
                "{} in the last {}",
                delivered(node.violations_recent.max(1)),
                seconds(window)
            ),
        ),
        last => {
            let since = match last {
                Some(last) => format!("the last violation, {} ago", seconds(last.until(now))),
                None => "the agent was first heard of".to_owned(),
            };
            let reason = if unanswered > 0 {
                format!(
                    "{unanswered} denied attempts left its pods unanswered since {since}, and none was seen \
                     delivered to them; a proof needs probes, with a positive control"
                )
            } else {
                format!(
                    "no denied attempt left its pods since {since}, and none was seen delivered to them"
                )
            };
            (v1::EnforcementState::Unproven, reason)
        }
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
mod tests {
    use super::*;

    #[test]
    fn silence_is_never_called_enforced() {
        let now = Wall(1_800_000_000 * Wall::SECOND);
        let window = Duration::from_secs(60);
        let ago = |s: u64| Some(now.minus(Duration::from_secs(s)));
        for (last_violation, unanswered_since, state, said) in [
            (
                None,
                0,
                v1::EnforcementState::Unproven,
                "no denied attempt left its pods",
            ),
            (
                None,
                9,
                v1::EnforcementState::Unproven,
                "9 denied attempts left",
            ),
            (
                ago(5),
                0,
                v1::EnforcementState::NotEnforced,
                "3 denied connections were delivered in the last 60 s",
            ),
            (ago(5), 9, v1::EnforcementState::NotEnforced, "delivered"),
            (ago(60), 9, v1::EnforcementState::NotEnforced, "delivered"),
            (
                ago(61),
                9,
                v1::EnforcementState::Unproven,
                "the last violation, 61 s ago",
            ),
            (
                ago(600),
                0,
                v1::EnforcementState::Unproven,
                "since the last violation, 10 min ago",
            ),
        ] {
            let node = Node {
                last_violation,
                unanswered_since,
                violations_recent: 3,
                ..Node::default()
            };
            let (got, reason) = enforcement(&node, now, window);
            assert_eq!(got, state, "{reason}");
            assert!(reason.contains(said), "{reason}");
        }
    }

    #[test]
    fn the_cluster_is_more_than_its_nodes() {
        let now = Wall(1_800_000_000 * Wall::SECOND);
        let ago = |s: u64| now.minus(Duration::from_secs(s));
        let window = Duration::from_secs(60);
        // The client's node n1 saw attempts leave, the server's node n2 saw violations. Last violation of n2, attempts
        // unanswered, violations of n2 in the window; what is said.
        for (last, unanswered, recent, connected, said) in [
            (
                Some(300),
                42,
                0,
                true,
                "42 denied attempts left pods since the last violation anywhere (5 min ago, node n2), and none was",
            ),
            (Some(300), 0, 0, true, "no denied attempt left a pod since"),
            (
                Some(200_000),
                1,
                0,
                true,
                "1 denied attempt left pods in the last 24 h",
            ),
            (
                None,
                1,
                0,
                true,
                "since the first agent was heard of (16 min ago)",
            ),
            (None, 1, 0, false, "2 of 2 agents away"),
            (
                Some(5),
                9,
                3,
                true,
                "3 denied connections were delivered in the last 60 s on 1 of 2 nodes",
            ),
        ] {
            let stored: Vec<Node> = ["n1", "n2"]
                .into_iter()
                .map(|name| Node {
                    node: name.to_owned(),
                    first_heard: ago(1_000),
                    last_violation: last.filter(|_| name == "n2").map(ago),
                    violations_recent: if name == "n2" { recent } else { 0 },
                    ..Node::default()
                })
                .collect();
            let sight = Sight::of(&stored, now);
            assert!(sight.counted_since >= now.minus(ACTIVITY_KEPT));
            let nodes: Vec<_> = stored
                .into_iter()
                .map(|node| v1::NodeStatus {
                    connected,
                    ..node_status(node, None, now, window)
                })
                .collect();
            let overall = overall(&nodes, &sight, unanswered, now, window);
            assert!(overall.reason.contains(said), "{said}: {}", overall.reason);
            assert_eq!(
                overall.enforcement() == v1::EnforcementState::NotEnforced,
                recent > 0
            );
        }
    }
}
