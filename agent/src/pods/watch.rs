//! The life of every namespace: waiting for its eth0, attached, identified, gone.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use polproof_cluster::View;
use polproof_flow::netns::{Hook, NetnsEvent};
use polproof_flow::record::NetnsCookie;
use polproof_policy::Uid;
use tokio::sync::{mpsc, watch};

use super::PodsConfig;
use super::coverage::{PodsStats, Uncovered, set};
use super::discover::{Change, Discovery};
use super::identify::{Identity, NodePods, by_cgroup, identify};
use super::throttle::{Throttle, retry_after};
use crate::observe::{Attached, ObserveError, Observer, now};

/// How often a hook is asked again.
const CHECK: Duration = Duration::from_secs(30);
/// How often the figures are renewed.
const FIGURES: Duration = Duration::from_secs(1);
/// Least time between two walks through /proc.
const IDENTIFY: Duration = Duration::from_millis(250);
/// How often to try again to identify what is not, while nothing changes in the cluster.
const IDENTIFY_AGAIN: Duration = Duration::from_secs(2);
/// Pods whose namespace ended that are remembered, against a stale view.
const RETIRED: usize = 4096;

/// One namespace file.
enum Namespace {
    /// To be attached.
    Waiting {
        failures: u32,
        due: Instant,
        problem: String,
    },
    /// Attached.
    Watched(Watched),
    /// The node's own, or one that another file stands for.
    Ignored,
}

struct Watched {
    netns: NetnsCookie,
    attached: Attached,
    identity: Identity,
    check: Instant,
}

pub(super) struct Watcher {
    config: PodsConfig,
    observer: Arc<Mutex<Observer>>,
    view: watch::Receiver<Arc<View>>,
    events: mpsc::Sender<NetnsEvent>,
    stats: Arc<PodsStats>,
    namespaces: BTreeMap<PathBuf, Namespace>,
    throttle: Throttle,
    pods: NodePods,
    /// Pods whose namespace ended, with their addresses then.
    retired: HashMap<Uid, Vec<IpAddr>>,
    identify: Instant,
    identified: Instant,
    collect: Instant,
    figures: Instant,
}

impl Watcher {
    pub(super) fn new(
        config: PodsConfig,
        observer: Observer,
        view: watch::Receiver<Arc<View>>,
        events: mpsc::Sender<NetnsEvent>,
        stats: Arc<PodsStats>,
    ) -> Self {
        let start = Instant::now();
        Self {
            throttle: Throttle::new(config.attach_per_second, start),
            config,
            observer: Arc::new(Mutex::new(observer)),
            view,
            events,
            stats,
            namespaces: BTreeMap::new(),
            pods: NodePods::default(),
            retired: HashMap::new(),
            identify: start,
            identified: start,
            collect: start + CHECK,
            figures: start,
        }
    }

    pub(super) async fn run(mut self) -> anyhow::Result<()> {
        let mut discovery = Discovery::new(self.config.netns_dir.clone());
        let mut view_alive = true;
        self.view.mark_changed();
        loop {
            let due = self.next_due();
            tokio::select! {
                // Changes first: a new pod waits for nothing.
                biased;
                changes = discovery.changes() => {
                    for change in changes {
                        self.change(change).await?;
                    }
                }
                changed = self.view.changed(), if view_alive => {
                    // The source has ended: the last view stands.
                    view_alive = changed.is_ok();
                    let view = Arc::clone(&self.view.borrow_and_update());
                    self.pods = NodePods::new(&self.config.node_name, view.snapshot.pods());
                    self.identify_soon(Duration::ZERO);
                }
                () = tokio::time::sleep_until(due.into()) => self.work().await?,
            }
        }
    }

    /// Asks for an identification, but not more often than [`IDENTIFY`].
    fn identify_soon(&mut self, wait: Duration) {
        let at = (Instant::now() + wait).max(self.identified + IDENTIFY);
        self.identify = self.identify.min(at);
    }

