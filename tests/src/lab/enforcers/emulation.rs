//! An enforcer put together: what each node's agent believes, what is wrong with it, and the mechanism that loads the rules.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use polproof_policy::{Family, Uid};

use super::kind::{Attach, Fault, Hook, Mechanism, Memory, Stop};
use super::plan::Plan;
use super::view::View;
use super::{Case, Enforcer, Event, Fate, Seat, World, conntrack, iptables, nft, programs};
use crate::netns::Netns;

/// See the module.
#[derive(Debug)]
pub struct Emulation {
    name: &'static str,
    pub(super) mechanism: Mechanism,
    pub(super) memory: Memory,
    pub(super) faults: Vec<Fault>,
    loader: Box<dyn Loader>,
    /// Nodes whose agent is dead.
    dead: BTreeSet<String>,
    /// What is in force, by node.
    pub(super) sites: BTreeMap<String, Site>,
}

/// What is in force on one node.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) view: Arc<View>,
    plans: [Plan; 2],
    /// Pods that came when the agent was there already, by UID.
    pub(super) young: BTreeMap<Uid, Loaded>,
    /// When it first loaded anything.
    pub(super) since: Instant,
    /// When it last loaded anything.
    pub(super) changed: Loaded,
    /// When it began to be upgraded, and for how long.
    pub(super) upgraded: Option<(Loaded, Duration)>,
}

/// Something was loaded: not before the first, not after the second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loaded(pub(super) Instant, pub(super) Instant);

/// What brings plans into a kernel.
pub(super) trait Loader: std::fmt::Debug {
    /// Replaces what is in force on a node, at once.
    fn load(&mut self, site: &Place<'_>, plans: &[Plan; 2]) -> Result<()>;

    /// Forgets connections.
    fn forget(&mut self, site: &Place<'_>) -> Result<()> {
        conntrack::flush(site.netns)
    }

    /// Takes everything away.
    fn unload(&mut self, site: &Place<'_>) -> Result<()>;
}

/// A node, for a loader.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) node: &'a str,
    pub(super) netns: &'a Netns,
    pub(super) seats: Vec<&'a Seat<'a>>,
}

impl Emulation {
    /// An enforcer that has installed nothing yet.
    pub fn new(name: &'static str, mechanism: Mechanism, memory: Memory, faults: &[Fault]) -> Self {
        let loader: Box<dyn Loader> = match mechanism {
            Mechanism::Iptables(hook, stop) => {
                Box::new(iptables::Iptables::new(hook, stop, memory, faults))
            }
            Mechanism::Nft(hook, stop) => Box::new(nft::Nft::new(hook, stop, memory, faults)),
            Mechanism::Programs(attach) => Box::new(programs::Programs::new(attach, memory)),
        };
        Self {
            name,
            mechanism,
            memory,
            faults: faults.to_vec(),
            loader,
            dead: BTreeSet::new(),
            sites: BTreeMap::new(),
        }
    }

    /// Whether old connections live on by a memory that began with the programs.
    pub(super) const fn has_own_memory(&self) -> bool {
        matches!(self.mechanism, Mechanism::Programs(_))
    }

    /// How long a new pod is closed, and then open.
    pub(super) fn new_pod(&self) -> Option<(Duration, Duration)> {
        self.faults.iter().find_map(|fault| match fault {
            Fault::NewPod { closed, open } => Some((*closed, *open)),
            _ => None,
        })
    }

