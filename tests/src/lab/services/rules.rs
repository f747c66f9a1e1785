//! The rules of one node and family, in the words of kube-proxy's iptables mode and of the portmap plugin.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};

use super::{HostPort, ServicePort, ServiceSpec, Target, name};
use crate::lab::wiring::{CLUSTER_CIDRS, feed, pod_cidrs};
use crate::netns::Netns;

/// Where all packets are looked up.
const SERVICES: &str = "LAB-SERVICES";
/// The nodePorts and hostPorts, after the rest.
const NODE_PORTS: &str = "LAB-NODEPORTS";
/// Marks what has to be masqueraded.
const MARK: &str = "LAB-MARK-MASQ";
/// Masquerades what is marked.
const POSTROUTING: &str = "LAB-POSTROUTING";
/// Says no for Services without backends; in the filter table.
const NOBODY: &str = "LAB-NOBODY";

/// Text for iptables-restore.
#[derive(Debug)]
pub(super) struct Rules {
    node: usize,
    family: usize,
    chains: BTreeSet<String>,
    nat: String,
    filter: String,
}

impl Rules {
    pub(super) fn new(node: usize, family: usize) -> Self {
        let fixed = [SERVICES, NODE_PORTS, MARK, POSTROUTING];
        let nat = format!(
            "-A {MARK} -j MARK --or-mark 0x4000\n\
             -A {POSTROUTING} -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
             -A {POSTROUTING} -j MARK --xor-mark 0x4000\n\
             -A {POSTROUTING} -j MASQUERADE --random-fully\n"
        );
        Self {
            node,
            family,
            chains: fixed.map(str::to_owned).into(),
            nat,
            filter: String::new(),
        }
    }

    /// Chains that the rules need.
    pub(super) fn chains(&self) -> impl Iterator<Item = String> {
        self.chains.iter().cloned()
    }

    fn chain(&mut self, chain: &str) {
        self.chains.insert(chain.to_owned());
    }

    fn line(&mut self, chain: &str, rule: &str) {
        let _ = writeln!(self.nat, "-A {chain} {rule}");
    }

    fn of_family(&self, ips: impl IntoIterator<Item = IpAddr>) -> Vec<IpAddr> {
        ips.into_iter()
            .filter(|ip| ip.is_ipv4() == (self.family == 0))
            .collect()
    }