    /// When there is something to do.
    fn next_due(&mut self) -> Instant {
        let now = Instant::now();
        let mut due = self.identify.min(self.collect).min(self.figures);
        let token = self.throttle.ready_at(now);
        for namespace in self.namespaces.values() {
            match namespace {
                Namespace::Waiting { due: at, .. } => due = due.min((*at).max(token)),
                Namespace::Watched(watched) => due = due.min(watched.check),
                Namespace::Ignored => {}
            }
        }
        due
    }

    /// Does the most urgent piece of work.
    async fn work(&mut self) -> anyhow::Result<()> {
        let now = Instant::now();
        let waiting = self
            .namespaces
            .iter()
            .filter_map(|(path, namespace)| match namespace {
                Namespace::Waiting { due, .. } if *due <= now => Some((*due, path)),
                _ => None,
            })
            .min();
        if let Some((_, path)) = waiting {
            let path = path.clone();
            if self.throttle.take(now) {
                return self.attach(path).await;
            }
        }
        if self.identify <= now {
            return self.identify_all().await;
        }
        if self.figures <= now {
            self.figures = now + FIGURES;
            self.renew_figures();
        }
        if self.collect <= now {
            self.collect = now + CHECK;
            self.collect().await?;
        }
        let to_check = self
            .namespaces
            .iter()
            .find_map(|(path, namespace)| match namespace {
                Namespace::Watched(watched) if watched.check <= now => Some(path.clone()),
                _ => None,
            });
        if let Some(path) = to_check {
            self.check(path).await?;
        }
        Ok(())
    }

    async fn change(&mut self, change: Change) -> anyhow::Result<()> {
        match change {
            Change::Appeared(path) => {
                tracing::debug!(path = %path.display(), "a network namespace appeared");
                self.wait_for(path, 0, Duration::ZERO, "not tried yet".to_owned());
            }
            Change::Vanished(path) => {
                if let Some(Namespace::Watched(watched)) = self.namespaces.remove(&path) {
                    self.end(watched).await?;
                }
                // Its links die a moment after its file.
                self.collect = self.collect.min(Instant::now() + Duration::from_secs(1));
            }
        }
        Ok(())
    }

    fn wait_for(&mut self, path: PathBuf, failures: u32, wait: Duration, problem: String) {
        let due = Instant::now() + wait;
        self.namespaces.insert(
            path,
            Namespace::Waiting {
                failures,
                due,
                problem,
            },
        );
    }

    /// A watched namespace is no more.
    async fn end(&mut self, watched: Watched) -> anyhow::Result<()> {
        if let Identity::Pod(uid) = watched.identity
            && let Some(pod) = self.pods.get(&uid)
        {
            if self.retired.len() >= RETIRED {
                self.retired.clear();
            }
            self.retired.insert(uid, pod.ips.clone());
        }
        // A second file of the same namespace may stand in now.
        let others: Vec<_> = self
            .namespaces
            .iter()
            .filter(|(_, namespace)| matches!(namespace, Namespace::Ignored))
            .map(|(path, _)| path.clone())
            .collect();
        for path in others {
            self.wait_for(path, 0, Duration::ZERO, "not tried again yet".to_owned());
        }
        self.send(NetnsEvent::Gone {
            netns: watched.netns,
            at: now(),
        })
        .await
    }

