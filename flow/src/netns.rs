//! What the agent knows of the network namespaces that it watches: which pod each one is, since when, and
//! whether the witness in it is complete.

use std::net::IpAddr;

use polproof_policy::Uid;
use serde::{Deserialize, Serialize};

use crate::record::{Instant, NetnsCookie};

/// Whether our programs are the only ones on the pod's eth0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hook {
    /// Nothing else is attached to eth0: tcx, tc filters and XDP were asked.
    Exclusive,
    /// Something else is, or it could not be asked; the text names it.
    Shared(String),
}

/// News of one network namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetnsEvent {
    /// The programs are attached.
    Attached {
        /// Which namespace.
        netns: NetnsCookie,
        /// From when on every packet is seen.
        since: Instant,
        /// Addresses of eth0.
        addresses: Vec<IpAddr>,
        /// What else sits on eth0.
        hook: Hook,
    },
    /// The namespace is this pod's.
    Identified {
        /// Which namespace.
        netns: NetnsCookie,
        /// The pod.
        pod: Uid,
    },
    /// The witnesses for the pod contradict each other (say, cgroup and address): no verdict.
    Contradicted {
        /// Which namespace.
        netns: NetnsCookie,
        /// The contradiction.
        why: String,
    },
    /// The hook was asked again and has changed.
    HookChanged {
        /// Which namespace.
        netns: NetnsCookie,
        /// When it was noticed.
        at: Instant,
        /// What it is now.
        hook: Hook,
    },
    /// The namespace is gone.
    Gone {
        /// Which namespace.
        netns: NetnsCookie,
        /// When it was noticed.
        at: Instant,
    },
}
