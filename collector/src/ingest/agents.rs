//! The agents that are connected right now, and the newest heartbeat of each. In memory only; what must survive
//! goes to the store now and then.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use polproof_proto::v1;
use prost::Message as _;
use tokio_util::sync::CancellationToken;

use crate::finding::Wall;
use crate::store::Heard;

/// An agent sends a heartbeat at least every 5 s; after three of them it is not called connected any more.
pub const STALE_AFTER: Duration = Duration::from_secs(15);
/// Streams that ended because the batch after the same number could not be read, before that batch is given up.
const STRIKES: u32 = 3;

/// What is known of one agent.
#[derive(Debug, Default)]
struct Agent {
    agent_version: String,
    kernel_release: String,
    last_heard: Wall,
    heartbeat: Option<v1::Heartbeat>,
    stream: Option<(u64, CancellationToken)>,
    /// Changed since it was last written to the store.
    unsaved: bool,
}

/// A copy for those who ask.
#[derive(Clone, Debug)]
pub struct Live {
    /// Whether a stream is open and was heard of within [`STALE_AFTER`].
    pub connected: bool,
    /// When anything came from it.
    pub last_heard: Wall,
    /// From its Hello.
    pub agent_version: String,
    /// From its Hello.
    pub kernel_release: String,
    /// The newest.
    pub heartbeat: Option<v1::Heartbeat>,
}

/// All agents by node. Nodes are few (thousands); entries stay until the collector ends.
#[derive(Debug, Default)]
pub struct Agents {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    agents: HashMap<String, Agent>,
    /// By node and spool: after which number a batch could not be read, and how often.
    strikes: HashMap<(String, String), (u64, u32)>,
    streams: u64,
}

impl Agents {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change below is complete in itself, so a panic elsewhere leaves nothing half-done.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a new stream of a node. An earlier one is told to end: two at once are one agent whose old
    /// connection is not dead yet. Returns the stream's number and whether it replaced another.
    pub fn opened(&self, hello: &v1::Hello, end: CancellationToken, now: Wall) -> (u64, bool) {
        let mut inner = self.lock();
        inner.streams += 1;
        let number = inner.streams;
        let agent = inner.agents.entry(hello.node.clone()).or_default();
        agent.agent_version.clone_from(&hello.agent_version);
        agent.kernel_release.clone_from(&hello.kernel_release);
        agent.last_heard = now;
        agent.unsaved = true;
        let earlier = agent.stream.replace((number, end));
        if let Some((_, earlier)) = &earlier {
            earlier.cancel();
        }
        (number, earlier.is_some())
    }

    /// Notes the end of a stream.
    pub fn closed(&self, node: &str, number: u64) {
        if let Some(agent) = self.lock().agents.get_mut(node)
            && agent
                .stream
                .as_ref()
                .is_some_and(|(current, _)| *current == number)
        {
            agent.stream = None;
        }
    }

    /// Notes that something came from a node, and its heartbeat if it was one.
    pub fn heard(&self, node: &str, heartbeat: Option<v1::Heartbeat>, now: Wall) {
        if let Some(agent) = self.lock().agents.get_mut(node) {
            agent.last_heard = now;
            agent.unsaved = true;
            if heartbeat.is_some() {
                agent.heartbeat = heartbeat;
            }
        }
    }

    /// Everything that the store has not heard of yet; of one node, if one is named.
    pub fn unsaved(&self, of: Option<&str>) -> Vec<Heard> {
        self.lock()
            .agents
            .iter_mut()
            .filter(|(node, _)| of.is_none_or(|of| of == node.as_str()))
            .filter_map(|(node, agent)| {
                std::mem::take(&mut agent.unsaved).then(|| Heard {
                    node: node.clone(),
                    agent_version: agent.agent_version.clone(),
                    kernel_release: agent.kernel_release.clone(),
                    at: agent.last_heard,
                    heartbeat: agent.heartbeat.as_ref().map(v1::Heartbeat::encode_to_vec),
                })
            })
            .collect()
    }

    /// What is known of every node.
    pub fn live(&self, now: Wall) -> HashMap<String, Live> {
        self.lock()
            .agents
            .iter()
            .map(|(node, agent)| {
                let live = Live {
                    connected: agent.stream.is_some() && agent.last_heard.until(now) <= STALE_AFTER,
                    last_heard: agent.last_heard,
                    agent_version: agent.agent_version.clone(),
                    kernel_release: agent.kernel_release.clone(),
                    heartbeat: agent.heartbeat.clone(),
                };
                (node.clone(), live)
            })
            .collect()
    }

    /// How many agents are connected.
    pub fn connected(&self, now: Wall) -> usize {
        self.lock()
            .agents
            .values()
            .filter(|agent| agent.stream.is_some() && agent.last_heard.until(now) <= STALE_AFTER)
            .count()
    }

    /// Notes that what came after batch `last` of a spool could not be read; says whether it is time to give that
    /// batch up. Agents resend in order, so a batch that can never be read would stop its agent for good.
    pub fn unreadable(&self, node: &str, instance: &str, last: u64) -> bool {
        let mut inner = self.lock();
        let strikes = inner
            .strikes
            .entry((node.to_owned(), instance.to_owned()))
            .or_insert((last, 0));
        if strikes.0 != last {
            *strikes = (last, 0);
        }
        strikes.1 += 1;
        let give_up = strikes.1 >= STRIKES;
        if give_up {
            inner
                .strikes
                .remove(&(node.to_owned(), instance.to_owned()));
        }
        give_up
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn an_agent_that_is_silent_for_more_than_15_s_is_not_connected() {
        let agents = Agents::default();
        let at = |seconds: i64| Wall((1_800_000_000 + seconds) * Wall::SECOND);
        let hello = v1::Hello {
            node: "n1".to_owned(),
            ..v1::Hello::default()
        };
        let (first, replaced) = agents.opened(&hello, CancellationToken::new(), at(0));
        assert!(!replaced);
        let connected = |now| {
            assert_eq!(agents.live(now)["n1"].connected, agents.connected(now) == 1);
            agents.connected(now) == 1
        };
        assert!(connected(at(15)));
        assert!(!connected(at(16)));
        agents.heard("n1", Some(v1::Heartbeat::default()), at(20));
        assert!(connected(at(35)) && !connected(at(36)));
        // A clock that was set back must not make it look away.
        assert!(connected(at(-100)));
        // The end of a stream that was replaced is not the end of the agent.
        let (second, replaced) = agents.opened(&hello, CancellationToken::new(), at(40));
        assert!(replaced);
        agents.closed("n1", first);
        assert!(connected(at(41)));
        agents.closed("n1", second);
        assert!(!connected(at(41)));
        assert_eq!(agents.live(at(41))["n1"].last_heard, at(40));
    }
}