    async fn attach(&mut self, path: PathBuf) -> anyhow::Result<()> {
        let Some(Namespace::Waiting { failures, .. }) = self.namespaces.get(&path) else {
            return Ok(());
        };
        let failures = failures.saturating_add(1);
        let started = now();
        let target = path.clone();
        let attached = self
            .observe(move |observer| observer.attach(&target))
            .await?;
        let attached = match attached {
            Ok(attached) => attached,
            Err(ObserveError::OwnNamespace) => {
                tracing::debug!(path = %path.display(), "the node's own namespace: left alone");
                self.throttle.give_back();
                self.namespaces.insert(path, Namespace::Ignored);
                return Ok(());
            }
            Err(error) => {
                self.throttle.give_back();
                let expected = matches!(
                    error,
                    ObserveError::NoInterface { .. } | ObserveError::Enter { .. }
                );
                if !expected {
                    self.stats.attach_failures.fetch_add(1, Ordering::Relaxed);
                }
                if failures == 16 {
                    tracing::warn!(
                        path = %path.display(), %error,
                        "a network namespace cannot be watched; trying again every 10 s"
                    );
                }
                self.wait_for(path, failures, retry_after(failures), error.to_string());
                return Ok(());
            }
        };
        if attached.since < started {
            // Links of an earlier agent: nothing was attached.
            self.throttle.give_back();
        }
        let twin = self.namespaces.iter().find_map(|(other, namespace)| {
            matches!(namespace, Namespace::Watched(watched) if watched.netns == attached.netns)
                .then(|| other.clone())
        });
        if let Some(twin) = twin {
            tracing::debug!(path = %path.display(), twin = %twin.display(), "another file of the same namespace");
            self.namespaces.insert(path, Namespace::Ignored);
            return Ok(());
        }
        tracing::info!(
            path = %path.display(), netns = attached.netns.0, addresses = ?attached.addresses,
            hook = ?attached.hook, "watching a network namespace"
        );
        self.send_attached(&attached).await?;
        self.namespaces.insert(
            path,
            Namespace::Watched(Watched {
                netns: attached.netns,
                attached,
                identity: Identity::Unknown("not asked yet".to_owned()),
                check: Instant::now() + CHECK,
            }),
        );
        self.identify_soon(Duration::ZERO);
        Ok(())
    }

    async fn send_attached(&self, attached: &Attached) -> anyhow::Result<()> {
        self.send(NetnsEvent::Attached {
            netns: attached.netns,
            since: attached.since,
            addresses: attached.addresses.clone(),
            hook: attached.hook.clone(),
        })
        .await
    }

    /// Asks one hook again; attaches anew where our programs were taken away or eth0 was replaced.
    async fn check(&mut self, path: PathBuf) -> anyhow::Result<()> {
        let target = path.clone();
        let attached = self
            .observe(move |observer| observer.attach(&target))
            .await?;
        let Some(Namespace::Watched(watched)) = self.namespaces.get_mut(&path) else {
            return Ok(());
        };
        watched.check = Instant::now() + CHECK;
        match attached {
            Ok(attached) if attached.netns != watched.netns => {
                // Another namespace under the same name.
                if let Some(Namespace::Watched(old)) = self.namespaces.remove(&path) {
                    self.end(old).await?;
                }
                self.wait_for(path, 0, Duration::ZERO, "replaced".to_owned());
            }
            Ok(attached) if attached.since != watched.attached.since => {
                tracing::warn!(path = %path.display(), "our programs had gone from eth0 (or eth0 was replaced); attached anew");
                watched.attached = attached.clone();
                self.send_attached(&attached).await?;
            }
            Ok(attached) => {
                let hook = attached.hook.clone();
                if hook != watched.attached.hook {
                    tracing::warn!(path = %path.display(), ?hook, "the hook has changed");
                    let netns = watched.netns;
                    watched.attached.hook = hook.clone();
                    self.send(NetnsEvent::HookChanged {
                        netns,
                        at: now(),
                        hook,
                    })
                    .await?;
                }
                self.new_addresses(&path, attached.addresses).await?;
            }
            Err(error) => {
                let hook = Hook::Shared(error.to_string());
                let netns = watched.netns;
                // eth0 may come back any moment.
                watched.check = Instant::now() + FIGURES;
                if watched.attached.hook != hook {
                    watched.attached.hook = hook.clone();
                    self.send(NetnsEvent::HookChanged {
                        netns,
                        at: now(),
                        hook,
                    })
                    .await?;
                }
            }
        }
        Ok(())
    }

    /// Tells the judge addresses that the CNI set after the interface, by the same event with the same `since`.
    async fn new_addresses(&mut self, path: &Path, addresses: Vec<IpAddr>) -> anyhow::Result<()> {
        let Some(Namespace::Watched(watched)) = self.namespaces.get_mut(path) else {
            return Ok(());
        };
        if watched.attached.addresses == addresses {
            return Ok(());
        }
        watched.attached.addresses = addresses;
        let attached = watched.attached.clone();
        self.send_attached(&attached).await
    }

