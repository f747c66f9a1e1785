//! Whether what was attached still is, and sees the truth.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use polproof_flow::netns::{Hook, NetnsEvent};

use super::watch::{CHECK, FIGURES, Namespace, Watcher};
use crate::observe::{Attached, ObserveError, now};

impl Watcher {
    /// Asks one hook again; attaches anew where our programs were taken away or eth0 was replaced.
    pub(super) async fn check(&mut self, path: PathBuf) -> anyhow::Result<()> {
        let asked = now();
        let attached = self.attach_to(&path).await?;
        let Some(Namespace::Watched(watched)) = self.namespaces.get_mut(&path) else {
            return Ok(());
        };
        watched.check = Instant::now() + self.recheck;
        let seen = watched.seen;
        if attached.is_ok() {
            watched.seen = asked;
        }
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
                self.stats.gaps.fetch_add(1, Ordering::Relaxed);
                self.send(NetnsEvent::Gap {
                    netns: attached.netns,
                    from: seen,
                    to: attached.since,
                })
                .await?;
                self.send_attached(&attached).await?;
            }
            Ok(attached) => {
                let hook = attached.hook.clone();
                if hook != watched.attached.hook {
                    tracing::warn!(path = %path.display(), ?hook, "the hook has changed");
                }
                self.new_hook(&path, hook).await?;
                self.new_addresses(&path, attached.addresses).await?;
            }
            // The pod is on its way out: nobody shares what is not there, and what was seen before stays true. But what does not arrive
            // now is not stopped by anybody: said anew each time, so that it covers whatever is asked about.
            Err(error) if error.says_gone() => {
                watched.check = Instant::now() + FIGURES;
                let netns = watched.netns;
                self.send(NetnsEvent::Gap {
                    netns,
                    from: seen,
                    to: asked,
                })
                .await?;
            }
            Err(error) => {
                // eth0 may come back any moment.
                watched.check = Instant::now() + FIGURES;
                self.new_hook(&path, Hook::Shared(error.to_string()))
                    .await?;
            }
        }
        Ok(())
    }

    /// Attaches, or finds attached. A namespace that turns out to have lost its eth0 to this one is looked at at once: it believes
    /// itself watched.
    pub(super) async fn attach_to(
        &mut self,
        path: &Path,
    ) -> anyhow::Result<Result<Attached, ObserveError>> {
        let target = path.to_owned();
        let (attached, robbed) = self
            .observe(move |observer| (observer.attach(&target), observer.take_robbed()))
            .await?;
        if !robbed.is_empty() {
            let now = Instant::now();
            for namespace in self.namespaces.values_mut() {
                if let Namespace::Watched(watched) = namespace
                    && robbed.contains(&watched.netns)
                {
                    watched.check = now;
                }
            }
        }
        Ok(attached)
    }

    /// Tells the judge what else sits on eth0, if that is news.
    async fn new_hook(&mut self, path: &Path, hook: Hook) -> anyhow::Result<()> {
        let Some(Namespace::Watched(watched)) = self.namespaces.get_mut(path) else {
            return Ok(());
        };
        if watched.attached.hook == hook {
            return Ok(());
        }
        watched.attached.hook = hook.clone();
        let netns = watched.netns;
        self.send(NetnsEvent::HookChanged {
            netns,
            at: now(),
            hook,
        })
        .await
    }

    /// Tells the judge addresses that the CNI set after the interface, by the same event with the same `since`.
    pub(super) async fn new_addresses(
        &mut self,
        path: &Path,
        addresses: Vec<IpAddr>,
    ) -> anyhow::Result<()> {
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

    /// Collects what belongs to namespaces that are gone. What no file stands for during a whole [`CHECK`] is of one whose device
    /// lives on elsewhere; sooner it may be one that was not found yet.
    pub(super) async fn collect(&mut self) -> anyhow::Result<()> {
        let claimed: HashSet<_> = self
            .namespaces
            .values()
            .filter_map(|namespace| match namespace {
                Namespace::Watched(watched) => Some(watched.netns),
                _ => None,
            })
            .collect();
        let before = std::mem::take(&mut self.unclaimed);
        let (dead, unclaimed, released) = self
            .observe(move |observer| {
                let dead = observer.collect_dead();
                let now = Instant::now();
                let mut unclaimed = HashMap::new();
                let mut released = Vec::new();
                for netns in observer.pinned() {
                    let since = before.get(&netns).copied().unwrap_or(now);
                    if claimed.contains(&netns) {
                        continue;
                    }
                    if now >= since + CHECK {
                        released.push(netns);
                    } else {
                        unclaimed.insert(netns, since);
                    }
                }
                (dead, unclaimed, observer.release(&released))
            })
            .await?;
        self.unclaimed = unclaimed;
        if released > 0 {
            tracing::info!(
                links = released,
                "detached from devices that outlived the network namespaces in which they were attached to"
            );
        }
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
}
