//! The watch of one kind: lists, then events, for ever.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::ListParams;
use kube::runtime::watcher::{self, Event, InitialListStrategy};
use kube::{Api, Client};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::connect::Connector;
use super::problem::{self, Remedy};
use super::stats::{KindStats, WatchStats, count};
use crate::object::{Compiled, Watched, compile_object, key_of};
use crate::owner::Update;

/// A watch that failed and is then quiet for this long is asked whether it is well again: a
/// watch that was resumed says nothing until something changes.
const QUIET: Duration = Duration::from_millis(500);

/// How long that question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A streaming list that sends nothing for this long will not end: servers older than 1.27 do not
/// know the mark of its end.
const STALLED: Duration = Duration::from_secs(20);

/// What each watch needs.
#[derive(Clone)]
pub(super) struct Watch {
    pub(super) connector: Arc<Connector>,
    pub(super) updates: mpsc::Sender<Update>,
    pub(super) cancel: CancellationToken,
    pub(super) stats: Arc<WatchStats>,
    pub(super) watch_timeout: Duration,
    pub(super) max_backoff: Duration,
    pub(super) page_size: u32,
}

/// The owner is gone: nobody wants to know any more.
struct Unwanted;

/// Whether a watch can go on from where it was.
#[derive(PartialEq, Eq)]
enum Resume {
    Yes,
    /// The server's history is another one.
    No,
}

/// Follows a kind until cancelled.
pub(super) async fn follow<K: Watched>(watch: Watch) {
    let cancel = watch.cancel.clone();
    tokio::select! {
        () = cancel.cancelled() => {}
        _ = Follower::<K>::new(watch).run() => {}
    }
}

struct Follower<K> {
    watch: Watch,
    backoff: Backoff,
    streaming: bool,
    /// A problem was reported and not yet taken back.
    failing: bool,
    /// The highest resourceVersion seen in this session.
    seen: u64,
    kind: std::marker::PhantomData<fn() -> K>,
}

impl<K: Watched> Follower<K> {
    fn new(watch: Watch) -> Self {
        Self {
            backoff: Backoff::new(watch.max_backoff),
            streaming: true,
            failing: false,
            seen: 0,
            watch,
            kind: std::marker::PhantomData,
        }
    }

    fn stats(&self) -> &KindStats {
        self.watch.stats.kind(K::KIND)
    }

    async fn run(mut self) -> Result<(), Unwanted> {
        loop {
            match self.watch.connector.client().await {
                Ok((client, url)) => self.session(client, &url).await?,
                Err(error) => {
                    count(&self.stats().errors);
                    self.report(error.to_string()).await?;
                    tokio::time::sleep(self.backoff.next()).await;
                }
            }
        }
    }

