//! Questions as people put them: "may shop/web connect to shop/db, port 5432?"
//!
//! ```text
//! "shop/deploy/web" --Directory--> End --Pairs--> pairs of pods --evaluate--> Tally
//!                                                 one pair of each outcome --explain--> Reply
//! ```
//!
//! An end is `namespace/pod`, `namespace/kind/name` (a workload or a Service) or an address. A workload is its living
//! pods, a Service the pods behind it. The answer has one part for each address family that both ends have.

mod end;
mod error;
mod near;
mod pairs;
mod service;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::explain::Explanation;
use crate::model::{Family, Pod, Protocol};

pub use end::{Directory, End, Target};
pub use error::{AskError, family_name};
pub use pairs::{Pair, Pairs, Tally};

/// Where a pod stands that has no IPv4 address yet, as in manifests written by hand: only an ipBlock of everything
/// holds it (RFC 5737, for documentation).
pub const UNKNOWN_V4: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 53));
/// The same for IPv6 (RFC 3849).
pub const UNKNOWN_V6: IpAddr = IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x53));

/// The address by which a pod is asked about in a family: its first one, or the unknown one if it has none of either family.
pub fn address(pod: &Pod, family: Family) -> Option<IpAddr> {
    if pod.ips.is_empty() {
        return Some(match family {
            Family::V4 => UNKNOWN_V4,
            Family::V6 => UNKNOWN_V6,
        });
    }
    let addresses = pod.ips.iter().map(IpAddr::to_canonical);
    addresses
        .into_iter()
        .find(|address| Family::of(*address) == family)
}

/// The port of a question that names none.
pub const DEFAULT_PORT: u16 = 80;

/// A question.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Who connects.
    pub source: &'a str,
    /// To whom.
    pub destination: &'a str,
    /// To which port; [`DEFAULT_PORT`] or a Service's only port if it is not said.
    pub port: Option<u16>,
    /// Transport protocol.
    pub protocol: Protocol,
    /// In this family only.
    pub family: Option<Family>,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The port that was asked for, or that stands for none.
    pub port: u16,
    /// What is worth knowing of the ends, whatever the verdict.
    pub notes: Vec<String>,
    /// One for each family that both ends have.
    pub answers: Vec<Answer>,
}

/// The answer for one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// For which family.
    pub family: Family,
    /// How many pairs of pods there are, by outcome.
    pub counts: Counts,
    /// One pair of each outcome: one in all if they agree.
    pub cases: Vec<Case>,
}

/// How many pairs of pods there are, by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Allowed.
    pub allow: usize,
    /// Denied.
    pub deny: usize,
    /// Left open.
    pub unknown: usize,
}

/// A pair of ends that stands for all with its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Who connects: `shop/web-0`, `node n1`, `192.0.2.7`.
    pub source: String,
    /// The address that stood for the source; an unknown one for a pod that has none.
    pub source_ip: IpAddr,
    /// To whom.
    pub destination: String,
    /// The address that stood for the destination.
    pub destination_ip: IpAddr,
    /// To which port, after a Service's was rewritten.
    pub port: u16,
    /// For how many pairs it stands.
    pub pairs: usize,
    /// The verdict and the walk to it.
    pub explanation: Explanation,
}

/// Answers a question.
///
/// # Errors
/// An end that cannot be found, ends that cannot connect at all, or more pairs of pods than `most`.
pub fn ask(directory: &Directory, question: &Question<'_>, most: usize) -> Result<Reply, AskError> {
    let source = directory.end(question.source)?;
    let destination = directory.end(question.destination)?;
    let mut pairs = directory.pairs(&source, &destination, question.protocol, question.port)?;
    if pairs.count() > most {
        return Err(AskError::TooMany {
            pairs: pairs.count(),
            most,
        });
    }
    let mut notes = std::mem::take(&mut pairs.notes);
    let snapshot = directory.snapshot();
    let mut answers = Vec::new();
    for family in [Family::V4, Family::V6] {
        if question.family.is_some_and(|only| only != family) {
            continue;
        }
        let tally = pairs.tally(snapshot, family, question.protocol);
        let cases: Vec<Case> = tally
            .representatives()
            .map(|(pair, count)| Case {
                source: pair.source.to_string(),
                source_ip: pair.source_ip,
                destination: pair.destination.to_string(),
                destination_ip: pair.destination_ip,
                port: pair.port,
                pairs: count,
                explanation: snapshot.explain(&pair.query(question.protocol)),
            })
            .collect();
        if !cases.is_empty() {
            answers.push(Answer {
                family,
                counts: tally.counts,
                cases,
            });
        }
    }
    match answers.as_slice() {
        [] => {
            return Err(match question.family {
                Some(family) => AskError::NotInFamily { family },
                None => AskError::NoCommonFamily,
            });
        }
        [only] if question.family.is_none() => notes.extend(pairs.lone_family(only.family)),
        _ => {}
    }
    notes.extend(pairs.without_address());
    Ok(Reply {
        port: pairs.port,
        notes,
        answers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_cluster_says_what_is_wrong() {
        let directory = Directory::new(&crate::State::new().snapshot());
        let ask = |source, destination| {
            let question = Question {
                source,
                destination,
                port: Some(80),
                protocol: Protocol::Tcp,
                family: None,
            };
            ask(&directory, &question, 100)
        };
        assert!(matches!(
            ask("web", "10.0.0.1"),
            Err(AskError::Unreadable { .. })
        ));
        assert!(matches!(
            ask("a/b", "10.0.0.1"),
            Err(AskError::Missing { kind: "pod", .. })
        ));
        assert!(matches!(
            ask("a/secret/b", "10.0.0.1"),
            Err(AskError::UnknownKind { .. })
        ));
        assert_eq!(ask("::1", "10.0.0.1"), Err(AskError::NoCommonFamily));
        assert_eq!(
            ask("10.0.0.2", "10.0.0.1").map(|reply| reply.answers.len()),
            Ok(1)
        );
    }
}
