//! What the agent knows of the network namespaces that it watches: which pod each one is, since when, and
//! whether the witness in it is complete.

use std::net::{IpAddr, SocketAddr};

use polproof_policy::{Protocol, Uid};
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

/// Whether something in the pod's own namespace, behind eth0, may stop or answer a packet before an application does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum InPod {
    /// Netfilter has no rules there (tc and XDP are the hook's business).
    Plain,
    /// It has, or it could not be asked; the text names it.
    Filtered(String),
}

/// An established connection of a pod, as its stack tells (`sock_diag`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OpenSocket {
    /// Transport.
    pub protocol: Protocol,
    /// The pod's end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// Whether the other end opened it: the local port is one that the pod listens on.
    pub inbound: bool,
    /// The socket's cookie: never used again in its namespace.
    pub cookie: u64,
    /// When something last surely got through from the end that opened it to the other; `None` if that is not known. A connection that
    /// was cut stays established for long: only what came through under a policy shows that it outlived it.
    pub heard: Option<Instant>,
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
    /// What filters in the pod's own namespace, asked at attach and again and again.
    InPod {
        /// Which namespace.
        netns: NetnsCookie,
        /// When it was noticed.
        at: Instant,
        /// What it is now.
        filter: InPod,
    },
    /// Packets went unseen for a time: the programs were detached by somebody, and are attached again.
    Gap {
        /// Which namespace.
        netns: NetnsCookie,
        /// The last time at which they were surely attached.
        from: Instant,
        /// When they were attached again.
        to: Instant,
    },
    /// The connections that are established, each time that they are listed.
    Sockets {
        /// Which namespace.
        netns: NetnsCookie,
        /// When.
        at: Instant,
        /// All of them, or some.
        sockets: Vec<OpenSocket>,
        /// Whether these are all: else one that is missing need not have ended.
        complete: bool,
    },
    /// The namespace is gone.
    Gone {
        /// Which namespace.
        netns: NetnsCookie,
        /// When it was noticed.
        at: Instant,
    },
}
