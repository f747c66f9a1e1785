//! The watch of one kind: lists, then events, until cancelled. The same for typed kinds and for those that only some
//! clusters serve: what differs between them is [`Followed`].

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use kube::api::ListParams;
use kube::runtime::watcher::{self, Event, InitialListStrategy};
use kube::{Api, Client, Resource};
use polproof_policy::{Key, Kind};
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, mpsc, watch as channel};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::connect::Connector;
use super::problem::{self, Names, Remedy};
use super::stats::{KindStats, WatchStats, count};
use crate::object::{Compiled, Watched, compile_object, key_of};
use crate::owner::Update;

/// A kind that can be followed: its names, and the way from its objects into the state.
pub(super) trait Followed: Clone + Send + Sync + 'static {
    /// An object as the API sends it.
    type Object: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static;

    /// The kind in the state.
    fn kind(&self) -> Kind;
    /// Its names in the API and in messages.
    fn names(&self) -> Names;
    /// All of its objects, in every namespace.
    fn api(&self, client: Client) -> Api<Self::Object>;
    /// Into the model, or why not.
    fn compile(&self, object: &Self::Object) -> Compiled;
    /// The key under which the state holds an object.
    fn key(&self, object: &Self::Object) -> Key;
}

/// A kind that every cluster serves.
pub(super) struct Typed<K>(std::marker::PhantomData<fn() -> K>);

impl<K> Typed<K> {
    pub(super) const fn new() -> Self {
        Self(std::marker::PhantomData)
    }
}

impl<K> Clone for Typed<K> {
    fn clone(&self) -> Self {
        Self::new()
    }
}

impl<K: Watched> Followed for Typed<K> {
    type Object = K;

    fn kind(&self) -> Kind {
        K::KIND
    }

    fn names(&self) -> Names {
        Names::of::<K>()
    }

    fn api(&self, client: Client) -> Api<K> {
        Api::all(client)
    }

    fn compile(&self, object: &K) -> Compiled {
        compile_object(object, None)
    }

    fn key(&self, object: &K) -> Key {
        key_of(object)
    }
}

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
    /// Told when the server refuses us: somebody who waits for the first list need not wait on.
    pub(super) refused: Arc<channel::Sender<bool>>,
    /// Told when a kind is not served (any more).
    pub(super) unserved: Arc<Notify>,
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
pub(super) async fn follow<F: Followed>(followed: F, watch: Watch) {
    let cancel = watch.cancel.clone();
    tokio::select! {
        () = cancel.cancelled() => {}
        _ = Follower::new(followed, watch).run() => {}
    }
}

struct Follower<F> {
    followed: F,
    names: Names,
    watch: Watch,
    backoff: Backoff,
    streaming: bool,
    /// A problem was reported and not yet taken back.
    failing: bool,
    /// The highest resourceVersion seen in this session.
    seen: u64,
    /// The last request was answered with 404.
    unserved: bool,
}

impl<F: Followed> Follower<F> {
    fn new(followed: F, watch: Watch) -> Self {
        Self {
            names: followed.names(),
            followed,
            backoff: Backoff::new(watch.max_backoff),
            streaming: true,
            failing: false,
            seen: 0,
            unserved: false,
            watch,
        }
    }

    fn stats(&self) -> &KindStats {
        self.watch.stats.kind(self.followed.kind())
    }

    async fn run(mut self) -> Result<(), Unwanted> {
        loop {
            match self.watch.connector.client().await {
                Ok((client, url)) => self.session(client, &url).await?,
                Err(error) => {
                    count(&self.stats().errors);
                    self.watch.refused.send_replace(true);
                    self.report(error.to_string()).await?;
                    tokio::time::sleep(self.backoff.next()).await;
                }
            }
        }
    }

