//! Whether what findings tell of held for long enough to be said for good.

use std::sync::Arc;

use polproof_policy::Kind;
use polproof_policy::model::NetworkPolicy;

use crate::expectation::{Judgement, judge, tells_of_allowance};
use crate::finding::{DecidingPolicy, End, FindingKey, FindingKind, InconclusiveReason};
use crate::here::Here;
use crate::history::{History, View};
use crate::record::Instant;
use crate::settings::Settings;
use crate::undone::{undone, undone_namespace};

impl History {
    /// Whether what a finding tells of held from its first attempt to the aftermath of its last.
    ///
    /// The key itself says what held when the attempts were observed, and that it had held for the grace time.
    /// So it is enough that every view from then on says the same: the same ends, and at least one of the same
    /// policies in the same generation, throughout. Where there is a gap (the agent was not running), the first
    /// view after it takes part: both banks of the gap must agree. What that cannot see is a change that was
    /// made and undone within the gap without leaving a trace in a generation or UID, say a label taken off and
    /// put on again. While the agent runs that is seen: [`undone`].
    ///
    /// A pod that has ended meanwhile was what it was: it is enough then that nothing else changed that decides. But the address of a source that has ended
    /// may have been another pod's before the view told of it, so then the source must have been `witnessed`. A new pod was
    /// not known at first.
    ///
    /// # Errors
    ///
    /// Why it did not hold.
    pub(crate) fn upholds(
        &mut self,
        key: &FindingKey,
        (first, last): (Instant, Instant),
        witnessed: bool,
        here: &Here,
        settings: &Settings,
    ) -> Result<(), InconclusiveReason> {
        let changed = Err(InconclusiveReason::ExpectationChanged);
        let Some((tuple, uid)) = crate::keys::question(key) else {
            return changed;
        };
        let known_by_address = !witnessed && key.kind != FindingKind::Survivor;
        // A connection may be older than the policies that deny it.
        let first = match key.kind {
            FindingKind::Survivor => last,
            _ => first,
        };
        let until = last
            .plus(settings.after())
            .max(self.live_from().unwrap_or(last));
        let then = self
            .views
            .partition_point(|view| view.at <= first)
            .saturating_sub(1);
        let mut held: Option<Judgement> = None;
        let mut earlier = None;
        for view in self.views.iter().skip(then) {
            if view.at > until && held.is_some() {
                break;
            }
            let before = earlier.replace(view);
            self.evaluations += 1;
            let now = judge(&view.snapshot, here, &tuple, uid);
            if !now.upholds(key) {
                if held.is_none()
                    && key.kind == FindingKind::StartupGap
                    && now.is_unknown(&tuple)
                    && view.at <= first.plus(settings.identify)
                {
                    continue;
                }
                if held.is_some()
                    && has_ended(key, view)
                    && before.is_some_and(|before| nothing_else(key, before, view))
                {
                    if known_by_address && is_gone(&key.source, view) {
                        return Err(InconclusiveReason::SourceAmbiguous);
                    }
                    continue;
                }
                return changed;
            }
            if before.is_some_and(|before| undone(before, view, uid, &now.peer)) {
                return changed;
            }
            held = match held {
                None => Some(now),
                Some(before) => match before.through(&now) {
                    Some(through) => Some(through),
                    None => return changed,
                },
            };
        }
        // The view may tell late that a pod has ended, longer after it than a change of policy is waited for.
        let settled = last.plus(settings.settle);
        let later = self.views.iter().skip(then);
        let mut later = later.skip_while(|view| is_gone(&key.source, view));
        if known_by_address && later.any(|view| view.at <= settled && is_gone(&key.source, view)) {
            return Err(InconclusiveReason::SourceAmbiguous);
        }
        held.map(|_| ())
            .ok_or(InconclusiveReason::ExpectationChanged)
    }
}

/// Whether all else that decides is as it was in the view before: one view may tell of the end of a pod and of a change that came before it,
/// which who enforces may have followed at once.
fn nothing_else(key: &FindingKey, before: &View, view: &View) -> bool {
    let (was, is) = (&before.snapshot, &view.snapshot);
    let as_before = |end: &End| {
        let End::Pod(id, uid) = end else {
            return true;
        };
        let namespace = &id.namespace;
        let same_labels = match (was.namespace(namespace), is.namespace(namespace)) {
            (Some(was), Some(is)) => was.labels == is.labels,
            (was, is) => was.is_none() && is.is_none(),
        };
        let same_pod = match (was.pod(uid), is.pod(uid)) {
            (Some(was), Some(is)) => was.labels == is.labels && was.ports == is.ports,
            _ => true,
        };
        let here = |policy: &&Arc<NetworkPolicy>| policy.id.namespace == *namespace;
        same_pod
            && same_labels
            && !undone_namespace(before, view, namespace)
            && was.policies().filter(here).eq(is.policies().filter(here))
    };
    as_before(&key.source)
        && as_before(&key.destination)
        && was.admin_policies().eq(is.admin_policies())
        && was.foreign_policies().eq(is.foreign_policies())
}

/// Whether a pod is gone in a view.
fn is_gone(end: &End, view: &View) -> bool {
    match end {
        End::Pod(_, uid) => view.snapshot.pod(uid).is_none_or(|pod| pod.finished),
        End::Node(_) | End::External => false,
    }
}

/// Whether one of the pods is gone in a view, and a policy that decided is as it was (or none did).
fn has_ended(key: &FindingKey, view: &View) -> bool {
    let stands = |policy: &DecidingPolicy| {
        let snapshot = &view.snapshot;
        match policy.kind {
            Kind::NetworkPolicy => snapshot
                .policy_named(&policy.id)
                .is_some_and(|held| held.uid == policy.uid && held.generation == policy.generation),
            _ => snapshot
                .admin_policies()
                .any(|held| held.uid == policy.uid && held.generation == policy.generation),
        }
    };
    (is_gone(&key.source, view) || is_gone(&key.destination, view))
        && (tells_of_allowance(key.kind) || key.policies.iter().any(stands))
}
