//! Two ends as pairs of pods, nodes and addresses, and what the engine says of all of them.

use std::net::IpAddr;
use std::sync::Arc;

use super::end::{Directory, End, Target};
use super::error::{AskError, family_name};
use super::service;
use super::{Counts, DEFAULT_PORT};
use crate::evaluate::{Expectation, Query, Verdict};
use crate::model::{Family, Protocol};
use crate::state::Snapshot;

/// How many pods one note names.
const NAMED: usize = 3;

/// Everybody of one end with everybody of the other.
#[derive(Debug)]
pub struct Pairs {
    sources: Arc<[Target]>,
    destinations: Vec<(Target, u16)>,
    /// The port that was asked for, or that stands for none: a Service's own.
    pub port: u16,
    /// What is worth saying of the ends.
    pub notes: Vec<String>,
}

/// One of each.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// Who connects.
    pub source: &'a Target,
    /// From which address.
    pub source_ip: IpAddr,
    /// To whom.
    pub destination: &'a Target,
    /// To which address.
    pub destination_ip: IpAddr,
    /// To which port.
    pub port: u16,
}

impl<'a> Pair<'a> {
    /// As the engine wants it.
    pub fn query(&self, protocol: Protocol) -> Query<'a> {
        Query {
            source: self.source.endpoint(),
            source_ip: self.source_ip,
            destination: self.destination.endpoint(),
            destination_ip: self.destination_ip,
            protocol,
            port: self.port,
        }
    }
}

/// What the engine says of all pairs, and the first pair of each outcome.
#[derive(Debug, Default)]
pub struct Tally<'a> {
    /// By outcome.
    pub counts: Counts,
    deny: Option<Pair<'a>>,
    unknown: Option<Pair<'a>>,
    allow: Option<Pair<'a>>,
}

impl<'a> Tally<'a> {
    /// One pair of each outcome that occurs, with how many it stands for.
    pub(super) fn representatives(&self) -> impl Iterator<Item = (Pair<'a>, usize)> {
        [
            (self.deny, self.counts.deny),
            (self.unknown, self.counts.unknown),
            (self.allow, self.counts.allow),
        ]
        .into_iter()
        .filter_map(|(pair, count)| Some((pair?, count)))
    }
}

/// The ends with their ports, the port that was meant, and notes.
type Reached = (Vec<(Target, u16)>, u16, Vec<String>);

impl Directory {
    /// The pairs of two ends.
    ///
    /// # Errors
    /// A Service without that port, or with nobody behind it.
    pub fn pairs(
        &self,
        source: &End,
        destination: &End,
        protocol: Protocol,
        port: Option<u16>,
    ) -> Result<Pairs, AskError> {
        let (destinations, port_meant, notes) = self.reached(destination, protocol, port)?;
        let pairs = Pairs {
            sources: self.sources(source)?,
            destinations,
            port: port_meant,
            notes,
        };
        Ok(match (port, destination) {
            (None, End::One(_) | End::Pods(_)) => pairs.noting_default_port(protocol),
            _ => pairs,
        })
    }

    /// Everybody of an end that connects.
    ///
    /// # Errors
    /// A Service with nobody behind it.
    pub fn sources(&self, end: &End) -> Result<Arc<[Target]>, AskError> {
        Ok(match end {
            End::One(target) => Arc::from([target.clone()]),
            End::Pods(pods) => Arc::clone(pods),
            End::Service(of) => service::pods(self, of)?.into(),
        })
    }

    /// Everybody of an end that is connected to, with the port of each.
    ///
    /// # Errors
    /// A Service without that port, or with nobody behind it.
    pub fn destinations(
        &self,
        end: &End,
        protocol: Protocol,
        port: u16,
    ) -> Result<Vec<(Target, u16)>, AskError> {
        self.reached(end, protocol, Some(port))
            .map(|(targets, _, _)| targets)
    }

    fn reached(
        &self,
        end: &End,
        protocol: Protocol,
        port: Option<u16>,
    ) -> Result<Reached, AskError> {
        let number = port.unwrap_or(DEFAULT_PORT);
        Ok(match end {
            End::One(target) => (vec![(target.clone(), number)], number, Vec::new()),
            End::Pods(pods) => (
                pods.iter().map(|pod| (pod.clone(), number)).collect(),
                number,
                Vec::new(),
            ),
            End::Service(of) => {
                let behind = service::behind(self, of, protocol, port)?;
                (behind.targets, behind.port, behind.notes)
            }
        })
    }
}

impl Pairs {
    /// Everybody of `sources` with everybody of `destinations`.
    pub fn new(sources: impl Into<Arc<[Target]>>, destinations: Vec<(Target, u16)>) -> Self {
        Self {
            sources: sources.into(),
            destinations,
            port: DEFAULT_PORT,
            notes: Vec::new(),
        }
    }

