//! Services as a program on a veth meets them: before their address is rewritten.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use anyhow::{Result, anyhow};
use polproof_policy::model::EndpointSlice;
use polproof_policy::{Family, Protocol, compile};
use serde_json::Value;

use super::view::parse;

/// One address and port of a Service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) at: SocketAddr,
    pub(super) protocol: Protocol,
    pub(super) backends: BTreeSet<SocketAddr>,
}

/// All of the manifests.
pub(super) fn read(objects: &[Value]) -> Result<Vec<Service>> {
    let of_kind = |kind: &'static str| {
        objects
            .iter()
            .filter(move |object| object.get("kind").and_then(Value::as_str) == Some(kind))
    };
    let slices: Vec<EndpointSlice> = of_kind("EndpointSlice")
        .map(|value| {
            compile::endpoint_slice(&parse(value)?).map_err(|refusal| anyhow!("{refusal}"))
        })
        .collect::<Result<_>>()?;
    let mut found = Vec::new();
    for value in of_kind("Service") {
        let service = compile::service(&parse(value)?).map_err(|refusal| anyhow!("{refusal}"))?;
        for (ip, port) in service
            .addresses
            .iter()
            .flat_map(|ip| service.ports.iter().map(move |port| (*ip, port)))
        {
            let backends = slices
                .iter()
                .filter(|slice| {
                    slice.id.namespace == service.id.namespace
                        && slice.service.as_ref() == Some(&service.id.name)
                })
                .flat_map(|slice| {
                    let ports = slice.ports.iter().filter(|(name, _, protocol)| {
                        name.as_deref().unwrap_or_default()
                            == port.name.as_deref().unwrap_or_default()
                            && *protocol == port.protocol
                    });
                    ports.flat_map(|(_, number, _)| {
                        slice
                            .endpoints
                            .iter()
                            .flat_map(|endpoint| &endpoint.addresses)
                            .map(|ip| SocketAddr::new(*ip, *number))
                    })
                })
                .filter(|at| Family::of(at.ip()) == Family::of(ip))
                .collect();
            found.push(Service {
                at: SocketAddr::new(ip, port.port),
                protocol: port.protocol,
                backends,
            });
        }
    }
    Ok(found)
}
