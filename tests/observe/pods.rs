//! The agent's part for pods, on namespaces that come and go like those of a container runtime.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use polproof_agent::observe::Observer;
use polproof_agent::pods::{self, PodsConfig, PodsStats};
use polproof_cluster::{SourceKind, View};
use polproof_flow::netns::{Hook, NetnsEvent};
use polproof_flow::record::NetnsCookie;
use polproof_policy::model::Pod;
use polproof_policy::{NamespacedName, Object, State, Uid};
use polproof_tests::netns::Netns;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::world::{self, BpfDir, inside};

pub(crate) const TESTS: [world::Test; 4] = [
    ("pods_are_found_and_identified_by_address", by_address),
    ("pods_are_identified_by_cgroup", by_cgroup),
    ("contradicting_witnesses_give_no_identity", contradiction),
    ("a_restarted_agent_adopts_with_the_old_since", restart),
];

pub(crate) const UID: &str = "6f3b9c1e-6c1d-4d3b-9a53-3f3c7f0f9a11";
pub(crate) const OTHER: &str = "7f3b9c1e-6c1d-4d3b-9a53-3f3c7f0f9a22";

pub(crate) fn pod(uid: &str, name: &str, ip: &str) -> Pod {
    Pod {
        id: NamespacedName::new("shop", name),
        uid: Uid(uid.into()),
        labels: BTreeMap::new(),
        ips: vec![ip.parse().unwrap()],
        node: Some("node-a".into()),
        host_network: false,
        finished: false,
        ports: Vec::new(),
        owner: None,
        annotations: Default::default(),
    }
}

pub(crate) fn view(pods: Vec<Pod>) -> Arc<View> {
    let mut state = State::new();
    for pod in pods {
        state.apply(Object::Pod(pod.into()));
    }
    Arc::new(View {
        snapshot: state.snapshot(),
        ready: true,
        ..View::empty(SourceKind::Manifests)
    })
}

/// A running pods part.
pub(crate) struct Running {
    runtime: Runtime,
    events: mpsc::Receiver<NetnsEvent>,
    pub(crate) view: watch::Sender<Arc<View>>,
    pub(crate) stats: Arc<PodsStats>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<Result<()>>,
}

impl Running {
    pub(crate) fn start(bpf: &BpfDir, netns_dir: &Path, pods: Vec<Pod>) -> Result<Self> {
        let runtime = Runtime::new()?;
        let observer = Observer::open(&bpf.config(1 << 20))?;
        // Room for a namespace that nobody asks about: the rest must wait, not be lost.
        let (sender, events) = mpsc::channel(4);
        let (view, receiver) = watch::channel(view(pods));
        let stats = Arc::new(PodsStats::default());
        let cancel = CancellationToken::new();
        let config = PodsConfig {
            netns_dir: netns_dir.to_owned(),
            cgroup_root: PathBuf::from("/sys/fs/cgroup"),
            proc_root: PathBuf::from("/proc"),
            node_name: "node-a".to_owned(),
            attach_per_second: 20,
        };
        let task = runtime.spawn(pods::run(
            config,
            observer,
            receiver,
            sender,
            Arc::clone(&stats),
            cancel.clone(),
        ));
        Ok(Self {
            runtime,
            events,
            view,
            stats,
            cancel,
            task,
        })
    }

    /// The next event, but of what is asked inside.
    pub(crate) fn next(&mut self) -> Result<NetnsEvent> {
        loop {
            let event = self.next_of_all()?;
            if !matches!(event, NetnsEvent::InPod { .. } | NetnsEvent::Sockets { .. }) {
                return Ok(event);
            }
        }
    }

    pub(crate) fn next_of_all(&mut self) -> Result<NetnsEvent> {
        self.runtime
            .block_on(async { tokio::time::timeout(world::DEADLINE, self.events.recv()).await })
            .context("no event in time")?
            .context("the pods part has ended")
    }

    /// The next event, but of the time between the end of a pod's eth0 and that of its namespace.
    fn next_but_gaps(&mut self) -> Result<NetnsEvent> {
        loop {
            let event = self.next()?;
            if !matches!(event, NetnsEvent::Gap { .. }) {
                return Ok(event);
            }
        }
    }

    /// The next event that is not a repeated `Attached`.
    pub(crate) fn next_but_attached(&mut self) -> Result<NetnsEvent> {
        loop {
            let event = self.next()?;
            if !matches!(event, NetnsEvent::Attached { .. }) {
                return Ok(event);
            }
        }
    }

