//! The connections of a pod, as the stack in its own network namespace tells them (`sock_diag`): those that were there before
//! the agent, or before a policy.
//!
//! ```text
//! diag (netlink, one dump for each protocol and family) --> here() --> flow::netns::OpenSocket
//! ```
//!
//! It refuses to guess who opened a connection: the kernel does not tell, a port that is listened on does, and so does one that
//! is chosen for those that connect. Where neither is certain the connection is left out, and counted.
//!
//! # Cost
//!
//! The kernel walks its one table of the node's connections for each namespace that is asked for. So a node's work grows with
//! pods times connections, and whoever asks must pause in proportion to the time that it took.

mod diag;

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;

use polproof_flow::netns::OpenSocket;
use polproof_flow::record::Instant;
use polproof_policy::Protocol;

use diag::{Entry, PROTOCOLS};

use crate::observe::now;

/// At most so many connections of one namespace are told.
pub const MAX_SOCKETS: usize = 4_096;

/// What was found in one namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// When.
    pub at: Instant,
    /// At most [`MAX_SOCKETS`].
    pub sockets: Vec<OpenSocket>,
    /// Whether these are all of which it is certain who opened them: one that is missing has ended then.
    pub complete: bool,
    /// Connections beyond that.
    pub left_out: u64,
    /// Connections of which it is not certain who opened them.
    pub undecided: u64,
    /// Ports listened on, to be given to the next listing: a connection outlives its listener.
    pub listening: HashSet<(Protocol, u16)>,
}

/// Lists the connections of the calling thread's namespace from and to `addresses`, eth0's: others are not made over the
/// cluster's network. `listened` are ports that were listened on before.
///
/// # Errors
/// The kernel does not answer.
pub fn here(addresses: &[IpAddr], listened: HashSet<(Protocol, u16)>) -> io::Result<Listing> {
    let mut listing = Listing {
        at: now(),
        listening: listened,
        ..Listing::default()
    };
    if addresses.is_empty() {
        return Ok(listing);
    }
    listing.complete = true;
    let ephemeral = Ephemeral::here();
    let mut found: Vec<(Protocol, Entry)> = Vec::new();
    for protocol in PROTOCOLS {
        for family in [libc::AF_INET6, libc::AF_INET] {
            listing.complete &= diag::dump(protocol, family, |entry| {
                if !entry.connected {
                    listing.listening.insert((protocol, entry.local.port()));
                } else if is_of_interest(&entry, addresses) {
                    if found.len() < MAX_SOCKETS {
                        found.push((protocol, entry));
                    } else {
                        listing.left_out += 1;
                    }
                }
            })?;
        }
    }
    listing.complete &= listing.left_out == 0;
    listing.sockets.reserve_exact(found.len());
    for (protocol, entry) in found {
        let listened = listing.listening.contains(&(protocol, entry.local.port()));
        let Some(inbound) = ephemeral.inbound(&entry, listened) else {
            listing.undecided += 1;
            continue;
        };
        listing.sockets.push(OpenSocket {
            protocol,
            local: entry.local,
            remote: entry.remote,
            inbound,
            cookie: entry.cookie,
            heard: entry.quiet.map(|quiet| {
                listing.at.minus(if inbound {
                    quiet.inwards
                } else {
                    quiet.outwards
                })
            }),
        });
    }
    Ok(listing)
}

/// Whether a policy may speak of it.
fn is_of_interest(entry: &Entry, addresses: &[IpAddr]) -> bool {
    let remote = entry.remote.ip();
    let is_near = match remote {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_multicast(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_multicast(),
    };
    // A pod to itself is exempt.
    !is_near && addresses.contains(&entry.local.ip()) && !addresses.contains(&remote)
}

/// The range of ports that the kernel chooses for those who connect.
#[derive(Clone, Copy, Debug)]
struct Ephemeral {
    first: u16,
    last: u16,
}

impl Ephemeral {
    /// That of the calling thread's namespace.
    fn here() -> Self {
        let read = || {
            // The kernel answers for the namespace of the thread that reads.
            let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").ok()?;
            let mut numbers = text.split_whitespace().map(str::parse);
            Some(Self {
                first: numbers.next()?.ok()?,
                last: numbers.next()?.ok()?,
            })
        };
        // The kernel's default.
        read().unwrap_or(Self {
            first: 32_768,
            last: 60_999,
        })
    }

    fn has(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }

    /// Whether the other end opened it, if that is certain. A listener may have gone (a passive FTP server listens for one
    /// connection, on a port of this range), so two such ports tell nothing.
    fn inbound(self, entry: &Entry, listened: bool) -> Option<bool> {
        if listened {
            return Some(true);
        }
        (self.has(entry.local.port()) && !self.has(entry.remote.port())).then_some(false)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn entry(local: &str, remote: &str) -> Entry {
        Entry {
            connected: true,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
            cookie: 1,
            quiet: None,
        }
    }

    #[test]
    fn who_connected_is_told_by_a_listener_or_by_the_ports_and_else_not() {
        let ephemeral = Ephemeral {
            first: 32_768,
            last: 60_999,
        };
        let ask = |local: &str, remote: &str, listened| {
            ephemeral.inbound(&entry(local, remote), listened)
        };
        assert_eq!(ask("10.0.0.1:80", "10.0.0.2:40000", true), Some(true));
        assert_eq!(ask("10.0.0.1:40000", "10.0.0.2:80", false), Some(false));
        // The listener has gone.
        assert_eq!(ask("10.0.0.1:80", "10.0.0.2:40000", false), None);
        assert_eq!(ask("10.0.0.1:40001", "10.0.0.2:40000", false), None);
        assert_eq!(ask("10.0.0.1:40001", "10.0.0.2:40000", true), Some(true));
    }

    #[test]
    fn only_the_cluster_network_is_of_interest() {
        let own: Vec<IpAddr> = ["10.0.0.1", "fd00::1"]
            .iter()
            .map(|ip| ip.parse().unwrap())
            .collect();
        let ask = |local: &str, remote: &str| is_of_interest(&entry(local, remote), &own);
        assert!(ask("10.0.0.1:1", "10.0.0.2:1"));
        assert!(ask("[fd00::1]:1", "[fd00::2]:1"));
        for (local, remote) in [
            ("127.0.0.1:1", "127.0.0.1:2"),
            ("10.0.0.1:1", "10.0.0.1:2"),
            ("10.0.0.1:1", "127.0.0.1:2"),
            ("192.168.5.1:1", "192.168.5.2:1"),
            ("[fe80::1]:1", "[fe80::2]:1"),
            ("[fd00::1]:1", "[fe80::2]:1"),
        ] {
            assert!(!ask(local, remote), "{local} {remote}");
        }
    }
}
