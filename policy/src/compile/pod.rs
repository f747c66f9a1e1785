//! core/v1 Pod.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use super::path::Path;
use super::{Refusal, annotations_of, id_of, labels_of, subject, uid_of, validate};
use crate::model::{ContainerPort, Pod};

/// Converts a Pod. Ports are those of containers and of sidecars (init containers with
/// `restartPolicy: Always`); an ordinary init container is over before the pod serves.
///
/// # Errors
/// A missing name, a bad label, port, protocol or address.
pub fn pod(pod: &api::Pod) -> Result<Pod, Refusal> {
    let object = subject("Pod", &pod.metadata, true);
    let root = Path::of(&object);
    let id = id_of(&pod.metadata, &root)?;
    let labels = labels_of(&pod.metadata, &root)?;

    let spec = pod.spec.as_ref();
    let ports = spec
        .map(|spec| declared(spec, &root.field("spec")))
        .transpose()?
        .unwrap_or_default();

    let mut ips = Vec::new();
    let mut phase = None;
    if let Some(status) = &pod.status {
        phase = status.phase.as_deref();
        let status_path = root.field("status");
        let list = status_path.field("podIPs");
        for (index, entry) in status.pod_ips.iter().flatten().enumerate() {
            let ip = validate::address(&entry.ip, &list.index(index).field("ip"))?;
            if !ips.contains(&ip) {
                ips.push(ip);
            }
        }
        if ips.is_empty()
            && let Some(ip) = status.pod_ip.as_deref().filter(|ip| !ip.is_empty())
        {
            ips.push(validate::address(ip, &status_path.field("podIP"))?);
        }
    }

    // A pod has one or two, and a list grows to more than that at once.
    ips.shrink_to_fit();

    let owner = pod
        .metadata
        .owner_references
        .iter()
        .flatten()
        .find(|owner| owner.controller == Some(true))
        .map(|owner| {
            (
                Arc::from(owner.kind.as_str()),
                Arc::from(owner.name.as_str()),
            )
        });

    Ok(Pod {
        uid: uid_of("Pod", &pod.metadata, &id),
        id,
        labels,
        ips,
        node: spec
            .and_then(|spec| spec.node_name.as_deref())
            .filter(|name| !name.is_empty())
            .map(Arc::from),
        host_network: spec.and_then(|spec| spec.host_network).unwrap_or(false),
        finished: matches!(phase, Some("Succeeded" | "Failed")),
        ports,
        owner,
        annotations: annotations_of(&pod.metadata),
    })
}

/// The ports of containers and sidecars.
pub(super) fn declared(
    spec: &api::PodSpec,
    path: &Path<'_>,
) -> Result<Vec<ContainerPort>, Refusal> {
    let mut ports = Vec::new();
    let list = path.field("containers");
    for (index, container) in spec.containers.iter().enumerate() {
        declared_by(container, &list.index(index), &mut ports)?;
    }
    let list = path.field("initContainers");
    for (index, container) in spec.init_containers.iter().flatten().enumerate() {
        if container.restart_policy.as_deref() == Some("Always") {
            declared_by(container, &list.index(index), &mut ports)?;
        }
    }
    ports.shrink_to_fit();
    Ok(ports)
}

fn declared_by(
    container: &api::Container,
    path: &Path<'_>,
    ports: &mut Vec<ContainerPort>,
) -> Result<(), Refusal> {
    let list = path.field("ports");
    for (index, port) in container.ports.iter().flatten().enumerate() {
        let path = list.index(index);
        ports.push(ContainerPort {
            name: port
                .name
                .as_deref()
                .filter(|name| !name.is_empty())
                .map(|name| validate::port_name(name, &path.field("name")))
                .transpose()?,
            number: validate::port_number(port.container_port, &path.field("containerPort"))?,
            protocol: validate::protocol(port.protocol.as_deref(), &path.field("protocol"))?,
        });
    }
    Ok(())
}
