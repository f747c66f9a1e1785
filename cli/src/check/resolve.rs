//! Who is meant by the ends of a check, and on which ports.

use std::collections::BTreeSet;
use std::sync::Arc;

use polproof_policy::Protocol;
use polproof_policy::ask::{DEFAULT_PORT, Directory, End as Found, Target};
use polproof_policy::model::Service;

use super::file::{Check, End, Port};
use crate::explain::missing;
use crate::source::Loaded;

/// Pairs of one check, of one family.
const MOST: usize = 10_000_000;

/// The ends of a check, by transport.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) sources: Arc<[Target]>,
    pub(super) destinations: Vec<(Protocol, Vec<(Target, u16)>)>,
}

/// Finds them.
pub(super) fn resolve(
    directory: &Directory,
    loaded: &Loaded,
    check: &Check,
) -> Result<Resolved, String> {
    let find = |end: &End| find(directory, loaded, end);
    let mut sources: Vec<Target> = Vec::new();
    for end in &check.from {
        let found = find(end).map_err(|error| format!("from: {error}"))?;
        let targets = directory
            .sources(&found)
            .map_err(|error| format!("from: {error}"))?;
        sources.extend(targets.iter().cloned());
    }
    dedup(&mut sources);
    let mut destinations: Vec<(Protocol, Target, u16)> = Vec::new();
    for end in &check.to {
        let found = find(end).map_err(|error| format!("to: {error}"))?;
        if check.ports.is_empty() {
            destinations
                .extend(declared(directory, &found).map_err(|error| format!("to: {error}"))?);
        }
        for port in &check.ports {
            destinations
                .extend(on(directory, &found, port).map_err(|error| format!("to: {error}"))?);
        }
    }
    let mut seen = BTreeSet::new();
    let mut by_protocol: Vec<(Protocol, Vec<(Target, u16)>)> = Vec::new();
    for (protocol, target, port) in destinations {
        if !seen.insert((protocol, port, target.to_string())) {
            continue;
        }
        match by_protocol.iter_mut().find(|(of, _)| *of == protocol) {
            Some((_, held)) => held.push((target, port)),
            None => by_protocol.push((protocol, vec![(target, port)])),
        }
    }
    let pairs: usize = by_protocol
        .iter()
        .map(|(_, held)| held.len().saturating_mul(sources.len()))
        .fold(0, usize::saturating_add);
    if pairs > MOST {
        return Err(format!(
            "it is about {pairs} pairs, and {MOST} are looked at for one check; split it"
        ));
    }
    Ok(Resolved {
        sources: sources.into(),
        destinations: by_protocol,
    })
}

fn dedup(targets: &mut Vec<Target>) {
    let mut seen = BTreeSet::new();
    targets.retain(|target| seen.insert(target.to_string()));
}

fn find(directory: &Directory, loaded: &Loaded, end: &End) -> Result<Found, String> {
    let (namespace, labels) = match end {
        End::Named(name) => {
            let name = name
                .strip_prefix('[')
                .and_then(|name| name.strip_suffix(']'))
                .unwrap_or(name);
            return directory.end(name).map_err(|error| missing(&error, loaded));
        }
        End::EveryPod => (None, None),
        End::Selector { namespace, labels } => (namespace.as_deref(), Some(labels)),
    };
    let pods: Vec<Target> = directory
        .snapshot()
        .pods()
        .filter(|pod| {
            !pod.finished
                && !pod.host_network
                && namespace.is_none_or(|name| *pod.id.namespace == *name)
                && labels.is_none_or(|labels| {
                    labels.iter().all(|(key, value)| {
                        pod.labels
                            .get(key.as_str())
                            .is_some_and(|held| **held == **value)
                    })
                })
        })
        .map(|pod| Target::Pod(Arc::clone(pod), None))
        .collect();
    if pods.is_empty() {
        return Err(format!(
            "there are no pods: {end}, in {} (those on the host network do not count)",
            loaded.name
        ));
    }
    Ok(Found::Pods(pods.into()))
}

/// The ports that the destination declares, else 80/TCP.
fn declared(directory: &Directory, found: &Found) -> Result<Vec<(Protocol, Target, u16)>, String> {
    let targets = match found {
        Found::One(target) => std::slice::from_ref(target),
        Found::Pods(pods) => &**pods,
        Found::Service(service) => {
            let mut all = Vec::new();
            for port in &service.ports {
                all.extend(number(directory, found, port.port, port.protocol)?);
            }
            return Ok(all);
        }
    };
    let mut all = Vec::new();
    for target in targets {
        let ports = target.pod().map_or(&[][..], |pod| pod.ports.as_slice());
        if ports.is_empty() {
            all.push((Protocol::Tcp, target.clone(), DEFAULT_PORT));
        }
        for port in ports {
            all.push((port.protocol, target.clone(), port.number));
        }
    }
    Ok(all)
}

fn on(
    directory: &Directory,
    found: &Found,
    port: &Port,
) -> Result<Vec<(Protocol, Target, u16)>, String> {
    let (name, protocol) = match port {
        Port::Number(port, protocol) => return number(directory, found, *port, *protocol),
        Port::Name(name, protocol) => (name.as_str(), *protocol),
    };
    let fits = |of: Protocol| protocol.is_none_or(|protocol| protocol == of);
    let targets = match found {
        Found::One(target) => std::slice::from_ref(target),
        Found::Pods(pods) => &**pods,
        Found::Service(service) => return by_service(directory, found, service, name, fits),
    };
    let all: Vec<_> = targets
        .iter()
        .filter_map(|target| Some((target, target.pod()?)))
        .flat_map(|(target, pod)| pod.ports.iter().map(move |port| (target, port)))
        .filter(|(_, port)| port.name.as_deref() == Some(name) && fits(port.protocol))
        .map(|(target, port)| (port.protocol, target.clone(), port.number))
        .collect();
    if all.is_empty() {
        let who = match targets.first() {
            Some(target) if target.pod().is_none() => format!("{target} is no pod"),
            Some(target) if targets.len() == 1 => {
                format!("pod {target} declares no port of that name")
            }
            _ => format!(
                "none of {} pods declares a port of that name",
                targets.len()
            ),
        };
        return Err(format!("port {name}: {who}"));
    }
    Ok(all)
}

fn by_service(
    directory: &Directory,
    found: &Found,
    service: &Service,
    name: &str,
    fits: impl Fn(Protocol) -> bool,
) -> Result<Vec<(Protocol, Target, u16)>, String> {
    let mut all = Vec::new();
    let mut named = false;
    for port in &service.ports {
        if port.name.as_deref() == Some(name) && fits(port.protocol) {
            named = true;
            all.extend(number(directory, found, port.port, port.protocol)?);
        }
    }
    if named {
        Ok(all)
    } else {
        Err(format!(
            "port {name}: Service {} has no port of that name",
            service.id
        ))
    }
}

fn number(
    directory: &Directory,
    found: &Found,
    port: u16,
    protocol: Protocol,
) -> Result<Vec<(Protocol, Target, u16)>, String> {
    let targets = directory
        .destinations(found, protocol, port)
        .map_err(|error| error.to_string())?;
    Ok(targets
        .into_iter()
        .map(|(target, port)| (protocol, target, port))
        .collect())
}