    pub(crate) fn stop(self) -> Result<()> {
        self.cancel.cancel();
        self.runtime
            .block_on(async { tokio::time::timeout(world::DEADLINE, self.task).await })
            .context("it does not stop")??
    }
}

/// A namespace like a pod's: eth0 with an address, its other end in `node`.
pub(crate) fn pod_namespace(directory: &Path, node: &Netns, name: &str, ip: &str) -> Result<Netns> {
    let netns = Netns::create(directory, name)?;
    give_eth0(&netns, node, name, ip)?;
    Ok(netns)
}

fn give_eth0(netns: &Netns, node: &Netns, name: &str, ip: &str) -> Result<()> {
    inside(
        node,
        &format!(
            "ip link add {name} type veth peer name eth0 netns {}",
            netns.path().display()
        ),
    )?;
    inside(node, &format!("ip link set {name} up"))?;
    inside(netns, "ip link set eth0 up")?;
    inside(netns, &format!("ip addr add {ip}/24 dev eth0"))
}

fn expect_attached(event: &NetnsEvent) -> Result<(NetnsCookie, Vec<IpAddr>)> {
    let NetnsEvent::Attached {
        netns,
        addresses,
        hook,
        ..
    } = event
    else {
        anyhow::bail!("{event:?}")
    };
    ensure!(*hook == Hook::Exclusive, "{hook:?}");
    Ok((*netns, addresses.clone()))
}

fn by_address() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let run = directory.path().join("netns");
    let node = Netns::create(directory.path(), "node")?;
    let bpf = BpfDir::new();
    // One is there before the directory is watched; the directory itself may come later.
    let first = pod_namespace(&run, &node, "cni-1", "10.78.0.1")?;
    let mut running = Running::start(
        &bpf,
        &run,
        vec![pod(UID, "web", "10.78.0.1"), pod(OTHER, "db", "10.78.0.2")],
    )?;
    let (one, addresses) = expect_attached(&running.next()?)?;
    ensure!(
        addresses == ["10.78.0.1".parse::<IpAddr>()?],
        "{addresses:?}"
    );
    let identified = running.next_but_attached()?;
    ensure!(
        identified
            == NetnsEvent::Identified {
                netns: one,
                pod: Uid(UID.into())
            },
        "{identified:?}"
    );
    // The other comes in the order of a CNI: file, then interface, then address.
    let second = Netns::create(&run, "cni-2")?;
    world::wait_until("its eth0 is missed", || {
        Ok(running.stats.coverage().iter().any(|uncovered| {
            uncovered.reason.contains("cni-2") && uncovered.reason.contains("no interface eth0")
        }))
    })?;
    let missing = running.stats.coverage();
    ensure!(
        missing.iter().any(|uncovered| uncovered.pod
            == Some((NamespacedName::new("shop", "db"), Uid(OTHER.into())))),
        "{missing:?}"
    );
    give_eth0(&second, &node, "cni-2", "10.78.0.2")?;
    let (two, _) = expect_attached(&running.next()?)?;
    let identified = running.next_but_attached()?;
    ensure!(
        identified
            == NetnsEvent::Identified {
                netns: two,
                pod: Uid(OTHER.into())
            },
        "{identified:?}"
    );
    world::wait_until("both are covered", || {
        Ok(running.stats.coverage().is_empty()
            && running.stats.pods_watched.load(Ordering::Relaxed) == 2)
    })?;
    // One goes: its successor at the address is not taken for it while the view is stale.
    drop(first);
    let gone = running.next_but_gaps()?;
    ensure!(
        matches!(gone, NetnsEvent::Gone { netns, .. } if netns == one),
        "{gone:?}"
    );
    let successor = pod_namespace(&run, &node, "cni-3", "10.78.0.1")?;
    let (three, _) = expect_attached(&running.next()?)?;
    world::wait_until("the stale address is refused", || {
        Ok(running
            .stats
            .coverage()
            .iter()
            .any(|uncovered| uncovered.reason.contains("whose namespace has ended")))
    })?;
    // The view catches up.
    let newer = "8f3b9c1e-6c1d-4d3b-9a53-3f3c7f0f9a33";
    running.view.send(view(vec![
        pod(newer, "web", "10.78.0.1"),
        pod(OTHER, "db", "10.78.0.2"),
    ]))?;
    let identified = running.next_but_attached()?;
    ensure!(
        identified
            == NetnsEvent::Identified {
                netns: three,
                pod: Uid(newer.into())
            },
        "{identified:?}"
    );
    drop(successor);
    running.stop()
}

