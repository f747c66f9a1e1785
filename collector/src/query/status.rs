//! The status of every node, and what may be claimed of it.

use std::time::Duration;

use polproof_proto::v1;
use prost::Message as _;
use tonic::Status;

use super::Query;
use super::enforcement::{Sight, enforcement, overall};
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
        let sight = Sight::of(&stored, now);
        let tried = self
            .store
            .tried(sight.counted_since)
            .await
            .map_err(|error| self.failed(&error))?;
        let nodes: Vec<v1::NodeStatus> = stored
            .into_iter()
            .map(|node| {
                let live = live.remove(&node.node);
                node_status(node, live, now, self.recent_window)
            })
            .collect();
        let overall = overall(&nodes, &sight, tried, now, self.recent_window);
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

pub(super) fn node_status(
    node: Node,
    live: Option<Live>,
    now: Wall,
    window: Duration,
) -> v1::NodeStatus {
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
        kernel: heartbeat.kernel,
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
        exposure: Some(convert::exposure(&node.exposure)),
        stopped_since: node.stopped_since,
        stopped_recent: node.stopped_recent,
        kinds: node.kinds.iter().map(convert::kind_count).collect(),
        violations_standing: node.violations_standing,
    }
}