    /// Weighs the witnesses of every watched namespace.
    async fn identify_all(&mut self) -> anyhow::Result<()> {
        let undecided: Vec<PathBuf> = self
            .namespaces
            .iter()
            .filter_map(|(path, namespace)| match namespace {
                Namespace::Watched(watched) if !matches!(watched.identity, Identity::Pod(_)) => {
                    Some(path.clone())
                }
                _ => None,
            })
            .collect();
        let proc_root = self.config.proc_root.clone();
        let (found, by_pods) = self
            .observe(move |observer| {
                let mut found = Vec::new();
                let mut inodes = HashSet::new();
                for path in undecided {
                    let addresses = observer.addresses(&path).unwrap_or_default();
                    let inode = std::fs::metadata(&path).map(|meta| meta.ino()).ok();
                    inodes.extend(inode);
                    found.push((path, inode, addresses));
                }
                let by_pods = if inodes.is_empty() {
                    HashMap::new()
                } else {
                    by_cgroup(&proc_root, &inodes)
                };
                (found, by_pods)
            })
            .await?;
        for (path, inode, addresses) in found {
            self.new_addresses(&path, addresses).await?;
            let of_pods = inode
                .and_then(|inode| by_pods.get(&inode))
                .cloned()
                .unwrap_or_default();
            self.decide(&path, &of_pods).await?;
        }
        // Those decided are looked at again against the new view: an address that moved is a contradiction.
        let decided: Vec<_> = self
            .namespaces
            .iter()
            .filter_map(|(path, namespace)| match namespace {
                Namespace::Watched(Watched {
                    identity: Identity::Pod(uid),
                    ..
                }) if self.pods.get(uid).is_some() => Some((path.clone(), uid.clone())),
                _ => None,
            })
            .collect();
        for (path, uid) in decided {
            self.decide(&path, &BTreeSet::from([uid])).await?;
        }
        self.identified = Instant::now();
        self.identify = self.identified + IDENTIFY_AGAIN;
        self.renew_figures();
        Ok(())
    }

    async fn decide(&mut self, path: &Path, of_pods: &BTreeSet<Uid>) -> anyhow::Result<()> {
        let Some(Namespace::Watched(watched)) = self.namespaces.get(path) else {
            return Ok(());
        };
        let netns = watched.netns;
        let mut identity = identify(&self.pods, of_pods, &watched.attached.addresses, |pod| {
            self.retired.get(&pod.uid) == Some(&pod.ips)
        });
        if let Identity::Pod(uid) = &identity
            && let Some(other) = self.owner(uid, netns)
        {
            identity = Identity::Contradicted(format!(
                "pod {} is already found in namespace {}",
                uid.0, other.0
            ));
        }
        let Some(Namespace::Watched(watched)) = self.namespaces.get_mut(path) else {
            return Ok(());
        };
        if watched.identity == identity {
            return Ok(());
        }
        watched.identity = identity.clone();
        match identity {
            Identity::Pod(pod) => {
                tracing::info!(path = %path.display(), netns = netns.0, pod = %pod.0, "identified");
                self.retired.remove(&pod);
                self.send(NetnsEvent::Identified { netns, pod }).await
            }
            Identity::Contradicted(why) => {
                tracing::warn!(path = %path.display(), netns = netns.0, why, "contradicted: no verdict for this pod");
                self.send(NetnsEvent::Contradicted { netns, why }).await
            }
            // Nothing was claimed of it before, or what was is contradicted elsewhere.
            Identity::Unknown(_) => Ok(()),
        }
    }

    /// Another namespace that is this pod's.
    fn owner(&self, uid: &Uid, but: NetnsCookie) -> Option<NetnsCookie> {
        self.namespaces
            .values()
            .find_map(|namespace| match namespace {
                Namespace::Watched(watched)
                    if watched.netns != but && watched.identity == Identity::Pod(uid.clone()) =>
                {
                    Some(watched.netns)
                }
                _ => None,
            })
    }

