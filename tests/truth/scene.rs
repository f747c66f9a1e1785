//! The pods and Services that all cells of a group share.
//!
//! Sources are on the first node, one for each thing that policies can say. Destinations are on both, one for each thing that a
//! pod can do in its own namespace. Ports tell the cells apart. Beside the sources there is a pod that is none of the cells': it
//! gets through where the way is open, as in a real cluster those do that watch the others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result};
use polproof_policy::Protocol;
use polproof_tests::lab::Lab;
use polproof_tests::lab::inside::Inside;
use polproof_tests::lab::node::PodSpec;
use polproof_tests::lab::services::{Backend, ServicePort, ServiceSpec};

use crate::cell::{Cell, PORTS, PROTOCOLS, Path, Said, State, service};

/// Where a meshed pod's proxy listens.
const PROXY: u16 = 15_006;
/// The port by which destinations are watched: no cell's, and none that a pod's own filters care for.
pub(crate) const METRICS: u16 = 9100;
/// The pod that may reach every destination, whatever becomes of the others; it is none of the cells' sources.
pub(crate) const WATCH: &str = "t/watch";

/// Where everybody is.
#[derive(Debug, Default)]
pub(crate) struct Scene {
    /// Addresses of pods (`namespace/pod`), Services (name) and nodes (name).
    pub(crate) places: BTreeMap<String, [IpAddr; 2]>,
    /// Every pod.
    pub(crate) pods: BTreeSet<String>,
    /// Those that are tried to be reached.
    pub(crate) destinations: BTreeSet<String>,
    /// Whether [`WATCH`] looks at them.
    pub(crate) watched: bool,
}

impl Scene {
    /// Makes pods and Services. `watched`: a pod on the sources' node looks at all destinations while there is traffic.
    pub(crate) fn furnish(lab: &mut Lab, cells: &[Cell], watched: bool) -> Result<Self> {
        lab.add_namespace("t", &[])?;
        let mut scene = Self {
            watched,
            ..Self::default()
        };
        scene.make_sources(lab)?;
        scene.add(
            lab,
            &PodSpec::new("t", "watch", 0).labels(&[("role", "watch")]),
        )?;
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

    /// Makes the sources, or new ones in their place.
    pub(crate) fn make_sources(&mut self, lab: &mut Lab) -> Result<()> {
        for said in Said::ALL {
            let name = format!("from-{}", said.role());
            let spec = PodSpec::new("t", &name, 0);
            self.add(
                lab,
                &spec.labels(&[("app", "source"), ("role", said.role())]),
            )?;
        }
        Ok(())
    }

    /// Makes a pod that may send what no source may that is denied it, and whose name comes before theirs.
    pub(crate) fn lead(&mut self, lab: &mut Lab) -> Result<()> {
        let spec = PodSpec::new("t", "from-all", 0);
        self.add(lab, &spec.labels(&[("app", "source"), ("role", "ok")]))
    }

    /// Makes the destinations of a role, one on each node, or new ones in their place.
    pub(crate) fn make(&mut self, lab: &mut Lab, role: &str, cells: &[Cell]) -> Result<()> {
        for node in 0..2 {
            self.make_one(lab, role, node, cells)?;
        }
        Ok(())
    }

    /// Makes the destination of a role on a node (from 0), or a new one in its place.
    pub(crate) fn make_one(
        &mut self,
        lab: &mut Lab,
        role: &str,
        node: usize,
        cells: &[Cell],
    ) -> Result<String> {
        let name = format!("{role}-{}", node + 1);
        let spec = PodSpec::new("t", &name, node)
            .labels(&[("app", "destination"), ("role", role)])
            .port("metrics", METRICS);
        self.add(lab, &spec)?;
        serve(lab, &name, role, cells).with_context(|| format!("serve in {name}"))?;
        let id = format!("t/{name}");
        self.destinations.insert(id.clone());
        Ok(id)
    }

    fn add(&mut self, lab: &mut Lab, spec: &PodSpec) -> Result<()> {
        lab.add_pod(spec)?;
        let id = spec.id();
        self.places.insert(id.clone(), lab.pod(&id)?.addresses());
        self.pods.insert(id);
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
