//! What is known of each watched network namespace.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;

use polproof_policy::Uid;
use serde::{Deserialize, Serialize};

use crate::netns::{Hook, InPod, NetnsEvent};
use crate::record::{Instant, NetnsCookie};
use crate::witness::Gap;

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
    /// Since when nothing else does, if nothing does.
    pub exclusive_from: Instant,
    /// Since when nothing filters in the pod, if nothing did when it was last asked.
    pub plain_from: Option<Instant>,
}

/// For how long a namespace that is gone may still have attempts to judge.
const LINGER: u64 = 60 * Instant::SECOND;
/// How long after a restart a namespace is believed to be there without having been attached to again.
const UNCONFIRMED: u64 = 600 * Instant::SECOND;
/// More namespaces than a node can have; further ones stay unidentified.
const BOUND: usize = 65_536;
/// Times without programs that are remembered of a namespace.
const GAPS: usize = 16;
/// For how long after it was attached to a namespace of nobody may be that of any pod.
const NAMELESS: u64 = 60 * Instant::SECOND;

#[derive(Debug, Default)]
struct Namespace {
    pod: Option<Uid>,
    contradicted: bool,
    addresses: Vec<IpAddr>,
    since: Instant,
    hook: Option<Hook>,
    /// Attempts that began before this may have met another program.
    exclusive_from: Instant,
    /// What filters in the pod; `None` if nobody has asked yet.
    in_pod: Option<InPod>,
    /// Since when nothing does.
    plain_from: Instant,
    /// Times in which packets went unseen.
    gaps: VecDeque<(Instant, Instant)>,
    gone: Option<Instant>,
}

impl Namespace {
    fn is_deaf(&self, from: Instant, to: Instant) -> bool {
        self.since > from || self.was_away(from, to)
    }

    /// Whether the programs were away for some time between two moments.
    fn was_away(&self, from: Instant, to: Instant) -> bool {
        let mut gaps = self.gaps.iter();
        gaps.any(|(gap_from, gap_to)| *gap_from <= to && *gap_to >= from)
    }

    /// Without room for another one, what was between the two oldest counts as unseen, too.
    fn join_gaps(&mut self) {
        if self.gaps.len() > GAPS
            && let Some((from, to)) = self.gaps.pop_front()
            && let Some(oldest) = self.gaps.front_mut()
        {
            *oldest = (oldest.0.min(from), oldest.1.max(to));
        }
    }

    /// From when on every packet was seen, until now.
    fn whole_since(&self) -> Instant {
        let gaps = self.gaps.iter().map(|(_, to)| *to);
        gaps.fold(self.since, Instant::max)
    }
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
            NetnsEvent::InPod { at, filter, .. } => {
                if matches!(filter, InPod::Plain) && held.in_pod.as_ref() != Some(filter) {
                    // The first time that it is asked is when it was attached to, or soon after: what was there then was
                    // there before.
                    held.plain_from = match held.in_pod {
                        None => held.since.max(held.plain_from),
                        Some(_) => *at,
                    };
                }
                held.in_pod = Some(filter.clone());
            }
            // Told anew while it lasts.
            NetnsEvent::Gap { from, to, .. }
                if held.gaps.back().is_some_and(|(began, _)| began == from) =>
            {
                if let Some((_, end)) = held.gaps.back_mut() {
                    *end = (*end).max(*to);
                }
            }
            NetnsEvent::Gap { from, to, .. } => {
                held.gaps.push_back((*from, *to));
                held.join_gaps();
            }
            NetnsEvent::Sockets { .. } => {}
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
                    exclusive_from: binding.exclusive_from,
                    // It is asked anew.
                    plain_from: binding.plain_from.unwrap_or(now),
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

    /// The pod of a namespace, if nothing contradicts it.
    pub(crate) fn pod(&self, netns: NetnsCookie) -> Option<&Uid> {
        let held = self.held.get(&netns)?;
        held.pod.as_ref().filter(|_| !held.contradicted)
    }

