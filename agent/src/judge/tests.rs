//! The task with the real spool, the real disk and the real clock. The records come from memory: the kernel's ring
//! wants root and programs, and has its own tests; the lab runs both together.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::indexing_slicing
)]

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant as Clock};

use polproof_cluster::{SourceKind, View};
use polproof_flow::netns::{Hook, NetnsEvent};
use polproof_flow::record::{Crossing, Event, NetnsCookie, Record};
use polproof_flow::{Here, Judge, Settings};
use polproof_policy::model::{Namespace, NetworkPolicy, Pod, Selector};
use polproof_policy::{NamespacedName, Object, State, Uid};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::JudgeStats;
use super::task::{Inputs, run_on};
use crate::addresses::LocalAddresses;
use crate::observe::now;
use crate::report::spool::{Spool, SpoolConfig, SpoolReader};

mod ring;

use ring::{Kernel, MemoryRing};

const MS: u64 = 1_000_000;
const NETNS: NetnsCookie = NetnsCookie(9);

/// A server that a policy isolates, and a client.
fn view() -> Arc<View> {
    let mut state = State::new();
    state.apply(Object::Namespace(Arc::new(Namespace {
        name: "shop".into(),
        uid: Uid("shop".into()),
        labels: BTreeMap::new(),
        annotations: Default::default(),
    })));
    for (name, address) in [("client", "10.1.0.1"), ("server", "10.1.0.2")] {
        state.apply(Object::Pod(Arc::new(Pod {
            id: NamespacedName::new("shop", name),
            uid: Uid(name.into()),
            labels: BTreeMap::new(),
            ips: vec![address.parse().unwrap()],
            node: Some("here".into()),
            host_network: false,
            finished: false,
            ports: Vec::new(),
            owner: None,
            annotations: Default::default(),
        })));
    }
    state.apply(Object::NetworkPolicy(Arc::new(NetworkPolicy {
        id: NamespacedName::new("shop", "default-deny"),
        uid: Uid("default-deny".into()),
        generation: 1,
        pod_selector: Selector::default(),
        isolates_ingress: true,
        isolates_egress: false,
        ingress: Vec::new(),
        egress: Vec::new(),
        written: Default::default(),
        annotations: Default::default(),
    })));
    Arc::new(View {
        snapshot: state.snapshot(),
        ready: true,
        ..View::empty(SourceKind::Manifests)
    })
}

struct Bench {
    dir: tempfile::TempDir,
    kernel: Arc<Mutex<Kernel>>,
    /// What is written to the first wakes whoever waits for the second.
    wake: (UnixStream, UnixStream),
    isn: u32,
}

/// One life of the agent.
struct Life {
    events: mpsc::Sender<NetnsEvent>,
    _view: watch::Sender<Arc<View>>,
    here: watch::Sender<Arc<[IpAddr]>>,
    again: Arc<Notify>,
    stats: Arc<JudgeStats>,
    cancel: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
    reader: SpoolReader,
}

impl Bench {
    fn new() -> Self {
        let wake = UnixStream::pair().unwrap();
        wake.0.set_nonblocking(true).unwrap();
        wake.1.set_nonblocking(true).unwrap();
        Self {
            dir: tempfile::tempdir().unwrap(),
            kernel: Arc::default(),
            wake,
            isn: 0,
        }
    }

    fn spool(&self) -> std::path::PathBuf {
        self.dir.path().join("spool")
    }

    fn start(&self, segment_bytes: u64) -> Life {
        let (spool, reader, recovered) = Spool::open(SpoolConfig {
            dir: self.spool(),
            max_bytes: 16 * 1024 * 1024,
            segment_bytes,
        })
        .unwrap();
        let settings = Settings {
            grace: 300 * MS,
            settle: 1_000 * MS,
            aftermath: 500 * MS,
            ..Settings::default()
        };
        let (events, events_in) = mpsc::channel(16);
        let (views, view_in) = watch::channel(view());
        let (here, here_in) = watch::channel(Arc::from([]));
        let again = Arc::new(Notify::new());
        let stats = Arc::new(JudgeStats::default());
        let cancel = CancellationToken::new();
        let ring = MemoryRing {
            kernel: Arc::clone(&self.kernel),
            wake: self.wake.1.try_clone().unwrap(),
            position: self.kernel.lock().unwrap().released,
        };
        let inputs = Inputs {
            events: events_in,
            view: view_in,
            spool,
            recovered,
            state_dir: self.dir.path().to_owned(),
            local_addresses: LocalAddresses {
                present: here_in,
                again: Arc::clone(&again),
            },
            judge: Judge::new(Here::new("here", Vec::new()), settings),
            stats: Arc::clone(&stats),
        };
        let task = tokio::spawn(run_on(ring, inputs, cancel.clone()));
        Life {
            events,
            _view: views,
            here,
            again,
            stats,
            cancel,
            task,
            reader,
        }
    }

