//! Puts the parts together, runs them, and ends them in order.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};
use polproof_agent_common::DATAGRAM_WINDOW_SECONDS;
use polproof_cluster::kubernetes::KubernetesConfig;
use polproof_cluster::{SourceKind, View, kubernetes, manifests};
use polproof_flow::Settings;
use polproof_flow::record::Instant;
use polproof_policy::Kind;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::addresses;
use crate::allocator;
use crate::cni::{self, CniHint};
use crate::config::{Config, Source};
use crate::judge::{self, JudgeStats, JudgeTask};
use crate::observe::{CounterMap, Counters, ObserveConfig, Observer, capabilities};
use crate::pods::{self, PodsConfig, PodsStats};
use crate::privilege;
use crate::report::spool::{Spool, SpoolConfig, SpoolStats};
use crate::report::stream::{self, StreamConfig, StreamStats};
use crate::report::vitals::{Coverage, Gather, Loss, Unwatched, ViewState, Vitals};
use crate::report::witness;
use crate::telemetry::{self, Metrics, Readiness, atomic};

/// Attaches a second: each takes some 24 ms under the kernel's network lock.
const ATTACH_PER_SECOND: u32 = 15;
/// News of namespaces on the way to the judge.
const EVENTS: usize = 1_024;
/// How often memory that is not used any more is given back.
const GIVE_BACK: Duration = Duration::from_secs(60);
/// How long the parts may take to end before the process ends without them.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// Runs the agent until SIGTERM or SIGINT. The pinned programs stay, on purpose.
///
/// # Errors
/// It cannot start, or a part of it failed: the process must end and be started again.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot wait for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let stop = CancellationToken::new();
    let mut agent = Agent::start(config, &stop).await?;
    agent.spawn("memory", Box::pin(give_back(stop.clone())));
    let outcome = tokio::select! {
        _ = terminate.recv() => Ok("SIGTERM"),
        _ = interrupt.recv() => Ok("SIGINT"),
        error = agent.failure() => Err(error),
    };
    match &outcome {
        Ok(signal) => info!(
            signal,
            "stopping; programs and ring buffer stay pinned for the next start"
        ),
        Err(error) => tracing::error!(
            error = format!("{error:#}"),
            "a part of the agent failed: stopping"
        ),
    }
    stop.cancel();
    match tokio::time::timeout(SHUTDOWN, agent.end()).await {
        Ok(Ok(())) => info!("stopped"),
        Ok(Err(error)) => {
            outcome?;
            return Err(error);
        }
        Err(_) => {
            warn!("some parts did not end within {SHUTDOWN:?}; nothing that was committed is lost")
        }
    }
    outcome.map(drop)
}

type Task = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send>>;

