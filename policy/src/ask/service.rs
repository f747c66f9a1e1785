//! Who stands behind a Service. Policies see the connection after the Service's address and port were rewritten.

use std::sync::Arc;

use super::end::{Directory, Target};
use super::error::AskError;
use crate::model::{Pod, Protocol, Service, ServicePort, TargetPort};
use crate::state::IpOwner;

/// The ends behind a Service with the port that each is reached on, and what is worth saying of it.
#[derive(Debug, Default)]
pub(super) struct Behind {
    pub(super) targets: Vec<(Target, u16)>,
    /// The Service's own port.
    pub(super) port: u16,
    pub(super) notes: Vec<String>,
}

/// Who is reached by a connection to a port of a Service.
pub(super) fn behind(
    directory: &Directory,
    service: &Service,
    protocol: Protocol,
    port: Option<u16>,
) -> Result<Behind, AskError> {
    let asked = service.ports.iter().filter(|of| of.protocol == protocol);
    let entry = match port {
        Some(port) => asked.clone().find(|of| of.port == port),
        // A Service's list of ports is complete, so its only port is the one that is meant.
        None => Some(asked.clone())
            .filter(|ports| ports.clone().count() == 1)
            .and_then(|mut ports| ports.next()),
    };
    let Some(entry) = entry.or_else(|| {
        asked
            .clone()
            .find(|of| of.port == super::DEFAULT_PORT && port.is_none())
    }) else {
        return Err(AskError::NoServicePort {
            service: service.id.to_string(),
            port: port.unwrap_or(super::DEFAULT_PORT),
            protocol,
            ports: service
                .ports
                .iter()
                .map(|of| format!("{}/{}", of.port, of.protocol))
                .collect(),
        });
    };
    let mut behind = Behind {
        port: entry.port,
        ..Behind::default()
    };
    let from_slices = endpoints(directory, service, entry, &mut behind)?;
    if !from_slices {
        selected(directory, service, entry, &mut behind)?;
    }
    behind.note_rewriting(service, entry);
    Ok(behind)
}

/// Every pod behind a Service, whatever the port: as source.
pub(super) fn pods(directory: &Directory, service: &Service) -> Result<Vec<Target>, AskError> {
    let mut targets: Vec<Target> = Vec::new();
    for slice in directory.slices(&service.id) {
        for endpoint in slice.endpoints.iter().filter(|of| of.ready) {
            if let Some(pod) = endpoint
                .pod
                .as_ref()
                .and_then(|uid| directory.snapshot.pod(uid))
                && !targets.iter().any(|held| held.pod() == Some(pod))
            {
                targets.push(Target::Pod(Arc::clone(pod), None));
            }
        }
    }
    if targets.is_empty() {
        targets = living(directory, service)
            .map(|pod| Target::Pod(Arc::clone(pod), None))
            .collect();
    }
    if targets.is_empty() {
        return Err(nobody(service));
    }
    Ok(targets)
}

/// The ready endpoints by EndpointSlices. Whether the Service has any slice.
fn endpoints(
    directory: &Directory,
    service: &Service,
    entry: &ServicePort,
    behind: &mut Behind,
) -> Result<bool, AskError> {
    let slices = directory.slices(&service.id);
    let mut unready = 0;
    for slice in slices {
        let port = slice.ports.iter().find(|(name, _, protocol)| {
            *protocol == entry.protocol
                && name.as_deref().unwrap_or_default() == entry.name.as_deref().unwrap_or_default()
        });
        let Some((_, port, _)) = port else { continue };
        for endpoint in &slice.endpoints {
            if !endpoint.ready {
                unready += 1;
                continue;
            }
            let pod = endpoint
                .pod
                .as_ref()
                .and_then(|uid| directory.snapshot.pod(uid))
                .filter(|pod| !pod.finished);
            if let Some(pod) = pod {
                // The slices of both families name the same pod.
                let target = Target::Pod(Arc::clone(pod), None);
                if !behind.targets.contains(&(target.clone(), *port)) {
                    behind.targets.push((target, *port));
                }
                continue;
            }
            for address in &endpoint.addresses {
                let target = match directory.snapshot.owner(*address) {
                    IpOwner::Pod(pod) => Target::Pod(pod, Some(*address)),
                    IpOwner::Node(node) => Target::Node(node, *address),
                    IpOwner::Nobody
                    | IpOwner::UnknownInPodCidr
                    | IpOwner::Service(_)
                    | IpOwner::Ambiguous => Target::External(*address),
                };
                behind.targets.push((target, *port));
            }
        }
    }
    if slices.is_empty() || !behind.targets.is_empty() {
        return Ok(!slices.is_empty());
    }
    Err(AskError::NoEndpoints {
        service: service.id.to_string(),
        why: match unready {
            0 => "its EndpointSlices are empty".to_owned(),
            n => format!("none of its {n} endpoints is ready"),
        },
    })
}