    /// From when on every packet of a namespace was seen.
    pub(crate) fn since(&self, netns: NetnsCookie) -> Option<Instant> {
        self.held.get(&netns).map(|held| held.since)
    }

    /// Whether nothing in the pod but its stack can have taken a packet that came at that time.
    pub(crate) fn is_plain(&self, netns: NetnsCookie, at: Instant) -> bool {
        self.held
            .get(&netns)
            .is_some_and(|held| matches!(held.in_pod, Some(InPod::Plain)) && held.plain_from <= at)
    }

    /// Whether it is known what filters in the pod.
    pub(crate) fn is_inside_known(&self, netns: NetnsCookie) -> bool {
        self.held
            .get(&netns)
            .is_some_and(|held| held.in_pod.is_some())
    }

    /// Whether something may filter in a pod, or did at some time since then.
    pub(crate) fn may_filter(&self, pod: &Uid, since: Instant) -> bool {
        self.held.values().any(|held| {
            held.pod.as_ref() == Some(pod)
                && !(matches!(held.in_pod, Some(InPod::Plain)) && held.plain_from <= since)
        })
    }

    /// Whether the programs were away from a namespace for some time between two moments.
    pub(crate) fn was_away(&self, netns: NetnsCookie, from: Instant, to: Instant) -> bool {
        self.held
            .get(&netns)
            .is_some_and(|held| held.was_away(from, to))
    }

    /// Why not every packet in a namespace was seen between two moments.
    pub(crate) fn gap(&self, netns: NetnsCookie, from: Instant, to: Instant) -> Option<Gap> {
        let Some(held) = self.held.get(&netns) else {
            return Some(Gap::PodUnknown);
        };
        if held.contradicted {
            return Some(Gap::PodUnknown);
        }
        if held.hook != Some(Hook::Exclusive) || from < held.exclusive_from {
            return Some(Gap::HookShared);
        }
        let away = held.is_deaf(from, to) || held.gone.is_some_and(|gone| gone < to);
        away.then_some(Gap::NotAttached)
    }

    /// Whether not every program was attached all the time between two moments, while the namespace was there: one direction may
    /// have been seen without the other.
    pub(crate) fn is_deaf(&self, netns: NetnsCookie, from: Instant, to: Instant) -> bool {
        self.held
            .get(&netns)
            .is_some_and(|held| held.is_deaf(from, to))
    }

    /// Calls `each` with the namespaces of a pod (or of every pod) that were there between two moments. `false` if another
    /// one may have been.
    pub(crate) fn between(
        &self,
        pod: Option<&Uid>,
        from: Instant,
        to: Instant,
        each: &mut dyn FnMut(NetnsCookie),
    ) -> bool {
        let mut whole = true;
        let mut any = false;
        for (netns, held) in &self.held {
            if held.since > to || held.gone.is_some_and(|gone| gone < from) {
                continue;
            }
            match &held.pod {
                Some(of) if pod.is_none_or(|pod| pod == of) => {
                    any = true;
                    whole &= !held.contradicted;
                    each(*netns);
                }
                Some(_) => {}
                // It may be the new sandbox of a pod.
                None => whole &= held.since.plus(NAMELESS) < from,
            }
        }
        whole && any
    }

    /// Whether a namespace is known to be the pod's.
    pub(crate) fn has(&self, pod: &Uid) -> bool {
        self.held
            .values()
            .any(|held| held.pod.as_ref() == Some(pod) && !held.contradicted)
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
                    since: held.whole_since(),
                    hook: held.hook.clone()?,
                    exclusive_from: held.exclusive_from,
                    plain_from: matches!(held.in_pod, Some(InPod::Plain))
                        .then_some(held.plain_from),
                })
            })
            .collect();
        bindings.sort_unstable_by_key(|binding| binding.netns);
        bindings
    }
}