struct Agent {
    tasks: JoinSet<(&'static str, anyhow::Result<()>)>,
    /// The stream ends after the judge, whose last report it may still deliver.
    delivery: JoinSet<(&'static str, anyhow::Result<()>)>,
    deliver_stop: CancellationToken,
}

/// Everything that counts something.
struct Figures {
    pods: Arc<PodsStats>,
    judge: Arc<JudgeStats>,
    spool: Arc<SpoolStats>,
    stream: Arc<StreamStats>,
    view: watch::Receiver<Arc<View>>,
    cni: watch::Receiver<Arc<[CniHint]>>,
    /// The kernel's counters live as long as their pins; losses are told since the start of the agent.
    baseline: Counters,
}

impl Agent {
    async fn start(config: Config, stop: &CancellationToken) -> anyhow::Result<Self> {
        info!(
            version = env!("CARGO_PKG_VERSION"),
            node = config.node_name,
            "polproof-agent starts"
        );
        privilege::check()?;
        let view = view(&config.source, stop)?;
        let mut observer = Observer::open(&ObserveConfig {
            bpf_dir: config.bpf_dir.clone(),
            ring_bytes: config.ring_bytes,
            host_netns: config.host_netns.clone(),
            datagram_window: datagram_window(config.udp_idle),
        })?;
        let ring = observer
            .take_ring()
            .context("the ring buffer has been taken already, which is a bug")?;
        let baseline = observer.counters()?;
        let losses = CounterMap::open(&config.bpf_dir)?;
        let (spool, reader, recovered) = Spool::open(SpoolConfig {
            max_bytes: config.spool_max_bytes,
            ..SpoolConfig::new(config.state_dir.join("spool"))
        })?;
        let (cni, cni_task) = cni::watch(config.cni_conf_dirs.clone(), stop.clone());
        let figures = Arc::new(Figures {
            pods: Arc::default(),
            judge: Arc::default(),
            spool: spool.stats(),
            stream: Arc::default(),
            view: view.clone(),
            cni,
            baseline,
        });
        let mut this = Self {
            tasks: JoinSet::new(),
            delivery: JoinSet::new(),
            deliver_stop: CancellationToken::new(),
        };
        this.spawn("CNI hints", Box::pin(cni_task));
        if let Some(address) = config.listen_http {
            let metrics = metrics(&figures);
            let task =
                telemetry::serve(address, metrics, readiness(&figures), stop.clone()).await?;
            this.spawn("metrics", Box::pin(task));
        }
        let (events, news) = mpsc::channel(EVENTS);
        let pods = PodsConfig {
            netns_dir: config.netns_dir.clone(),
            cgroup_root: config.cgroup_root.clone(),
            proc_root: config.proc_root.clone(),
            node_name: config.node_name.clone(),
            attach_per_second: ATTACH_PER_SECOND,
        };
        let pods = pods::run(
            pods,
            observer,
            view.clone(),
            events,
            Arc::clone(&figures.pods),
            stop.clone(),
        );
        this.spawn("pods", Box::pin(pods));
        let (local_addresses, follow) = addresses::follow(config.host_netns.clone(), stop.clone())?;
        this.spawn("own addresses", Box::pin(follow));
        let (judge_end, stream_end) = witness::pair();
        let judge = JudgeTask {
            ring,
            losses,
            witnesses: judge_end,
            events: news,
            view,
            spool,
            recovered,
            node_name: config.node_name.clone(),
            state_dir: config.state_dir.clone(),
            settings: Settings {
                grace: nanos(config.grace),
                settle: nanos(config.settle),
                late: nanos(config.late),
                testimony: nanos(config.witness_timeout),
                udp_idle: nanos(config.udp_idle),
                udp_window: u64::from(datagram_window(config.udp_idle)) * Instant::SECOND,
                ..Settings::default()
            },
            local_addresses,
            stats: Arc::clone(&figures.judge),
        };
        this.spawn("judge", Box::pin(judge::run(judge, stop.clone())));
        match stream_config(&config) {
            Some(stream) => {
                let task = stream::run(
                    stream,
                    reader,
                    gather(&figures),
                    stream_end,
                    Arc::clone(&figures.stream),
                    this.deliver_stop.clone(),
                );
                this.delivery.spawn(async move { ("stream", task.await) });
            }
            None => {
                warn!(
                    "no --collector is given: findings stay in the spool, and the oldest are dropped when it is full"
                );
            }
        }
        Ok(this)
    }

    fn spawn(&mut self, name: &'static str, task: Task) {
        self.tasks.spawn(async move { (name, task.await) });
    }

    /// Waits for a part that ends before it is told to.
    async fn failure(&mut self) -> anyhow::Error {
        let ended = tokio::select! {
            Some(ended) = self.tasks.join_next() => ended,
            Some(ended) = self.delivery.join_next() => ended,
            else => return anyhow!("nothing is running, which is a bug"),
        };
        match ended {
            Ok((name, Ok(()))) => anyhow!("{name} ended by itself, which is a bug"),
            Ok((name, Err(error))) => error.context(name),
            Err(error) => anyhow!("a part panicked, which is a bug: {error}"),
        }
    }

    /// Waits for all parts, the stream last.
    async fn end(&mut self) -> anyhow::Result<()> {
        let mut first = Ok(());
        let mut note =
            |ended: Result<(&'static str, anyhow::Result<()>), tokio::task::JoinError>| {
                let result = match ended {
                    Ok((name, result)) => result.context(name),
                    Err(error) => Err(anyhow!("a part panicked, which is a bug: {error}")),
                };
                if first.is_ok() {
                    first = result;
                }
            };
        while let Some(ended) = self.tasks.join_next().await {
            note(ended);
        }
        self.deliver_stop.cancel();
        while let Some(ended) = self.delivery.join_next().await {
            note(ended);
        }
        first
    }
}

/// The start, and every list of a cluster's objects, leave much behind.
async fn give_back(stop: CancellationToken) -> anyhow::Result<()> {
    let mut again = tokio::time::interval(GIVE_BACK);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = again.tick() => tokio::task::spawn_blocking(allocator::give_back_now).await?,
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// After how many seconds a UDP flow that goes on is recorded again: as seldom as may be, but not so seldom that one which begins
/// after a silence is hidden by the one before.
fn datagram_window(idle: Duration) -> u32 {
    let seconds = u32::try_from(idle.as_secs()).unwrap_or(u32::MAX);
    seconds.clamp(1, DATAGRAM_WINDOW_SECONDS)
}

fn view(source: &Source, stop: &CancellationToken) -> anyhow::Result<watch::Receiver<Arc<View>>> {
    Ok(match source {
        Source::Manifests(path) => {
            info!(path = %path.display(), "the cluster's objects come from manifests");
            manifests::watch(path.clone(), stop.clone())?
        }
        Source::Kubernetes(kubeconfig) => {
            let config = KubernetesConfig {
                kubeconfig: kubeconfig.clone(),
                ..KubernetesConfig::default()
            };
            kubernetes::watch(config, stop.clone())?
        }
    })
}

fn stream_config(config: &Config) -> Option<StreamConfig> {
    let collector = config.collector.as_ref()?;
    let kernel_release = std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map(|text| text.trim().to_owned())
        .unwrap_or_default();
    Some(StreamConfig {
        collector: collector.url.clone(),
        tls_ca: collector.tls_ca.clone(),
        tls_cert: collector.tls_cert.clone(),
        tls_key: collector.tls_key.clone(),
        tls_server_name: collector.tls_server_name.clone(),
        node: config.node_name.clone(),
        kernel_release,
        heartbeat: StreamConfig::HEARTBEAT,
        max_backoff: StreamConfig::MAX_BACKOFF,
        drain: StreamConfig::DRAIN,
    })
}

fn readiness(figures: &Arc<Figures>) -> Readiness {
    let figures = Arc::clone(figures);
    Arc::new(move || {
        let view = figures.view.borrow();
        if view.ready {
            return Vec::new();
        }
        let problem = view.problem.as_deref().unwrap_or("listing");
        vec![format!("no complete view of the cluster yet: {problem}")]
    })
}

impl Figures {
    fn loss(&self) -> Loss {
        let kernel = self.pods.kernel();
        let load = |a: &std::sync::atomic::AtomicU64| a.load(Ordering::Relaxed);
        Loss {
            // The kernel knows at once, the judge with the CPU's next record.
            ring_records: kernel
                .ring_full
                .saturating_sub(self.baseline.ring_full)
                .max(load(&self.judge.records_lost)),
            packets_unparsed: kernel.unparsed.saturating_sub(self.baseline.unparsed),
            attempts_evicted: load(&self.judge.evicted),
            batches_dropped: load(&self.spool.batches_dropped) + load(&self.stream.batches_refused),
            pods_unidentified: load(&self.pods.unidentified) + load(&self.pods.contradicted),
        }
    }

    fn vitals(&self) -> Vitals {
        let view = self.view.borrow();
        Vitals {
            at: SystemTime::now(),
            coverage: Coverage {
                expected: self.pods.pods_expected.load(Ordering::Relaxed),
                watched: self.pods.pods_watched.load(Ordering::Relaxed),
                unwatched: self
                    .pods
                    .coverage()
                    .into_iter()
                    .map(|u| Unwatched {
                        pod: u.pod,
                        reason: u.reason,
                    })
                    .collect(),
            },
            loss: self.loss(),
            cni: self.cni.borrow().to_vec(),
            view: ViewState {
                ready: view.ready,
                source: match view.source {
                    SourceKind::Kubernetes => "kubernetes",
                    SourceKind::Manifests => "manifests",
                }
                .to_owned(),
                policies: view.snapshot.count(Kind::NetworkPolicy) as u64,
                other_policies: view.other_policies().collect(),
                pods: view.snapshot.count(Kind::Pod) as u64,
                refused: view
                    .refused
                    .iter()
                    .take(20)
                    .map(|r| format!("{}: {}", r.object, r.reason))
                    .collect(),
                problem: view.problem.clone(),
            },
            kernel_lacks: capabilities().lacks.clone(),
        }
    }
}

fn gather(figures: &Arc<Figures>) -> Gather {
    let figures = Arc::clone(figures);
    Box::new(move || figures.vitals())
}

mod metrics;
use metrics::metrics;
