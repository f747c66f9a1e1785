//! Services in the lab: what kube-proxy does with packets, in every topology.
#![allow(clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use polproof_policy::Protocol;
use polproof_tests::lab::node::PodSpec;
use polproof_tests::lab::services::{Backend, ServicePort, ServiceSpec};
use polproof_tests::lab::tap::{Event, Tap, What};
use polproof_tests::lab::topology::Topology;
use polproof_tests::lab::traffic::{Outcome, Reply};
use polproof_tests::lab::{Lab, Setup, wait_for};

use crate::Scenario;

pub(crate) fn scenarios() -> Vec<Scenario> {
    fn of(topology: Topology) -> Setup {
        Setup {
            topology,
            ..Setup::default()
        }
    }
    vec![
        Scenario::network("services: every way to a backend, bridge", doors),
        Scenario::network("services: every way to a backend, routed", doors)
            .with(|| of(Topology::Routed)),
        Scenario::network("services: every way to a backend, vxlan", doors)
            .with(|| of(Topology::Vxlan)),
        Scenario::network("services: who is sent to follows the endpoints", endpoints),
    ]
}

const PATIENCE: Duration = Duration::from_secs(10);
const BRIEF: Duration = Duration::from_millis(700);

fn furnish(lab: &mut Lab) -> Result<()> {
    lab.add_namespace("s", &[])?;
    for (name, node) in [("client", 0), ("near", 0), ("far", 1)] {
        lab.add_pod(
            &PodSpec::new("s", name, node)
                .port("", 80)
                .port_of(Protocol::Udp, "", 53)
                .port_of(Protocol::Sctp, "", 132),
        )?;
    }
    Ok(())
}

/// A Service with one backend and a port of each protocol.
fn one(name: &str, backend: &str, node_ports: u16) -> ServiceSpec {
    [
        (Protocol::Tcp, 1080, 80, 0),
        (Protocol::Udp, 1053, 53, 1),
        (Protocol::Sctp, 1132, 132, 2),
    ]
    .into_iter()
    .fold(
        ServiceSpec::new("s", name).backend(Backend::ready(backend)),
        |spec, (protocol, port, target, offset)| {
            let port = ServicePort::new(protocol, port, target);
            spec.port(if node_ports == 0 {
                port
            } else {
                port.node_port(node_ports + offset)
            })
        },
    )
}

/// Connects by every protocol, and wants an answer.
fn answered(lab: &Lab, from: &str, ip: IpAddr, ports: [u16; 3]) -> Result<()> {
    let resident = lab.pod(from)?.resident();
    let [tcp, udp, sctp] = ports.map(|port| SocketAddr::new(ip, port));
    let attempt = resident.connect(tcp, PATIENCE)?;
    ensure!(
        attempt.outcome == Outcome::Connected,
        "{from} to {tcp}: {attempt:?}"
    );
    let reply = resident.ask(udp, b"?", PATIENCE)?;
    ensure!(reply == Reply::Answered, "{from} to {udp}/udp: {reply:?}");
    let attempt = resident.associate(sctp, PATIENCE)?;
    ensure!(
        attempt.outcome == Outcome::Connected,
        "{from} to {sctp}/sctp: {attempt:?}"
    );
    Ok(())
}

/// The sources of the openings that a pod's eth0 has seen, once there are `count`.
fn sources(tap: &Tap, count: usize) -> Result<Vec<Event>> {
    wait_for(PATIENCE, &format!("{count} openings arrive"), || {
        let seen: Vec<Event> = tap
            .events()?
            .into_iter()
            .filter(|event| event.incoming && event.what == What::Open)
            .collect();
        Ok((seen.len() >= count).then_some(seen))
    })
}

