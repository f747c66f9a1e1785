//! The loop: read, judge, commit, release, wait.

use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use polproof_cluster::{SourceKind, View};
use polproof_flow::finding::Report;
use polproof_flow::netns::NetnsEvent;
use polproof_flow::record::{Instant, Record};
use polproof_flow::{Here, Judge, Restored, Settings};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::keep::{self, Keeper, Kept};
use super::records::Records;
use super::stats::JudgeStats;
use crate::addresses::LocalAddresses;
use crate::observe::{ReadOutcome, RingReader, now};
use crate::report::spool::{Entry, Recovered, SpoolError, SpoolWriter};

/// Records read at a time.
const BATCH: usize = 4_096;
/// While more records wait, those of this much before the last one have been read: several CPUs write them.
const SKEW: u64 = Instant::SECOND / 10;
/// At most five appends a second.
const URGENT: u64 = Instant::SECOND / 5;
/// While there is anything to commit it waits no longer than this, so that also a known finding shows within a second.
const ROUTINE: u64 = Instant::SECOND / 2;
/// Views are taken at most so often; what comes between is skipped by the channel.
const VIEW_PAUSE: u64 = Instant::SECOND / 20;
/// Verdicts that wait for time alone may be late by this.
const COARSE: Duration = Duration::from_millis(20);

/// Everything the judge runs on.
#[derive(Debug)]
pub struct JudgeTask {
    /// The records; taken from the observer.
    pub ring: RingReader,
    /// News of namespaces.
    pub events: mpsc::Receiver<NetnsEvent>,
    /// The cluster.
    pub view: watch::Receiver<Arc<View>>,
    /// Where reports are committed.
    pub spool: SpoolWriter,
    /// What the spool found when it was opened.
    pub recovered: Recovered,
    /// `metadata.name` of this node.
    pub node_name: String,
    /// Where the view of the cluster is kept.
    pub state_dir: PathBuf,
    /// Times and bounds.
    pub settings: Settings,
    /// Addresses of the node's own network namespace, followed.
    pub local_addresses: LocalAddresses,
    /// What is counted.
    pub stats: Arc<JudgeStats>,
}

/// Judges until it is cancelled; then commits what is decided and returns.
///
/// # Errors
///
/// The thread cannot be started or ends by itself, or the ring's descriptor cannot be waited for. A spool that
/// cannot be written is no error: see [`JudgeStats::append_failures`].
pub async fn run(task: JudgeTask, cancel: CancellationToken) -> anyhow::Result<()> {
    let JudgeTask {
        ring,
        events,
        view,
        spool,
        recovered,
        node_name,
        state_dir,
        settings,
        local_addresses,
        stats,
    } = task;
    let here = Here::new(node_name, local_addresses.present.borrow().to_vec());
    let judge = Judge::new(here, settings);
    run_on(
        ring,
        Inputs {
            events,
            view,
            spool,
            recovered,
            state_dir,
            local_addresses,
            judge,
            stats,
        },
        cancel,
    )
    .await
}

/// All but the ring.
pub(super) struct Inputs {
    pub(super) events: mpsc::Receiver<NetnsEvent>,
    pub(super) view: watch::Receiver<Arc<View>>,
    pub(super) spool: SpoolWriter,
    pub(super) recovered: Recovered,
    pub(super) state_dir: PathBuf,
    pub(super) local_addresses: LocalAddresses,
    pub(super) judge: Judge,
    pub(super) stats: Arc<JudgeStats>,
}

pub(super) async fn run_on<R: Records + Send + 'static>(
    ring: R,
    inputs: Inputs,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let (done, outcome) = oneshot::channel();
    std::thread::Builder::new()
        .name("judge".into())
        .spawn(move || {
            let result = tokio::runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build()
                .context("make the judge's runtime")
                .and_then(|runtime| runtime.block_on(work(ring, inputs, &cancel)));
            // Nobody waits any more if `run` was dropped.
            let _ = done.send(result);
        })
        .context("start the judge's thread")?;
    outcome.await.context(
        "the judge's thread ended without a result: it panicked (see the log); restart the agent",
    )?
}

