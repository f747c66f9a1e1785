//! What is asked inside a watched namespace besides its eth0: what filters in there, and which connections there are.
//!
//! One visit at a time, beside the rest of the work: a new pod is attached to meanwhile.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context;
use polproof_flow::netns::{InPod, NetnsEvent};
use polproof_flow::record::NetnsCookie;
use polproof_policy::model::Pod;
use polproof_policy::{NamespacedName, Protocol, Snapshot};
use tokio::task::JoinHandle;

use super::coverage::set;
use super::identify::Identity as Owner;
use super::watch::{CHECK, Namespace, Watcher};
use crate::inpod;
use crate::observe::{Identity, ObserveError, now, visit};
use crate::sockets::{self, Listing};

/// After an attach what filters is asked at once, and again after these times: the init container of a sidecar writes its rules when the
/// pod has started. Then with every [`CHECK`].
const FILTERS_AGAIN: [Duration; 3] = [
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(10),
];
/// How often the connections of one namespace are listed, if the time that it takes allows.
const SOCKETS: Duration = Duration::from_secs(30);
/// After a listing none follows for so many times as long as it took: the kernel walks all connections of the node for each, and
/// all of it may cost 1 % of a CPU.
const EASE: u32 = 100;
/// Lists on the way to the judge, which may be busy: they are large.
const LISTS: usize = 8;

/// Ports that were listened on that are remembered for one namespace.
const LISTENED: usize = 1_024;

type Listened = HashSet<(Protocol, u16)>;

/// The state of it for one namespace.
#[derive(Debug)]
pub(super) struct Inside {
    /// When it was attached to.
    attached: Instant,
    /// What was told last.
    pub(super) filter: Option<InPod>,
    filter_due: Instant,
    /// `None`: no policy selects the pod, or which pod it is is not known.
    sockets_due: Option<Instant>,
    listened: Listened,
}

impl Inside {
    pub(super) fn new(attached: Instant) -> Box<Self> {
        Box::new(Self {
            attached,
            filter: None,
            filter_due: attached,
            sockets_due: None,
            listened: HashSet::new(),
        })
    }

    fn filter_asked(&mut self, at: Instant) {
        self.filter_due = FILTERS_AGAIN
            .iter()
            .map(|after| self.attached + *after)
            .find(|due| *due > at)
            .unwrap_or(at + CHECK);
    }
}

/// What one visit brought.
#[derive(Debug)]
pub(super) struct Answer {
    path: PathBuf,
    netns: NetnsCookie,
    filter: InPod,
    /// With the time that it took.
    listing: Option<(std::io::Result<Listing>, Duration)>,
}

/// What the watcher keeps of it for all namespaces.
#[derive(Debug)]
pub(super) struct Asking {
    visit: Option<JoinHandle<Option<Answer>>>,
    identity: Identity,
    /// No listing before.
    rest_until: Instant,
    /// Who is selected may have changed.
    pub(super) reselect: bool,
}

impl Asking {
    pub(super) fn new(start: Instant) -> Self {
        Self {
            visit: None,
            identity: Identity::of_running_kernel(),
            rest_until: start,
            reselect: true,
        }
    }

    /// Waits for the visit under way. Safe to cancel.
    pub(super) async fn answer(&mut self) -> anyhow::Result<Option<Answer>> {
        let Some(visit) = &mut self.visit else {
            return std::future::pending().await;
        };
        let answer = visit
            .await
            .context("the thread that looks into network namespaces died, which is a bug");
        self.visit = None;
        answer
    }
}

impl Watcher {
    /// When the next visit is due, if none is under way.
    pub(super) fn inside_due(&self) -> Option<Instant> {
        if self.asking.visit.is_some() {
            return None;
        }
        self.namespaces
            .values()
            .filter_map(|namespace| match namespace {
                Namespace::Watched(watched) => {
                    let inside = &watched.inside;
                    let sockets = inside
                        .sockets_due
                        .map(|due| due.max(self.asking.rest_until));
                    Some(sockets.map_or(inside.filter_due, |due| due.min(inside.filter_due)))
                }
                _ => None,
            })
            .min()
    }

