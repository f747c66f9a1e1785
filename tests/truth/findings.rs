//! The findings of a group, each with the cell that it is about.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{Context, Result};
use polproof_policy::{Family, Protocol};
use polproof_proto::v1::endpoint::Kind;
use polproof_proto::v1::{Endpoint, Finding, FindingKind, Protocol as WireProtocol};

use crate::cell::Cell;

/// What was found about a cell: the kind, and who is said to have been reached.
pub(crate) type Found = BTreeSet<(FindingKind, String)>;

/// Findings by cell, and those that are about no cell at all.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) of: BTreeMap<Cell, Found>,
    pub(crate) strange: Vec<String>,
}

impl Findings {
    /// Sorts the findings; what was taken back is none.
    pub(crate) fn sort(findings: &[Finding], cells: &[Cell]) -> Result<Self> {
        let mut by_ends = BTreeMap::new();
        for cell in cells {
            for port in [cell.port(), cell.asked_port()] {
                by_ends.insert((cell.source(), cell.protocol, cell.family, port), *cell);
            }
        }
        let mut sorted = Self::default();
        for finding in findings {
            if finding.retracted >= finding.observed && finding.observed > 0 {
                continue;
            }
            let key = finding.key.clone().unwrap_or_default();
            let (source, _) = end(&key.source);
            let (destination, address) = end(&key.destination);
            let protocol = match key.protocol() {
                WireProtocol::Udp => Protocol::Udp,
                WireProtocol::Sctp => Protocol::Sctp,
                _ => Protocol::Tcp,
            };
            let ip: IpAddr = address
                .parse()
                .with_context(|| format!("the address of a finding's destination: {finding:?}"))?;
            let port = u16::try_from(key.destination_port)?;
            let ends = (source, protocol, Family::of(ip), port);
            match by_ends.get(&ends) {
                Some(cell) => {
                    let found = sorted.of.entry(*cell).or_default();
                    found.insert((key.kind(), destination));
                }
                None => sorted.strange.push(format!(
                    "{:?} {} -> {destination} ({ip}) port {port} {protocol:?}",
                    key.kind(),
                    ends.0
                )),
            }
        }
        Ok(sorted)
    }
}

/// `namespace/pod`, `node/name` or `outside`, and the address.
fn end(end: &Option<Endpoint>) -> (String, String) {
    let Some(end) = end else {
        return ("nobody".to_owned(), String::new());
    };
    let name = match &end.kind {
        Some(Kind::Pod(pod)) => format!("{}/{}", pod.namespace, pod.name),
        Some(Kind::Node(node)) => format!("node/{}", node.name),
        Some(Kind::External(_)) => "outside".to_owned(),
        None => "nobody".to_owned(),
    };
    (name, end.address.clone())
}
