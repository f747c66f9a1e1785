//! A question whose ends have been looked up.

use std::net::IpAddr;
use std::sync::Arc;

use super::rules::{Isolation, PodEntry};
use crate::model::{Direction, Labels, Node, Protocol};
use crate::state::RefusedPolicies;

/// One end of a connection, looked up: `'s` lives the snapshot, `'q` the query.
#[derive(Clone, Copy)]
pub(crate) enum End<'s, 'q> {
    /// A living pod with a network of its own.
    Pod(&'s PodEntry),
    /// A living pod on the network of its node.
    Host(&'s PodEntry),
    /// A node.
    Node(&'q str),
    /// Nothing of the cluster, or a pod that is no more.
    External,
}

/// What both directions are asked about.
#[derive(Clone, Copy)]
pub(crate) struct Connection<'s, 'q> {
    pub(crate) source: End<'s, 'q>,
    pub(crate) source_ip: IpAddr,
    pub(crate) destination: End<'s, 'q>,
    pub(crate) destination_ip: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
    pub(crate) refused: &'s RefusedPolicies,
    pub(crate) nodes: &'s imbl::OrdMap<Arc<str>, Arc<Node>>,
}

impl<'s, 'q> Connection<'s, 'q> {
    /// The end that a direction's policies are about.
    #[inline]
    pub(crate) const fn governed(&self, direction: Direction) -> End<'s, 'q> {
        match direction {
            Direction::Egress => self.source,
            Direction::Ingress => self.destination,
        }
    }

    /// The other end.
    #[inline]
    pub(crate) const fn peer(&self, direction: Direction) -> End<'s, 'q> {
        match direction {
            Direction::Egress => self.destination,
            Direction::Ingress => self.source,
        }
    }

    /// The address of the other end.
    #[inline]
    pub(crate) const fn peer_ip(&self, direction: Direction) -> IpAddr {
        match direction {
            Direction::Egress => self.destination_ip,
            Direction::Ingress => self.source_ip,
        }
    }

    /// The labels of a node; a node whose object is not known has none.
    pub(crate) fn node_labels(&self, name: &str) -> Option<&'s Labels> {
        self.nodes.get(name).map(|node| &node.labels)
    }
}

impl End<'_, '_> {
    /// Both ends come from one snapshot, which has one entry a pod.
    #[inline]
    pub(crate) fn is_pod(self, pod: &PodEntry) -> bool {
        match self {
            Self::Pod(entry) | Self::Host(entry) => std::ptr::eq(entry, pod),
            Self::Node(_) | Self::External => false,
        }
    }

    /// Whether it is the node that this pod runs on.
    #[inline]
    pub(crate) fn is_node_of(self, pod: &PodEntry) -> bool {
        let node = match self {
            Self::Node(node) => Some(node),
            Self::Host(entry) => entry.pod.node.as_deref(),
            Self::Pod(_) | Self::External => None,
        };
        node.is_some() && node == pod.pod.node.as_deref()
    }
}

/// What counts for a pod in one direction.
#[inline]
pub(crate) fn isolation_of(direction: Direction, pod: &PodEntry) -> &Isolation {
    match direction {
        Direction::Egress => &pod.egress,
        Direction::Ingress => &pod.ingress,
    }
}
