//! The loop: read, judge, commit, release, wait.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use polproof_cluster::View;
use polproof_flow::netns::NetnsEvent;
use polproof_flow::{Here, Judge, Settings};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::bench::Bench;
use super::losses::{self, ReadLosses};
use super::records::Records;
use super::stats::JudgeStats;
use crate::addresses::LocalAddresses;
use crate::observe::{CounterMap, RingReader, now};
use crate::report::spool::{Recovered, SpoolWriter};
use crate::report::witness::JudgeEnd;

/// Everything the judge runs on.
#[derive(Debug)]
pub struct JudgeTask {
    /// The records; taken from the observer.
    pub ring: RingReader,
    /// What there are no records of.
    pub losses: CounterMap,
    /// Questions and answers of other witnesses.
    pub witnesses: JudgeEnd,
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
        losses: counters,
        witnesses,
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
            losses: Box::new(move || losses::read(&counters)),
            witnesses,
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
    pub(super) losses: ReadLosses,
    pub(super) witnesses: JudgeEnd,
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
    let (mut bench, mut inbox) = Bench::start(ring, inputs)?;
    bench.on_view(&inbox.view.borrow_and_update());
    bench.on_here(&inbox.here.borrow_and_update());
    let (mut events_open, mut view_open, mut here_open) = (true, true, true);
    while !cancel.is_cancelled() {
        while let Ok(event) = inbox.events.try_recv() {
            bench.on_event(&event);
        }
        if view_open && bench.may_look() && inbox.view.has_changed().unwrap_or(false) {
            bench.on_view(&inbox.view.borrow_and_update());
        }
        if inbox.here.has_changed().unwrap_or(false) {
            bench.on_here(&inbox.here.borrow_and_update());
        }
        let drained = bench.judge_batch(&mut inbox.witnesses);
        bench.flush_if_due();
        inbox.witnesses.speak(&mut bench.judge);
        bench.keep();
        if !drained {
            continue;
        }
        let mut pause = bench.pause();
        if let Some(soon) = inbox.witnesses.pause() {
            pause = pause.min(soon);
        }
        tokio::select! {
            () = cancel.cancelled() => break,
            event = inbox.events.recv(), if events_open => match event {
                Some(event) => bench.on_event(&event),
                None => events_open = false,
            },
            changed = inbox.view.changed(), if view_open && bench.may_look() => match changed {
                // `changed` marks it seen.
                Ok(()) => bench.on_view(&inbox.view.borrow_and_update()),
                Err(_) => view_open = false,
            },
            changed = inbox.here.changed(), if here_open => match changed {
                Ok(()) => bench.on_here(&inbox.here.borrow_and_update()),
                Err(_) => here_open = false,
            },
            ready = bench.wake.readable() => match ready {
                // The kernel tells it again for the next record; what is there now is read at once.
                Ok(mut guard) => guard.clear_ready(),
                Err(error) => return Err(error).context("wait for the record ring"),
            },
            // They are heard with the next batch, after what lay in the ring before them.
            () = inbox.witnesses.wait() => {}
            () = tokio::time::sleep(pause) => {}
        }
    }
    bench.flush(now());
    bench.finish();
    Ok(())
}
