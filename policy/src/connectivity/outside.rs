//! The addresses outside the cluster, cut where the policies' blocks cut them.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Options;
use crate::model::{AdminPeer, Family, Peer};
use crate::state::{IpOwner, Snapshot};

/// A block without the smaller ones within it, which are regions of their own.
#[derive(Clone, Debug)]
pub(super) struct Region {
    pub(super) net: IpNet,
    pub(super) except: Vec<IpNet>,
    /// An address of it.
    pub(super) address: IpAddr,
}

/// Every block that a policy names, whatever it does with it.
pub fn blocks(snapshot: &Snapshot) -> BTreeSet<IpNet> {
    let mut found = BTreeSet::new();
    for policy in snapshot.policies() {
        for peer in policy
            .ingress
            .iter()
            .chain(&policy.egress)
            .flat_map(|rule| &rule.peers)
        {
            if let Peer::IpBlock { cidr, except } = peer {
                found.insert(cidr.trunc());
                found.extend(except.iter().map(IpNet::trunc));
            }
        }
    }
    for policy in snapshot.admin_policies() {
        for peer in policy
            .ingress
            .iter()
            .chain(&policy.egress)
            .flat_map(|rule| &rule.peers)
        {
            if let AdminPeer::Networks(networks) = peer {
                found.extend(networks.iter().map(IpNet::trunc));
            }
        }
    }
    found
}

pub(super) fn everything(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::V4(Ipv4Net::default()),
        Family::V6 => IpNet::V6(Ipv6Net::default()),
    }
}

/// The regions of a family. Blocks contain each other or have nothing in common, so that each block less those in it
/// is a region, and addresses of one region are in the same blocks.
pub(super) fn regions(snapshot: &Snapshot, options: &Options, family: Family) -> Vec<Region> {
    let mut blocks = blocks(snapshot);
    blocks.extend(options.blocks.iter().map(IpNet::trunc));
    blocks.insert(everything(family));
    let mut regions: Vec<Region> = Vec::new();
    let mut around: Vec<usize> = Vec::new();
    // In order of address and then length: a block comes after those that hold it.
    for net in blocks
        .into_iter()
        .filter(|net| Family::of(net.addr()) == family)
    {
        while let Some(holder) = around.last().and_then(|at| regions.get_mut(*at)) {
            if holder.net.contains(&net) {
                holder.except.push(net);
                break;
            }
            around.pop();
        }
        around.push(regions.len());
        regions.push(Region {
            net,
            except: Vec::new(),
            address: net.network(),
        });
    }
    regions.retain_mut(|region| match free(&region.net, &region.except) {
        // An IPv4 address in IPv6 clothes counts as what it is.
        Some(address) if address.to_canonical() == address => {
            region.address = address;
            !in_cluster(snapshot, &region.net)
        }
        Some(_) | None => false,
    });
    regions
}

/// The first address that no exception holds; they are in order and have nothing in common.
fn free(net: &IpNet, except: &[IpNet]) -> Option<IpAddr> {
    let mut address = net.network();
    for hole in except {
        if hole.contains(&address) {
            address = match hole.broadcast() {
                IpAddr::V4(last) => IpAddr::V4(last.to_bits().checked_add(1)?.into()),
                IpAddr::V6(last) => IpAddr::V6(last.to_bits().checked_add(1)?.into()),
            };
        }
    }
    net.contains(&address).then_some(address)
}

/// Nothing outside has these: they are the nodes' ranges for pods, or one address of the cluster.
fn in_cluster(snapshot: &Snapshot, net: &IpNet) -> bool {
    let single = net.prefix_len() == net.max_prefix_len();
    let owned = || {
        !matches!(
            snapshot.owner(net.addr()),
            IpOwner::Nobody | IpOwner::UnknownInPodCidr
        )
    };
    (single && owned())
        || snapshot
            .nodes()
            .flat_map(|node| &node.pod_cidrs)
            .any(|cidr| cidr.contains(net))
}
