//! Attaching to a pod's eth0, by whichever means the kernel has.

use std::net::IpAddr;
use std::path::Path;

use polproof_flow::netns::Hook;
use polproof_flow::record::{Instant, NetnsCookie};

use super::error::ObserveError;
use super::exclusive;
use super::load::Observer;
use super::means::Means;
use super::netlink::{self, Interface};
use super::netns::visit;
use super::tc::Direction;

/// The interface of a pod, by the CNI specification's custom and every runtime's practice.
pub(super) const INTERFACE: &str = "eth0";

/// One place where a program is attached.
#[derive(Clone, Copy, Debug)]
pub(super) struct HookRow {
    /// Where.
    pub(super) direction: Direction,
    /// The program's name in the object.
    pub(super) program: &'static str,
}

impl HookRow {
    /// In the names of pins and filters.
    pub(super) fn name(&self) -> &'static str {
        self.direction.name()
    }
}

/// All hooks. A new one is a row here and a file in agent-ebpf.
pub(super) const HOOKS: [HookRow; 2] = [
    HookRow {
        direction: Direction::Ingress,
        program: "polproof_ingress",
    },
    HookRow {
        direction: Direction::Egress,
        program: "polproof_egress",
    },
];

/// What attaching found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// The namespace.
    pub netns: NetnsCookie,
    /// From when on every packet is seen; for what was taken over, from when an earlier agent attached it.
    pub since: Instant,
    /// Addresses of eth0 at this moment, without link-local ones.
    pub addresses: Vec<IpAddr>,
    /// What else sits on eth0.
    pub hook: Hook,
}

impl Observer {
    /// Attaches to eth0 of the namespace that `netns` is bound to, or adopts what an earlier agent left there.
    /// [`ObserveError::NoInterface`] says that eth0 is not there yet. Asked again, it attaches anew what somebody
    /// took away, with a new `since`: what was sent in between was not seen. So it is with an eth0 that came from another
    /// namespace and brought our programs along: [`Self::take_robbed`] tells of that one.
    pub fn attach(&mut self, netns: &Path) -> Result<Attached, ObserveError> {
        visit(netns, || {
            let here = self.identity.here()?;
            if here == self.host_namespace {
                return Err(ObserveError::OwnNamespace);
            }
            let interface = required_interface(netns)?;
            let cookie = self.identify(here, &interface)?;
            let mut since = Instant(0);
            for row in &HOOKS {
                let attached = match self.means {
                    Means::Tcx => self.ensure_link(cookie, row, &interface)?,
                    Means::Clsact => self.ensure_filter(cookie, row, &interface)?,
                };
                since = since.max(attached);
            }
            if self.means == Means::Clsact {
                self.filters.hold(cookie, netns, interface.index);
            }
            Ok(Attached {
                netns: cookie,
                since,
                addresses: netlink::addresses(interface.index)?,
                hook: exclusive::check(INTERFACE, &interface, self.ours),
            })
        })
    }

    /// How the programs are attached.
    pub fn means(&self) -> Means {
        self.means
    }

    /// Asks again what else sits on eth0, and whether our programs still do.
    pub fn hook(&mut self, netns: &Path) -> Result<Hook, ObserveError> {
        let ours = self.ours;
        visit(netns, || {
            let interface = required_interface(netns)?;
            Ok(exclusive::check(INTERFACE, &interface, ours))
        })
    }

    /// Addresses of eth0 now, without link-local ones: a CNI may set them after the interface.
    pub fn addresses(&self, netns: &Path) -> Result<Vec<IpAddr>, ObserveError> {
        visit(netns, || {
            netlink::addresses(required_interface(netns)?.index)
        })
    }

    /// Namespaces with something of ours in them, alive or dead: pinned links, or filters that this agent has put or
    /// found.
    pub fn pinned(&self) -> Vec<NetnsCookie> {
        match self.means {
            Means::Tcx => self.pins.cookies(),
            Means::Clsact => self.filters.cookies(),
        }
    }

    /// Forgets what belongs to devices that are gone (the pins of their links with it), and returns the namespaces in
    /// which nothing of ours is left.
    pub fn collect_dead(&mut self) -> Vec<NetnsCookie> {
        match self.means {
            Means::Tcx => self.collect_dead_links(),
            Means::Clsact => self.filters.collect_dead(),
        }
    }

    /// Namespaces whose eth0 was found in another one since the last call, with our programs on it: what is sent in them now is
    /// not seen. A device that moves leaves its filters behind, so by [`Means::Clsact`] there are none.
    pub fn take_robbed(&mut self) -> Vec<NetnsCookie> {
        self.pins.take_robbed()
    }

    /// Takes away what is pinned of namespaces that have gone, while their device lives on elsewhere: the node's own namespace
    /// gets back a device that a pod had for itself, and is no pod's. Says how many links that were.
    pub fn release(&mut self, gone: &[NetnsCookie]) -> usize {
        match self.means {
            Means::Tcx => self.pins.release(gone),
            Means::Clsact => 0,
        }
    }
}

pub(super) fn required_interface(netns: &Path) -> Result<Interface, ObserveError> {
    netlink::interface(INTERFACE)?.ok_or_else(|| ObserveError::NoInterface {
        path: netns.to_owned(),
        interface: INTERFACE.to_owned(),
    })
}
