//! Labels that were changed between two views more than once, so that no view shows it.
//!
//! Changes that come close together make one view. Of a policy a generation or a UID tells that it was edited and edited back; of labels
//! nothing does. But whoever enforces may have seen what no view shows, and may follow it for as long as the grace time. The state takes
//! an object that is as it was for nothing new, so an object that is another one and yet equal was something else in between. And one whose
//! labels are others now may have had others still in between, by which what is denied before and after was allowed.

use std::sync::Arc;

use polproof_policy::model::Labels;
use polproof_policy::{Snapshot, Uid};

use crate::expectation::Peer;
use crate::history::View;

/// Whether the labels of a namespace were or may have been others between two neighbouring views.
pub(crate) fn undone_namespace(before: &View, after: &View, name: &str) -> bool {
    after.follows && was_another_namespace(&before.snapshot, &after.snapshot, name)
}

/// Whether the labels of one of two ends, or of their namespaces, were or may have been others between two neighbouring views.
pub(crate) fn undone(before: &View, after: &View, own: &Uid, peer: &Peer) -> bool {
    // Of another state every object is another one.
    if !after.follows {
        return false;
    }
    let (before, after) = (&before.snapshot, &after.snapshot);
    let peer = match peer {
        Peer::Pod(uid) => Some(uid),
        Peer::Node(_)
        | Peer::Service(_)
        | Peer::External
        | Peer::Ambiguous
        | Peer::Unidentified => None,
    };
    peer.into_iter()
        .chain([own])
        .any(|uid| was_another(before, after, uid))
}

fn was_another(before: &Snapshot, after: &Snapshot, uid: &Uid) -> bool {
    let (Some(was), Some(is)) = (before.pod(uid), after.pod(uid)) else {
        return false;
    };
    was_other(was, is, |pod| &pod.labels) || was_another_namespace(before, after, &is.id.namespace)
}

fn was_another_namespace(before: &Snapshot, after: &Snapshot, name: &str) -> bool {
    match (before.namespace(name), after.namespace(name)) {
        (Some(was), Some(is)) => was_other(was, is, |namespace| &namespace.labels),
        _ => false,
    }
}

fn was_other<T: PartialEq>(was: &Arc<T>, is: &Arc<T>, labels: impl Fn(&T) -> &Labels) -> bool {
    !Arc::ptr_eq(was, is) && (was == is || labels(was) != labels(is))
}
