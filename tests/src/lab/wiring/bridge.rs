//! Pods on their node's bridge, the way flannel's host-gw backend does it: pods of one node are neighbours, other nodes' pods are
//! reached through their node's uplink.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;

use super::{ip, nodad, pod_addresses, prefix, routes_to_others, sysctls};
use crate::netns::Netns;

/// Of a pod's eth0.
pub(super) const MTU: u16 = 1500;

/// The bridge, and routes to the other nodes' pods.
pub(super) fn node(netns: &Netns, node: u8, nodes: u8) -> Result<()> {
    bridge(netns, node)?;
    ip(netns, &routes_to_others(node, nodes))
}

/// The bridge alone.
pub(super) fn bridge(netns: &Netns, node: u8) -> Result<()> {
    // Same-node pods talk over the bridge: only with these does that pass FORWARD, as on any
    // Kubernetes node.
    for name in [
        "net/bridge/bridge-nf-call-iptables",
        "net/bridge/bridge-nf-call-ip6tables",
    ] {
        if Path::new("/proc/sys").join(name).exists() {
            sysctls(netns, &[(name, "1")])?;
        }
    }
    // With an address of its own: a bridge without takes its lowest port's, a new pod would change it, and every pod
    // would send to an address that is gone.
    let mut script = format!(
        "link add cni0 address 0a:58:0a:f4:{node:02x}:01 type bridge mcast_snooping 0\n\
         link set cni0 up\n",
    );
    for ip in pod_addresses(node, 1) {
        let _ = writeln!(
            script,
            "addr add {ip}/{} dev cni0{}",
            prefix(ip, 24),
            nodad(ip)
        );
    }
    ip(netns, &script)
}

/// A pod on the bridge.
pub(super) fn pod(node_netns: &Netns, node: u8, pod: &Netns, host: u8, mtu: u16) -> Result<()> {
    // Hairpin: a pod that reaches itself through a Service comes back by the port that it left by.
    ip(
        node_netns,
        &format!(
            "link add veth{host} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {}\n\
             link set veth{host} master cni0\n\
             link set veth{host} type bridge_slave hairpin on\n\
             link set veth{host} up\n",
            pod.path().display()
        ),
    )?;
    let mut script = String::from("link set eth0 up\n");
    for (ip, gateway) in pod_addresses(node, host)
        .into_iter()
        .zip(pod_addresses(node, 1))
    {
        let _ = writeln!(
            script,
            "addr add {ip}/{} dev eth0{}",
            prefix(ip, 24),
            nodad(ip)
        );
        let _ = writeln!(script, "route add default via {gateway}");
    }
    ip(pod, &script)
}
