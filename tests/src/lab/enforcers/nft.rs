//! One table of nftables, as kube-network-policies, kindnet and the nftables modes of Calico and kube-router load it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::Result;
use polproof_policy::{Direction, Family, Protocol};

use super::emulation::{Loader, Place};
use super::icmp::Limits;
use super::kind::{Fault, Hook, Memory, Stop};
use super::plan::{Guard, Peers, Plan};
use crate::lab::wiring::{CLUSTER_CIDRS, feed};

const TABLE: &str = "inet polproof-lab";

/// See the module.
#[derive(Debug)]
pub(super) struct Nft {
    hook: Hook,
    stop: Stop,
    memory: Memory,
    inert: bool,
    behind_accept: bool,
    limits: Limits,
}

impl Nft {
    pub(super) fn new(hook: Hook, stop: Stop, memory: Memory, faults: &[Fault]) -> Self {
        Self {
            hook,
            stop,
            memory,
            inert: faults.contains(&Fault::Inert),
            behind_accept: faults.contains(&Fault::BehindAccept),
            limits: Limits::new(stop, faults),
        }
    }

    fn script(&self, plans: &[Plan; 2]) -> String {
        // Made, deleted and made again in one transaction: there is no moment without rules.
        let mut text = format!("table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n");
        for plan in plans {
            timed(&mut text, plan.family, "closed", &plan.closed);
            timed(&mut text, plan.family, "open", &plan.open);
        }
        text.push_str("chain guards {\nfib saddr type local return\n");
        for plan in plans.iter().filter(|plan| !plan.closed.is_empty()) {
            let (ip, number) = names(plan.family);
            for side in ["saddr", "daddr"] {
                let _ = writeln!(text, "{ip} {side} @closed{number} drop");
            }
        }
        if self.memory != Memory::PerPacket {
            text.push_str("ct state established,related return\n");
        }
        for plan in plans {
            for guard in &plan.guards {
                let young = plan.open.iter().any(|(ip, _)| *ip == guard.pod);
                self.guard(&mut text, plan.family, guard, young);
            }
            let (ip, _) = names(plan.family);
            for network in &plan.cut_off {
                for side in ["saddr", "daddr"] {
                    let known = members(plan.pods.iter());
                    let but =
                        known.map_or(String::new(), |known| format!("{ip} {side} != {known} "));
                    let _ = writeln!(text, "{ip} {side} {network} {but}drop");
                }
            }
        }
        let (hook, priority) = match self.hook {
            Hook::Forward => ("forward", "filter"),
            Hook::Postrouting => ("postrouting", "mangle"),
        };
        let _ = writeln!(
            text,
            "}}\nchain way_in {{\ntype filter hook {hook} priority {priority}; policy accept;"
        );
        if self.behind_accept {
            for (ip, network) in ["ip", "ip6"].iter().zip(CLUSTER_CIDRS) {
                let _ = writeln!(
                    text,
                    "{ip} saddr {network} accept\n{ip} daddr {network} accept"
                );
            }
        }
        text.push_str(if self.inert {
            "iifname \"cali*\" jump guards\noifname \"cali*\" jump guards\n"
        } else {
            "jump guards\n"
        });
        text.push_str("}\n}\n");
        text
    }

    fn guard(&self, text: &mut String, family: Family, guard: &Guard, young: bool) {
        let (ip, number) = names(family);
        let (own, other) = match guard.direction {
            Direction::Egress => ("saddr", "daddr"),
            Direction::Ingress => ("daddr", "saddr"),
        };
        let _ = write!(text, "{ip} {own} {} ", guard.pod);
        if young {
            let _ = write!(text, "{ip} {own} != @open{number} ");
        }
        match &guard.denied {
            Peers::Only(peers) => {
                if let Some(peers) = members(peers.iter()) {
                    let _ = write!(text, "{ip} {other} {peers} ");
                }
            }
            Peers::AllBut(peers) => {
                if let Some(peers) = members(peers.iter()) {
                    let _ = write!(text, "{ip} {other} != {peers} ");
                }
            }
        }
        let protocol = match guard.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        let stop = match self.stop {
            _ if self.hook == Hook::Postrouting => "drop",
            Stop::TcpReset if guard.protocol == Protocol::Tcp => "reject with tcp reset",
            Stop::Drop | Stop::TcpReset => "drop",
            Stop::AdminProhibited => "reject with icmpx type admin-prohibited",
            Stop::PortUnreachable => "reject with icmpx type port-unreachable",
        };
        let (first, last) = guard.ports;
        let _ = writeln!(text, "{protocol} dport {first}-{last} {stop}");
    }
}

const fn names(family: Family) -> (&'static str, u8) {
    match family {
        Family::V4 => ("ip", 4),
        Family::V6 => ("ip6", 6),
    }
}

fn members<'a>(addresses: impl Iterator<Item = &'a IpAddr>) -> Option<String> {
    let addresses: BTreeSet<String> = addresses.map(ToString::to_string).collect();
    let all: Vec<String> = addresses.into_iter().collect();
    (!all.is_empty()).then(|| format!("{{ {} }}", all.join(", ")))
}

/// A set whose members go at their time.
fn timed(text: &mut String, family: Family, what: &str, members: &[(IpAddr, Instant)]) {
    let (number, kind) = match family {
        Family::V4 => (4, "ipv4_addr"),
        Family::V6 => (6, "ipv6_addr"),
    };
    let _ = writeln!(text, "set {what}{number} {{\ntype {kind}; flags timeout;");
    let elements: Vec<String> = members
        .iter()
        .map(|(ip, until)| {
            let left = until.saturating_duration_since(Instant::now());
            format!("{ip} timeout {}ms", left.as_millis().max(1))
        })
        .collect();
    if !elements.is_empty() {
        let _ = writeln!(text, "elements = {{ {} }}", elements.join(", "));
    }
    text.push_str("}\n");
}

impl Loader for Nft {
    fn load(&mut self, place: &Place<'_>, plans: &[Plan; 2]) -> Result<()> {
        feed(place.netns, "nft", &["-f", "-"], &self.script(plans))?;
        self.limits.raise(place)
    }

    fn unload(&mut self, place: &Place<'_>) -> Result<()> {
        self.limits.restore(place)?;
        feed(
            place.netns,
            "nft",
            &["-f", "-"],
            &format!("delete table {TABLE}\n"),
        )
    }
}