fn living<'d>(
    directory: &'d Directory,
    service: &'d Service,
) -> impl Iterator<Item = &'d Arc<Pod>> {
    directory.snapshot.pods().filter(move |pod| {
        !pod.finished
            && pod.id.namespace == service.id.namespace
            && service.selector.as_ref().is_some_and(|labels| {
                labels
                    .iter()
                    .all(|(key, value)| pod.labels.get(key) == Some(value))
            })
    })
}

fn nobody(service: &Service) -> AskError {
    AskError::NoEndpoints {
        service: service.id.to_string(),
        why: match &service.selector {
            None => "it has no selector and no EndpointSlice".to_owned(),
            Some(labels) => {
                let pairs: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("no living pod has {}", pairs.join(","))
            }
        },
    }
}

/// The living pods that the selector selects, with the target port of each.
fn selected(
    directory: &Directory,
    service: &Service,
    entry: &ServicePort,
    behind: &mut Behind,
) -> Result<(), AskError> {
    let mut without = Vec::new();
    for pod in living(directory, service) {
        let port = match &entry.target {
            TargetPort::Number(number) => Some(*number),
            TargetPort::Name(name) => pod
                .ports
                .iter()
                .find(|port| port.protocol == entry.protocol && port.name.as_ref() == Some(name))
                .map(|port| port.number),
        };
        match port {
            Some(port) => behind
                .targets
                .push((Target::Pod(Arc::clone(pod), None), port)),
            None => without.push(pod.id.to_string()),
        }
    }
    if let (TargetPort::Name(name), Some(first)) = (&entry.target, without.first()) {
        let says = format!(
            "{} behind Service {} declare{} no port {name}/{} (its targetPort), for example {first}",
            counted(without.len(), "pod"),
            service.id,
            if without.len() == 1 { "s" } else { "" },
            entry.protocol
        );
        if behind.targets.is_empty() {
            return Err(AskError::NoEndpoints {
                service: service.id.to_string(),
                why: says,
            });
        }
        behind.notes.push(says);
    }
    if behind.targets.is_empty() {
        return Err(nobody(service));
    }
    Ok(())
}

impl Behind {
    fn note_rewriting(&mut self, service: &Service, entry: &ServicePort) {
        let mut ports: Vec<u16> = self.targets.iter().map(|(_, port)| *port).collect();
        ports.sort_unstable();
        ports.dedup();
        let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
        let what = if self
            .targets
            .iter()
            .all(|(target, _)| target.pod().is_some())
        {
            "pod"
        } else {
            "endpoint"
        };
        let who = match self.targets.len() {
            1 => format!("the {what}"),
            n => format!("one of the {n} {what}s"),
        };
        let ports = ports.join(" or ");
        self.notes.push(if ports == entry.port.to_string() {
            format!(
                "policies see {who} behind Service {}, not the Service's address",
                service.id
            )
        } else {
            format!(
                "policies see {who} behind Service {} and port {ports}, not the Service's address and its port {}",
                service.id, entry.port
            )
        });
    }
}

/// `1 pod`, `2 pods`.
fn counted(number: usize, noun: &str) -> String {
    if number == 1 {
        format!("1 {noun}")
    } else {
        format!("{number} {noun}s")
    }
}