    fn load(
        &mut self,
        place: &Place<'_>,
        view: &Arc<View>,
        upgrade: Option<Duration>,
    ) -> Result<()> {
        let began = Instant::now();
        let before = self.sites.remove(place.node);
        let mut young = BTreeMap::new();
        if let Some(site) = &before {
            let known = site.view.uids();
            for uid in view.uids() {
                match site.young.get(&uid) {
                    Some(loaded) => drop(young.insert(uid, *loaded)),
                    None if known.contains(&uid) => {}
                    None => drop(young.insert(uid, Loaded(began, began))),
                }
            }
        }
        let upgraded = match upgrade {
            Some(open) => Some((Loaded(began, began), open)),
            None => before.as_ref().and_then(|site| site.upgraded),
        };
        let plan = |family| {
            let mut plan = Plan::compute(view, place.node, family, &self.faults);
            for (pod, ip) in view.local(place.node, family) {
                let mut open_until = upgraded.map(|(Loaded(from, _), open)| from + open);
                if let (Some(Loaded(from, _)), Some((closed, open))) =
                    (young.get(&pod.uid), self.new_pod())
                {
                    plan.closed.push((ip, *from + closed));
                    open_until = open_until.max(Some(*from + closed + open));
                }
                plan.open.extend(open_until.map(|until| (ip, until)));
            }
            plan.closed.retain(|(_, until)| *until > began);
            plan.open.retain(|(_, until)| *until > began);
            plan
        };
        let plans = [plan(Family::V4), plan(Family::V6)];
        // Programs go by interfaces, too.
        let same =
            before.as_ref().is_some_and(|site| site.plans == plans) && !self.has_own_memory();
        if !same {
            self.loader
                .load(place, &plans)
                .with_context(|| format!("load the rules of {}", place.node))?;
            if self.memory == Memory::Flushed {
                self.loader.forget(place)?;
            }
        }
        let loaded = Instant::now();
        for Loaded(from, to) in young.values_mut() {
            if *from == began {
                *to = loaded;
            }
        }
        let changed = match &before {
            Some(site) if same => site.changed,
            _ => Loaded(began, loaded),
        };
        let upgraded = upgraded.map(|(Loaded(from, to), open)| {
            let to = if from == began { loaded } else { to };
            (Loaded(from, to), open)
        });
        let site = Site {
            view: Arc::clone(view),
            plans,
            young,
            since: before.map_or(loaded, |site| site.since),
            changed,
            upgraded,
        };
        self.sites.insert(place.node.to_owned(), site);
        Ok(())
    }

    fn load_living(&mut self, world: &World<'_>, upgrade: Option<Duration>) -> Result<()> {
        let places = places(world);
        let living: Vec<&Place<'_>> = places
            .iter()
            .filter(|place| !self.dead.contains(place.node))
            .collect();
        if living.is_empty() {
            return Ok(());
        }
        let gone = match self.sites.values().next() {
            Some(site) => site.view.policies.clone(),
            None => BTreeMap::new(),
        };
        let view = Arc::new(View::read(world, &self.faults, &gone)?);
        for place in living {
            self.load(place, &view, upgrade)?;
        }
        if self.faults.contains(&Fault::Stale) {
            self.die(world, None);
        }
        Ok(())
    }

    fn die(&mut self, world: &World<'_>, only: Option<&str>) {
        let nodes = world.nodes.iter().map(|(name, _)| *name);
        self.dead.extend(
            nodes
                .filter(|name| only.is_none_or(|only| only == *name))
                .map(str::to_owned),
        );
    }
}

fn places<'a>(world: &'a World<'a>) -> Vec<Place<'a>> {
    world
        .nodes
        .iter()
        .map(|(node, netns)| Place {
            node,
            netns,
            seats: world
                .seats
                .iter()
                .filter(|seat| seat.node == *node)
                .collect(),
        })
        .collect()
}

impl Default for Emulation {
    /// What Calico does in its iptables mode, made simple.
    fn default() -> Self {
        let mechanism = Mechanism::Iptables(Hook::Forward, Stop::Drop);
        Self::new("iptables-drop", mechanism, Memory::Kept, &[])
    }
}

impl Enforcer for Emulation {
    fn name(&self) -> &'static str {
        self.name
    }

    fn enforce(&mut self, world: &World<'_>) -> Result<()> {
        self.load_living(world, None)
    }

    fn withdraw(&mut self, world: &World<'_>) -> Result<()> {
        for place in places(world) {
            if self.sites.remove(place.node).is_some() {
                self.loader
                    .unload(&place)
                    .with_context(|| format!("take the rules off {}", place.node))?;
            }
        }
        self.dead.clear();
        Ok(())
    }

    fn happen(&mut self, event: &Event, world: &World<'_>) -> Result<()> {
        match event {
            Event::Died(node) => {
                self.die(world, node.as_deref());
                Ok(())
            }
            Event::Restarted => {
                self.dead.clear();
                self.load_living(world, None)
            }
            Event::Upgraded(open) => self.load_living(world, Some(*open)),
        }
    }

    fn fate(&self, case: &Case) -> Fate {
        self.fate_of(case)
    }
}

impl Attach {
    /// Whether it is a link of tcx.
    pub(super) const fn is_link(self) -> bool {
        matches!(self, Self::Tcx | Self::RedirectPeer)
    }
}
