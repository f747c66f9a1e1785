//! New pods: the policies that select them were there before them, so there is no grace for the pod.
//!
//! The documentation of NetworkPolicy requires that a pod is isolated before its containers start. Its packets may well come
//! before the cluster's view of it: then it is judged by the first view that knows it, if the policies which deny there,
//! and the labels that decide, had been there unchanged for the grace time.

use std::sync::Arc;

use polproof_policy::{Snapshot, Uid};

use crate::expectation::{Call, Denial, Judgement, Peer, Tuple, judge};
use crate::here::Here;
use crate::history::History;
use crate::record::Instant;
use crate::settings::Settings;

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
        let known = self.views.get(start + unknown)?;
        let mut policies = denial.policies.clone();
        for view in self.views.iter().skip(start).take(unknown) {
            policies.retain(|(_, policy)| policy.is_held_by(&view.snapshot));
            if !is_as_later(&view.snapshot, &known.snapshot, &peer, uid) {
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
}

/// Whether the pods at both ends, as far as they were known, and their namespaces had the labels that they have later.
fn is_as_later(before: &Snapshot, later: &Snapshot, peer: &Peer, own: &Uid) -> bool {
    let other = match peer {
        Peer::Pod(uid) => Some(uid),
        _ => None,
    };
    [Some(own), other].into_iter().flatten().all(|uid| {
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
