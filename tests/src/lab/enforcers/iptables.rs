//! Rules of iptables with ipsets, as Calico, kube-router and Azure NPM load them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context, Result};
use polproof_policy::{Direction, Family, Protocol};

use super::emulation::{Loader, Place};
use super::icmp::Limits;
use super::kind::{Fault, Hook, Memory, Stop};
use super::plan::{Guard, Peers, Plan};
use crate::lab::wiring::{CLUSTER_CIDRS, feed};
use crate::netns::Netns;

const CHAIN: &str = "POLPROOF-LAB";

/// See the module.
#[derive(Debug)]
pub(super) struct Iptables {
    hook: Hook,
    stop: Stop,
    memory: Memory,
    inert: bool,
    behind_accept: bool,
    limits: Limits,
    /// How often rules were loaded; part of the sets' names, since a set in use cannot be replaced.
    generation: u32,
    installed: BTreeSet<String>,
}

impl Iptables {
    pub(super) fn new(hook: Hook, stop: Stop, memory: Memory, faults: &[Fault]) -> Self {
        Self {
            hook,
            stop,
            memory,
            inert: faults.contains(&Fault::Inert),
            behind_accept: faults.contains(&Fault::BehindAccept),
            limits: Limits::new(stop, faults),
            generation: 0,
            installed: BTreeSet::new(),
        }
    }

    const fn table(&self) -> (&'static str, &'static str) {
        match self.hook {
            Hook::Forward => ("filter", "FORWARD"),
            Hook::Postrouting => ("mangle", "POSTROUTING"),
        }
    }

    /// What leads from the hook to the chain, in order.
    fn ways_in(&self, family: Family) -> Vec<String> {
        let [v4, v6] = CLUSTER_CIDRS;
        let network = match family {
            Family::V4 => v4,
            Family::V6 => v6,
        };
        let mut ways = Vec::new();
        if self.behind_accept {
            ways.push(format!("-s {network} -j ACCEPT"));
            ways.push(format!("-d {network} -j ACCEPT"));
        }
        if self.inert {
            ways.push(format!("-i cali+ -j {CHAIN}"));
            ways.push(format!("-o cali+ -j {CHAIN}"));
        } else {
            ways.push(format!("-j {CHAIN}"));
        }
        ways
    }

    fn load_family(&self, place: &Place<'_>, plan: &Plan) -> Result<()> {
        let mut script = Script {
            family: plan.family,
            generation: self.generation,
            sets: BTreeMap::new(),
            timed: String::new(),
            lines: String::new(),
        };
        script.write(plan, self);
        let mut sets = std::mem::take(&mut script.timed);
        for (members, name) in &script.sets {
            let _ = writeln!(sets, "create {name} hash:ip {}", inet(plan.family));
            for ip in members {
                let _ = writeln!(sets, "add {name} {ip}");
            }
        }
        feed(place.netns, "ipset", &["restore"], &sets)?;
        let (table, hook) = self.table();
        let mut jumps = String::new();
        if !self.installed.contains(place.node) {
            for (number, way) in self.ways_in(plan.family).iter().enumerate() {
                let _ = writeln!(jumps, "-I {hook} {} {way}", number + 1);
            }
        }
        // Naming the chain empties it; all of it takes effect at once with COMMIT.
        let text = format!(
            "*{table}\n:{CHAIN} - [0:0]\n{jumps}{}COMMIT\n",
            script.lines
        );
        feed(place.netns, program(plan.family), &["--noflush"], &text)
    }
}

const fn program(family: Family) -> &'static str {
    match family {
        Family::V4 => "iptables-restore",
        Family::V6 => "ip6tables-restore",
    }
}

const fn inet(family: Family) -> &'static str {
    match family {
        Family::V4 => "family inet",
        Family::V6 => "family inet6",
    }
}

impl Loader for Iptables {
    fn load(&mut self, place: &Place<'_>, plans: &[Plan; 2]) -> Result<()> {
        self.generation += 1;
        for plan in plans {
            self.load_family(place, plan)
                .with_context(|| format!("{:?}", plan.family))?;
        }
        if self.installed.insert(place.node.to_owned()) {
            self.limits.raise(place)?;
        }
        destroy_sets(place.netns, |generation| generation != self.generation)
    }

    fn unload(&mut self, place: &Place<'_>) -> Result<()> {
        self.installed.remove(place.node);
        self.limits.restore(place)?;
        let (table, hook) = self.table();
        for family in [Family::V4, Family::V6] {
            let mut text = format!("*{table}\n:{CHAIN} - [0:0]\n");
            for way in self.ways_in(family) {
                let _ = writeln!(text, "-D {hook} {way}");
            }
            let _ = write!(text, "-X {CHAIN}\nCOMMIT\n");
            feed(place.netns, program(family), &["--noflush"], &text)?;
        }
        destroy_sets(place.netns, |_| true)
    }
}

