//! What the lab knows: every state that the cluster was in and when, and what the naive reference says of an attempt then.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use polproof_policy::model::{Labels, Pod};
use polproof_policy::{Direction, Endpoint, Expectation, Object, Protocol, Query, Uid, reference};
use polproof_tests::lab::Lab;
use polproof_tests::lab::enforcers;

use crate::traffic::Attempt;

/// A state of the cluster.
#[derive(Debug)]
struct State {
    /// Before anything of it was written.
    from: Instant,
    /// When it was in force, as far as the enforcer goes.
    objects: Vec<Object>,
    pods: HashMap<IpAddr, Arc<Pod>>,
}

impl State {
    /// The labels of a pod, and those of its namespace.
    fn labels_of(&self, ip: IpAddr) -> Option<(Labels, Labels)> {
        let pod = self.pods.get(&ip)?;
        let namespace = self.objects.iter().find_map(|object| match object {
            Object::Namespace(namespace) if namespace.name == pod.id.namespace => {
                Some(namespace.labels.clone())
            }
            _ => None,
        })?;
        Some((pod.labels.clone(), namespace))
    }
}

/// What the policies say of an attempt in one state.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Says {
    /// One of the addresses is no pod's, or the API leaves it open.
    Nothing,
    Allowed,
    /// By these, as they are: namespace, name, UID, generation, direction.
    Denied(BTreeSet<(String, Uid, i64, bool)>),
}

/// The states, in their order.
#[derive(Debug, Default)]
pub(crate) struct Truth {
    states: Vec<State>,
    said: HashMap<(usize, IpAddr, SocketAddr), Says>,
}

/// A denial that was there all the time around an attempt.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Denied {
    pub(crate) source: Uid,
    pub(crate) destination: Uid,
    pub(crate) port: u16,
}

impl Truth {
    /// Notes the cluster as it is now; it began to be so at `from`.
    pub(crate) fn note(&mut self, lab: &Lab, from: Instant) -> Result<()> {
        let mut objects = Vec::new();
        for value in lab.manifests().objects()? {
            objects.extend(enforcers::object(&value).context("read the lab's manifests")?);
        }
        let mut pods = HashMap::new();
        for object in &objects {
            if let Object::Pod(pod) = object {
                pods.extend(pod.ips.iter().map(|ip| (*ip, Arc::clone(pod))));
            }
        }
        self.states.push(State {
            from,
            objects,
            pods,
        });
        Ok(())
    }

    /// How many states there were.
    pub(crate) fn states(&self) -> usize {
        self.states.len()
    }

    /// The denial of an attempt, if it was denied from `before` it began to `after` it ended, by one and the same policy
    /// throughout, and between the same two pods with the same labels: a label that changes begins a grace time.
    pub(crate) fn denied_throughout(
        &mut self,
        attempt: &Attempt,
        before: Duration,
        after: Duration,
    ) -> Option<Denied> {
        let from = attempt.began.checked_sub(before)?;
        let until = attempt.ended + after;
        let first = self
            .states
            .partition_point(|state| state.from <= from)
            .checked_sub(1)?;
        let end = self.states.partition_point(|state| state.from <= until);
        let mut ends: Option<(Uid, Uid)> = None;
        let mut labels = None;
        let mut common: Option<BTreeSet<_>> = None;
        for number in first..end {
            let state = self.states.get(number)?;
            let source = state.pods.get(&attempt.source)?.uid.clone();
            let destination = state.pods.get(&attempt.to.ip())?.uid.clone();
            let now = (source, destination);
            if ends.as_ref().is_some_and(|ends| *ends != now) {
                return None;
            }
            ends = Some(now);
            let seen = [attempt.source, attempt.to.ip()].map(|ip| state.labels_of(ip));
            if labels.get_or_insert_with(|| seen.clone()) != &seen {
                return None;
            }
            let Says::Denied(by) = self.says(number, attempt.source, attempt.to) else {
                return None;
            };
            common = Some(match common {
                None => by,
                Some(held) => held.intersection(&by).cloned().collect(),
            });
        }
        let (source, destination) = ends?;
        (!common?.is_empty()).then_some(Denied {
            source,
            destination,
            port: attempt.to.port(),
        })
    }