/// A process of a pod: in its namespace and in its cgroup. Both are taken away again.
struct Process {
    child: Child,
    cgroup: PathBuf,
}

impl Process {
    fn start(netns: &Netns, uid: &str) -> Result<Self> {
        // Any hierarchy that is mounted will do: the kernel's or systemd's on v1, or the unified one.
        let root = ["unified", "systemd", "pids", ""]
            .iter()
            .map(|name| Path::new("/sys/fs/cgroup").join(name))
            .find(|path| path.join("cgroup.procs").exists())
            .context("no cgroup hierarchy is mounted on /sys/fs/cgroup")?;
        let cgroup = root.join(format!(
            "kubepods-burstable-pod{}.slice",
            uid.replace('-', "_")
        ));
        std::fs::create_dir_all(&cgroup)?;
        let child = netns
            .command("sleep")?
            .arg("600")
            .stdin(Stdio::null())
            .spawn()?;
        let this = Self { child, cgroup };
        std::fs::write(
            this.cgroup.join("cgroup.procs"),
            this.child.id().to_string(),
        )
        .context("move the process to its cgroup")?;
        Ok(this)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // The kernel lets go of the process a moment after it was reaped.
        for _ in 0..100 {
            if std::fs::remove_dir(&self.cgroup).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

fn by_cgroup() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let run = directory.path().join("netns");
    let node = Netns::create(directory.path(), "node")?;
    let bpf = BpfDir::new();
    let netns = pod_namespace(&run, &node, "cni-1", "10.78.1.1")?;
    // The pod has no address in its status yet.
    let uid = "9f3b9c1e-6c1d-4d3b-9a53-3f3c7f0f9a44";
    let mut young = pod(uid, "web", "10.78.1.1");
    young.ips.clear();
    let mut running = Running::start(&bpf, &run, vec![young])?;
    let (one, _) = expect_attached(&running.next()?)?;
    world::wait_until("it is unidentified at first", || {
        Ok(running.stats.unidentified.load(Ordering::Relaxed) == 1)
    })?;
    let process = Process::start(&netns, uid)?;
    let identified = running.next_but_attached()?;
    ensure!(
        identified
            == NetnsEvent::Identified {
                netns: one,
                pod: Uid(uid.into())
            },
        "{identified:?}"
    );
    drop(process);
    running.stop()
}

fn contradiction() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let run = directory.path().join("netns");
    let node = Netns::create(directory.path(), "node")?;
    let bpf = BpfDir::new();
    let netns = pod_namespace(&run, &node, "cni-1", "10.78.2.1")?;
    let uid = "af3b9c1e-6c1d-4d3b-9a53-3f3c7f0f9a55";
    let process = Process::start(&netns, uid)?;
    // The cgroup says one pod, the address another.
    let mut running = Running::start(
        &bpf,
        &run,
        vec![pod(uid, "web", "10.78.2.9"), pod(OTHER, "db", "10.78.2.1")],
    )?;
    let (one, _) = expect_attached(&running.next()?)?;
    let event = running.next_but_attached()?;
    ensure!(
        matches!(&event, NetnsEvent::Contradicted { netns, why } if *netns == one && why.contains("10.78.2.9")),
        "{event:?}"
    );
    world::wait_until("it is counted", || {
        Ok(running.stats.contradicted.load(Ordering::Relaxed) == 1)
    })?;
    drop(process);
    running.stop()
}

fn restart() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let run = directory.path().join("netns");
    let node = Netns::create(directory.path(), "node")?;
    let bpf = BpfDir::new();
    let _netns = pod_namespace(&run, &node, "cni-1", "10.78.3.1")?;
    let pods = || vec![pod(UID, "web", "10.78.3.1")];
    let mut running = Running::start(&bpf, &run, pods())?;
    let before = running.next()?;
    running.next_but_attached()?;
    running.stop()?;
    let mut running = Running::start(&bpf, &run, pods())?;
    let after = running.next()?;
    ensure!(after == before, "{after:?} is not {before:?}");
    running.next_but_attached()?;
    running.stop()
}
