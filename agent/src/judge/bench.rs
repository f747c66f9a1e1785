//! What lies on the judge's table: the ring, the judge, the spool, and when to turn to which.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context;
use polproof_cluster::{SourceKind, View};
use polproof_flow::netns::NetnsEvent;
use polproof_flow::record::{Instant, Record};
use polproof_flow::{Judge, Restored};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc, watch};
use tracing::{info, warn};

use super::commit::{ROUTINE, URGENT};
use super::keep::{self, Keeper, Kept};
use super::losses::{self, Losses};
use super::records::Records;
use super::stats::{JudgeStats, PROTOCOLS, count_opening};
use super::task::Inputs;
use super::witnesses::Witnesses;
use crate::observe::now;
use crate::report::spool::{Recovered, SpoolWriter};

/// Records read at a time.
const BATCH: usize = 4_096;
/// While more records wait, those of this much before the last one have been read: several CPUs write them.
const SKEW: u64 = Instant::SECOND / 10;
/// Views are taken at most so often; what comes between is skipped by the channel.
const VIEW_PAUSE: u64 = Instant::SECOND / 20;
/// Verdicts that wait for time alone may be late by this.
const COARSE: Duration = Duration::from_millis(20);

/// Where news comes from while nothing is to be done.
pub(super) struct Inbox {
    pub(super) events: mpsc::Receiver<NetnsEvent>,
    pub(super) view: watch::Receiver<Arc<View>>,
    /// The node's own addresses.
    pub(super) here: watch::Receiver<Arc<[IpAddr]>>,
    pub(super) witnesses: Witnesses,
}

/// The task's own state.
pub(super) struct Bench<R> {
    pub(super) ring: R,
    /// The ring's descriptor, to wait for.
    pub(super) wake: AsyncFd<OwnedFd>,
    losses: Losses,
    pub(super) judge: Judge,
    pub(super) spool: SpoolWriter,
    keeper: Keeper,
    pub(super) stats: Arc<JudgeStats>,
    /// Has the node's own addresses read again.
    again: Arc<Notify>,
    batch: Vec<(u64, Record)>,
    /// Position of the last entry.
    pub(super) committed: u64,
    pub(super) last_flush: Instant,
    /// Since when the spool cannot be written, and when that was last said.
    pub(super) failing: Option<(Instant, Instant)>,
    last_view: Instant,
}

