//! The lab's topologies and its traffic: real packets, no agents.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use polproof_policy::Protocol;
use polproof_tests::lab::enforcers::IptablesDrop;
use polproof_tests::lab::inside::Inside;
use polproof_tests::lab::node::PodSpec;
use polproof_tests::lab::topology::Topology;
use polproof_tests::lab::traffic::{Outcome, Reply};
use polproof_tests::lab::{Lab, Setup, wait_for, wiring};

use crate::Scenario;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::network("topology: routed joins everybody", joined).with(routed),
        Scenario::network("topology: vxlan joins everybody", joined).with(vxlan),
        Scenario::network(
            "topology: routed sends same-node pods through FORWARD",
            routed_forward,
        )
        .with(routed),
        Scenario::network(
            "topology: vxlan nodes show addresses of the pods' range",
            tunnel_sources,
        )
        .with(vxlan),
        Scenario::network("topology: iptables-drop holds in routed", dropped).with(routed),
        Scenario::network("topology: iptables-drop holds in vxlan", dropped).with(vxlan),
        Scenario::network("traffic: UDP, SCTP and what a pod does to itself", outcomes),
        Scenario::network(
            "traffic: a held connection keeps talking until it is cut",
            held,
        ),
    ]
}

const PATIENCE: Duration = Duration::from_secs(10);
const BRIEF: Duration = Duration::from_millis(700);

fn routed() -> Setup {
    Setup {
        topology: Topology::Routed,
        ..Setup::default()
    }
}

fn vxlan() -> Setup {
    Setup {
        topology: Topology::Vxlan,
        ..Setup::default()
    }
}

/// Two pods on each node, each with a server of every protocol.
fn furnish(lab: &mut Lab) -> Result<()> {
    lab.add_namespace("t", &[])?;
    for (name, node) in [("a-1", 0), ("b-1", 0), ("a-2", 1), ("b-2", 1)] {
        let app = if name.starts_with('a') { "a" } else { "b" };
        lab.add_pod(
            &PodSpec::new("t", name, node)
                .labels(&[("app", app)])
                .port("", 80)
                .port_of(Protocol::Udp, "", 53)
                .port_of(Protocol::Sctp, "", 132),
        )?;
    }
    Ok(())
}

fn joined(lab: &mut Lab) -> Result<()> {
    furnish(lab)?;
    let ids = ["t/a-1", "t/b-1", "t/a-2", "t/b-2"];
    for from in ids {
        let resident = lab.pod(from)?.resident();
        for to in ids.into_iter().filter(|to| *to != from) {
            let pod = lab.pod(to)?;
            for (address, wanted) in [
                (pod.v4(80), Outcome::Connected),
                (pod.v6(80), Outcome::Connected),
                (pod.v4(9), Outcome::Refused),
                (pod.v6(9), Outcome::Refused),
            ] {
                let attempt = resident.connect(address, PATIENCE)?;
                ensure!(
                    attempt.outcome == wanted,
                    "{from} to {address}: {attempt:?}"
                );
            }
            for address in [pod.v4(53), pod.v6(53)] {
                let reply = resident.ask(address, b"?", PATIENCE)?;
                ensure!(
                    reply == Reply::Answered,
                    "{from} to {address}/udp: {reply:?}"
                );
            }
            for address in [pod.v4(132), pod.v6(132)] {
                let attempt = resident.associate(address, PATIENCE)?;
                ensure!(
                    attempt.outcome == Outcome::Connected,
                    "{from} to {address}/sctp: {attempt:?}"
                );
            }
        }
        for node in lab.nodes() {
            let to = lab.pod(from)?;
            for address in [to.v4(80), to.v6(80)] {
                let attempt = node.resident.connect(address, PATIENCE)?;
                ensure!(
                    attempt.outcome == Outcome::Connected,
                    "{} to {address}: {attempt:?}",
                    node.name()
                );
            }
        }
    }
    lab.outside().serve(80)?;
    for ip in wiring::OUTSIDE {
        let to = SocketAddr::new(ip, 80);
        let attempt = lab.pod("t/a-2")?.resident().connect(to, PATIENCE)?;
        ensure!(
            attempt.outcome == Outcome::Connected,
            "the outside: {attempt:?}"
        );
    }
    Ok(())
}

/// A drop of one pair in FORWARD, by address, is felt on one node: no bridge leads around it.
fn routed_forward(lab: &mut Lab) -> Result<()> {
    furnish(lab)?;
    let (from, to) = (lab.pod("t/a-1")?, lab.pod("t/b-1")?);
    for (program, address) in ["iptables-restore", "ip6tables-restore"]
        .into_iter()
        .zip([to.v4(80), to.v6(80)])
    {
        let attempt = from.resident().connect(address, PATIENCE)?;
        ensure!(attempt.outcome == Outcome::Connected, "{attempt:?}");
        let script = format!("*filter\n-A FORWARD -d {} -j DROP\nCOMMIT\n", address.ip());
        wiring::feed(lab.node(0)?.netns(), program, &["--noflush"], &script)?;
        let attempt = from.resident().connect(address, BRIEF)?;
        ensure!(attempt.outcome == Outcome::TimedOut, "{attempt:?}");
    }
    Ok(())
}

