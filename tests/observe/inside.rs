//! What the agent's part for pods tells of the inside of a pod: filters, connections, and times in which nothing was seen.

use std::collections::BTreeMap;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Result, ensure};
use polproof_cluster::{SourceKind, View};
use polproof_flow::netns::{InPod, NetnsEvent, OpenSocket};
use polproof_policy::model::{NetworkPolicy, Selector};
use polproof_policy::{NamespacedName, Object, State, Uid};
use polproof_tests::netns::Netns;

use crate::pods::{Running, UID, pod, pod_namespace};
use crate::world::{self, BpfDir, inside};

pub(crate) const TESTS: [world::Test; 3] = [
    ("a_filter_that_comes_with_the_pod_is_told", filter),
    (
        "connections_are_told_of_pods_that_a_policy_selects",
        sockets,
    ),
    ("a_replaced_interface_is_a_gap", gap),
];

fn filter() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let run = directory.path().join("netns");
    let node = Netns::create(directory.path(), "node")?;
    let bpf = BpfDir::new();
    let netns = pod_namespace(&run, &node, "cni-1", "10.78.5.1")?;
    let mut running = Running::start(&bpf, &run, vec![pod(UID, "web", "10.78.5.1")])?;
    let begun = Instant::now();
    let first = next(&mut running, filter_of)?;
    ensure!(first == InPod::Plain, "{first:?}");
    // As a sidecar's init container does.
    inside(
        &netns,
        "iptables-nft -t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 15006",
    )?;
    let second = next(&mut running, filter_of)?;
    let InPod::Filtered(what) = &second else {
        anyhow::bail!("{second:?}")
    };
    ensure!(what.contains("table ip nat, chain PREROUTING"), "{what}");
    println!("told after {:?}", begun.elapsed());
    ensure!(begun.elapsed() < world::DEADLINE);
    world::wait_until("the figures say so", || {
        Ok(running.stats.filtered_inside.load(Ordering::Relaxed) == 1)
    })?;
    running.stop()
}

fn sockets() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let run = directory.path().join("netns");
    let node = Netns::create(directory.path(), "node")?;
    let bpf = BpfDir::new();
    let netns = pod_namespace(&run, &node, "cni-1", "10.78.6.1")?;
    inside(&node, "ip addr add 10.78.6.254/24 dev cni-1")?;
    let listener = netns.run(|| TcpListener::bind("10.78.6.1:8080"))??;
    let out = node.run(|| TcpStream::connect("10.78.6.1:8080"))??;
    let accepted = listener.accept()?.0;
    let pods = || vec![pod(UID, "web", "10.78.6.1")];
    let mut running = Running::start(&bpf, &run, pods())?;
    next(&mut running, |event| {
        matches!(event, NetnsEvent::Identified { .. }).then_some(())
    })?;
    // Without a policy nobody asks.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    ensure!(running.stats.socket_lists.load(Ordering::Relaxed) == 0);
    ensure!(running.stats.pods_selected.load(Ordering::Relaxed) == 0);
    let mut state = State::new();
    for pod in pods() {
        state.apply(Object::Pod(pod.into()));
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
        annotations: BTreeMap::default(),
    })));
    running.view.send_replace(Arc::new(View {
        snapshot: state.snapshot(),
        ready: true,
        ..View::empty(SourceKind::Manifests)
    }));
    let sockets = next(&mut running, |event| match event {
        NetnsEvent::Sockets { sockets, .. } => Some(sockets),
        _ => None,
    })?;
    let [
        OpenSocket {
            local,
            remote,
            inbound: true,
            ..
        },
    ] = sockets[..]
    else {
        anyhow::bail!("{sockets:?}")
    };
    ensure!(local == accepted.local_addr()? && remote == out.local_addr()?);
    running.stop()
}

fn gap() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let run = directory.path().join("netns");
    let node = Netns::create(directory.path(), "node")?;
    let bpf = BpfDir::new();
    let netns = pod_namespace(&run, &node, "cni-1", "10.78.7.1")?;
    let mut running = Running::start(&bpf, &run, vec![pod(UID, "web", "10.78.7.1")])?;
    let since = next(&mut running, |event| match event {
        NetnsEvent::Attached { since, .. } => Some(since),
        _ => None,
    })?;
    // Another eth0: what crossed it before the agent noticed was not seen.
    inside(&netns, "ip link del eth0")?;
    inside(
        &node,
        &format!(
            "ip link add cni-1 type veth peer name eth0 netns {}",
            netns.path().display()
        ),
    )?;
    inside(&netns, "ip link set eth0 up")?;
    let deadline = Instant::now() + 5 * world::DEADLINE;
    let (from, to) = loop {
        ensure!(Instant::now() < deadline, "no gap in time");
        match running.next_of_all() {
            Ok(NetnsEvent::Gap { from, to, .. }) => break (from, to),
            Ok(_) => {}
            // Nothing for a while: the hook is asked every 30 s.
            Err(_) => {}
        }
    };
    ensure!(from <= since && to > since, "{from:?} {to:?} {since:?}");
    let again = next(&mut running, |event| match event {
        NetnsEvent::Attached { since, .. } => Some(since),
        _ => None,
    })?;
    ensure!(again == to, "{again:?} {to:?}");
    running.stop()
}

fn filter_of(event: NetnsEvent) -> Option<InPod> {
    match event {
        NetnsEvent::InPod { filter, .. } => Some(filter),
        _ => None,
    }
}

/// The next event that is wanted.
fn next<T>(running: &mut Running, wanted: impl Fn(NetnsEvent) -> Option<T>) -> Result<T> {
    loop {
        if let Some(found) = wanted(running.next_of_all()?) {
            return Ok(found);
        }
    }
}