    /// How many there are, of all families.
    pub fn count(&self) -> usize {
        self.sources.len().saturating_mul(self.destinations.len())
    }

    /// The pairs with addresses of a family. A pod and itself are no pair, unless nothing else was asked.
    pub fn of(&self, family: Family) -> impl Iterator<Item = Pair<'_>> {
        let only = self.count() == 1;
        self.sources
            .iter()
            .filter_map(move |source| Some((source, source.address(family)?)))
            .flat_map(move |(source, source_ip)| {
                self.destinations
                    .iter()
                    .filter(move |(destination, _)| {
                        only || source.pod().is_none_or(|pod| {
                            destination
                                .pod()
                                .is_none_or(|other| other.uid != pod.uid || other.id != pod.id)
                        })
                    })
                    .filter_map(move |(destination, port)| {
                        Some(Pair {
                            source,
                            source_ip,
                            destination,
                            destination_ip: destination.address(family)?,
                            port: *port,
                        })
                    })
            })
    }

    /// Asks the engine about every pair, and hands each verdict on.
    pub fn each<'p>(
        &'p self,
        snapshot: &'p Snapshot,
        family: Family,
        protocol: Protocol,
    ) -> impl Iterator<Item = (Pair<'p>, Verdict<'p>)> {
        self.of(family)
            .map(move |pair| (pair, snapshot.evaluate(&pair.query(protocol))))
    }

    /// Asks the engine about every pair.
    pub fn tally(&self, snapshot: &Snapshot, family: Family, protocol: Protocol) -> Tally<'_> {
        let mut tally = Tally::default();
        for pair in self.of(family) {
            let verdict = snapshot.evaluate(&pair.query(protocol));
            let (count, first) = match verdict.expectation() {
                Expectation::Allow => (&mut tally.counts.allow, &mut tally.allow),
                Expectation::Deny => (&mut tally.counts.deny, &mut tally.deny),
                Expectation::Unknown(_) => (&mut tally.counts.unknown, &mut tally.unknown),
            };
            *count += 1;
            first.get_or_insert(pair);
        }
        tally
    }

    fn noting_default_port(mut self, protocol: Protocol) -> Self {
        let other = self.destinations.iter().find_map(|(target, port)| {
            let pod = target.pod()?;
            let declares = |number| {
                let mut ports = pod.ports.iter();
                ports.any(|of| of.number == number && of.protocol == protocol)
            };
            (!pod.ports.is_empty() && !declares(*port)).then_some(pod)
        });
        if let Some(pod) = other {
            let mut declared: Vec<_> = pod
                .ports
                .iter()
                .map(|port| format!("{}/{}", port.number, port.protocol))
                .collect();
            declared.sort_unstable();
            declared.dedup();
            self.notes.push(format!(
                "no port was asked, so this is about {DEFAULT_PORT}/{protocol}; pod {} declares {}",
                pod.id,
                declared.join(", ")
            ));
        }
        self
    }

    /// What to say if the ends have only one family in common.
    pub(super) fn lone_family(&self, family: Family) -> Option<String> {
        let other = match family {
            Family::V4 => Family::V6,
            Family::V6 => Family::V4,
        };
        let destinations = || self.destinations.iter().map(|(target, _)| target);
        let has = |target: &Target| target.address(other).is_some();
        let lacking = match (self.sources.iter().any(has), destinations().any(has)) {
            (true, false) => destinations().next(),
            (false, true) => self.sources.first(),
            _ => None,
        }?;
        // That an address is of one family only is no news.
        lacking.pod()?;
        Some(format!(
            "{lacking} has no {} address, so this is about {} only",
            family_name(other),
            family_name(family)
        ))
    }

    /// What to say of pods that stand at an unknown address.
    pub(super) fn without_address(&self) -> Option<String> {
        let mut names: Vec<String> = self
            .sources
            .iter()
            .chain(self.destinations.iter().map(|(target, _)| target))
            .filter_map(|target| match target {
                Target::Pod(pod, None) if pod.ips.is_empty() => Some(pod.id.to_string()),
                Target::Pod(..) | Target::Node(..) | Target::External(_) => None,
            })
            .collect();
        names.sort_unstable();
        names.dedup();
        let (noun, verb) = match names.len() {
            0 => return None,
            1 => ("pod", "has"),
            _ => ("pods", "have"),
        };
        let more = match names.len().saturating_sub(NAMED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        names.truncate(NAMED);
        Some(format!(
            "{noun} {}{more} {verb} no address (status.podIPs is empty): of ipBlocks, only one of everything is taken \
             to hold it",
            names.join(", ")
        ))
    }
}
