//! The pods, policies and Services that all cells of a group share, and the traffic.
//!
//! Sources are on the first node, one for each thing that policies can say. Destinations are on both, one for each thing that a
//! pod can do in its own namespace. Ports tell the cells apart.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use polproof_policy::Protocol;
use polproof_tests::lab::Lab;
use polproof_tests::lab::inside::Inside;
use polproof_tests::lab::node::PodSpec;
use polproof_tests::lab::services::{Backend, ServicePort, ServiceSpec};
use polproof_tests::lab::tap::question;

use crate::cell::{Cell, PORTS, PROTOCOLS, Path, Said, State, service};
use crate::expected::ATTEMPTS;
use crate::facts::Taps;

/// Everything is closed; what opens is said of roles. The rule with a named port admits nobody who is there, and is what some
/// enforcers stumble over.
pub(crate) const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: t, name: default-deny}
spec:
  podSelector: {}
  policyTypes: [Ingress, Egress]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: t, name: to-destinations}
spec:
  podSelector: {matchLabels: {app: destination}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchExpressions: [{key: role, operator: In, values: [ok, eg]}]}}]
    - from: [{podSelector: {matchLabels: {role: nobody}}}]
      ports: [{port: metrics}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {namespace: t, name: from-sources}
spec:
  podSelector: {matchExpressions: [{key: role, operator: In, values: [ok, in]}]}
  policyTypes: [Egress]
  egress:
    - to: [{podSelector: {matchLabels: {app: destination}}}]
";

/// Where a meshed pod's proxy listens.
const PROXY: u16 = 15_006;
/// Long enough for a second SYN, after which a silent client counts as one that was not answered.
const PATIENCE: Duration = Duration::from_millis(2_500);
/// Between two attempts of a cell.
const INTERVAL: Duration = Duration::from_millis(700);

/// Where everybody is.
#[derive(Debug, Default)]
pub(crate) struct Scene {
    /// Addresses of pods (`namespace/pod`), Services (name) and nodes (name).
    pub(crate) places: BTreeMap<String, [IpAddr; 2]>,
    /// Every pod.
    pub(crate) pods: Vec<String>,
}

impl Scene {
    /// Makes pods and Services.
    pub(crate) fn furnish(lab: &mut Lab, cells: &[Cell]) -> Result<Self> {
        lab.add_namespace("t", &[])?;
        let mut scene = Self::default();
        for said in Said::ALL {
            let name = format!("from-{}", said.role());
            lab.add_pod(
                &PodSpec::new("t", &name, 0).labels(&[("app", "source"), ("role", said.role())]),
            )?;
            scene.note(lab, &name)?;
        }
        for role in roles(cells) {
            scene.make(lab, role, cells)?;
        }
        let ways: BTreeSet<(Path, &str)> = cells
            .iter()
            .map(|cell| (cell.path, cell.state.role()))
            .collect();
        for (path, role) in ways {
            if let Some(name) = service(path, role) {
                let ips = lab.apply_service(spec(&name, path, role, cells))?;
                scene.places.insert(name, ips);
            }
        }
        let node = lab.node(0)?;
        scene
            .places
            .insert(node.name().to_owned(), node.addresses());
        Ok(scene)
    }

    /// Makes the destinations of a role, one on each node.
    fn make(&mut self, lab: &mut Lab, role: &str, cells: &[Cell]) -> Result<()> {
        for node in 0..2 {
            let name = format!("{role}-{}", node + 1);
            lab.add_pod(
                &PodSpec::new("t", &name, node)
                    .labels(&[("app", "destination"), ("role", role)])
                    .port("metrics", 9100),
            )?;
            self.note(lab, &name)?;
            serve(lab, &name, role, cells).with_context(|| format!("serve in {name}"))?;
        }
        Ok(())
    }

    /// Makes new pods in place of the destinations of a role.
    pub(crate) fn make_again(&mut self, lab: &mut Lab, role: &str, cells: &[Cell]) -> Result<()> {
        for node in 1..=2 {
            self.pods.retain(|pod| *pod != format!("t/{role}-{node}"));
        }
        self.make(lab, role, cells)
    }

    fn note(&mut self, lab: &Lab, name: &str) -> Result<()> {
        let id = format!("t/{name}");
        self.places.insert(id.clone(), lab.pod(&id)?.addresses());
        self.pods.push(id);
        Ok(())
    }

    /// Tries every cell, all of them at the same time.
    pub(crate) fn drive(&self, lab: &Lab, cells: &[Cell], taps: &Taps) -> Result<()> {
        let mut attempts = Vec::new();
        let mut datagrams = Vec::new();
        let mut number = 0;
        for round in 0..ATTEMPTS {
            if round > 0 {
                std::thread::sleep(INTERVAL);
                taps.drain()?;
            }
            for cell in cells {
                let to = cell.asked(&self.places)?;
                let source = lab.pod(&cell.source())?.resident();
                match cell.protocol {
                    Protocol::Tcp => attempts.push(source.start_connect(to, PATIENCE)),
                    Protocol::Sctp => attempts.push(source.start_associate(to, PATIENCE)),
                    Protocol::Udp => {
                        number += 1;
                        datagrams.push(source.start_ask(to, 0, &question(number), PATIENCE));
                    }
                }
            }
        }
        let limit = PATIENCE + Duration::from_secs(60);
        for attempt in attempts {
            attempt.wait(limit)??;
        }
        for datagram in datagrams {
            datagram.wait(limit)??;
        }
        Ok(())
    }
}

/// The roles of destinations that cells need.
pub(crate) fn roles(cells: &[Cell]) -> BTreeSet<&'static str> {
    cells.iter().map(|cell| cell.state.role()).collect()
}