    /// A connection that is delivered and accepted, now.
    fn connect(&mut self) {
        let syn = self.syn(5432);
        self.accept(&syn);
    }

    fn syn(&mut self, port: u16) -> Record {
        self.isn += 1;
        let syn = Record {
            at: now(),
            netns: NETNS,
            crossing: Crossing::In,
            protocol: polproof_policy::Protocol::Tcp,
            source: "10.1.0.1:40000".parse().unwrap(),
            destination: SocketAddr::new("10.1.0.2".parse().unwrap(), port),
            event: Event::Syn { isn: self.isn },
        };
        self.push(syn);
        syn
    }

    fn accept(&mut self, syn: &Record) {
        let Event::Syn { isn } = syn.event else {
            panic!("{syn:?}");
        };
        self.push(Record {
            at: now(),
            crossing: Crossing::Out,
            protocol: polproof_policy::Protocol::Tcp,
            source: syn.destination,
            destination: syn.source,
            event: Event::SynAck {
                acknowledgement: isn + 1,
            },
            ..*syn
        });
    }

    fn push(&mut self, record: Record) {
        self.kernel.lock().unwrap().records.push(record);
        // Full means that it was woken often enough.
        let _ = self.wake.0.write(&[1]);
    }

    fn records(&self) -> u64 {
        self.kernel.lock().unwrap().records.len() as u64
    }

    fn released(&self) -> u64 {
        self.kernel.lock().unwrap().released
    }
}

impl Life {
    async fn identify(&self) {
        for event in [
            NetnsEvent::Attached {
                netns: NETNS,
                since: now(),
                addresses: Vec::new(),
                hook: Hook::Exclusive,
            },
            NetnsEvent::Identified {
                netns: NETNS,
                pod: Uid("server".into()),
            },
        ] {
            self.events.send(event).await.unwrap();
        }
    }

    fn observed(&self) -> u64 {
        self.stats.unenforced_observed.load(Relaxed)
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Clock::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Clock::now() < deadline, "waited a minute until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Everything in a spool: (observed, settled, retracted).
fn totals(reader: &mut SpoolReader) -> (u64, u64, u64) {
    let mut sum = (0, 0, 0);
    loop {
        let batches = reader.read(100).unwrap();
        if batches.is_empty() {
            return sum;
        }
        for delta in batches.iter().flat_map(|batch| &batch.report.findings) {
            sum.0 += delta.observed;
            sum.1 += delta.settled;
            sum.2 += delta.retracted;
        }
    }
}

fn kept(dir: &Path) -> bool {
    let kept = super::keep::load(dir, "boot");
    !kept.views.is_empty() && !kept.bindings.is_empty()
}

/// Until an attempt of now is beyond the grace time of the first view.
async fn beyond_grace(life: &Life) {
    let begun = now();
    until("the grace time is over", || {
        now().since(begun) > 400 * MS && !life.task.is_finished()
    })
    .await;
}

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
        life.stats.unenforced_settled.load(Relaxed) == 1
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
    let mut bench = Bench::new();
    let mut life = bench.start(1024 * 1024);
    life.identify().await;
    tokio::time::timeout(Duration::from_secs(60), life.again.notified())
        .await
        .unwrap();
    beyond_grace(&life).await;
    bench.connect();
    until("it is committed", || life.observed() == 1).await;
    // The client turns out to be the node itself.
    life.here
        .send_replace(Arc::from(["10.1.0.1".parse().unwrap()]));
    until("it is taken back", || {
        life.stats.unenforced_retracted.load(Relaxed) == 1
    })
    .await;
    bench.connect();
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
        life.stats.unenforced_settled.load(Relaxed) == 51
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
        stats.unenforced_retracted.load(Relaxed) == 1
    })
    .await;
    cancel.cancel();
    task.await.unwrap().unwrap();
    assert_eq!(totals(&mut reader), (1, 0, 1));
}
