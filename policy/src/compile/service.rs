//! core/v1 Service and discovery.k8s.io/v1 EndpointSlice.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::path::Path;
use super::{Refusal, id_of, labels_of, subject, uid_of, validate};
use crate::model::{EndpointSlice, Service, ServicePort, SliceEndpoint, TargetPort, Uid};

/// Converts a Service.
///
/// # Errors
/// A missing name, a bad port, protocol or address.
pub fn service(service: &api::Service) -> Result<Service, Refusal> {
    let object = subject("Service", &service.metadata, true);
    let root = Path::of(&object);
    let id = id_of(&service.metadata, &root)?;
    labels_of(&service.metadata, &root)?;

    let mut addresses = Vec::new();
    let mut cluster_ips = Vec::new();
    let mut selector = None;
    let mut ports = Vec::new();
    if let Some(spec) = &service.spec {
        let spec_path = root.field("spec");
        let list = spec_path.field("clusterIPs");
        for (index, text) in spec.cluster_ips.iter().flatten().enumerate() {
            add_address(text, &list.index(index), &mut addresses)?;
        }
        if let Some(text) = &spec.cluster_ip {
            add_address(text, &spec_path.field("clusterIP"), &mut addresses)?;
        }
        cluster_ips.clone_from(&addresses);
        let list = spec_path.field("externalIPs");
        for (index, text) in spec.external_ips.iter().flatten().enumerate() {
            add_address(text, &list.index(index), &mut addresses)?;
        }
        selector = spec
            .selector
            .as_ref()
            .filter(|pairs| !pairs.is_empty())
            .map(|pairs| {
                let pairs = pairs.iter();
                pairs
                    .map(|(key, value)| (Arc::from(key.as_str()), Arc::from(value.as_str())))
                    .collect()
            });
        let list = spec_path.field("ports");
        for (index, port) in spec.ports.iter().flatten().enumerate() {
            let path = list.index(index);
            ports.push(ServicePort {
                name: port
                    .name
                    .as_deref()
                    .filter(|n| !n.is_empty())
                    .map(Arc::from),
                port: validate::port_number(port.port, &path.field("port"))?,
                // The API server takes these for none, too.
                target: match port.target_port.as_ref().filter(|target| match target {
                    IntOrString::Int(number) => *number != 0,
                    IntOrString::String(name) => !name.is_empty(),
                }) {
                    None => {
                        TargetPort::Number(validate::port_number(port.port, &path.field("port"))?)
                    }
                    Some(IntOrString::Int(number)) => TargetPort::Number(validate::port_number(
                        *number,
                        &path.field("targetPort"),
                    )?),
                    Some(IntOrString::String(name)) => {
                        TargetPort::Name(validate::port_name(name, &path.field("targetPort"))?)
                    }
                },
                // 0 is how an unassigned node port is written.
                node_port: match port.node_port {
                    None | Some(0) => None,
                    Some(number) => Some(validate::port_number(number, &path.field("nodePort"))?),
                },
                protocol: validate::protocol(port.protocol.as_deref(), &path.field("protocol"))?,
            });
        }
    }
    let balancer = service
        .status
        .as_ref()
        .and_then(|s| s.load_balancer.as_ref());
    let status = root.field("status");
    let balancer_path = status.field("loadBalancer");
    let list = balancer_path.field("ingress");
    for (index, entry) in balancer
        .iter()
        .flat_map(|balancer| balancer.ingress.iter().flatten())
        .enumerate()
    {
        if let Some(text) = &entry.ip {
            add_address(text, &list.index(index).field("ip"), &mut addresses)?;
        }
    }

    Ok(Service {
        uid: uid_of("Service", &service.metadata, &id),
        id,
        addresses,
        cluster_ips,
        selector,
        ports,
    })
}

/// Headless Services have "None", those not yet assigned "".
fn add_address(text: &str, path: &Path<'_>, to: &mut Vec<IpAddr>) -> Result<(), Refusal> {
    if text.is_empty() || text == "None" {
        return Ok(());
    }
    let ip = validate::address(text, path)?;
    if !to.contains(&ip) {
        to.push(ip);
    }
    Ok(())
}

/// Converts an EndpointSlice. Endpoints of address type FQDN have no addresses here.
///
/// # Errors
/// A missing name, a bad port, protocol or address.
pub fn endpoint_slice(slice: &discovery::EndpointSlice) -> Result<EndpointSlice, Refusal> {
    let object = subject("EndpointSlice", &slice.metadata, true);
    let root = Path::of(&object);
    let id = id_of(&slice.metadata, &root)?;

    let mut ports = Vec::new();
    let list = root.field("ports");
    for (index, port) in slice.ports.iter().flatten().enumerate() {
        let path = list.index(index);
        let protocol = validate::protocol(port.protocol.as_deref(), &path.field("protocol"))?;
        // No number means that the owner defines no restriction: nothing to list.
        if let Some(number) = port.port {
            ports.push((
                port.name
                    .as_deref()
                    .filter(|n| !n.is_empty())
                    .map(Arc::from),
                validate::port_number(number, &path.field("port"))?,
                protocol,
            ));
        }
    }

    let list = root.field("endpoints");
    let mut endpoints = Vec::new();
    for (index, endpoint) in slice.endpoints.iter().flatten().enumerate() {
        let path = list.index(index);
        let address_list = path.field("addresses");
        let mut addresses = Vec::new();
        if slice.address_type != "FQDN" {
            for (index, text) in endpoint.addresses.iter().enumerate() {
                addresses.push(validate::address(text, &address_list.index(index))?);
            }
        }
        let conditions = endpoint.conditions.as_ref();
        endpoints.push(SliceEndpoint {
            addresses,
            pod: endpoint
                .target_ref
                .as_ref()
                .filter(|target| target.kind.as_deref() == Some("Pod"))
                .and_then(|target| target.uid.as_deref())
                .filter(|uid| !uid.is_empty())
                .map(|uid| Uid(Arc::from(uid))),
            ready: conditions.and_then(|c| c.ready).unwrap_or(true),
            terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        });
    }

    Ok(EndpointSlice {
        uid: uid_of("EndpointSlice", &slice.metadata, &id),
        service: slice
            .metadata
            .labels
            .as_ref()
            .and_then(|labels| labels.get("kubernetes.io/service-name"))
            .map(|name| Arc::from(name.as_str())),
        id,
        ports,
        endpoints,
    })
}
