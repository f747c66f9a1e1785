//! What really happened to the attempts of each cell, by packet sockets in the pods.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use polproof_policy::{Family, Protocol};
use polproof_tests::lab::Lab;
use polproof_tests::lab::tap::{Event, Tap, What};

use crate::cell::Cell;

/// One attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fact {
    /// The pod whose eth0 it reached, and as whose it came.
    pub(crate) arrived: Option<(String, IpAddr)>,
    /// What that pod sent back.
    pub(crate) answer: Option<What>,
    /// What came back to the source.
    pub(crate) back: Option<What>,
}

/// Packet sockets in all pods.
#[derive(Debug)]
pub(crate) struct Taps(BTreeMap<String, Tap>);

impl Taps {
    /// Opens one in each of the pods.
    pub(crate) fn open<'a>(lab: &Lab, pods: impl IntoIterator<Item = &'a String>) -> Result<Self> {
        let taps = pods
            .into_iter()
            .map(|pod| Ok((pod.clone(), Tap::open(lab.pod(pod)?.netns())?)))
            .collect::<Result<_>>()?;
        Ok(Self(taps))
    }

    /// Closes that of a pod which is to go.
    pub(crate) fn remove(&mut self, pod: &str) {
        self.0.remove(pod);
    }

    /// Opens one in a pod that came later, in place of one of that name.
    pub(crate) fn add(&mut self, lab: &Lab, pod: &str) -> Result<()> {
        let tap = Tap::open(lab.pod(pod)?.netns())?;
        self.0.insert(pod.to_owned(), tap);
        Ok(())
    }

    /// Reads what has come, so that it does not pile up.
    pub(crate) fn drain(&self) -> Result<()> {
        for tap in self.0.values() {
            tap.events()?;
        }
        Ok(())
    }

    /// What happened so far.
    pub(crate) fn seen(&self) -> Result<Seen> {
        let mut seen = Seen::default();
        for (pod, tap) in &self.0 {
            for event in tap.events()? {
                seen.add(pod, &event);
            }
        }
        Ok(seen)
    }
}

/// An opening, by protocol and number.
type Id = (Protocol, u32);

/// All that was seen, by opening.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// By source pod and where it went.
    left: BTreeMap<(String, Protocol, SocketAddr), BTreeSet<u32>>,
    arrived: BTreeMap<Id, (String, IpAddr)>,
    answered: BTreeMap<(String, Id), What>,
    back: BTreeMap<(String, Id), What>,
}

impl Seen {
    fn add(&mut self, pod: &str, event: &Event) {
        let id = (event.protocol, event.id);
        let pod = pod.to_owned();
        match (event.what, event.incoming) {
            (What::Open, false) => {
                let to = (pod, event.protocol, event.destination);
                self.left.entry(to).or_default().insert(event.id);
            }
            (What::Open, true) => {
                self.arrived.entry(id).or_insert((pod, event.source.ip()));
            }
            (what, false) => {
                self.answered.entry((pod, id)).or_insert(what);
            }
            (what, true) => {
                self.back.entry((pod, id)).or_insert(what);
            }
        }
    }

    /// The attempts of a cell that left its source.
    pub(crate) fn facts(&self, cell: Cell, asked: SocketAddr) -> Vec<Fact> {
        let source = cell.source();
        let ids = self.left.get(&(source.clone(), cell.protocol, asked));
        ids.into_iter()
            .flatten()
            .map(|id| {
                let id = (cell.protocol, *id);
                let arrived = self.arrived.get(&id).cloned();
                let answer = arrived
                    .as_ref()
                    .and_then(|(pod, _)| self.answered.get(&(pod.clone(), id)).copied());
                let back = self.back.get(&(source.clone(), id)).copied();
                Fact {
                    arrived,
                    answer,
                    back,
                }
            })
            .collect()
    }

    /// Whether the pod answered anybody but itself in that family, by one of these transports: then the way to it was open.
    pub(crate) fn answered_somebody(&self, pod: &str, family: Family, by: &[Protocol]) -> bool {
        self.left.iter().any(|((source, protocol, asked), ids)| {
            let answered = |id: &u32| {
                let answered = (pod.to_owned(), (*protocol, *id));
                self.answered.contains_key(&answered)
            };
            source != pod
                && by.contains(protocol)
                && Family::of(asked.ip()) == family
                && ids.iter().any(answered)
        })
    }
}

/// The attempts in a few words, equal ones counted.
pub(crate) fn brief(facts: &[Fact]) -> String {
    let mut counted: BTreeMap<String, usize> = BTreeMap::new();
    for fact in facts {
        let arrived = match &fact.arrived {
            Some((pod, source)) => format!("at {pod} as {source}, which answered"),
            None => "at nobody's".to_owned(),
        };
        let what = |what: Option<What>| what.map_or("nothing".to_owned(), |what| what.to_string());
        let answer = if fact.arrived.is_some() {
            format!(" {}", what(fact.answer))
        } else {
            String::new()
        };
        let line = format!("{arrived}{answer}; back came {}", what(fact.back));
        *counted.entry(line).or_insert(0) += 1;
    }
    if counted.is_empty() {
        return "nothing left the source".to_owned();
    }
    counted
        .iter()
        .map(|(line, count)| format!("{count} x {line}"))
        .collect::<Vec<_>>()
        .join(" | ")
}
