//! The task with the real spool, the real disk and the real clock. The records come from memory: the kernel's ring
//! wants root and programs, and has its own tests; the lab runs both together.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing
)]

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant as Clock};

use polproof_flow::finding::FindingKind;
use polproof_flow::{Here, Judge, Settings};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::JudgeStats;
use super::losses::Sums;
use super::task::{Inputs, run_on};
use crate::addresses::LocalAddresses;
use crate::report::spool::{Spool, SpoolConfig};
use crate::report::witness;

mod questions;
mod ring;
mod world;

use ring::MemoryRing;
use world::{Bench, beyond_grace, kept, totals, until, view};

#[tokio::test]
async fn a_violation_is_committed_soon_then_released_then_settled() {
    let mut bench = Bench::new();
    let mut life = bench.start(1024 * 1024);
    life.identify().await;
    beyond_grace(&life).await;
    let begun = Clock::now();
    bench.connect();
    until("it is committed", || life.observed() == 1).await;
    println!("committed after {:?}", begun.elapsed());
    until("it is released", || bench.released() == 2).await;
    until("it is settled", || {
        life.unenforced().settled.load(Relaxed) == 1
    })
    .await;
    // Repeated, it is counted, but no longer one by one.
    let appends = life.stats.appends.load(Relaxed);
    let begun = Clock::now();
    while begun.elapsed() < Duration::from_millis(1_500) {
        bench.connect();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let sent = u64::from(bench.isn);
    until("all are committed", || life.observed() == sent).await;
    let appends = life.stats.appends.load(Relaxed) - appends;
    assert!(
        appends <= 5 * (begun.elapsed().as_secs() + 1),
        "{appends} appends for {sent} attempts"
    );
    life.cancel.cancel();
    life.task.await.unwrap().unwrap();
    assert_eq!(totals(&mut life.reader).0, sent);
}

#[tokio::test]
async fn an_address_of_the_node_that_comes_later_is_exempt_and_a_pod_has_them_read_again() {
    const OUTSIDE: &str = "203.0.113.9";
    let mut bench = Bench::new();
    let mut life = bench.start(1024 * 1024);
    life.identify().await;
    tokio::time::timeout(Duration::from_secs(60), life.again.notified())
        .await
        .unwrap();
    beyond_grace(&life).await;
    bench.connect_from(OUTSIDE);
    until("it is committed", || life.observed() == 1).await;
    // The client turns out to be the node itself.
    life.here
        .send_replace(Arc::from([OUTSIDE.parse().unwrap()]));
    until("it is taken back", || {
        life.unenforced().retracted.load(Relaxed) == 1
    })
    .await;
    bench.connect_from(OUTSIDE);
    until("it is exempt", || life.stats.exempt.load(Relaxed) == 1).await;
    life.cancel.cancel();
    life.task.await.unwrap().unwrap();
    assert_eq!(totals(&mut life.reader), (1, 0, 1));
}

#[tokio::test]
async fn killed_at_any_record_everything_is_counted_once() {
    let mut bench = Bench::new();
    let mut life = bench.start(1024 * 1024);
    life.identify().await;
    beyond_grace(&life).await;
    until("view and bindings are kept", || kept(bench.dir.path())).await;
    for port in 0..6 {
        // One attempt is open when an entry is committed ...
        let open = bench.syn(5432);
        let read = bench.records();
        // (a finding that is not known yet is committed soon)
        let syn = bench.syn(6000 + port);
        bench.accept(&syn);
        until("the SYN is released", || bench.released() >= read).await;
        for _ in 0..20 {
            bench.connect();
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
        // ... and its answer comes after the kill, at some record.
        let die = bench.records() + 20 + u64::from(port % 2);
        bench.kernel.lock().unwrap().dies_at = Some(die as usize);
        bench.accept(&open);
        for _ in 0..20 {
            bench.connect();
        }
        let failure = life.task.await.unwrap().unwrap_err();
        assert!(format!("{failure:#}").contains("panicked"), "{failure:#}");
        drop(life.reader);
        bench.kernel.lock().unwrap().dies_at = None;
        // What comes while there is no agent.
        for _ in 0..10 {
            bench.connect();
        }
        // The bindings come from the disk: nobody identifies the namespace again.
        life = bench.start(1024 * 1024);
    }
    let sent = u64::from(bench.isn);
    let released = bench.records();
    until("all is read", || bench.released() == released).await;
    until("all is judged for good", || {
        life.stats.unsettled.load(Relaxed) == 0 && life.stats.unreported.load(Relaxed) == 0
    })
    .await;
    life.cancel.cancel();
    life.task.await.unwrap().unwrap();
    assert_eq!(totals(&mut life.reader), (sent, sent, 0));
}

#[tokio::test]
async fn a_spool_that_cannot_be_written_costs_nothing_but_time() {
    let mut bench = Bench::new();
    // Every entry wants a new segment, so a folder that is away is felt at once.
    let mut life = bench.start(1);
    life.identify().await;
    beyond_grace(&life).await;
    bench.connect();
    until("the first is committed", || life.observed() == 1).await;

    let away = bench.dir.path().join("away");
    std::fs::rename(bench.spool(), &away).unwrap();
    for _ in 0..50 {
        bench.connect();
    }
    until("an append has failed", || {
        life.stats.append_failures.load(Relaxed) >= 2
    })
    .await;
    let records = bench.records();
    until("the ring is emptied all the same", || {
        bench.released() == records
    })
    .await;
    assert_eq!(life.observed(), 1);
    assert!(life.stats.ring_lag_bytes.load(Relaxed) > 0);

    std::fs::rename(&away, bench.spool()).unwrap();
    until("the rest is committed", || life.observed() == 51).await;
    until("all is settled", || {
        life.unenforced().settled.load(Relaxed) == 51
    })
    .await;
    life.cancel.cancel();
    life.task.await.unwrap().unwrap();
    assert_eq!(totals(&mut life.reader), (51, 51, 0));
}

#[tokio::test]
async fn a_reboot_takes_provisional_findings_back() {
    let mut bench = Bench::new();
    let life = bench.start(1024 * 1024);
    life.identify().await;
    beyond_grace(&life).await;
    bench.connect();
    until("it is committed", || life.observed() == 1).await;
    life.cancel.cancel();
    life.task.await.unwrap().unwrap();
    drop(life.reader);

    let (writer, reader, mut recovered) = Spool::open(SpoolConfig {
        dir: bench.spool(),
        max_bytes: 16 * 1024 * 1024,
        segment_bytes: 1024 * 1024,
    })
    .unwrap();
    assert_eq!(recovered.unsettled.len(), 1);
    drop((writer, reader));
    let (spool, mut reader, fresh) = Spool::open(SpoolConfig {
        dir: bench.spool(),
        max_bytes: 16 * 1024 * 1024,
        segment_bytes: 1024 * 1024,
    })
    .unwrap();
    drop(fresh);
    recovered.last.as_mut().unwrap().ring.boot_id = "before".into();
    let (_events, events_in) = mpsc::channel(1);
    let (_views, view_in) = watch::channel(view());
    let stats = Arc::new(JudgeStats::default());
    let cancel = CancellationToken::new();
    let ring = MemoryRing {
        kernel: Arc::default(),
        wake: bench.wake.1.try_clone().unwrap(),
        position: 0,
    };
    let task = tokio::spawn(run_on(
        ring,
        Inputs {
            losses: Box::new(|| Ok(Sums::default())),
            witnesses: witness::pair().0,
            events: events_in,
            view: view_in,
            spool,
            recovered,
            state_dir: bench.dir.path().to_owned(),
            local_addresses: LocalAddresses::fixed(&[]),
            judge: Judge::new(Here::new("here", Vec::new()), Settings::default()),
            stats: Arc::clone(&stats),
        },
        cancel.clone(),
    ));
    until("it is taken back", || {
        stats
            .of(FindingKind::Unenforced)
            .unwrap()
            .retracted
            .load(Relaxed)
            == 1
    })
    .await;
    cancel.cancel();
    task.await.unwrap().unwrap();
    assert_eq!(totals(&mut reader), (1, 0, 1));
}