/// Puts a destination into all the states that a pod of its role has.
fn serve(lab: &Lab, name: &str, role: &str, cells: &[Cell]) -> Result<()> {
    let pod = lab.pod(&format!("t/{name}"))?;
    let resident = pod.resident();
    if role == "meshed" {
        resident.serve(PROXY)?;
        resident.serve_udp(PROXY)?;
        resident.serve_sctp(&[PROXY])?;
        for protocol in PROTOCOLS {
            pod.guard(protocol, PORTS, Inside::Redirect(PROXY))?;
        }
        return Ok(());
    }
    let ports = |wanted: State| -> Vec<u16> {
        let mut ports: Vec<u16> = cells
            .iter()
            .filter(|cell| cell.state == wanted && cell.state.role() == role)
            .map(|cell| cell.port())
            .collect();
        ports.sort_unstable();
        ports.dedup();
        ports
    };
    let open = [ports(State::Open), ports(State::Firewall)].concat();
    for port in &open {
        resident.serve(*port)?;
        resident.serve_udp(*port)?;
    }
    resident.serve_sctp(&open)?;
    resident.serve_full(&ports(State::FullBacklog))?;
    if role == "walled" {
        for protocol in PROTOCOLS {
            pod.guard(protocol, PORTS, Inside::Drop)?;
        }
    }
    Ok(())
}

fn spec(name: &str, path: Path, role: &str, cells: &[Cell]) -> ServiceSpec {
    let mut ports: Vec<(Protocol, Cell)> = cells
        .iter()
        .filter(|cell| cell.path == path && cell.state.role() == role)
        .map(|cell| (cell.protocol, *cell))
        .collect();
    ports.sort_unstable();
    ports.dedup_by_key(|(protocol, cell)| (*protocol, cell.state));
    let backends: &[u8] = match path {
        Path::Service => &[1, 2],
        Path::NodePort => &[2],
        _ => &[1],
    };
    let spec = ports
        .into_iter()
        .fold(ServiceSpec::new("t", name), |spec, (protocol, cell)| {
            let port = ServicePort::new(protocol, cell.service_port(), cell.port());
            spec.port(if path == Path::NodePort {
                port.node_port(cell.asked_port())
            } else {
                port
            })
        });
    backends.iter().fold(spec, |spec, node| {
        spec.backend(Backend::ready(&format!("t/{role}-{node}")))
    })
}