/// Destroys our sets of the generations that `which` selects.
fn destroy_sets(netns: &Netns, which: impl Fn(u32) -> bool) -> Result<()> {
    let output = netns.command("ipset")?.args(["list", "-n"]).output()?;
    let script: String = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|name| {
            name.strip_prefix("polproof-")
                .and_then(|rest| rest.split('-').next()?.parse().ok())
                .is_some_and(&which)
        })
        .map(|name| format!("destroy {name}\n"))
        .collect();
    if script.is_empty() {
        return Ok(());
    }
    feed(netns, "ipset", &["restore"], &script)
}

/// The rules of one node and family as text.
struct Script {
    family: Family,
    generation: u32,
    sets: BTreeMap<BTreeSet<IpAddr>, String>,
    /// Sets whose members go by themselves.
    timed: String,
    lines: String,
}

impl Script {
    fn write(&mut self, plan: &Plan, how: &Iptables) {
        // A node reaches its own pods; FORWARD never sees that, POSTROUTING does.
        self.line("-m addrtype --src-type LOCAL -j RETURN");
        if let Some(closed) = self.timed("closed", &plan.closed) {
            self.line(&format!("-m set --match-set {closed} src -j DROP"));
            self.line(&format!("-m set --match-set {closed} dst -j DROP"));
        }
        if how.memory != Memory::PerPacket {
            self.line("-m conntrack --ctstate ESTABLISHED,RELATED -j RETURN");
        }
        let open = self.timed("open", &plan.open);
        for guard in &plan.guards {
            let young = plan.open.iter().any(|(ip, _)| *ip == guard.pod);
            self.guard(guard, open.as_deref().filter(|_| young), how);
        }
        for network in &plan.cut_off {
            let known = self.set(plan.pods.iter().copied().collect());
            for (flag, side) in [("-s", "src"), ("-d", "dst")] {
                self.line(&format!(
                    "{flag} {network} -m set ! --match-set {known} {side} -j DROP"
                ));
            }
        }
    }

    fn guard(&mut self, guard: &Guard, open: Option<&str>, how: &Iptables) {
        let (flag, own, other) = match guard.direction {
            Direction::Egress => ("-s", "src", "dst"),
            Direction::Ingress => ("-d", "dst", "src"),
        };
        let (first, last) = guard.ports;
        let protocol = match guard.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        };
        let mut rule = format!("{flag} {} -p {protocol} --dport {first}:{last}", guard.pod);
        if let Some(open) = open {
            let _ = write!(rule, " -m set ! --match-set {open} {own}");
        }
        match &guard.denied {
            Peers::Only(peers) => {
                let set = self.set(peers.clone());
                let _ = write!(rule, " -m set --match-set {set} {other}");
            }
            Peers::AllBut(peers) if peers.is_empty() => {}
            Peers::AllBut(peers) => {
                let set = self.set(peers.clone());
                let _ = write!(rule, " -m set ! --match-set {set} {other}");
            }
        }
        self.line(&format!(
            "{rule} {}",
            target(how, guard.protocol, self.family)
        ));
    }

    fn line(&mut self, rule: &str) {
        let _ = writeln!(self.lines, "-A {CHAIN} {rule}");
    }

    fn name(&self, what: &str) -> String {
        let family = match self.family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        format!("polproof-{}-{family}-{what}", self.generation)
    }

    fn set(&mut self, members: BTreeSet<IpAddr>) -> String {
        let name = self.name(&self.sets.len().to_string());
        self.sets.entry(members).or_insert(name).clone()
    }

    /// A set whose members go at their time; ipset counts in seconds.
    fn timed(&mut self, what: &str, members: &[(IpAddr, Instant)]) -> Option<String> {
        if members.is_empty() {
            return None;
        }
        let name = self.name(what);
        let _ = writeln!(
            self.timed,
            "create {name} hash:ip {} timeout 0",
            inet(self.family)
        );
        for (ip, until) in members {
            let left = until.saturating_duration_since(Instant::now());
            let seconds = left.as_millis().div_ceil(1_000).max(1);
            let _ = writeln!(self.timed, "add {name} {ip} timeout {seconds} -exist");
        }
        Some(name)
    }
}

fn target(how: &Iptables, protocol: Protocol, family: Family) -> &'static str {
    match (how.hook, how.stop, family) {
        (Hook::Forward, Stop::TcpReset, _) if protocol == Protocol::Tcp => {
            "-j REJECT --reject-with tcp-reset"
        }
        (Hook::Forward, Stop::AdminProhibited, Family::V4) => {
            "-j REJECT --reject-with icmp-admin-prohibited"
        }
        (Hook::Forward, Stop::AdminProhibited, Family::V6) => {
            "-j REJECT --reject-with icmp6-adm-prohibited"
        }
        (Hook::Forward, Stop::PortUnreachable, Family::V4) => {
            "-j REJECT --reject-with icmp-port-unreachable"
        }
        (Hook::Forward, Stop::PortUnreachable, Family::V6) => {
            "-j REJECT --reject-with icmp6-port-unreachable"
        }
        _ => "-j DROP",
    }
}