    /// One watcher with one client, until one of them must be made anew.
    async fn session(&mut self, client: Client, url: &str) -> Result<(), Unwanted> {
        let api = Api::<K>::all(client);
        self.seen = 0;
        let mut events = pin!(watcher::watcher(api.clone(), self.config()));
        // What a list has brought so far; `None` outside of a list.
        let mut listed: Option<Vec<Compiled>> = None;
        let mut listing = true;
        loop {
            let event = tokio::select! {
                biased;
                event = events.next() => event,
                () = tokio::time::sleep(QUIET), if self.failing && !listing => {
                    if self.ask(&api, url).await? == Resume::No {
                        count(&self.stats().gone);
                        info!(kind = K::PLURAL, "the server's history is behind what it sent before (a restored etcd?): listing again");
                        return Ok(());
                    }
                    continue;
                }
                () = tokio::time::sleep(STALLED), if listing && self.streaming => {
                    warn!(kind = K::PLURAL, "the streaming list does not end; paged lists are used from now on");
                    self.streaming = false;
                    return Ok(());
                }
            };
            match event {
                None => return Ok(()),
                Some(Ok(Event::Init)) => {
                    listing = true;
                    listed = Some(Vec::new());
                }
                Some(Ok(Event::InitApply(object))) => {
                    self.note(&object);
                    listed
                        .get_or_insert_default()
                        .push(compile_object(&object, None));
                }
                Some(Ok(Event::InitDone)) => {
                    listing = false;
                    count(&self.stats().lists);
                    let objects = listed.take().unwrap_or_default();
                    self.send(Update::Reset(K::KIND, objects)).await?;
                    self.recovered().await?;
                }
                Some(Ok(Event::Apply(object))) => {
                    self.note(&object);
                    count(&self.stats().events);
                    self.send(Update::Apply(compile_object(&object, None)))
                        .await?;
                    self.recovered().await?;
                }
                Some(Ok(Event::Delete(object))) => {
                    self.note(&object);
                    count(&self.stats().events);
                    self.send(Update::Delete(key_of(&object))).await?;
                    self.recovered().await?;
                }
                Some(Err(error)) => {
                    let remedy = problem::remedy(&error, self.streaming, listing);
                    match remedy {
                        Remedy::Relist | Remedy::Restart => {
                            count(&self.stats().gone);
                            info!(kind = K::PLURAL, %error, "the server's history is too short: listing again");
                        }
                        Remedy::PagedLists => {
                            info!(kind = K::PLURAL, %error, "no streaming lists here: using paged lists");
                            self.streaming = false;
                            return Ok(());
                        }
                        Remedy::Reconnect | Remedy::Retry => {
                            count(&self.stats().errors);
                            let credentials = self.watch.connector.credentials();
                            self.report(problem::of_watch::<K>(&error, url, &credentials))
                                .await?;
                        }
                    }
                    tokio::time::sleep(self.backoff.next()).await;
                    match remedy {
                        Remedy::Restart => return Ok(()),
                        Remedy::Reconnect => {
                            count(&self.stats().reconnects);
                            return Ok(());
                        }
                        Remedy::Retry | Remedy::Relist | Remedy::PagedLists => {}
                    }
                }
            }
        }
    }

    fn config(&self) -> watcher::Config {
        let seconds = u32::try_from(self.watch.watch_timeout.as_secs()).unwrap_or(290);
        watcher::Config {
            // kube accepts less than 295 s, and 0 would mean for ever.
            timeout: Some(seconds.clamp(1, 290)),
            page_size: Some(self.watch.page_size.max(1)),
            initial_list_strategy: if self.streaming {
                InitialListStrategy::StreamingList
            } else {
                InitialListStrategy::ListWatch
            },
            ..watcher::Config::default()
        }
    }

    fn note(&mut self, object: &K) {
        let version = object.meta().resource_version.as_deref();
        self.seen = self.seen.max(version.and_then(number).unwrap_or(0));
    }

    /// Asks for one object: a watch that is quiet after a failure is well if this succeeds. It is
    /// not if the server is now at an earlier version than we have seen, as after etcd was restored
    /// from a backup: the watch would be silent until the versions pass that mark again.
    async fn ask(&mut self, api: &Api<K>, url: &str) -> Result<Resume, Unwanted> {
        let one = ListParams::default().limit(1);
        match tokio::time::timeout(PATIENCE, api.list(&one)).await {
            Ok(Ok(list)) => {
                let now = list.metadata.resource_version.as_deref().and_then(number);
                if now.is_some_and(|now| now < self.seen) {
                    return Ok(Resume::No);
                }
                self.recovered().await?;
            }
            Ok(Err(error)) => {
                let credentials = self.watch.connector.credentials();
                let text = problem::of_request::<K>(&error, "list", url, &credentials);
                self.report(text).await?;
                tokio::time::sleep(self.backoff.next()).await;
            }
            Err(_) => {}
        }
        Ok(Resume::Yes)
    }

    async fn report(&mut self, text: String) -> Result<(), Unwanted> {
        if !self.failing {
            warn!(kind = K::PLURAL, "{text}");
        }
        self.failing = true;
        self.send(Update::Problem(K::PLURAL, Some(text))).await
    }

    async fn recovered(&mut self) -> Result<(), Unwanted> {
        self.backoff.reset();
        if self.failing {
            self.failing = false;
            info!(kind = K::PLURAL, "the watch is well again");
            self.send(Update::Problem(K::PLURAL, None)).await?;
        }
        Ok(())
    }

    async fn send(&self, update: Update) -> Result<(), Unwanted> {
        self.watch.updates.send(update).await.map_err(|_| Unwanted)
    }
}

/// A resourceVersion as number, which it is of every API server that is backed by etcd.
fn number(version: &str) -> Option<u64> {
    version.parse().ok()
}
