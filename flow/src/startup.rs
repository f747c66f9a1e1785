//! New pods: the policies that select them were there before them, so there is no grace for the pod.
//!
//! The documentation of NetworkPolicy requires that a pod is isolated before its containers start. Its packets may well come
//! before the cluster's view of it: then it is judged by the first view that knows it, if the policies which deny there,
//! and the labels that decide, had been there unchanged for the grace time, and if the other address was nobody else's in any view
//! that did not know the pod yet: views that come late tell of many changes at once.
//!
//! An enforcer that only lags behind new pods closes in the end. So what gets through is a gap at the start for as long as a
//! change of policy would be called late, and after that no enforcement at all. A pod that was known before it was
//! governed, because its labels came later, is no new one.

use std::net::IpAddr;
use std::sync::Arc;

use polproof_policy::{IpOwner, Snapshot, Uid};

use crate::expectation::{Call, Denial, Judgement, Peer, Tuple, judge};
use crate::finding::End;
use crate::here::Here;
use crate::history::History;
use crate::record::Instant;
use crate::settings::Settings;
use crate::undone::undone;

impl History {
    /// What is to be said of an attempt from or to a pod that was not known when it was made, or is for less than the grace
    /// time.
    pub(crate) fn newcomer(
        &mut self,
        tuple: &Tuple,
        uid: &Uid,
        at: Instant,
        here: &Here,
        settings: &Settings,
    ) -> Option<Call> {
        let from = at.minus(settings.grace);
        // What changed while nobody looked is not known.
        if self.live_from()? > from {
            return None;
        }
        let start = self
            .views
            .partition_point(|view| view.at <= from)
            .checked_sub(1)?;
        let until = at.plus(settings.after());
        let mut unknown = 0_usize;
        let mut held: Option<Judgement> = None;
        for view in self.views.iter().skip(start) {
            self.evaluations += 1;
            let now = judge(&view.snapshot, here, tuple, uid);
            match held.take() {
                None if now.is_unknown(tuple) => {
                    unknown += 1;
                    if view.at > at.plus(settings.identify) {
                        return None;
                    }
                }
                None if unknown == 0 => return None,
                None => match now.call {
                    Call::Deny(_) => held = Some(now),
                    // Nobody is accused.
                    Call::Allow(_) | Call::Exempt => return Some(now.call),
                    Call::Undecided(_) => return None,
                },
                Some(before) if view.at > until => {
                    held = Some(before);
                    break;
                }
                Some(before) => held = Some(before.through(&now)?),
            }
        }
        let Judgement { peer, call } = held?;
        let Call::Deny(denial) = call else {
            return None;
        };
        let later = self.views.iter().skip(start.saturating_add(1));
        let mut pairs = self.views.iter().skip(start).zip(later);
        if pairs.any(|(before, view)| view.at <= until && undone(before, view, uid, &peer)) {
            return None;
        }
        let known = self.views.get(start + unknown)?;
        let mut policies = denial.policies.clone();
        for view in self.views.iter().skip(start).take(unknown) {
            // Whoever had the other address then may have made the attempt, or been meant by it.
            if tuple.who.is_none() && is_anothers(&view.snapshot, tuple.peer, &peer) {
                return None;
            }
            policies.retain(|(_, policy)| policy.is_held_by(&view.snapshot));
            let other = match &peer {
                Peer::Pod(uid) => Some(uid),
                _ => None,
            };
            if !is_as_later(
                &view.snapshot,
                &known.snapshot,
                other.into_iter().chain([uid]),
            ) {
                return None;
            }
        }
        (!policies.is_empty()).then(|| {
            Call::Deny(Arc::new(Denial {
                key: Arc::clone(&denial.key),
                policies,
            }))
        })
    }

    /// Whether a denial that has held since then, and not before, began when one of its pods came to be known, under a
    /// policy that was there before the pod.
    pub(crate) fn began_with_a_pod(&self, denial: &Denial, since: Instant) -> bool {
        let first = self.views.partition_point(|view| view.at < since);
        let before = first
            .checked_sub(1)
            .and_then(|before| self.views.get(before));
        let (Some(before), Some(then)) = (before, self.views.get(first)) else {
            return false;
        };
        let (before, then) = (&before.snapshot, &then.snapshot);
        let key = &denial.key;
        let pods = [
            (&key.source, key.source_ip),
            (&key.destination, key.destination_ip),
        ];
        let pods = pods.iter().filter_map(|(end, ip)| match end {
            End::Pod(_, uid) => Some((uid, *ip)),
            End::Node(_) | End::External => None,
        });
        let has = |snapshot: &Snapshot, uid: &Uid, ip: IpAddr| {
            snapshot.pod(uid).is_some_and(|pod| pod.ips.contains(&ip))
        };
        let is_new = |(uid, ip): (&Uid, IpAddr)| {
            before.pod(uid).is_none() || (has(then, uid, ip) && !has(before, uid, ip))
        };
        pods.clone().any(is_new)
            && is_as_later(before, then, pods.map(|(uid, _)| uid))
            && denial
                .policies
                .iter()
                .any(|(_, policy)| policy.is_held_by(before))
    }
}

/// Whether an address was somebody else's than this one's.
fn is_anothers(view: &Snapshot, ip: IpAddr, peer: &Peer) -> bool {
    match view.owner(ip) {
        IpOwner::Pod(pod) => *peer != Peer::Pod(pod.uid.clone()),
        IpOwner::Node(name) => *peer != Peer::Node(name),
        IpOwner::Ambiguous => true,
        IpOwner::Nobody | IpOwner::UnknownInPodCidr | IpOwner::Service(_) => false,
    }
}

/// Whether these pods, as far as they were known, and their namespaces had the labels that they have later.
fn is_as_later<'u>(
    before: &Snapshot,
    later: &Snapshot,
    mut pods: impl Iterator<Item = &'u Uid>,
) -> bool {
    pods.all(|uid| {
        let Some(pod) = later.pod(uid) else {
            return false;
        };
        let namespace = &pod.id.namespace;
        before.namespace_labels(namespace) == later.namespace_labels(namespace)
            && before.pod(uid).is_none_or(|was| {
                was.labels == pod.labels && was.ports == pod.ports && was.id == pod.id
            })
    })
}
