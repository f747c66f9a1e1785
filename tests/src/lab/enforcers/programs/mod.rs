//! Programs on the host's end of every pod's veth, as Cilium, Calico's eBPF mode and AWS's agent have them.

mod assembler;
mod compile;
mod kernel;

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::net::if_::{if_nameindex, if_nametoindex};
use nix::time::{ClockId, clock_gettime};

use self::compile::{Clock, KEY_SIZE, Port, Role, Rules, program};
use self::kernel::Side;
use super::emulation::{Loader, Place};
use super::kind::{Attach, Memory};
use super::plan::Plan;
use crate::netns::Netns;

/// See the module.
#[derive(Debug)]
pub(super) struct Programs {
    attach: Attach,
    memory: Memory,
    nodes: BTreeMap<String, Node>,
}

#[derive(Debug)]
struct Node {
    connections: Option<OwnedFd>,
    hooks: BTreeMap<(u32, Side), Hook>,
}

/// A program on a hook.
#[derive(Debug)]
struct Hook {
    instructions: Vec<u8>,
    link: Option<OwnedFd>,
}

impl Programs {
    pub(super) const fn new(attach: Attach, memory: Memory) -> Self {
        Self {
            attach,
            memory,
            nodes: BTreeMap::new(),
        }
    }

    fn put(
        &self,
        netns: &Netns,
        (interface, side): (u32, Side),
        instructions: Vec<u8>,
        before: Option<Hook>,
    ) -> Result<Hook> {
        if let Some(hook) = before.as_ref()
            && hook.instructions == instructions
            && let Some(hook) = before
        {
            return Ok(hook);
        }
        let program = kernel::load(&instructions)?;
        let link = match before.and_then(|hook| hook.link) {
            Some(link) => {
                kernel::relink(&link, &program)?;
                Some(link)
            }
            None if self.attach.is_link() => {
                Some(netns.run(|| kernel::link(&program, interface, side))??)
            }
            None => {
                kernel::add_clsact(netns, interface)?;
                kernel::filter(netns, interface, side, &program)?;
                None
            }
        };
        Ok(Hook { instructions, link })
    }

    /// Takes programs off their hooks.
    fn take_off(&self, netns: &Netns, hooks: &BTreeMap<(u32, Side), Hook>) -> Result<()> {
        for link in hooks.values().filter_map(|hook| hook.link.as_ref()) {
            kernel::unlink(link)?;
        }
        if self.attach.is_link() {
            return Ok(());
        }
        let interfaces: BTreeSet<u32> = hooks.keys().map(|(interface, _)| *interface).collect();
        interfaces
            .into_iter()
            .try_for_each(|interface| kernel::delete_clsact(netns, interface))
    }
}

impl Loader for Programs {
    fn load(&mut self, place: &Place<'_>, plans: &[Plan; 2]) -> Result<()> {
        let mut node = match self.nodes.remove(place.node) {
            Some(node) => node,
            None => Node {
                connections: match self.memory {
                    Memory::PerPacket => None,
                    Memory::Kept | Memory::Flushed => Some(kernel::connections(KEY_SIZE)?),
                },
                hooks: BTreeMap::new(),
            },
        };
        let ports = ports(place)?;
        let redirect: &[Port] = match self.attach {
            Attach::RedirectPeer => &ports,
            Attach::Clsact | Attach::Tcx => &[],
        };
        let rules = Rules {
            plans,
            map: node.connections.as_ref().map(OwnedFd::as_raw_fd),
            redirect,
            clock: clock()?,
        };
        let mut wanted: Vec<((u32, Side), Role<'_>)> = Vec::new();
        for port in &ports {
            wanted.push(((port.interface, Side::Ingress), Role::FromPod(port)));
            wanted.push(((port.interface, Side::Egress), Role::ToPod(port)));
        }
        if self.attach == Attach::RedirectPeer {
            let pods: BTreeSet<u32> = ports.iter().map(|port| port.interface).collect();
            for uplink in uplinks(place.netns, &pods)? {
                wanted.push(((uplink, Side::Ingress), Role::Uplink));
            }
        }
        let mut hooks = BTreeMap::new();
        let mut failure = None;
        for (at, role) in wanted {
            let before = node.hooks.remove(&at);
            let put = program(rules, role)
                .and_then(|instructions| self.put(place.netns, at, instructions, before))
                .with_context(|| format!("interface {} of {}", at.0, place.node));
            match put {
                Ok(hook) => drop(hooks.insert(at, hook)),
                Err(error) => failure = Some(error),
            }
        }
        let left = std::mem::replace(&mut node.hooks, hooks);
        self.nodes.insert(place.node.to_owned(), node);
        // Those of interfaces that are no pod's any more; what failed above stays as it is.
        let left = left
            .into_iter()
            .filter(|((interface, _), _)| !ports.iter().any(|port| port.interface == *interface))
            .collect();
        self.take_off(place.netns, &left)?;
        failure.map_or(Ok(()), Err)
    }

    fn forget(&mut self, place: &Place<'_>) -> Result<()> {
        match self
            .nodes
            .get(place.node)
            .and_then(|node| node.connections.as_ref())
        {
            Some(map) => kernel::clear(map, KEY_SIZE as usize),
            None => Ok(()),
        }
    }

    fn unload(&mut self, place: &Place<'_>) -> Result<()> {
        let Some(node) = self.nodes.remove(place.node) else {
            return Ok(());
        };
        self.take_off(place.netns, &node.hooks)
    }
}

/// The pods' ends that are there.
fn ports(place: &Place<'_>) -> Result<Vec<Port>> {
    place.netns.run(|| {
        place
            .seats
            .iter()
            .filter_map(|seat| {
                // A pod that is going has no veth any more.
                let interface = if_nametoindex(seat.veth.as_str()).ok()?;
                Some(Port {
                    interface,
                    addresses: seat.addresses.clone(),
                })
            })
            .collect()
    })
}

/// All interfaces of the node but the pods' and the loopback.
fn uplinks(netns: &Netns, pods: &BTreeSet<u32>) -> Result<Vec<u32>> {
    netns.run(|| -> Result<Vec<u32>> {
        let all = if_nameindex().context("list the interfaces")?;
        Ok(all
            .iter()
            .filter(|interface| interface.name().to_bytes() != b"lo")
            .map(nix::net::if_::Interface::index)
            .filter(|index| !pods.contains(index))
            .collect())
    })?
}

/// Both clocks at one moment.
fn clock() -> Result<Clock> {
    let instant = Instant::now();
    let kernel = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
    Ok(Clock { instant, kernel })
}