    const fn pods(&self) -> &'static str {
        let [v4, v6] = CLUSTER_CIDRS;
        if self.family == 0 { v4 } else { v6 }
    }

    /// A Service's port, at all of its addresses.
    pub(super) fn service(
        &mut self,
        number: &str,
        spec: &ServiceSpec,
        port: &ServicePort,
        cluster_ips: [IpAddr; 2],
        targets: &[Target],
    ) {
        let protocol = name(port.protocol);
        let all = format!("LAB-SVC-{number}");
        self.balance(&all, port, targets);
        let outside = format!("LAB-EXT-{number}");
        self.chain(&outside);
        let own: Vec<Target> = targets
            .iter()
            .filter(|target| target.node == self.node)
            .copied()
            .collect();
        if spec.local {
            let pods = self.pods();
            // What comes from inside the cluster goes to any backend.
            self.line(&outside, &format!("-s {pods} -j {all}"));
            let here = "-m addrtype --src-type LOCAL";
            self.line(&outside, &format!("{here} -j {MARK}"));
            self.line(&outside, &format!("{here} -j {all}"));
            let mine = format!("LAB-SVL-{number}");
            self.balance(&mine, port, &own);
            self.line(&outside, &format!("-j {mine}"));
        } else {
            self.line(&outside, &format!("-j {MARK}"));
            self.line(&outside, &format!("-j {all}"));
        }
        let pods = self.pods();
        for ip in self.of_family(cluster_ips) {
            let to = format!("-d {ip} -p {protocol} --dport {}", port.port);
            if targets.is_empty() {
                self.refuse(&to);
                continue;
            }
            self.line(SERVICES, &format!("! -s {pods} {to} -j {MARK}"));
            self.line(SERVICES, &format!("{to} -j {all}"));
        }
        let external = self.of_family(spec.external_ips.iter().copied());
        let mut doors: Vec<String> = external
            .iter()
            .map(|ip| format!("-d {ip} -p {protocol} --dport {}", port.port))
            .collect();
        doors.extend(
            port.node_port.map(|number| {
                format!("-m addrtype --dst-type LOCAL -p {protocol} --dport {number}")
            }),
        );
        for to in doors {
            if targets.is_empty() {
                self.refuse(&to);
                continue;
            }
            if spec.local && own.is_empty() {
                let pods = self.pods();
                let _ = writeln!(
                    self.filter,
                    "-A {NOBODY} ! -s {pods} -m addrtype ! --src-type LOCAL {} -j DROP",
                    to.trim_start_matches("-m addrtype ")
                );
            }
            self.line(NODE_PORTS, &format!("{to} -j {outside}"));
        }
    }

    /// A chain that sends to one of the targets by chance.
    fn balance(&mut self, chain: &str, port: &ServicePort, targets: &[Target]) {
        self.chain(chain);
        for (index, target) in targets.iter().enumerate() {
            for ip in self.of_family(target.addresses) {
                let one = format!("{chain}-{index}");
                self.chain(&one);
                let left = targets.len() - index;
                let chance = if left == 1 {
                    String::new()
                } else {
                    #[expect(clippy::cast_precision_loss, reason = "a handful of backends")]
                    let share = 1.0 / left as f64;
                    format!("-m statistic --mode random --probability {share:.10} ")
                };
                self.line(chain, &format!("{chance}-j {one}"));
                // A pod that reaches itself: without this its answer would go to itself, too.
                self.line(&one, &format!("-s {ip} -j {MARK}"));
                let to = SocketAddr::new(ip, port.target);
                let protocol = name(port.protocol);
                self.line(
                    &one,
                    &format!("-p {protocol} -j DNAT --to-destination {to}"),
                );
            }
        }
    }

    /// A container's port at this node.
    pub(super) fn host_port(&mut self, number: usize, host_port: &HostPort, pod: Target) {
        let chain = format!("LAB-HOST-{number}");
        self.chain(&chain);
        let protocol = name(host_port.protocol);
        let own = pod_cidrs(u8::try_from(self.node + 1).unwrap_or(u8::MAX));
        let Some(own) = own.into_iter().nth(self.family) else {
            return;
        };
        self.line(&chain, &format!("-s {own} -j {MARK}"));
        for ip in self.of_family(pod.addresses) {
            let to = SocketAddr::new(ip, host_port.target);
            self.line(
                &chain,
                &format!("-p {protocol} -j DNAT --to-destination {to}"),
            );
        }
        self.line(
            NODE_PORTS,
            &format!(
                "-m addrtype --dst-type LOCAL -p {protocol} --dport {} -j {chain}",
                host_port.port
            ),
        );
    }

    fn refuse(&mut self, to: &str) {
        let how = if self.family == 0 {
            "icmp-port-unreachable"
        } else {
            "icmp6-port-unreachable"
        };
        let _ = writeln!(
            self.filter,
            "-A {NOBODY} {to} -j REJECT --reject-with {how}"
        );
    }

    /// Replaces what was loaded before (of which `before` are the chains) in one step for each table.
    pub(super) fn load(&self, netns: &Netns, before: &BTreeSet<String>) -> Result<()> {
        let program = if self.family == 0 {
            "iptables-restore"
        } else {
            "ip6tables-restore"
        };
        let mut script = String::from("*nat\n");
        for chain in self.chains.union(before) {
            // Naming a chain empties it.
            let _ = writeln!(script, ":{chain} - [0:0]");
        }
        if before.is_empty() {
            let _ = write!(
                script,
                "-A PREROUTING -j {SERVICES}\n\
                 -A OUTPUT -j {SERVICES}\n\
                 -I POSTROUTING -j {POSTROUTING}\n"
            );
        }
        script.push_str(&self.nat);
        let _ = writeln!(script, "-A {SERVICES} -j {NODE_PORTS}");
        for chain in before.difference(&self.chains) {
            let _ = writeln!(script, "-X {chain}");
        }
        let jumps = if before.is_empty() {
            ["INPUT", "FORWARD", "OUTPUT"]
                .map(|hook| format!("-I {hook} -m conntrack --ctstate NEW -j {NOBODY}\n"))
                .concat()
        } else {
            String::new()
        };
        let _ = write!(
            script,
            "COMMIT\n*filter\n:{NOBODY} - [0:0]\n{jumps}{}COMMIT\n",
            self.filter
        );
        feed(netns, program, &["--noflush"], &script).context("load the rules of Services")
    }
}