    /// Begins the most urgent visit, if one is due and none is under way.
    pub(super) fn ask_inside(&mut self, now: Instant) {
        if self.asking.visit.is_some() {
            return;
        }
        let may_list = self.asking.rest_until <= now;
        let due = |inside: &super::watch::Watched| {
            let sockets = inside.inside.sockets_due.filter(|_| may_list);
            let filter = inside.inside.filter_due;
            sockets.map_or(filter, |due| due.min(filter))
        };
        let next = self
            .namespaces
            .iter_mut()
            .filter_map(|(path, namespace)| match namespace {
                Namespace::Watched(watched) => Some((path, watched)),
                _ => None,
            })
            .min_by_key(|(_, watched)| due(watched));
        let Some((path, watched)) = next else { return };
        if due(watched) > now {
            return;
        }
        let inside = &mut watched.inside;
        let mut list = may_list && inside.sockets_due.is_some_and(|due| due <= now);
        if list && self.events.max_capacity() - self.events.capacity() >= LISTS {
            // The judge has enough to do.
            inside.sockets_due = Some(now + Duration::from_secs(1));
            list = false;
            if inside.filter_due > now {
                return;
            }
        }
        // A visit costs more than what is asked in it.
        inside.filter_asked(now);
        let mut addresses = None;
        if list {
            inside.sockets_due = Some(now + SOCKETS);
            addresses = Some((
                watched.attached.addresses.clone(),
                std::mem::take(&mut inside.listened),
            ));
        }
        let (path, netns, identity) = (path.clone(), watched.netns, self.asking.identity);
        self.asking.visit = Some(tokio::task::spawn_blocking(move || {
            look(path, netns, identity, addresses)
        }));
    }

    /// Tells the judge what a visit brought.
    pub(super) async fn answered(&mut self, answer: Option<Answer>) -> anyhow::Result<()> {
        // None: the namespace has gone or was replaced, as the directory will tell.
        let Some(Answer {
            path,
            netns,
            filter,
            listing,
        }) = answer
        else {
            return Ok(());
        };
        if let Some((_, took)) = &listing {
            self.asking.rest_until = Instant::now() + (*took * EASE).min(SOCKETS);
        }
        let Some(Namespace::Watched(watched)) = self.namespaces.get_mut(&path) else {
            return Ok(());
        };
        if watched.netns != netns {
            return Ok(());
        }
        let before = watched.inside.filter.replace(filter.clone());
        let owner = match &watched.identity {
            Owner::Pod(uid) => &uid.0,
            _ => "not known yet",
        };
        if before.as_ref() != Some(&filter) {
            match (&filter, before.is_some()) {
                (InPod::Filtered(what), _) => {
                    tracing::info!(path = %path.display(), netns = netns.0, pod = owner, what, "something filters inside the pod: what reaches it and is not answered proves nothing against the network");
                }
                (InPod::Plain, true) => {
                    tracing::info!(path = %path.display(), netns = netns.0, pod = owner, "nothing filters inside the pod any more");
                }
                (InPod::Plain, false) => {}
            }
        }
        let told = match listing {
            Some((Ok(listing), _)) => {
                // Too many to be a server's: a pod that scans, say. It begins anew.
                if listing.listening.len() <= LISTENED {
                    watched.inside.listened = listing.listening.clone();
                }
                Some(listing)
            }
            Some((Err(error), _)) => {
                self.stats.socket_failures.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(path = %path.display(), %error, "the connections of a namespace cannot be listed");
                None
            }
            None => None,
        };
        if before.as_ref() != Some(&filter) {
            self.send(NetnsEvent::InPod {
                netns,
                at: now(),
                filter,
            })
            .await?;
        }
        if let Some(listing) = told {
            self.tell_sockets(netns, listing).await?;
        }
        Ok(())
    }