fn tunnel_sources(lab: &mut Lab) -> Result<()> {
    furnish(lab)?;
    let pod = lab.pod("t/a-2")?;
    for (address, tunnel) in [pod.v4(80), pod.v6(80)]
        .into_iter()
        .zip(wiring::pod_addresses(1, 0))
    {
        let attempt = lab.node(0)?.resident.connect(address, PATIENCE)?;
        let from = attempt.from.context("no local address")?.ip();
        ensure!(
            from == tunnel,
            "the other node's pods see {from}, not {tunnel}"
        );
    }
    let own = lab.node(1)?.resident.connect(pod.v4(80), PATIENCE)?;
    let from = own.from.context("no local address")?.ip();
    ensure!(
        from == wiring::pod_addresses(2, 1)[0],
        "the own node's pods see the bridge, not {from}"
    );
    Ok(())
}

const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: b, namespace: t}
spec:
  podSelector: {matchLabels: {app: b}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: b}}}]
";

fn dropped(lab: &mut Lab) -> Result<()> {
    furnish(lab)?;
    lab.apply(POLICY)?;
    lab.set_enforcer(Box::<IptablesDrop>::default())?;
    for (from, to, outcome) in [
        ("t/a-1", "t/b-1", Outcome::TimedOut),
        ("t/a-1", "t/b-2", Outcome::TimedOut),
        ("t/b-1", "t/b-2", Outcome::Connected),
        ("t/b-1", "t/a-1", Outcome::Connected),
        ("t/b-2", "t/a-1", Outcome::Connected),
    ] {
        let patience = if outcome == Outcome::TimedOut {
            BRIEF
        } else {
            PATIENCE
        };
        let pod = lab.pod(to)?;
        for address in [pod.v4(80), pod.v6(80)] {
            let attempt = lab.pod(from)?.resident().connect(address, patience)?;
            ensure!(
                attempt.outcome == outcome,
                "{from} to {address}: {attempt:?}"
            );
        }
    }
    Ok(())
}

/// Every state that a destination can be in, told apart by its client as far as it can.
fn outcomes(lab: &mut Lab) -> Result<()> {
    furnish(lab)?;
    let (client, server) = (lab.pod("t/a-1")?, lab.pod("t/b-2")?);
    server.resident().swallow_udp(54)?;
    server.resident().serve_full(&[81])?;
    for (protocol, port, inside) in [
        (Protocol::Tcp, 82, Inside::Drop),
        (Protocol::Udp, 82, Inside::Drop),
        (Protocol::Sctp, 82, Inside::Drop),
        (Protocol::Tcp, 83, Inside::Reject),
        (Protocol::Udp, 83, Inside::Reject),
        (Protocol::Tcp, 84, Inside::Redirect(80)),
        (Protocol::Udp, 84, Inside::Redirect(53)),
        (Protocol::Sctp, 84, Inside::Redirect(132)),
    ] {
        server.guard(protocol, (port, port), inside)?;
    }
    for ip in server.addresses() {
        let at = |port: u16| SocketAddr::new(ip, port);
        for (port, wanted) in [
            (80, Outcome::Connected),
            (9, Outcome::Refused),
            (81, Outcome::TimedOut),
            (82, Outcome::TimedOut),
            (83, Outcome::Refused),
            (84, Outcome::Connected),
        ] {
            let attempt = client.resident().connect(at(port), BRIEF)?;
            ensure!(attempt.outcome == wanted, "TCP {ip} {port}: {attempt:?}");
        }
        for (port, wanted) in [
            (53, Reply::Answered),
            (9, Reply::Refused),
            (54, Reply::Silent),
            (82, Reply::Silent),
            (83, Reply::Refused),
            (84, Reply::Answered),
        ] {
            let reply = client.resident().ask(at(port), b"?", BRIEF)?;
            ensure!(reply == wanted, "UDP {ip} {port}: {reply:?}");
        }
        for (port, wanted) in [
            (132, Outcome::Connected),
            (9, Outcome::Refused),
            (82, Outcome::TimedOut),
            (84, Outcome::Connected),
        ] {
            let attempt = client.resident().associate(at(port), BRIEF)?;
            ensure!(attempt.outcome == wanted, "SCTP {ip} {port}: {attempt:?}");
        }
        client.resident().send_datagrams(at(54), b"log", 3)?;
    }
    // What its own processes send is taken by a proxy in the pod, and never leaves it.
    client.resident().serve(15_001)?;
    client.redirect_outgoing((9, 9), 15_001)?;
    let attempt = client.resident().connect(server.v4(9), BRIEF)?;
    ensure!(
        attempt.outcome == Outcome::Connected,
        "by the sidecar: {attempt:?}"
    );
    Ok(())
}

fn held(lab: &mut Lab) -> Result<()> {
    furnish(lab)?;
    lab.pod("t/b-2")?.resident().serve_echo(7)?;
    let to = lab.pod("t/b-2")?.v4(7);
    let held = lab
        .pod("t/a-1")?
        .resident()
        .hold(to, Duration::from_millis(20))?;
    wait_for(PATIENCE, "the connection talks", || {
        Ok((held.echoes() > 3).then_some(()))
    })?;
    ensure!(!held.ended());
    ensure!(matches!(held.from.ip(), IpAddr::V4(_)) && held.to == to);
    let script = "*filter\n-A FORWARD -p tcp --dport 7 -j REJECT --reject-with tcp-reset\nCOMMIT\n";
    wiring::feed(
        lab.node(0)?.netns(),
        "iptables-restore",
        &["--noflush"],
        script,
    )?;
    wait_for(PATIENCE, "the connection is cut", || {
        Ok(held.ended().then_some(()))
    })
}