async fn work<R: Records>(
    ring: R,
    inputs: Inputs,
    cancel: &CancellationToken,
) -> anyhow::Result<()> {
    let Inputs {
        mut events,
        mut view,
        spool,
        recovered,
        state_dir,
        local_addresses,
        judge,
        stats,
    } = inputs;
    let LocalAddresses { mut present, again } = local_addresses;
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
    let mut bench = Bench {
        ring,
        wake,
        judge,
        spool,
        keeper,
        stats,
        again,
        batch: Vec::with_capacity(BATCH),
        committed: 0,
        last_flush: started.minus(ROUTINE),
        failing: None,
        last_view: started.minus(VIEW_PAUSE),
    };
    bench.recover(recovered, kept);
    bench.on_view(&view.borrow_and_update());
    bench.on_here(&present.borrow_and_update());
    let (mut events_open, mut view_open, mut here_open) = (true, true, true);
    while !cancel.is_cancelled() {
        while let Ok(event) = events.try_recv() {
            bench.on_event(&event);
        }
        if view_open && bench.may_look() && view.has_changed().unwrap_or(false) {
            bench.on_view(&view.borrow_and_update());
        }
        if present.has_changed().unwrap_or(false) {
            bench.on_here(&present.borrow_and_update());
        }
        let drained = bench.judge_batch();
        bench.flush_if_due();
        let Bench { keeper, judge, .. } = &mut bench;
        keeper.poll(|| judge.bindings());
        if !drained {
            continue;
        }
        let pause = bench.pause();
        tokio::select! {
            () = cancel.cancelled() => break,
            event = events.recv(), if events_open => match event {
                Some(event) => bench.on_event(&event),
                None => events_open = false,
            },
            changed = view.changed(), if view_open && bench.may_look() => match changed {
                // `changed` marks it seen.
                Ok(()) => bench.on_view(&view.borrow_and_update()),
                Err(_) => view_open = false,
            },
            changed = present.changed(), if here_open => match changed {
                Ok(()) => bench.on_here(&present.borrow_and_update()),
                Err(_) => here_open = false,
            },
            ready = bench.wake.readable() => match ready {
                // The kernel tells it again for the next record; what is there now is read at once.
                Ok(mut guard) => guard.clear_ready(),
                Err(error) => return Err(error).context("wait for the record ring"),
            },
            () = tokio::time::sleep(pause) => {}
        }
    }
    bench.flush(now());
    let bindings = bench.judge.bindings();
    bench.keeper.finish(bindings);
    Ok(())
}

/// The task's own state.
struct Bench<R> {
    ring: R,
    /// The ring's descriptor, to wait for.
    wake: AsyncFd<OwnedFd>,
    judge: Judge,
    spool: SpoolWriter,
    keeper: Keeper,
    stats: Arc<JudgeStats>,
    /// Has the node's own addresses read again.
    again: Arc<Notify>,
    batch: Vec<(u64, Record)>,
    /// Position of the last entry.
    committed: u64,
    last_flush: Instant,
    /// Since when the spool cannot be written, and when that was last said.
    failing: Option<(Instant, Instant)>,
    last_view: Instant,
}

impl<R: Records> Bench<R> {
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
            self.judge.on_lost(now(), 1);
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

    fn on_event(&mut self, event: &NetnsEvent) {
        if matches!(event, NetnsEvent::Attached { .. }) {
            self.again.notify_one();
        }
        self.judge.on_netns(event);
        self.keeper.bindings_changed();
    }

    fn on_here(&mut self, addresses: &[IpAddr]) {
        self.judge.on_here(now(), addresses.to_vec());
    }

    fn may_look(&self) -> bool {
        now().since(self.last_view) >= VIEW_PAUSE
    }