    async fn tell_sockets(&mut self, netns: NetnsCookie, listing: Listing) -> anyhow::Result<()> {
        let stats = &self.stats;
        stats.socket_lists.fetch_add(1, Ordering::Relaxed);
        stats
            .sockets_left_out
            .fetch_add(listing.left_out, Ordering::Relaxed);
        stats
            .sockets_undecided
            .fetch_add(listing.undecided, Ordering::Relaxed);
        if listing.left_out > 0 {
            tracing::debug!(
                netns = netns.0,
                left_out = listing.left_out,
                "more connections than are looked at"
            );
        }
        self.send(NetnsEvent::Sockets {
            netns,
            at: listing.at,
            sockets: listing.sockets,
            complete: listing.complete,
        })
        .await
    }

    /// Looks anew which pods a policy selects: the connections of others are nobody's business.
    pub(super) fn reselect(&mut self, now: Instant) {
        if !std::mem::take(&mut self.asking.reselect) {
            return;
        }
        let view = self.view.borrow();
        let selection = Selection::of(&view.snapshot);
        let mut selected = 0;
        for namespace in self.namespaces.values_mut() {
            let Namespace::Watched(watched) = namespace else {
                continue;
            };
            let is_selected = match &watched.identity {
                Owner::Pod(uid) => self.pods.get(uid).is_some_and(|pod| selection.has(pod)),
                _ => false,
            };
            selected += usize::from(is_selected);
            let due = &mut watched.inside.sockets_due;
            *due = is_selected.then(|| due.unwrap_or(now));
        }
        drop(view);
        set(&self.stats.pods_selected, selected);
    }
}

/// Enters once and asks for all.
fn look(
    path: PathBuf,
    netns: NetnsCookie,
    identity: Identity,
    addresses: Option<(Vec<IpAddr>, Listened)>,
) -> Option<Answer> {
    let visited = visit(&path, || {
        if !identity.matches(netns, identity.here()?) {
            return Ok(None);
        }
        let filter = inpod::here();
        let listing = addresses.map(|(addresses, listened)| {
            let begun = Instant::now();
            let listing = sockets::here(&addresses, listened);
            (listing, begun.elapsed())
        });
        Ok(Some((filter, listing)))
    });
    let (filter, listing) = match visited {
        Ok(Some(found)) => found,
        Ok(None) => return None,
        Err(ObserveError::Enter { .. }) if !is_namespace(&path) => return None,
        Err(error) => (
            InPod::Filtered(format!("it cannot be asked: {error}")),
            None,
        ),
    };
    Some(Answer {
        path,
        netns,
        filter,
        listing,
    })
}

fn is_namespace(path: &Path) -> bool {
    use nix::sys::statfs::{FsType, statfs};
    /// `NSFS_MAGIC` of include/uapi/linux/magic.h.
    const NSFS: FsType = FsType(0x6e73_6673);
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == NSFS)
}

/// The policies, by whom they may select.
struct Selection<'a> {
    /// One of the admin or baseline tier may select anybody.
    all: bool,
    by_namespace: HashMap<&'a str, Vec<&'a polproof_policy::model::NetworkPolicy>>,
}

impl<'a> Selection<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let mut by_namespace: HashMap<&str, Vec<_>> = HashMap::new();
        for policy in snapshot.policies() {
            by_namespace
                .entry(&*policy.id.namespace)
                .or_default()
                .push(&**policy);
        }
        Self {
            all: snapshot.admin_policies().next().is_some(),
            by_namespace,
        }
    }

    fn has(&self, pod: &Pod) -> bool {
        let NamespacedName { namespace, .. } = &pod.id;
        self.all
            || self.by_namespace.get(&**namespace).is_some_and(|policies| {
                policies
                    .iter()
                    .any(|policy| policy.pod_selector.matches(&pod.labels))
            })
    }
}
