//! The node that the agent runs on, as a sender: it may reach its own pods whatever the policies say.

use std::net::IpAddr;
use std::sync::Arc;

use crate::record::Instant;

/// The node that the agent runs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// `metadata.name` of the Node.
    pub(crate) node: Arc<str>,
    /// Addresses of the node's own network namespace, sorted, each with the time at which it was found gone. They may
    /// be thousands where Services are addresses of a local interface.
    addresses: Vec<(IpAddr, Option<Instant>)>,
    /// When the first of those was found gone.
    first_gone: Option<Instant>,
}

impl Here {
    /// A node by name, with every address of its own network namespace.
    pub fn new(node: impl Into<Arc<str>>, addresses: Vec<IpAddr>) -> Self {
        let mut here = Self {
            node: node.into(),
            addresses: Vec::new(),
            first_gone: None,
        };
        here.set(Instant(0), addresses);
        here
    }

    /// Whether an address is the node's, or was until lately.
    pub(crate) fn has(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        self.addresses
            .binary_search_by(|(held, _)| held.cmp(&ip))
            .is_ok()
    }

    /// These are the addresses now. One that is missing stays the node's until it is [expired](Self::expire): packets
    /// that it sent may still have to be judged. Says whether [`Self::has`] changed.
    pub(crate) fn set(&mut self, at: Instant, mut addresses: Vec<IpAddr>) -> bool {
        for ip in &mut addresses {
            *ip = ip.to_canonical();
        }
        addresses.sort_unstable();
        addresses.dedup();
        for (ip, gone) in &mut self.addresses {
            *gone = match addresses.binary_search(ip) {
                Ok(_) => None,
                Err(_) => Some(gone.unwrap_or(at)),
            };
        }
        self.first_gone = self.addresses.iter().filter_map(|(_, gone)| *gone).min();
        addresses.retain(|ip| !self.has(*ip));
        let new = !addresses.is_empty();
        self.addresses
            .extend(addresses.into_iter().map(|ip| (ip, None)));
        self.addresses.sort_unstable_by_key(|(ip, _)| *ip);
        new
    }

    /// Forgets the addresses that were found gone by `until`. Says whether there were any.
    pub(crate) fn expire(&mut self, until: Instant) -> bool {
        if self.first_gone.is_none_or(|gone| gone > until) {
            return false;
        }
        self.addresses
            .retain(|(_, gone)| gone.is_none_or(|gone| gone > until));
        self.first_gone = self.addresses.iter().filter_map(|(_, gone)| *gone).min();
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_come_at_once_and_go_late() {
        let (first, second) = (ip("10.0.0.1"), ip("fd00::1"));
        let mut here = Here::new("n", vec![first, ip("::ffff:10.0.0.1")]);
        assert!(here.has(first) && here.has(ip("::ffff:10.0.0.1")) && !here.has(second));
        assert!(!here.set(Instant(1), vec![first]), "nothing new");
        assert!(here.set(Instant(5), vec![second]));
        assert!(here.has(first) && here.has(second));
        assert!(!here.set(Instant(7), vec![second]));
        assert!(!here.expire(Instant(4)));
        // Gone since the first time that it was missing; back, it is not gone.
        let mut back = here.clone();
        assert!(here.expire(Instant(5)) && !here.has(first) && here.has(second));
        assert!(!back.set(Instant(8), vec![first, second]));
        assert!(!back.expire(Instant(100)) && back.has(first));
    }
}
