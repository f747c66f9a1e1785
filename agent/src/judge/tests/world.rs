//! A judge at work on a server that a policy isolates, with everything around it.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant as Clock};

use polproof_cluster::{SourceKind, View};
use polproof_flow::finding::FindingKind;
use polproof_flow::netns::{Hook, NetnsEvent};
use polproof_flow::record::{Crossing, Event, NetnsCookie, Record};
use polproof_flow::{Here, Judge, Settings};
use polproof_policy::model::{Namespace, NetworkPolicy, Pod, Selector};
use polproof_policy::{NamespacedName, Object, State, Uid};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::super::losses::Sums;
use super::super::stats::{JudgeStats, KindStats};
use super::super::task::{Inputs, run_on};
use super::ring::{Kernel, MemoryRing};
use crate::addresses::LocalAddresses;
use crate::observe::now;
use crate::report::spool::{Spool, SpoolConfig, SpoolReader};
use crate::report::witness::{self, StreamEnd};

pub(super) const MS: u64 = 1_000_000;
pub(super) const NETNS: NetnsCookie = NetnsCookie(9);

/// A server that a policy isolates, and a client.
pub(super) fn view() -> Arc<View> {
    let mut state = State::new();
    state.apply(Object::Namespace(Arc::new(Namespace {
        name: "shop".into(),
        uid: Uid("shop".into()),
        labels: BTreeMap::new(),
        annotations: Default::default(),
    })));
    for (name, address, node) in [
        ("client", "10.1.0.1", "here"),
        ("server", "10.1.0.2", "here"),
        ("remote", "10.1.0.3", "there"),
    ] {
        state.apply(Object::Pod(Arc::new(Pod {
            id: NamespacedName::new("shop", name),
            uid: Uid(name.into()),
            labels: BTreeMap::new(),
            ips: vec![address.parse().unwrap()],
            node: Some(node.into()),
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

pub(super) struct Bench {
    pub(super) dir: tempfile::TempDir,
    pub(super) kernel: Arc<Mutex<Kernel>>,
    /// What is written to the first wakes whoever waits for the second.
    pub(super) wake: (UnixStream, UnixStream),
    pub(super) isn: u32,
    /// Losses that the kernel counts.
    pub(super) lost: Arc<AtomicU64>,
}

/// One life of the agent.
pub(super) struct Life {
    pub(super) events: mpsc::Sender<NetnsEvent>,
    pub(super) _view: watch::Sender<Arc<View>>,
    pub(super) here: watch::Sender<Arc<[IpAddr]>>,
    pub(super) again: Arc<Notify>,
    pub(super) stats: Arc<JudgeStats>,
    pub(super) cancel: CancellationToken,
    pub(super) task: JoinHandle<anyhow::Result<()>>,
    pub(super) reader: SpoolReader,
    pub(super) stream: StreamEnd,
}

impl Bench {
    pub(super) fn new() -> Self {
        let wake = UnixStream::pair().unwrap();
        wake.0.set_nonblocking(true).unwrap();
        wake.1.set_nonblocking(true).unwrap();
        Self {
            dir: tempfile::tempdir().unwrap(),
            kernel: Arc::default(),
            wake,
            isn: 0,
            lost: Arc::default(),
        }
    }

    pub(super) fn spool(&self) -> std::path::PathBuf {
        self.dir.path().join("spool")
    }

    pub(super) fn start(&self, segment_bytes: u64) -> Life {
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
        let (judge_end, stream) = witness::pair();
        let lost = Arc::clone(&self.lost);
        let inputs = Inputs {
            losses: Box::new(move || {
                Ok(Sums {
                    lost: lost.load(Relaxed),
                    ..Sums::default()
                })
            }),
            witnesses: judge_end,
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
            stream,
        }
    }

    /// A connection that is delivered and accepted, now.
    pub(super) fn connect(&mut self) {
        let syn = self.syn(5432);
        self.accept(&syn);
    }

    /// A connection from outside of the cluster, now.
    pub(super) fn connect_from(&mut self, client: &str) {
        let syn = self.syn_from(&format!("{client}:40000"), 5432);
        self.accept(&syn);
    }

    pub(super) fn syn(&mut self, port: u16) -> Record {
        self.syn_from("10.1.0.1:40000", port)
    }

    fn syn_from(&mut self, client: &str, port: u16) -> Record {
        self.isn += 1;
        let syn = Record {
            at: now(),
            netns: NETNS,
            crossing: Crossing::In,
            protocol: polproof_policy::Protocol::Tcp,
            source: client.parse().unwrap(),
            destination: SocketAddr::new("10.1.0.2".parse().unwrap(), port),
            event: Event::Syn { isn: self.isn },
        };
        self.push(syn);
        syn
    }

    pub(super) fn accept(&mut self, syn: &Record) {
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

    pub(super) fn push(&mut self, record: Record) {
        self.kernel.lock().unwrap().records.push(record);
        // Full means that it was woken often enough.
        let _ = self.wake.0.write(&[1]);
    }

    pub(super) fn records(&self) -> u64 {
        self.kernel.lock().unwrap().records.len() as u64
    }

    pub(super) fn released(&self) -> u64 {
        self.kernel.lock().unwrap().released
    }
}

impl Life {
    pub(super) async fn identify(&self) {
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

    pub(super) fn unenforced(&self) -> &KindStats {
        self.stats.of(FindingKind::Unenforced).unwrap()
    }

    pub(super) fn observed(&self) -> u64 {
        self.unenforced().observed.load(Relaxed)
    }
}

pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Clock::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Clock::now() < deadline, "waited a minute until {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Everything in a spool: (observed, settled, retracted).
pub(super) fn totals(reader: &mut SpoolReader) -> (u64, u64, u64) {
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

pub(super) fn kept(dir: &Path) -> bool {
    let kept = crate::judge::keep::load(dir, "boot");
    !kept.views.is_empty() && !kept.bindings.is_empty()
}

/// Until an attempt of now is beyond the grace time of the first view.
pub(super) async fn beyond_grace(life: &Life) {
    let begun = now();
    until("the grace time is over", || {
        now().since(begun) > 400 * MS && !life.task.is_finished()
    })
    .await;
}
