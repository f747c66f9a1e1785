//! Keeps one watch for each optional kind that is served. What is not served is an empty list; what is installed later
//! is noticed, and so is what goes away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::Client;
use polproof_policy::Kind;
use polproof_policy::compile::{OPTIONAL_KINDS, OptionalKind};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::backoff::Backoff;
use super::follow::{Watch, follow};
use super::optional::{Optional, part};
use super::served::{self, Served, Trouble, Version};
use crate::owner::Update;

/// The part of the source that this speaks for.
const PART: &str = "discovery";

/// Discovery that takes longer has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The owner is gone.
struct Unwanted;

/// What is done about a kind.
enum Now {
    /// Nothing is known yet.
    Unknown,
    /// It is not served; its list is empty.
    Absent,
    /// It is followed.
    Followed(Version, CancellationToken, JoinHandle<()>),
}

/// Looks again and again until cancelled.
pub(super) async fn run(watch: Watch, every: Duration) {
    let cancel = watch.cancel.clone();
    let mut discovery = Discovery {
        backoff: Backoff::new(watch.max_backoff),
        kinds: OPTIONAL_KINDS
            .iter()
            .map(|kind| (kind.kind, Now::Unknown))
            .collect(),
        failing: false,
        watch,
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        _ = discovery.run(every) => {}
    }
}

struct Discovery {
    watch: Watch,
    backoff: Backoff,
    kinds: BTreeMap<Kind, Now>,
    failing: bool,
}

impl Discovery {
    async fn run(&mut self, every: Duration) -> Result<(), Unwanted> {
        let mut client: Option<(Client, String)> = None;
        loop {
            let troubles = match self.look(&mut client).await {
                Ok(served) => self.follow_what_is_served(served).await?,
                Err(trouble) => vec![trouble],
            };
            if troubles.iter().any(|trouble| trouble.credentials) {
                client = None;
            }
            if troubles.iter().any(|trouble| trouble.refused) {
                self.watch.refused.send_replace(true);
            }
            let wait = if troubles.is_empty() {
                self.backoff.reset();
                every
            } else {
                self.backoff.next().min(every)
            };
            self.tell(troubles).await?;
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                // It may take the server a moment to forget a kind, and the watch that asks comes again.
                () = self.watch.unserved.notified() => {}
            }
        }
    }

    async fn look(
        &self,
        client: &mut Option<(Client, String)>,
    ) -> Result<BTreeMap<Kind, Served>, Trouble> {
        let connector = &self.watch.connector;
        let (client, url) = match client {
            Some(made) => made,
            None => client.insert(connector.client().await.map_err(|error| Trouble {
                text: error.to_string(),
                refused: true,
                credentials: true,
            })?),
        };
        let credentials = connector.credentials();
        let looking = served::look(client, url, &credentials);
        match tokio::time::timeout(PATIENCE, looking).await {
            Ok(served) => served,
            Err(_) => Err(Trouble {
                text: format!(
                    "the API server {url} did not say within {} s which policy kinds it serves; check its load and its \
                     aggregated APIs; trying again",
                    PATIENCE.as_secs()
                ),
                refused: false,
                credentials: true,
            }),
        }
    }

    /// Starts and ends watches. What could not be learned is left as it is, and is in the answer.
    async fn follow_what_is_served(
        &mut self,
        mut served: BTreeMap<Kind, Served>,
    ) -> Result<Vec<Trouble>, Unwanted> {
        let mut troubles = Vec::new();
        for kind in &OPTIONAL_KINDS {
            let now = self
                .kinds
                .insert(kind.kind, Now::Unknown)
                .unwrap_or(Now::Unknown);
            let next = match (now, served.remove(&kind.kind).unwrap_or(Served::Not)) {
                (now, Served::Unknown(trouble)) => {
                    troubles.push(trouble);
                    now
                }
                (Now::Absent, Served::Not) => Now::Absent,
                (Now::Unknown, Served::Not) => {
                    self.send(Update::Reset(kind.kind, Vec::new())).await?;
                    Now::Absent
                }
                (Now::Followed(_, cancel, task), Served::Not) => {
                    info!(kind = part(kind), "no longer served");
                    self.end(kind, &cancel, task).await?;
                    self.send(Update::Reset(kind.kind, Vec::new())).await?;
                    Now::Absent
                }
                (Now::Followed(before, cancel, task), Served::In(now)) if before == now => {
                    Now::Followed(before, cancel, task)
                }
                (Now::Followed(_, cancel, task), Served::In(version)) => {
                    self.end(kind, &cancel, task).await?;
                    self.start(kind, version)
                }
                (Now::Unknown | Now::Absent, Served::In(version)) => self.start(kind, version),
            };
            self.kinds.insert(kind.kind, next);
        }
        Ok(troubles)
    }

    fn start(&self, kind: &'static OptionalKind, version: Version) -> Now {
        info!(
            kind = part(kind),
            group = version.0,
            version = version.1,
            "served, and followed from now on"
        );
        let mut watch = self.watch.clone();
        watch.cancel = self.watch.cancel.child_token();
        let cancel = watch.cancel.clone();
        let task = tokio::spawn(follow(Optional::new(kind, version), watch));
        Now::Followed(version, cancel, task)
    }

    /// Ends a watch; when this returns, nothing more comes from it.
    async fn end(
        &self,
        kind: &OptionalKind,
        cancel: &CancellationToken,
        task: JoinHandle<()>,
    ) -> Result<(), Unwanted> {
        cancel.cancel();
        // It fails only if the task panicked, and then it has ended, too.
        let _ = task.await;
        self.send(Update::Problem(part(kind), None)).await
    }

    /// One text for all that is wrong.
    async fn tell(&mut self, troubles: Vec<Trouble>) -> Result<(), Unwanted> {
        let texts: BTreeSet<String> = troubles.into_iter().map(|trouble| trouble.text).collect();
        let text = Vec::from_iter(texts).join("\n");
        if text.is_empty() {
            if self.failing {
                self.failing = false;
                self.send(Update::Problem(PART, None)).await?;
            }
            return Ok(());
        }
        if !self.failing {
            warn!("{text}");
        }
        self.failing = true;
        self.send(Update::Problem(PART, Some(text))).await
    }

    async fn send(&self, update: Update) -> Result<(), Unwanted> {
        self.watch.updates.send(update).await.map_err(|_| Unwanted)
    }
}
