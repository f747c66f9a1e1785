//! Whether the enforcers did what they say of themselves: if not, the lab is wrong, and nothing follows for the programs under test.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use anyhow::Result;
use polproof_tests::lab::enforcers::{Case, Fate, How};
use polproof_tests::lab::tap::What;
use polproof_tests::lab::topology::Topology;
use polproof_tests::lab::{Lab, wiring};

use crate::cell::{Cell, Path};
use crate::facts::{Fact, brief};
use crate::scene::Scene;
use crate::verdict::Row;

/// What each attempt of a cell was to come to if it went to this pod.
fn fate(
    lab: &Lab,
    scene: &Scene,
    cell: Cell,
    destination: &str,
    sent: (Instant, Instant),
) -> Result<Fate> {
    let source = cell.pick(lab.pod(&cell.source())?.addresses());
    let destination = SocketAddr::new(cell.pick(lab.pod(destination)?.addresses()), cell.port());
    let case = Case::direct(cell.protocol, source, destination)
        .asking(cell.asked(&scene.places)?)
        .shown_as(shown(lab.setup().topology, cell, source))
        .sent(sent.0, sent.1);
    Ok(lab.enforcer().fate(&case))
}

/// As whose it arrives.
fn shown(topology: Topology, cell: Cell, source: IpAddr) -> IpAddr {
    let pair = match (cell.path, topology) {
        (Path::NodePort, Topology::Vxlan) => wiring::pod_addresses(1, 0),
        (Path::NodePort, _) | (Path::Hairpin, Topology::Routed) => wiring::node_addresses(1),
        (Path::Hairpin, _) => wiring::pod_addresses(1, 1),
        _ => return source,
    };
    cell.pick(pair)
}

/// Where the packets tell otherwise than the enforcer.
pub(crate) fn disagreements(
    lab: &Lab,
    scene: &Scene,
    rows: &[Row],
    sent: (Instant, Instant),
) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for row in rows {
        let cell = row.cell;
        let fates: Vec<(String, Fate)> = cell
            .destinations()
            .into_iter()
            .map(|pod| {
                let fate = fate(lab, scene, cell, &pod, sent)?;
                Ok((pod, fate))
            })
            .collect::<Result<_>>()?;
        // What cannot even find its neighbour (ICMPv6 is stopped as well) does not leave the source.
        let none_left = row.facts.is_empty();
        let all_die = fates.iter().all(|(_, fate)| matches!(fate, Fate::Dies(_)));
        let wrong = none_left && !all_die
            || row
                .facts
                .iter()
                .any(|fact| !agrees(fact, &fates, lab.setup().topology, cell));
        if wrong {
            found.push(format!("LAB {cell}: {fates:?}, but {}", brief(&row.facts)));
        }
    }
    Ok(found)
}

/// Whether one attempt is as one of the fates says.
fn agrees(fact: &Fact, fates: &[(String, Fate)], topology: Topology, cell: Cell) -> bool {
    fates.iter().any(|(pod, fate)| {
        let (here, came_as) = match &fact.arrived {
            Some((at, source)) => (at == pod, Some(*source)),
            None => (false, None),
        };
        let as_foretold = came_as.is_none_or(|ip| ip == shown(topology, cell, ip));
        match fate {
            Fate::Either => true,
            Fate::Passes => here && as_foretold && (fact.answer.is_none() || fact.back.is_some()),
            // An ICMP error has no ports, so rules for replies do not hold it up.
            Fate::ReplyDies => {
                let by_icmp = matches!(fact.answer, Some(What::Icmp(..)));
                here && as_foretold && (fact.back.is_none() || by_icmp)
            }
            Fate::Dies(how) => fact.arrived.is_none() && gets(*how, fact.back),
        }
    })
}

/// Whether that is what the source of a packet that died gets.
const fn gets(how: How, back: Option<What>) -> bool {
    matches!(
        (how, back),
        (How::Silence | How::IcmpThenSilence, None)
            | (How::TcpReset, Some(What::Refused))
            | (
                How::IcmpAdminProhibited | How::IcmpPortUnreachable | How::IcmpThenSilence,
                Some(What::Icmp(..))
            )
    )
}
