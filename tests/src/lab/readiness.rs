//! When a scenario may begin: every agent watches every pod of its node, has seen the last change, and its grace is over.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use anyhow::Result;
use polproof_proto::v1::{GetStatusResponse, NodeStatus};
use serde_json::Value;

use super::{Lab, Stop, wait_for};

/// An agent's manifests are read again at the latest this long after a change.
const NOTICE: Duration = Duration::from_secs(1);

impl Lab {
    /// Waits until every agent is connected, watches all its pods, and has a view that is older than the
    /// grace time. What is denied then, and delivered, must be accused.
    ///
    /// # Errors
    /// When that is not so after `limit`: with what is missing.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let mut expected: BTreeMap<String, u64> = self
            .nodes
            .iter()
            .map(|node| (node.name().to_owned(), 0))
            .collect();
        let (mut pods, mut policies, mut others) = (0, 0, 0);
        for object in self.manifests.objects()? {
            match object.get("kind").and_then(Value::as_str) {
                Some("NetworkPolicy") => policies += 1,
                Some(kind) if kind.ends_with("NetworkPolicy") => others += 1,
                Some("Pod") => {
                    pods += 1;
                    let node = object.pointer("/spec/nodeName").and_then(Value::as_str);
                    if let Some(count) = node.and_then(|node| expected.get_mut(node)) {
                        *count += 1;
                    }
                }
                _ => {}
            }
        }
        let seen_by = self.manifests.changed() + NOTICE;
        let mut why = String::from("the collector does not answer");
        let ready = wait_for(limit, "every agent is ready", || {
            for node in &mut self.nodes {
                if let Some(agent) = &mut node.agent {
                    agent.check().map_err(Stop::from)?;
                }
            }
            let Some(Ok(status)) = self.questions.as_ref().map(super::Questions::status) else {
                return Ok(None);
            };
            let lacking: Vec<String> = expected
                .iter()
                .filter_map(|(node, watched)| {
                    lacks(&status, node, *watched, (pods, policies, others), seen_by)
                })
                .collect();
            why = lacking.join("; ");
            Ok(lacking.is_empty().then_some(()))
        });
        ready.map_err(|error| error.context(why))?;
        // Not a guess: the agents were ready just now, and judge from a grace time later on.
        std::thread::sleep(self.setup.grace + Duration::from_millis(300));
        Ok(())
    }
}

fn lacks(
    status: &GetStatusResponse,
    name: &str,
    watched: u64,
    (pods, policies, others): (u64, u64, u64),
    seen_by: SystemTime,
) -> Option<String> {
    let Some(node) = status.nodes.iter().find(|node| node.node == name) else {
        return Some(format!("{name} was never heard of"));
    };
    if !node.connected {
        return Some(format!("{name} is not connected"));
    }
    if heard(node).is_none_or(|at| at < seen_by) {
        return Some(format!("{name} has not spoken since the last change"));
    }
    let view = node.snapshot.clone().unwrap_or_default();
    let seen: u64 = view.other_policies.iter().map(|of| of.count).sum();
    if !view.ready || (view.pods, view.policies, seen) != (pods, policies, others) {
        return Some(format!(
            "{name} does not see {pods} pods, {policies} policies and {others} of other kinds: {view:?}"
        ));
    }
    let coverage = node.coverage.clone().unwrap_or_default();
    if coverage.pods_watched != watched || coverage.pods_expected != watched {
        return Some(format!(
            "{name} does not watch its {watched} pods: {coverage:?}"
        ));
    }
    None
}

/// When the node's agent spoke last, by its own clock (which is the lab's too).
fn heard(node: &NodeStatus) -> Option<SystemTime> {
    SystemTime::try_from(node.last_heartbeat?).ok()
}
