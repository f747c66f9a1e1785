//! Links, addresses and routes: nodes on a fabric, and pods on their node by one of the topologies.
//!
//! ```text
//!  pod eth0 --veth-- [node] eth0 --veth-- br0 [fabric] --veth-- eth0 [control]
//!  10.244.N.x        172.31.0.10+N        172.31.0.1            172.31.0.2
//!                                         203.0.113.1
//! ```
//!
//! The fabric's namespace is also the world outside of the cluster (203.0.113.1, 169.254.169.254). Every address lies in a namespace
//! of the lab, so labs side by side use the same ones.

mod bridge;
mod routed;
mod vxlan;

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::topology::Topology;
use crate::netns::Netns;

/// Nodes that a lab may have.
pub const MOST_NODES: u8 = 9;
/// Pods that a node may have.
pub const MOST_PODS: u8 = 200;

/// The outside of the cluster: public addresses (of the documentation), so that nobody takes them for a
/// tunnel's or another node's.
pub const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];
/// The fabric's own addresses, everybody's default route.
const ROUTER: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(172, 31, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x172, 0x31, 0, 0, 0, 0, 1)),
];
/// The metadata service of clouds, which the fabric answers for too.
pub const METADATA: IpAddr = IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254));
/// Addresses of the namespace of the collector and the CLI.
pub const CONTROL: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(172, 31, 0, 2)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x172, 0x31, 0, 0, 0, 0, 2)),
];

/// InternalIPs of a node (1-based): its uplink.
pub const fn node_addresses(node: u8) -> [IpAddr; 2] {
    [
        IpAddr::V4(Ipv4Addr::new(172, 31, 0, 10 + node)),
        IpAddr::V6(Ipv6Addr::new(
            0xfd00,
            0x172,
            0x31,
            0,
            0,
            0,
            0,
            0x10 + node as u16,
        )),
    ]
}

/// The n-th addresses of a node's pod CIDRs; 0 is the tunnel's and 1 the bridge's, where there is one.
pub const fn pod_addresses(node: u8, host: u8) -> [IpAddr; 2] {
    [
        IpAddr::V4(Ipv4Addr::new(10, 244, node, host)),
        IpAddr::V6(Ipv6Addr::new(
            0xfd00,
            0x10,
            0x244,
            node as u16,
            0,
            0,
            0,
            host as u16,
        )),
    ]
}

/// Pod CIDRs of a node.
pub fn pod_cidrs(node: u8) -> [String; 2] {
    let [v4, v6] = pod_addresses(node, 0);
    [format!("{v4}/24"), format!("{v6}/64")]
}

/// Pod CIDRs of the whole cluster.
pub const CLUSTER_CIDRS: [&str; 2] = ["10.244.0.0/16", "fd00:10:244::/48"];

/// Makes the fabric: a bridge that is also a router to the pods.
pub(super) fn fabric(fabric: &Netns, nodes: u8) -> Result<()> {
    sysctls(
        fabric,
        &[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
        ],
    )?;
    let mut script = String::from(
        "link add br0 address 0a:58:ac:1f:00:01 type bridge mcast_snooping 0\n\
         link set br0 up\n\
         addr add 169.254.169.254/32 dev br0\n",
    );
    for ip in ROUTER.into_iter().chain(OUTSIDE) {
        let _ = writeln!(
            script,
            "addr add {ip}/{} dev br0{}",
            prefix(ip, 24),
            nodad(ip)
        );
    }
    for node in 1..=nodes {
        let routes = pod_cidrs(node).into_iter().zip(node_addresses(node));
        for ((cidr, via), source) in routes.zip(OUTSIDE) {
            let _ = writeln!(script, "route add {cidr} via {via} src {source}");
        }
    }
    ip(fabric, &script)
}

/// Plugs a namespace (`eth0`) into the fabric's port `port`.
pub(super) fn plug(fabric: &Netns, port: &str, end: &Netns, addresses: [IpAddr; 2]) -> Result<()> {
    ip(
        fabric,
        &format!(
            "link add {port} type veth peer name eth0 netns {}\n\
             link set {port} master br0\n\
             link set {port} up\n",
            end.path().display()
        ),
    )?;
    no_dad(end)?;
    let mut script = String::from("link set eth0 up\n");
    for (ip, router) in addresses.into_iter().zip(ROUTER) {
        let _ = writeln!(
            script,
            "addr add {ip}/{} dev eth0{}",
            prefix(ip, 24),
            nodad(ip)
        );
        let _ = writeln!(script, "route add default via {router}");
    }
    ip(end, &script)
}

