//! What agents ask and say, free of the wire. Times are of the clock that the holder says: the asker's, ours, or that of the asked one.

use std::net::SocketAddr;

use polproof_flow::witness::{Gap, Seen, Side};
use polproof_policy::Protocol;

use crate::finding::Wall;

/// A question of an agent, and whom to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inquiry {
    /// The asker's number.
    pub id: u64,
    /// The node to ask; empty for every node.
    pub node: String,
    /// What is asked.
    pub question: Question,
}

/// What is asked of the witness at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// Whose word is wanted.
    pub side: Side,
    /// Transport.
    pub protocol: Protocol,
    /// ISN or initiate tag.
    pub tag: u32,
    /// Who connects, as the asker saw it.
    pub client: SocketAddr,
    /// To whom, as the asker saw it.
    pub server: SocketAddr,
    /// UID of the pod that must have seen it; empty if unknown.
    pub pod: String,
    /// UID of the asker's pod; empty if unknown.
    pub asker: String,
    /// First packet.
    pub first: Wall,
    /// Last packet.
    pub last: Wall,
}

/// What a witness says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Word {
    /// It crossed the eth0 of a pod.
    Seen(Sighting),
    /// It did not; and what did, at that time.
    NotSeen(Option<Control>),
    /// Nobody can tell.
    Incomplete(Gap),
}

/// An attempt as the other witness saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Namespace, name and UID of the pod.
    pub pod: Option<(String, String, String)>,
    /// Who connects.
    pub client: SocketAddr,
    /// To whom.
    pub server: SocketAddr,
    /// First packet.
    pub first: Wall,
    /// What became of it.
    pub outcome: Seen,
}

/// Another attempt that got through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Control {
    /// When.
    pub at: Wall,
    /// Who connected.
    pub client: SocketAddr,
    /// To what.
    pub server: SocketAddr,
}

fn shifted(at: Wall, by: i64) -> Wall {
    // Before 1970 there is nothing to ask about, and the wire has no such time.
    Wall(at.0.saturating_add(by).max(0))
}

impl Question {
    /// The same by another clock.
    #[must_use]
    pub fn shifted(mut self, by: i64) -> Self {
        self.first = shifted(self.first, by);
        self.last = shifted(self.last, by);
        self
    }
}

impl Word {
    /// The same by another clock.
    #[must_use]
    pub fn shifted(self, by: i64) -> Self {
        match self {
            Self::Seen(mut seen) => {
                seen.first = shifted(seen.first, by);
                Self::Seen(seen)
            }
            Self::NotSeen(control) => Self::NotSeen(control.map(|mut control| {
                control.at = shifted(control.at, by);
                control
            })),
            Self::Incomplete(gap) => Self::Incomplete(gap),
        }
    }

    /// For the figures.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Seen(_) => "seen",
            Self::NotSeen(_) => "not_seen",
            Self::Incomplete(Gap::NoAgent) => "no_agent",
            Self::Incomplete(Gap::TimedOut) => "timed_out",
            Self::Incomplete(Gap::Overloaded) => "overloaded",
            Self::Incomplete(Gap::PodUnknown) => "pod_unknown",
            Self::Incomplete(Gap::HookShared) => "hook_shared",
            Self::Incomplete(Gap::NotAttached) => "not_attached",
            Self::Incomplete(Gap::RecordsLost) => "records_lost",
            Self::Incomplete(Gap::Unparsed) => "unparsed",
            Self::Incomplete(Gap::TooOld) => "too_old",
            Self::Incomplete(Gap::NotSampled) => "not_sampled",
        }
    }
}