    /// One watcher with one client, until one of them must be made anew.
    async fn session(&mut self, client: Client, url: &str) -> Result<(), Unwanted> {
        let api = self.followed.api(client);
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
                        info!(kind = self.names.plural, "the server's history is behind what it sent before (a restored etcd?): listing again");
                        return Ok(());
                    }
                    continue;
                }
                () = tokio::time::sleep(STALLED), if listing && self.streaming => {
                    warn!(kind = self.names.plural, "the streaming list does not end; paged lists are used from now on");
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
                        .push(self.followed.compile(&object));
                }
                Some(Ok(Event::InitDone)) => {
                    listing = false;
                    count(&self.stats().lists);
                    let objects = listed.take().unwrap_or_default();
                    let kind = self.followed.kind();
                    self.send(Update::Reset(kind, objects)).await?;
                    self.recovered().await?;
                }
                Some(Ok(Event::Apply(object))) => {
                    self.note(&object);
                    count(&self.stats().events);
                    let compiled = self.followed.compile(&object);
                    self.send(Update::Apply(compiled)).await?;
                    self.recovered().await?;
                }
                Some(Ok(Event::Delete(object))) => {
                    self.note(&object);
                    count(&self.stats().events);
                    self.send(Update::Delete(self.followed.key(&object)))
                        .await?;
                    self.recovered().await?;
                }
                Some(Err(error)) => {
                    let remedy = problem::remedy(self.names, &error, self.streaming, listing);
                    match remedy {
                        Remedy::Relist | Remedy::Restart => {
                            count(&self.stats().gone);
                            info!(kind = self.names.plural, %error, "the server's history is too short: listing again");
                        }
                        Remedy::PagedLists => {
                            info!(kind = self.names.plural, %error, "no streaming lists here: using paged lists");
                            self.streaming = false;
                            return Ok(());
                        }
                        // It was served a moment ago, and whether it still is will be known in a moment.
                        Remedy::Discover if !self.unserved => {
                            self.unserved = true;
                            self.watch.unserved.notify_one();
                        }
                        Remedy::Reconnect | Remedy::Retry | Remedy::Refused | Remedy::Discover => {
                            count(&self.stats().errors);
                            let credentials = self.watch.connector.credentials();
                            let text = problem::of_watch(self.names, &error, url, &credentials);
                            match remedy {
                                Remedy::Discover => self.watch.unserved.notify_one(),
                                Remedy::Retry => {}
                                _ => {
                                    self.watch.refused.send_replace(true);
                                }
                            }
                            self.report(text).await?;
                        }
                    }
                    tokio::time::sleep(self.backoff.next()).await;
                    match remedy {
                        Remedy::Restart => return Ok(()),
                        Remedy::Reconnect => {
                            count(&self.stats().reconnects);
                            return Ok(());
                        }
                        Remedy::Retry
                        | Remedy::Refused
                        | Remedy::Discover
                        | Remedy::Relist
                        | Remedy::PagedLists => {}
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

    fn note(&mut self, object: &F::Object) {
        let version = object.meta().resource_version.as_deref();
        self.seen = self.seen.max(version.and_then(number).unwrap_or(0));
    }

    /// Asks for one object: a watch that is quiet after a failure is well if this succeeds. It is
    /// not if the server is now at an earlier version than we have seen, as after etcd was restored
    /// from a backup: the watch would be silent until the versions pass that mark again.
    async fn ask(&mut self, api: &Api<F::Object>, url: &str) -> Result<Resume, Unwanted> {
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
                let text = problem::of_request(self.names, &error, "list", url, &credentials);
                self.report(text).await?;
                tokio::time::sleep(self.backoff.next()).await;
            }
            Err(_) => {}
        }
        Ok(Resume::Yes)
    }

    async fn report(&mut self, text: String) -> Result<(), Unwanted> {
        if !self.failing {
            warn!(kind = self.names.plural, "{text}");
        }
        self.failing = true;
        self.send(Update::Problem(self.names.part, Some(text)))
            .await
    }

    async fn recovered(&mut self) -> Result<(), Unwanted> {
        self.backoff.reset();
        self.unserved = false;
        if self.failing {
            self.failing = false;
            info!(kind = self.names.plural, "the watch is well again");
            self.send(Update::Problem(self.names.part, None)).await?;
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
