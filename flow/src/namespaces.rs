//! What is known of each watched network namespace.

use std::collections::HashMap;
use std::net::IpAddr;

use polproof_policy::Uid;
use serde::{Deserialize, Serialize};

use crate::netns::{Hook, NetnsEvent};
use crate::record::{Instant, NetnsCookie};

/// A namespace and its pod, as kept over a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Which namespace.
    pub netns: NetnsCookie,
    /// The pod.
    pub pod: Uid,
    /// Addresses of eth0.
    pub addresses: Vec<IpAddr>,
    /// From when on every packet was seen.
    pub since: Instant,
    /// What else sat on eth0 when it was last asked.
    pub hook: Hook,
}

/// For how long a namespace that is gone may still have attempts to judge.
const LINGER: u64 = 60 * Instant::SECOND;
/// How long after a restart a namespace is believed to be there without having been attached to again.
const UNCONFIRMED: u64 = 600 * Instant::SECOND;
/// More namespaces than a node can have; further ones stay unidentified.
const BOUND: usize = 65_536;

#[derive(Debug, Default)]
struct Namespace {
    pod: Option<Uid>,
    contradicted: bool,
    addresses: Vec<IpAddr>,
    since: Instant,
    hook: Option<Hook>,
    /// Attempts that began before this may have met another program.
    exclusive_from: Instant,
    gone: Option<Instant>,
}

/// Whether the witness in a namespace can be believed, and whose witness it is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Witness<'a> {
    /// Not identified yet.
    Unknown,
    /// What identifies it contradicts itself.
    Contradicted,
    /// Another program may have answered in the pod's stead.
    Shared,
    /// This pod's.
    Of(&'a Uid),
}

#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    held: HashMap<NetnsCookie, Namespace>,
}

impl Namespaces {
    /// Takes in news; says whether a known namespace is now taken for another pod's.
    pub(crate) fn on_event(&mut self, event: &NetnsEvent) -> bool {
        let netns = match event {
            NetnsEvent::Attached { netns, .. }
            | NetnsEvent::Identified { netns, .. }
            | NetnsEvent::Contradicted { netns, .. }
            | NetnsEvent::HookChanged { netns, .. }
            | NetnsEvent::InPod { netns, .. }
            | NetnsEvent::Gap { netns, .. }
            | NetnsEvent::Sockets { netns, .. }
            | NetnsEvent::Gone { netns, .. } => *netns,
        };
        if self.held.len() >= BOUND && !self.held.contains_key(&netns) {
            return false;
        }
        let held = self.held.entry(netns).or_default();
        match event {
            NetnsEvent::Attached {
                since,
                addresses,
                hook,
                ..
            } => {
                held.since = *since;
                held.addresses.clone_from(addresses);
                held.gone = None;
                // Adopted after a restart: what was shared before may have answered earlier attempts.
                if matches!((&held.hook, hook), (Some(Hook::Shared(_)), Hook::Exclusive)) {
                    held.exclusive_from = *since;
                }
                held.hook = Some(hook.clone());
            }
            NetnsEvent::Identified { pod, .. } => {
                let other = held.pod.as_ref().is_some_and(|known| known != pod);
                held.pod = Some(pod.clone());
                held.contradicted = false;
                held.gone = None;
                return other;
            }
            NetnsEvent::Contradicted { .. } => held.contradicted = true,
            NetnsEvent::HookChanged { at, hook, .. } => {
                if matches!(hook, Hook::Exclusive) && held.hook.as_ref() != Some(hook) {
                    held.exclusive_from = *at;
                }
                held.hook = Some(hook.clone());
            }
            NetnsEvent::InPod { .. } | NetnsEvent::Gap { .. } | NetnsEvent::Sockets { .. } => {}
            NetnsEvent::Gone { at, .. } => held.gone = Some(*at),
        }
        false
    }

    /// A binding of before a restart. If the namespace went away meanwhile, nobody will say so.
    pub(crate) fn restore(&mut self, binding: Binding, now: Instant) {
        if self.held.len() < BOUND {
            self.held.insert(
                binding.netns,
                Namespace {
                    pod: Some(binding.pod),
                    addresses: binding.addresses,
                    since: binding.since,
                    hook: Some(binding.hook),
                    gone: Some(now.plus(UNCONFIRMED)),
                    ..Namespace::default()
                },
            );
        }
    }

    /// The witness for an attempt that began at `at`.
    pub(crate) fn witness(&self, netns: NetnsCookie, at: Instant) -> Witness<'_> {
        let Some(held) = self.held.get(&netns) else {
            return Witness::Unknown;
        };
        if held.contradicted {
            return Witness::Contradicted;
        }
        match (&held.pod, &held.hook) {
            (Some(_), Some(Hook::Shared(_))) => Witness::Shared,
            (Some(_), Some(Hook::Exclusive)) if at < held.exclusive_from => Witness::Shared,
            (Some(pod), Some(Hook::Exclusive)) => Witness::Of(pod),
            (None, _) | (_, None) => Witness::Unknown,
        }
    }

    /// Whether a namespace of the pod has another program on eth0 now.
    pub(crate) fn is_shared(&self, pod: &Uid) -> bool {
        self.held.values().any(|held| {
            held.pod.as_ref() == Some(pod) && matches!(held.hook, Some(Hook::Shared(_)))
        })
    }

    /// Whether any namespace has another program on eth0 now.
    pub(crate) fn any_shared(&self) -> bool {
        self.held
            .values()
            .any(|held| matches!(held.hook, Some(Hook::Shared(_))))
    }

    pub(crate) fn expire(&mut self, now: Instant) {
        self.held
            .retain(|_, held| held.gone.is_none_or(|gone| gone.plus(LINGER) > now));
    }

    pub(crate) fn bindings(&self) -> Vec<Binding> {
        let mut bindings: Vec<Binding> = self
            .held
            .iter()
            .filter(|(_, held)| !held.contradicted)
            .filter_map(|(netns, held)| {
                Some(Binding {
                    netns: *netns,
                    pod: held.pod.clone()?,
                    addresses: held.addresses.clone(),
                    since: held.since,
                    hook: held.hook.clone()?,
                })
            })
            .collect();
        bindings.sort_unstable_by_key(|binding| binding.netns);
        bindings
    }
}