    fn on_view(&mut self, view: &View) {
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
    fn judge_batch(&mut self) -> bool {
        let before = now();
        self.batch.clear();
        let ReadOutcome {
            lost, undecodable, ..
        } = self.ring.read(&mut self.batch, BATCH);
        let drained = self.batch.len() < BATCH;
        self.stats
            .records
            .fetch_add(u64::try_from(self.batch.len()).unwrap_or(0), Relaxed);
        self.stats.records_lost.fetch_add(lost, Relaxed);
        self.stats
            .records_undecodable
            .fetch_add(undecodable, Relaxed);
        // A record that cannot be decoded is as good as lost.
        let last = self.batch.last().map_or(before, |(_, record)| record.at);
        self.judge.on_lost(last, lost.saturating_add(undecodable));
        for (_, record) in &self.batch {
            self.judge.on_record(*record);
        }
        let horizon = if drained {
            before
        } else {
            before.min(last.minus(SKEW))
        };
        self.judge.tick(before, horizon);
        drained
    }

    fn flush_if_due(&mut self) {
        let at = now();
        let age = at.since(self.last_flush);
        let due = if self.failing.is_some() {
            age >= ROUTINE
        } else {
            self.judge.full()
                || (self.judge.urgent() && age >= URGENT)
                || (age >= ROUTINE && self.has_something())
        };
        if due {
            self.flush(at);
        }
        self.stats.tally(&self.judge.tally());
    }

    fn has_something(&self) -> bool {
        !self.judge.is_quiet()
            || self.judge.tally().unsettled > 0
            || self.ring.position() != self.committed
    }

    /// Commits, then releases.
    fn flush(&mut self, at: Instant) {
        let position = self.ring.position();
        let report = self.judge.take_report(at);
        self.last_flush = at;
        if report.is_empty() && position == self.committed {
            return;
        }
        let entry = Entry {
            report,
            ring: self.ring.id(),
            position,
            open: self.judge.open_attempts(),
            settled_until: self.judge.settled_until(),
            committed: at,
            wall_offset_ns: wall_offset(at),
        };
        match self.spool.append(&entry) {
            Ok(()) => {
                self.stats.appends.fetch_add(1, Relaxed);
                self.stats.last_append_ns.store(at.0, Relaxed);
                self.stats.committed(&entry.report);
                self.committed = position;
                if let Some((since, _)) = self.failing.take() {
                    info!(
                        seconds = at.since(since) / Instant::SECOND,
                        "the spool can be written again; the findings of meanwhile are in it"
                    );
                }
            }
            Err(failure) => self.not_committed(at, entry.report, &failure),
        }
        // Also if it failed: packets that are not read now would be lost in the kernel.
        self.ring.release(position);
        self.stats
            .ring_lag_bytes
            .store(position.saturating_sub(self.committed), Relaxed);
    }

    fn not_committed(&mut self, at: Instant, report: Report, failure: &SpoolError) {
        self.stats.append_failures.fetch_add(1, Relaxed);
        if matches!(failure, SpoolError::TooLarge { .. }) {
            let attempts = report
                .findings
                .iter()
                .map(|delta| delta.observed)
                .fold(0, u64::saturating_add);
            self.stats.dropped.fetch_add(attempts, Relaxed);
            error!(error = %failure, attempts, findings = report.findings.len(), "a report is given up");
            return;
        }
        self.judge.put_back(report);
        let (since, said) = self.failing.unwrap_or((at, Instant(0)));
        let say = self.failing.is_none() || at.since(said) >= 60 * Instant::SECOND;
        if say {
            error!(error = %failure, seconds = at.since(since) / Instant::SECOND, "a report cannot be committed: it is kept in memory and tried again twice a second; killed now, the agent would forget it");
        }
        self.failing = Some((since, if say { at } else { said }));
    }

    /// How long nothing needs to be done.
    fn pause(&self) -> Duration {
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

/// Realtime less monotonic clock, in nanoseconds.
fn wall_offset(at: Instant) -> i64 {
    let wall = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_nanos());
    i64::try_from(wall)
        .unwrap_or(i64::MAX)
        .saturating_sub(i64::try_from(at.0).unwrap_or(i64::MAX))
}