impl<R: Records> Bench<R> {
    /// Takes up the work where the last run left it.
    pub(super) fn start(ring: R, inputs: Inputs) -> anyhow::Result<(Self, Inbox)> {
        let Inputs {
            losses,
            witnesses,
            events,
            view,
            spool,
            recovered,
            state_dir,
            local_addresses,
            judge,
            stats,
        } = inputs;
        let wake = ring
            .as_fd()
            .try_clone_to_owned()
            .and_then(|descriptor| {
                // SAFETY: an `OwnedFd` is open and the same until it is dropped, and the `AsyncFd` owns it.
                unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }
                    .map_err(io::Error::from)
            })
            .context("wait for the record ring (epoll)")?;
        let kept = keep::load(&state_dir, &ring.id().boot_id);
        let keeper = Keeper::start(
            &state_dir,
            ring.id().boot_id,
            judge.retention(),
            &kept.views,
            Arc::clone(&stats),
        )?;
        let started = now();
        let inbox = Inbox {
            events,
            view,
            here: local_addresses.present,
            witnesses: Witnesses::new(witnesses, Arc::clone(&stats)),
        };
        let mut this = Self {
            ring,
            wake,
            losses: Losses::new(losses),
            judge,
            spool,
            keeper,
            stats,
            again: local_addresses.again,
            batch: Vec::with_capacity(BATCH),
            committed: 0,
            last_flush: started.minus(ROUTINE),
            failing: None,
            last_view: started.minus(VIEW_PAUSE),
        };
        this.recover(recovered, kept);
        Ok((this, inbox))
    }

    /// Goes on where the agent before this one was stopped or killed.
    fn recover(&mut self, recovered: Recovered, kept: Kept) {
        let ring = &mut self.ring;
        let id = ring.id();
        let Some(last) = recovered.last else {
            self.committed = ring.position();
            self.judge.restore(
                Restored {
                    views: kept.views,
                    bindings: kept.bindings,
                    ..Restored::default()
                },
                now(),
            );
            return;
        };
        if last.ring.boot_id != id.boot_id {
            info!(
                findings = recovered.unsettled.len(),
                "the node was rebooted: provisional findings of before are taken back"
            );
            self.judge.retract(recovered.unsettled);
            self.committed = ring.position();
            return;
        }
        if last.ring == id {
            ring.seek(last.position);
        } else {
            warn!(
                "the record ring is another one than before the restart (its pin was removed, or the agent's version changed): attempts made meanwhile were not seen"
            );
            let until = now();
            self.judge.on_lost(losses::before(until), until);
        }
        self.committed = ring.position();
        info!(
            position = self.committed,
            open = last.open.len(),
            unsettled = recovered.unsettled.len(),
            views = kept.views.len(),
            namespaces = kept.bindings.len(),
            "going on where the last run stopped"
        );
        self.judge.restore(
            Restored {
                views: kept.views,
                bindings: kept.bindings,
                open: last.open,
                unsettled: recovered.unsettled,
                settled_until: last.settled_until,
            },
            now(),
        );
    }

    pub(super) fn on_event(&mut self, event: &NetnsEvent) {
        if matches!(event, NetnsEvent::Attached { .. }) {
            self.again.notify_one();
        }
        self.judge.on_netns(event);
        self.keeper.bindings_changed();
    }

    pub(super) fn on_here(&mut self, addresses: &[IpAddr]) {
        self.judge.on_here(now(), addresses.to_vec());
    }

    pub(super) fn may_look(&self) -> bool {
        now().since(self.last_view) >= VIEW_PAUSE
    }

    pub(super) fn on_view(&mut self, view: &View) {
        let at = now();
        self.last_view = at;
        // Manifests that cannot be read are no sign that the cluster changed; an API server that cannot be asked is a time
        // in which it may have.
        if view.ready && view.problem.is_some() && view.source == SourceKind::Kubernetes {
            self.judge.on_stale(at, view.snapshot.clone());
            return;
        }
        self.judge
            .on_snapshot(at, view.snapshot.clone(), view.ready);
        if view.ready {
            self.keeper.view(at, view.snapshot.clone());
        }
    }

    /// Reads and judges one batch; says whether the ring is empty now.
    pub(super) fn judge_batch(&mut self, witnesses: &mut Witnesses) -> bool {
        let before = now();
        // Before anything is answered: what was lost until now is known then.
        self.losses.poll(before, witnesses.asked(), &mut self.judge);
        self.batch.clear();
        let outcome = self.ring.read(&mut self.batch, BATCH);
        let drained = self.batch.len() < BATCH;
        self.stats
            .records
            .fetch_add(u64::try_from(self.batch.len()).unwrap_or(0), Relaxed);
        self.stats.records_lost.fetch_add(outcome.lost, Relaxed);
        self.stats
            .records_undecodable
            .fetch_add(outcome.undecodable, Relaxed);
        let last = self.batch.last().map_or(before, |(_, record)| record.at);
        losses::notice(&outcome, before, &mut self.judge);
        let mut openings = [0; PROTOCOLS];
        for (_, record) in &self.batch {
            count_opening(record, &mut openings);
            self.judge.on_record(*record);
        }
        self.stats.opened(openings);
        let horizon = if drained {
            before
        } else {
            before.min(last.minus(SKEW))
        };
        // After the records: what is asked about may be among them.
        witnesses.hear(&mut self.judge, drained);
        self.judge.tick(before, horizon);
        drained
    }

    /// Keeps, if it is time to, what the next start needs.
    pub(super) fn keep(&mut self) {
        let Self { keeper, judge, .. } = self;
        keeper.poll(|| judge.bindings());
    }

    /// Keeps what is left.
    pub(super) fn finish(self) {
        let bindings = self.judge.bindings();
        self.keeper.finish(bindings);
    }

    /// How long nothing needs to be done.
    pub(super) fn pause(&self) -> Duration {
        let at = now();
        let mut pause = Duration::from_secs(1);
        if let Some(poll) = self.ring.must_poll() {
            pause = pause.min(poll);
        }
        if let Some(deadline) = self.judge.next_deadline() {
            pause = pause.min(Duration::from_nanos(deadline.since(at)).max(COARSE));
        }
        let flush = if self.judge.urgent() && self.failing.is_none() {
            Some(URGENT)
        } else {
            self.has_something().then_some(ROUTINE)
        };
        if let Some(period) = flush {
            let due = self.last_flush.plus(period).since(at);
            pause = pause.min(Duration::from_nanos(due).max(Duration::from_millis(1)));
        }
        if !self.may_look() {
            pause = pause.min(Duration::from_nanos(VIEW_PAUSE));
        }
        pause
    }
}