/// Makes a node of a namespace that is plugged in: forwarding, its way to its own pods and to the other nodes', and masquerading
/// of what leaves the cluster.
pub(super) fn node(topology: Topology, netns: &Netns, node: u8, nodes: u8) -> Result<()> {
    sysctls(
        netns,
        &[
            ("net/ipv4/ip_forward", "1"),
            ("net/ipv6/conf/all/forwarding", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
        ],
    )?;
    match topology {
        Topology::Bridge => bridge::node(netns, node, nodes)?,
        Topology::Routed => routed::node(netns, node, nodes)?,
        Topology::Vxlan => vxlan::node(netns, node, nodes)?,
    }
    for (program, cluster) in ["iptables-restore", "ip6tables-restore"]
        .iter()
        .zip(CLUSTER_CIDRS)
    {
        feed(
            netns,
            program,
            &["--noflush"],
            &format!(
                "*nat\n-A POSTROUTING -s {cluster} ! -d {cluster} -m comment --comment \"flanneld masq\" -j MASQUERADE\nCOMMIT\n"
            ),
        )?;
    }
    Ok(())
}

/// Gives a pod its eth0, and its node the way to it.
pub(super) fn pod(
    topology: Topology,
    node_netns: &Netns,
    node: u8,
    pod: &Netns,
    host: u8,
) -> Result<()> {
    no_dad(pod)?;
    match topology {
        Topology::Bridge => bridge::pod(node_netns, node, pod, host, bridge::MTU),
        Topology::Routed => routed::pod(node_netns, node, pod, host),
        Topology::Vxlan => bridge::pod(node_netns, node, pod, host, vxlan::MTU),
    }
}

/// Routes to the other nodes' pods through their uplinks: host-gw, or what BGP would tell.
fn routes_to_others(node: u8, nodes: u8) -> String {
    let mut script = String::new();
    for other in (1..=nodes).filter(|other| *other != node) {
        for (cidr, via) in pod_cidrs(other).iter().zip(node_addresses(other)) {
            let _ = writeln!(script, "route add {cidr} via {via}");
        }
    }
    script
}

/// Takes a pod's veth away.
pub(super) fn unplug_pod(node_netns: &Netns, host: u8) -> Result<()> {
    ip(node_netns, &format!("link del veth{host}\n"))
}

const fn prefix(ip: IpAddr, v4: u8) -> u8 {
    match ip {
        IpAddr::V4(_) => v4,
        IpAddr::V6(_) => 64,
    }
}

/// Addresses must work at once, not after duplicate address detection.
const fn nodad(ip: IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(_) => "",
        IpAddr::V6(_) => " nodad",
    }
}

fn no_dad(netns: &Netns) -> Result<()> {
    sysctls(
        netns,
        &[
            ("net/ipv6/conf/default/accept_dad", "0"),
            ("net/ipv6/conf/default/accept_ra", "0"),
        ],
    )
}

/// Sets settings of the namespace (which /proc/sys/net shows to a thread inside it).
pub(super) fn sysctls(netns: &Netns, settings: &[(&str, &str)]) -> Result<()> {
    netns.run(|| {
        for (name, value) in settings {
            std::fs::write(Path::new("/proc/sys").join(name), value)
                .with_context(|| format!("set {name} to {value}"))?;
        }
        Ok(())
    })?
}

/// Runs the lines as `ip` commands inside the namespace.
pub(super) fn ip(netns: &Netns, script: &str) -> Result<()> {
    feed(netns, "ip", &["-batch", "-"], script)
}

/// Runs a program inside the namespace with a text on its standard input.
///
/// # Errors
/// When it cannot be run or fails: with its input and what it said.
pub fn feed(netns: &Netns, program: &str, arguments: &[&str], text: &str) -> Result<()> {
    let mut child = netns
        .command(program)?
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("run {program}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early says why on its standard error.
        let _ = stdin.write_all(text.as_bytes());
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!(
            "{program} {}: {}: {}\ninput:\n{text}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}
