//! core/v1 Namespace and Node.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;

use super::path::Path;
use super::{Refusal, annotations_of, labels_of, name_of, subject, uid_of, validate};
use crate::model::{Namespace, NamespacedName, Node};

/// Converts a Namespace.
///
/// # Errors
/// A missing or bad name, a bad label.
pub fn namespace(namespace: &api::Namespace) -> Result<Namespace, Refusal> {
    let object = subject("Namespace", &namespace.metadata, false);
    let root = Path::of(&object);
    let name = name_of(&namespace.metadata, &root)?;
    validate::dns_label(&name, &root.field("metadata").field("name"))?;
    let labels = labels_of(&namespace.metadata, &root)?;
    let id = NamespacedName::new("", Arc::clone(&name));
    Ok(Namespace {
        uid: uid_of("Namespace", &namespace.metadata, &id),
        name,
        labels,
        annotations: annotations_of(&namespace.metadata),
    })
}

/// Converts a Node. Addresses that are host names are left out.
///
/// # Errors
/// A missing or bad name, a bad pod CIDR.
pub fn node(node: &api::Node) -> Result<Node, Refusal> {
    let object = subject("Node", &node.metadata, false);
    let root = Path::of(&object);
    let name = name_of(&node.metadata, &root)?;
    validate::dns_subdomain(&name, &root.field("metadata").field("name"))?;

    let mut addresses = Vec::new();
    for entry in node
        .status
        .iter()
        .flat_map(|status| status.addresses.iter().flatten())
    {
        if let Ok(ip) = entry.address.parse::<IpAddr>()
            && !addresses.contains(&ip.to_canonical())
        {
            addresses.push(ip.to_canonical());
        }
    }

    let mut pod_cidrs = Vec::new();
    if let Some(spec) = &node.spec {
        let spec_path = root.field("spec");
        let list = spec_path.field("podCIDRs");
        for (index, text) in spec.pod_cidrs.iter().flatten().enumerate() {
            pod_cidrs.push(validate::cidr(text, &list.index(index))?);
        }
        if pod_cidrs.is_empty()
            && let Some(text) = spec.pod_cidr.as_deref().filter(|text| !text.is_empty())
        {
            pod_cidrs.push(validate::cidr(text, &spec_path.field("podCIDR"))?);
        }
    }

    let labels = labels_of(&node.metadata, &root)?;
    let id = NamespacedName::new("", Arc::clone(&name));
    Ok(Node {
        uid: uid_of("Node", &node.metadata, &id),
        name,
        labels,
        addresses,
        pod_cidrs,
    })
}