    async fn collect(&mut self) -> anyhow::Result<()> {
        let dead = self.observe(Observer::collect_dead).await?;
        if dead.is_empty() {
            return Ok(());
        }
        let count = u64::try_from(dead.len()).unwrap_or(u64::MAX);
        self.stats
            .links_collected
            .fetch_add(count, Ordering::Relaxed);
        // Whose file is still there: eth0 went away; look at once.
        for namespace in self.namespaces.values_mut() {
            if let Namespace::Watched(watched) = namespace
                && dead.contains(&watched.netns)
            {
                watched.check = Instant::now();
            }
        }
        Ok(())
    }

    fn renew_figures(&self) {
        match self.lock().counters() {
            Ok(counters) => self.stats.set_kernel(counters),
            Err(error) => tracing::warn!(%error, "the BPF programs' counters cannot be read"),
        }
        let (mut attached, mut unidentified, mut contradicted, mut shared) = (0, 0, 0, 0);
        let mut uncovered = Vec::new();
        let mut watched_pods = HashMap::new();
        for (path, namespace) in &self.namespaces {
            let watched = match namespace {
                Namespace::Watched(watched) => watched,
                Namespace::Waiting { problem, .. } => {
                    uncovered.push(Uncovered {
                        pod: None,
                        reason: format!("{}: {problem}", path.display()),
                    });
                    continue;
                }
                Namespace::Ignored => continue,
            };
            attached += 1;
            let is_shared = match &watched.attached.hook {
                Hook::Exclusive => None,
                Hook::Shared(why) => Some(why),
            };
            shared += usize::from(is_shared.is_some());
            match &watched.identity {
                Identity::Pod(uid) => {
                    watched_pods.insert(uid, is_shared);
                }
                Identity::Unknown(why) => {
                    unidentified += 1;
                    uncovered.push(Uncovered {
                        pod: None,
                        reason: format!("{} is unidentified: {why}", path.display()),
                    });
                }
                Identity::Contradicted(why) => {
                    contradicted += 1;
                    uncovered.push(Uncovered {
                        pod: None,
                        reason: format!("{} is contradicted: {why}", path.display()),
                    });
                }
            }
        }
        let (mut expected, mut covered) = (0, 0);
        for pod in self.pods.expected() {
            expected += 1;
            let reason = match watched_pods.get(&pod.uid) {
                Some(None) => {
                    covered += 1;
                    continue;
                }
                Some(Some(why)) => {
                    covered += 1;
                    format!("its eth0 is not ours alone: {why}")
                }
                None => format!(
                    "no network namespace in {} could be matched to it",
                    self.config.netns_dir.display()
                ),
            };
            uncovered.push(Uncovered {
                pod: Some((pod.id.clone(), pod.uid.clone())),
                reason,
            });
        }
        // Pods first: they are what people ask for.
        uncovered.sort_by(|a, b| (a.pod.is_none(), &a.pod).cmp(&(b.pod.is_none(), &b.pod)));
        let stats = &self.stats;
        set(&stats.namespaces, self.namespaces.len());
        set(&stats.attached, attached);
        set(&stats.unidentified, unidentified);
        set(&stats.contradicted, contradicted);
        set(&stats.hooks_shared, shared);
        set(&stats.pods_expected, expected);
        set(&stats.pods_watched, covered);
        stats.set_coverage(uncovered);
    }

    /// Runs blocking work with the observer on a thread where it may block.
    async fn observe<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Observer) -> T + Send + 'static,
    ) -> anyhow::Result<T> {
        let observer = Arc::clone(&self.observer);
        tokio::task::spawn_blocking(move || {
            work(&mut observer.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await
        .context("the thread that visits network namespaces died, which is a bug")
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Observer> {
        self.observer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the judge is busy: no event is ever dropped.
    async fn send(&self, event: NetnsEvent) -> anyhow::Result<()> {
        self.events
            .send(event)
            .await
            .context("the judge, which takes the events of namespaces, has ended")
    }
}