fn doors(lab: &mut Lab) -> Result<()> {
    furnish(lab)?;
    let service = lab.apply_service(one("far", "s/far", 30_080))?;
    let itself = lab.apply_service(one("itself", "s/client", 0))?;
    let near = lab.apply_service(one("near", "s/near", 0))?;
    let external = [
        IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)),
        IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 7, 0, 0, 0, 0, 7)),
    ];
    let spec = external
        .into_iter()
        .fold(one("external", "s/far", 0), ServiceSpec::external_ip);
    lab.apply_service(spec)?;
    lab.apply_service(one("local", "s/far", 30_180).local())?;
    lab.add_host_port("s/far", Protocol::Tcp, 8080, 80)?;
    let client = lab.pod("s/client")?;
    let nodes = [lab.node(0)?.addresses(), lab.node(1)?.addresses()];
    for family in 0..2 {
        let own = client.addresses()[family];
        let here = nodes[0][family];
        let ways = [
            (
                "its address",
                service[family],
                [1080, 1053, 1132],
                Some(own),
            ),
            ("externalIP", external[family], [1080, 1053, 1132], None),
            ("nodePort", here, [30_080, 30_081, 30_082], None),
        ];
        for (what, ip, ports, seen_as) in ways {
            let tap = Tap::open(lab.pod("s/far")?.netns())?;
            answered(lab, "s/client", ip, ports).with_context(|| what.to_owned())?;
            for event in sources(&tap, 3)? {
                let source = event.source.ip();
                match seen_as {
                    Some(wanted) => ensure!(source == wanted, "{what}: seen as {source}"),
                    None => ensure!(
                        !client.addresses().contains(&source),
                        "{what}: not masqueraded: {source}"
                    ),
                }
            }
        }
        // Its node's other pod, by the Service: unmasked, whatever way the answer takes back.
        let tap = Tap::open(lab.pod("s/near")?.netns())?;
        answered(lab, "s/client", near[family], [1080, 1053, 1132]).context("same node")?;
        for event in sources(&tap, 3)? {
            ensure!(event.source.ip() == own, "same node: {event:?}");
        }
        // The pod itself: it must not see itself as the source.
        let tap = Tap::open(client.netns())?;
        answered(lab, "s/client", itself[family], [1080, 1053, 1132]).context("hairpin")?;
        for event in sources(&tap, 3)? {
            ensure!(event.source.ip() != own, "hairpin: {event:?}");
        }
        // hostPort, from a pod and from outside.
        let there = SocketAddr::new(nodes[1][family], 8080);
        for resident in [client.resident(), lab.outside()] {
            let attempt = resident.connect(there, PATIENCE)?;
            ensure!(
                attempt.outcome == Outcome::Connected,
                "hostPort: {attempt:?}"
            );
        }
        // Local: outside comes in as itself where the backend is, and nowhere else.
        let tap = Tap::open(lab.pod("s/far")?.netns())?;
        let there = SocketAddr::new(nodes[1][family], 30_180);
        let attempt = lab.outside().connect(there, PATIENCE)?;
        ensure!(attempt.outcome == Outcome::Connected, "Local: {attempt:?}");
        let from = attempt.from.context("no local address")?;
        ensure!(sources(&tap, 1)?.iter().all(|event| event.source == from));
        let not_there = SocketAddr::new(here, 30_180);
        let attempt = lab.outside().connect(not_there, BRIEF)?;
        ensure!(
            attempt.outcome == Outcome::TimedOut,
            "Local elsewhere: {attempt:?}"
        );
    }
    Ok(())
}

fn endpoints(lab: &mut Lab) -> Result<()> {
    furnish(lab)?;
    let spec = |backends: Vec<Backend>| {
        backends.into_iter().fold(
            ServiceSpec::new("s", "web").port(ServicePort::new(Protocol::Tcp, 1080, 80)),
            ServiceSpec::backend,
        )
    };
    let arrivals = |lab: &Lab, ip: IpAddr| -> Result<[usize; 2]> {
        let taps = [
            Tap::open(lab.pod("s/near")?.netns())?,
            Tap::open(lab.pod("s/far")?.netns())?,
        ];
        for _ in 0..40 {
            let to = SocketAddr::new(ip, 1080);
            let attempt = lab.pod("s/client")?.resident().connect(to, PATIENCE)?;
            ensure!(attempt.outcome == Outcome::Connected, "{attempt:?}");
        }
        let mut counts = [0, 0];
        let arrived = wait_for(PATIENCE, "40 openings arrive", || {
            for (count, tap) in counts.iter_mut().zip(&taps) {
                let opened: BTreeSet<u32> = tap
                    .events()?
                    .iter()
                    .filter(|event| event.incoming && event.what == What::Open)
                    .map(|event| event.id)
                    .collect();
                *count = opened.len();
            }
            Ok((counts.iter().sum::<usize>() == 40).then_some(counts))
        });
        arrived.with_context(|| format!("{counts:?} came"))
    };
    let ips = lab.apply_service(spec(vec![
        Backend::ready("s/near"),
        Backend::ready("s/far"),
    ]))?;
    for ip in ips {
        let [near, far] = arrivals(lab, ip)?;
        ensure!(near > 0 && far > 0, "all went one way: {near} and {far}");
    }
    lab.apply_service(spec(vec![
        Backend::ready("s/near"),
        Backend::not_ready("s/far"),
    ]))?;
    ensure!(arrivals(lab, ips[0])? == [40, 0]);
    lab.apply_service(spec(vec![
        Backend::ready("s/near"),
        Backend::terminating("s/far"),
    ]))?;
    ensure!(arrivals(lab, ips[1])? == [40, 0]);
    lab.apply_service(spec(vec![
        Backend::not_ready("s/near"),
        Backend::terminating("s/far"),
    ]))?;
    ensure!(arrivals(lab, ips[0])? == [0, 40]);
    // Nobody is left, and the client is told.
    lab.apply_service(spec(vec![Backend::not_ready("s/near")]))?;
    for ip in ips {
        let to = SocketAddr::new(ip, 1080);
        let attempt = lab.pod("s/client")?.resident().connect(to, PATIENCE)?;
        ensure!(attempt.outcome == Outcome::Refused, "{attempt:?}");
    }
    // The backends follow a pod that is made again elsewhere.
    lab.apply_service(spec(vec![Backend::ready("s/far")]))?;
    lab.add_pod(&PodSpec::new("s", "far", 1).port("", 80))?;
    ensure!(arrivals(lab, ips[0])? == [0, 40]);
    // Headless: objects, and no address.
    lab.apply_service(
        ServiceSpec::new("s", "nobody")
            .backend(Backend::ready("s/far"))
            .headless(),
    )?;
    lab.delete_service("s", "web")?;
    for node in lab.nodes() {
        let rules = node.netns().command("iptables-save")?.output()?.stdout;
        let rules = String::from_utf8_lossy(&rules);
        ensure!(!rules.contains("LAB-SVC"), "rules stayed:\n{rules}");
    }
    Ok(())
}
