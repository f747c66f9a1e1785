//! What becomes of an attempt: said from what each node's agent believes, not from what is in the kernel.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use polproof_policy::model::Pod;
use polproof_policy::{Direction, Family};

use super::emulation::{Emulation, Loaded, Site};
use super::kind::{Fault, Mechanism, Memory};
use super::{Case, Fate, How};

/// What one node does with a packet for or from one of its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Pass,
    Stop(How),
    Either,
}

/// Where in its life a pod is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Open,
    Ruled,
}

impl Emulation {
    pub(super) fn fate_of(&self, case: &Case) -> Fate {
        let on_veth = matches!(self.mechanism, Mechanism::Programs(_));
        let (source, destination) = (case.source.ip(), case.destination.ip());
        // FORWARD and POSTROUTING come before masquerading and after the rewriting of destinations;
        // the far side of a veth sees either end as the pod does.
        let masquerader = self.view_of_node(case.shown);
        let shown = if on_veth || masquerader != self.home(destination).map(|(node, _)| node) {
            case.shown
        } else {
            source
        };
        let asked = if on_veth {
            case.asked
        } else {
            case.destination
        };
        let there = [
            self.step(case, Direction::Egress, source, asked),
            self.step(
                case,
                Direction::Ingress,
                destination,
                SocketAddr::new(shown, case.destination.port()),
            ),
        ];
        if let Some(fate) = first_stop(&there, Fate::Dies) {
            return fate;
        }
        if self.memory != Memory::PerPacket {
            return Fate::Passes;
        }
        let port = case.source.port();
        let back = [
            self.step(
                case,
                Direction::Egress,
                destination,
                SocketAddr::new(shown, port),
            ),
            self.step(
                case,
                Direction::Ingress,
                source,
                SocketAddr::new(asked.ip(), port),
            ),
        ];
        first_stop(&back, |_| Fate::ReplyDies).unwrap_or(Fate::Passes)
    }

    /// The node whose pod network holds the address, and what is in force there.
    fn home(&self, ip: IpAddr) -> Option<(&str, &Site)> {
        self.sites
            .iter()
            .find(|(name, site)| {
                site.view.nodes.iter().any(|node| {
                    *node.name == ***name && node.pod_cidrs.iter().any(|cidr| cidr.contains(&ip))
                })
            })
            .map(|(name, site)| (name.as_str(), site))
    }

    fn view_of_node(&self, ip: IpAddr) -> Option<&str> {
        self.sites.values().find_map(|site| site.view.node_at(ip))
    }

    /// What the node of the pod at `own` does with a packet to or from `peer`; the port is the destination's.
    fn step(&self, case: &Case, direction: Direction, own: IpAddr, peer: SocketAddr) -> Step {
        let Some((node, site)) = self.home(own) else {
            return Step::Pass;
        };
        if self.view_of_node(own).is_some()
            || site
                .view
                .own
                .get(node)
                .is_some_and(|own| own.contains(&peer.ip()))
        {
            return Step::Pass;
        }
        if [Fault::Inert, Fault::BehindAccept]
            .iter()
            .any(|fault| self.faults.contains(fault))
        {
            return Step::Pass;
        }
        let silence = Step::Stop(How::Silence);
        let Some(pod) = site.view.pod_at(own) else {
            let cut_off = self.faults.contains(&Fault::DeadCutsOff);
            return if cut_off { silence } else { Step::Pass };
        };
        if self.remembers(case, site, pod) {
            return Step::Pass;
        }
        if case.sent.0 < site.changed.1 {
            return Step::Either;
        }
        let ruled = self.ruled(case, direction, (node, site), own, peer);
        match self.phase(site, pod, case.sent) {
            // With nothing denied it does not matter when the door is shut.
            Some(Phase::Ruled) => ruled,
            Some(Phase::Open) => Step::Pass,
            Some(Phase::Closed) => silence,
            None if self.new_pod().is_none_or(|(closed, _)| closed.is_zero())
                && ruled == Step::Pass =>
            {
                Step::Pass
            }
            None => Step::Either,
        }
    }

    fn ruled(
        &self,
        case: &Case,
        direction: Direction,
        (node, site): (&str, &Site),
        own: IpAddr,
        peer: SocketAddr,
    ) -> Step {
        let spared = self
            .faults
            .iter()
            .any(|fault| fault.spares(node, direction, Family::of(own), case.protocol));
        if spared
            || site
                .view
                .allows(direction, own, peer.ip(), case.protocol, peer.port())
        {
            return Step::Pass;
        }
        let limited = self.faults.contains(&Fault::IcmpLimited);
        Step::Stop(self.mechanism.how(case.protocol, limited))
    }

    /// Whether the packet passes as one of a connection that was let through once.
    fn remembers(&self, case: &Case, site: &Site, pod: &Pod) -> bool {
        let Some(opened) = case.opened else {
            return false;
        };
        let since = match site.young.get(&pod.uid) {
            Some(loaded) => loaded.1,
            None => site.since,
        };
        match self.memory {
            Memory::Kept => !self.has_own_memory() || opened >= since,
            Memory::Flushed | Memory::PerPacket => false,
        }
    }

    /// In which phase the pod is all the time, if it is one.
    fn phase(&self, site: &Site, pod: &Pod, sent: (Instant, Instant)) -> Option<Phase> {
        let mut phases = vec![(Loaded(site.since, site.since), Phase::Ruled)];
        if let (Some(Loaded(from, to)), Some((closed, open))) =
            (site.young.get(&pod.uid), self.new_pod())
        {
            let slack = self.slack();
            if !closed.is_zero() {
                phases.push((Loaded(*from, *to), Phase::Closed));
            }
            phases.push((Loaded(*from + closed, *to + closed + slack), Phase::Open));
            let whole = closed + open;
            phases.push((Loaded(*from + whole, *to + whole + slack), Phase::Ruled));
        }
        if let Some((Loaded(from, to), open)) = site.upgraded {
            phases.push((Loaded(from, to), Phase::Open));
            phases.push((Loaded(from + open, to + open + self.slack()), Phase::Ruled));
        }
        let mut now = None;
        for (Loaded(from, to), phase) in phases {
            if to <= sent.0 {
                now = Some(phase);
            } else if from <= sent.1 {
                return None;
            }
        }
        now
    }

    /// By how much an end may be late: ipset counts in seconds.
    const fn slack(&self) -> Duration {
        match self.mechanism {
            Mechanism::Iptables(..) => Duration::from_millis(2_200),
            Mechanism::Nft(..) | Mechanism::Programs(_) => Duration::from_millis(50),
        }
    }
}

/// What the first node that does not surely let it pass makes of it.
fn first_stop(steps: &[Step], stopped: impl Fn(How) -> Fate) -> Option<Fate> {
    steps.iter().find_map(|step| match step {
        Step::Pass => None,
        Step::Stop(how) => Some(stopped(*how)),
        Step::Either => Some(Fate::Either),
    })
}
