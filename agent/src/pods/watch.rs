//! The life of every namespace: waiting for its eth0, attached, identified, gone.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use polproof_cluster::View;
use polproof_flow::netns::NetnsEvent;
use polproof_flow::record::NetnsCookie;
use polproof_policy::Uid;
use tokio::sync::{mpsc, watch};

use super::PodsConfig;
use super::coverage::PodsStats;
use super::decide::IDENTIFY_AGAIN;
use super::discover::{Change, Discovery};
use super::identify::{Identity, NodePods};
use super::inside::{Asking, Inside};
use super::throttle::{Throttle, retry_after};
use crate::observe::{Attached, ObserveError, Observer, now};

/// How often the insides of namespaces are asked again, and dead ones collected; hooks as often as their means need.
pub(super) const CHECK: Duration = Duration::from_secs(30);
/// How often the figures are renewed.
pub(super) const FIGURES: Duration = Duration::from_secs(1);
/// Least time between two walks through /proc.
const IDENTIFY: Duration = Duration::from_millis(250);
/// Pods whose namespace ended that are remembered, against a stale view.
const RETIRED: usize = 4096;

/// One namespace file.
pub(super) enum Namespace {
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

pub(super) struct Watched {
    pub(super) netns: NetnsCookie,
    pub(super) attached: Attached,
    pub(super) identity: Identity,
    pub(super) inside: Box<Inside>,
    pub(super) check: Instant,
    /// When the programs were last found attached.
    pub(super) seen: polproof_flow::record::Instant,
}

pub(super) struct Watcher {
    pub(super) config: PodsConfig,
    observer: Arc<Mutex<Observer>>,
    /// How often a hook is asked again.
    pub(super) recheck: Duration,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) events: mpsc::Sender<NetnsEvent>,
    pub(super) stats: Arc<PodsStats>,
    pub(super) namespaces: BTreeMap<PathBuf, Namespace>,
    throttle: Throttle,
    pub(super) pods: NodePods,
    /// Pods whose namespace ended, with their addresses then.
    pub(super) retired: HashMap<Uid, Vec<IpAddr>>,
    pub(super) identify: Instant,
    pub(super) identified: Instant,
    pub(super) identify_again: Duration,
    pub(super) asking: Asking,
    /// Namespaces came or went since the programs last forgot datagrams.
    stirred: bool,
    forgotten: Instant,
    pub(super) collect: Instant,
    /// Namespaces with something of ours in them that no file stands for, since when.
    pub(super) unclaimed: HashMap<NetnsCookie, Instant>,
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
            recheck: observer.means().recheck(),
            observer: Arc::new(Mutex::new(observer)),
            view,
            events,
            stats,
            namespaces: BTreeMap::new(),
            pods: NodePods::default(),
            retired: HashMap::new(),
            identify: start,
            identified: start,
            identify_again: IDENTIFY_AGAIN,
            asking: Asking::new(start),
            stirred: false,
            forgotten: start,
            collect: start + CHECK,
            unclaimed: HashMap::new(),
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
                    self.asking.reselect = true;
                    let view = Arc::clone(&self.view.borrow_and_update());
                    let pods = NodePods::new(&self.config.node_name, view.snapshot.pods());
                    // Most changes of a cluster are not of this node's pods.
                    if pods != self.pods {
                        self.pods = pods;
                        self.identify_soon();
                    }
                }
                answer = self.asking.answer() => self.answered(answer?).await?,
                () = tokio::time::sleep_until(due.into()) => self.work().await?,
            }
        }
    }

    /// Asks for an identification, but not more often than [`IDENTIFY`].
    fn identify_soon(&mut self) {
        let at = Instant::now().max(self.identified + IDENTIFY);
        self.identify = self.identify.min(at);
        self.identify_again = IDENTIFY_AGAIN;
    }

    /// When there is something to do.
    fn next_due(&mut self) -> Instant {
        let now = Instant::now();
        let mut due = self.identify.min(self.collect).min(self.figures);
        due = self.inside_due().map_or(due, |inside| due.min(inside));
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
        self.ask_inside(now);
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
            self.reselect(now);
            self.forget_datagrams();
            self.renew_figures();
        }
        if self.collect <= now {
            self.collect = now + CHECK;
            self.collect().await?;
        }
        let to_check = self
            .namespaces
            .iter()
            .filter_map(|(path, namespace)| match namespace {
                Namespace::Watched(watched) if watched.check <= now => Some((watched.check, path)),
                _ => None,
            })
            .min()
            .map(|(_, path)| path.clone());
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

    pub(super) fn wait_for(
        &mut self,
        path: PathBuf,
        failures: u32,
        wait: Duration,
        problem: String,
    ) {
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
    pub(super) async fn end(&mut self, watched: Watched) -> anyhow::Result<()> {
        if let Identity::Pod(uid) = watched.identity
            && let Some(pod) = self.pods.get(&uid)
        {
            if self.retired.len() >= RETIRED {
                self.retired.clear();
            }
            self.retired.insert(uid, pod.ips.clone());
        }
        self.stirred = true;
        self.forget_datagrams();
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
        let attached = match self.attach_to(&path).await? {
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
                inside: Inside::new(Instant::now()),
                check: Instant::now() + self.recheck,
                seen: started,
            }),
        );
        self.identify_soon();
        self.stirred = true;
        self.forget_datagrams();
        Ok(())
    }

    /// An address may have another owner now: what the programs wrote down of the old one's datagrams must not hide the new one's. At
    /// once, but once a second at most.
    fn forget_datagrams(&mut self) {
        let now = Instant::now();
        if !self.stirred || now < self.forgotten + FIGURES {
            return;
        }
        self.stirred = false;
        self.forgotten = now;
        if let Err(error) = self.lock().forget_datagrams() {
            tracing::warn!(%error, "the programs cannot be made to forget datagrams: the first ones of a pod that took over an address may not be recorded for 30 s");
        }
    }

    pub(super) async fn send_attached(&self, attached: &Attached) -> anyhow::Result<()> {
        self.send(NetnsEvent::Attached {
            netns: attached.netns,
            since: attached.since,
            addresses: attached.addresses.clone(),
            hook: attached.hook.clone(),
        })
        .await
    }

    /// Runs blocking work with the observer on a thread where it may block.
    pub(super) async fn observe<T: Send + 'static>(
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

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, Observer> {
        self.observer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits while the judge is busy: no event is ever dropped.
    pub(super) async fn send(&self, event: NetnsEvent) -> anyhow::Result<()> {
        self.events
            .send(event)
            .await
            .context("the judge, which takes the events of namespaces, has ended")
    }
}
