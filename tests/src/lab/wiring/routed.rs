//! Pods with an address and no network, Calico's way: a route of its own for each pod, and a gateway that nobody has. Whatever a pod
//! sends goes to one MAC address on the host's end of its veth, a pod of the same node included: all of it is routed, and
//! passes FORWARD.

use std::fmt::Write as _;

use anyhow::Result;

use super::{ip, nodad, pod_addresses, pod_cidrs, routes_to_others, sysctls};
use crate::netns::Netns;

/// Every host end of a pod's veth has this address.
const MAC: &str = "ee:ee:ee:ee:ee:ee";
/// The gateways: the first is answered for by proxy ARP, the second is the link-local address that follows from [`MAC`].
const GATEWAY: [&str; 2] = ["169.254.1.1", "fe80::ecee:eeff:feee:eeee"];

/// Routes to the other nodes' pods; what is in the own range and no pod goes nowhere.
pub(super) fn node(netns: &Netns, node: u8, nodes: u8) -> Result<()> {
    let mut script = routes_to_others(node, nodes);
    for cidr in pod_cidrs(node) {
        let _ = writeln!(script, "route add blackhole {cidr}");
    }
    ip(netns, &script)
}

/// A pod behind a route of its own.
pub(super) fn pod(node_netns: &Netns, node: u8, pod: &Netns, host: u8) -> Result<()> {
    let addresses = pod_addresses(node, host);
    let full = addresses.map(|ip| if ip.is_ipv4() { 32 } else { 128 });
    ip(
        node_netns,
        &format!(
            "link add veth{host} address {MAC} type veth peer name eth0 netns {}\n",
            pod.path().display()
        ),
    )?;
    sysctls(
        node_netns,
        &[
            (&format!("net/ipv4/conf/veth{host}/proxy_arp"), "1"),
            // Nobody else could answer, so nothing is gained by waiting.
            (&format!("net/ipv4/neigh/veth{host}/proxy_delay"), "0"),
        ],
    )?;
    let mut script = format!("link set veth{host} up\n");
    for (ip, prefix) in addresses.into_iter().zip(full) {
        let _ = writeln!(script, "route add {ip}/{prefix} dev veth{host}");
    }
    ip(node_netns, &script)?;
    let [_, router] = GATEWAY;
    // The host's end has its link-local address a moment after the link is up; the pod must not ask before.
    let mut script = format!(
        "link set eth0 up\n\
         neigh add {router} lladdr {MAC} dev eth0 nud permanent\n"
    );
    for ((ip, prefix), gateway) in addresses.into_iter().zip(full).zip(GATEWAY) {
        let _ = writeln!(script, "addr add {ip}/{prefix} dev eth0{}", nodad(ip));
        if ip.is_ipv4() {
            let _ = writeln!(script, "route add {gateway} dev eth0 scope link");
        }
        let _ = writeln!(script, "route add default via {gateway} dev eth0");
    }
    ip(pod, &script)
}
