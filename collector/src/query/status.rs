//! The status of every node, and what may be claimed of it.

use std::time::Duration;

use polproof_proto::v1;
use prost::Message as _;
use tonic::Status;

use super::Query;
use crate::convert;
use crate::finding::Wall;
use crate::ingest::agents::Live;
use crate::store::Node;

impl Query {
    pub(super) async fn status(&self) -> Result<v1::GetStatusResponse, Status> {
        let now = Wall::now();
        let stored = self
            .store
            .nodes(now.minus(self.recent_window))
            .await
            .map_err(|error| self.failed(&error))?;
        let mut live = self.agents.live(now);
        let nodes = stored
            .into_iter()
            .map(|node| {
                let live = live.remove(&node.node);
                node_status(node, live, now, self.recent_window)
            })
            .collect();
        Ok(v1::GetStatusResponse {
            collector_version: env!("CARGO_PKG_VERSION").to_owned(),
            now: Some(convert::timestamp(now)),
            nodes,
            snapshot: self.snapshot_state(),
            recent_window_seconds: u32::try_from(self.recent_window.as_secs()).unwrap_or(u32::MAX),
        })
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
        Some(last) if last >= now.minus(window) => {
            let count = node.violations_recent.max(1);
            (
                v1::EnforcementState::NotEnforced,
                format!(
                    "{count} denied {} delivered in the last {}",
                    if count == 1 {
                        "connection was"
                    } else {
                        "connections were"
                    },
                    seconds(window)
                ),
            )
        }
        last => {
            let since = match last {
                Some(last) => format!("the last violation, {} ago", seconds(last.until(now))),
                None => "the agent was first heard of".to_owned(),
            };
            let reason = if unanswered > 0 {
                format!(
                    "{unanswered} denied attempts left pods and none was seen delivered since {since}; a positive \
                     control comes with probes"
                )
            } else if last.is_some() {
                format!("no traffic tested a policy since {since}")
            } else {
                "no traffic tested a policy".to_owned()
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
            (None, 0, v1::EnforcementState::Unproven, "no traffic tested"),
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
                "no traffic tested a policy since the last violation, 10 min ago",
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
}