    /// Whether the policies denied it at any time from `before` it began to `after` it ended.
    pub(crate) fn denied_at_all(
        &mut self,
        attempt: &Attempt,
        before: Duration,
        after: Duration,
    ) -> bool {
        self.ever(attempt, before, after, |said| {
            matches!(said, Says::Denied(_))
        })
    }

    /// Whether they allowed it at any time of that.
    pub(crate) fn allowed_at_all(
        &mut self,
        attempt: &Attempt,
        before: Duration,
        after: Duration,
    ) -> bool {
        self.ever(attempt, before, after, |said| *said == Says::Allowed)
    }

    fn ever(
        &mut self,
        attempt: &Attempt,
        before: Duration,
        after: Duration,
        is: impl Fn(&Says) -> bool,
    ) -> bool {
        let from = attempt.began.checked_sub(before).unwrap_or(attempt.began);
        let until = attempt.ended + after;
        let first = self
            .states
            .partition_point(|state| state.from <= from)
            .saturating_sub(1);
        let end = self.states.partition_point(|state| state.from <= until);
        (first..end).any(|number| is(&self.says(number, attempt.source, attempt.to)))
    }

    /// The UIDs of the two ends of an attempt while it went on. A connection that begins while a pod is replaced may be answered by the new
    /// one, when the client repeats itself.
    pub(crate) fn ends(&self, attempt: &Attempt) -> BTreeSet<(Uid, Uid)> {
        let first = self
            .states
            .partition_point(|state| state.from <= attempt.began)
            .saturating_sub(1);
        let end = self
            .states
            .partition_point(|state| state.from <= attempt.ended);
        let states = self.states.get(first..end).unwrap_or_default();
        states
            .iter()
            .filter_map(|state| {
                Some((
                    state.pods.get(&attempt.source)?.uid.clone(),
                    state.pods.get(&attempt.to.ip())?.uid.clone(),
                ))
            })
            .collect()
    }

    fn says(&mut self, number: usize, source: IpAddr, to: SocketAddr) -> Says {
        if let Some(said) = self.said.get(&(number, source, to)) {
            return said.clone();
        }
        let said = self
            .states
            .get(number)
            .map_or(Says::Nothing, |state| say(state, source, to));
        self.said.insert((number, source, to), said.clone());
        said
    }
}

fn say(state: &State, source: IpAddr, to: SocketAddr) -> Says {
    let (Some(client), Some(server)) = (state.pods.get(&source), state.pods.get(&to.ip())) else {
        return Says::Nothing;
    };
    let query = Query {
        source: Endpoint::Pod(client),
        source_ip: source,
        destination: Endpoint::Pod(server),
        destination_ip: to.ip(),
        protocol: Protocol::Tcp,
        port: to.port(),
    };
    let mut by = BTreeSet::new();
    for (direction, ingress) in [(Direction::Egress, false), (Direction::Ingress, true)] {
        let answer = reference::evaluate(&state.objects, &query, direction);
        match answer.expectation {
            Expectation::Allow => {}
            Expectation::Unknown(_) => return Says::Nothing,
            Expectation::Deny => {
                for object in &state.objects {
                    if let Object::NetworkPolicy(policy) = object
                        && answer.isolating.contains(&policy.id)
                    {
                        by.insert((
                            policy.id.to_string(),
                            policy.uid.clone(),
                            policy.generation,
                            ingress,
                        ));
                    }
                }
            }
        }
    }
    if by.is_empty() {
        Says::Allowed
    } else {
        Says::Denied(by)
    }
}
