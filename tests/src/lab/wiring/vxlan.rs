//! A bridge on every node and a tunnel between the nodes, the way flannel's vxlan backend does it. The tunnel's own addresses are the first
//! of each node's pod CIDR: what a node sends to another node's pods comes from inside the pods' range.

use std::fmt::Write as _;

use anyhow::Result;

use super::{bridge, feed, ip, nodad, node_addresses, pod_addresses, pod_cidrs};
use crate::netns::Netns;

/// Of a pod's eth0: what is left of 1500 in a tunnel over IPv6.
pub(super) const MTU: u16 = 1430;

/// The tunnels of both families.
const DEVICES: [&str; 2] = ["flannel.1", "flannel-v6.1"];

/// The bridge, the tunnels, and routes through them.
pub(super) fn node(netns: &Netns, node: u8, nodes: u8) -> Result<()> {
    bridge::bridge(netns, node)?;
    let mut script = String::new();
    let mut forwarding = String::new();
    for (family, device) in DEVICES.into_iter().enumerate() {
        let underlay = |node: u8| node_addresses(node).into_iter().nth(family);
        let overlay = |node: u8| pod_addresses(node, 0).into_iter().nth(family);
        let (Some(local), Some(own)) = (underlay(node), overlay(node)) else {
            continue;
        };
        let full = if own.is_ipv4() { 32 } else { 128 };
        let _ = writeln!(
            script,
            "link add {device} address {} mtu {MTU} type vxlan id 1 dev eth0 local {local} dstport 8472 nolearning\n\
             addr add {own}/{full} dev {device}{}\n\
             link set {device} up",
            mac(family, node),
            nodad(own)
        );
        for other in (1..=nodes).filter(|other| *other != node) {
            let (Some(remote), Some(via)) = (underlay(other), overlay(other)) else {
                continue;
            };
            let mac = mac(family, other);
            let cidr = pod_cidrs(other).into_iter().nth(family).unwrap_or_default();
            let _ = writeln!(
                script,
                "neigh add {via} lladdr {mac} dev {device} nud permanent\n\
                 route add {cidr} via {via} dev {device} onlink"
            );
            let _ = writeln!(forwarding, "fdb append {mac} dev {device} dst {remote}");
        }
    }
    ip(netns, &script)?;
    feed(netns, "bridge", &["-batch", "-"], &forwarding)
}

fn mac(family: usize, node: u8) -> String {
    format!("0e:00:00:00:0{family}:{node:02x}")
}
