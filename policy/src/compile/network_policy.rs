//! networking.k8s.io/v1 NetworkPolicy.

use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::path::Path;
use super::{Faults, Refusal, annotations_of, id_of, labels_of, subject, uid_of, validate};
use crate::model::{NetworkPolicy, Peer, PolicyPort, PortMatch, Rule, Selector, Written};

/// Converts a NetworkPolicy.
///
/// # Errors
/// What the API server would refuse: a bad selector, port, CIDR, peer or policy type.
pub fn network_policy(policy: &api::NetworkPolicy) -> Result<NetworkPolicy, Refusal> {
    let object = subject("NetworkPolicy", &policy.metadata, true);
    let root = Path::of(&object);
    let id = id_of(&policy.metadata, &root)?;
    labels_of(&policy.metadata, &root)?;
    let spec_path = root.field("spec");
    let empty = api::NetworkPolicySpec::default();
    // An absent spec is an empty one: it selects every pod and denies all ingress.
    let spec = policy.spec.as_ref().unwrap_or(&empty);

    let mut faults = Faults::default();
    let pod_selector =
        optional_selector(spec.pod_selector.as_ref(), &spec_path.field("podSelector"));
    let pod_selector = faults.take(pod_selector).flatten().unwrap_or_default();
    let given = spec.ingress.iter().flatten();
    let ingress = faults.entries(given, &spec_path.field("ingress"), |given, path| {
        rule(
            ("from", given.from.as_deref()),
            given.ports.as_deref(),
            path,
        )
    });
    let given = spec.egress.iter().flatten();
    let egress = faults.entries(given, &spec_path.field("egress"), |given, path| {
        rule(("to", given.to.as_deref()), given.ports.as_deref(), path)
    });
    let types = effective_types(
        spec.policy_types.as_deref().unwrap_or_default(),
        !egress.is_empty(),
        &spec_path.field("policyTypes"),
    );
    let (isolates_ingress, isolates_egress) = faults.take(types).unwrap_or_default();

    faults.or(NetworkPolicy {
        uid: uid_of("NetworkPolicy", &policy.metadata, &id),
        id,
        generation: policy.metadata.generation.unwrap_or(0),
        pod_selector,
        isolates_ingress,
        isolates_egress,
        ingress,
        egress,
        written: Written {
            policy_types: spec
                .policy_types
                .as_ref()
                .is_some_and(|types| !types.is_empty()),
            ingress: spec.ingress.is_some(),
            egress: spec.egress.is_some(),
        },
        annotations: annotations_of(&policy.metadata),
    })
}

/// `(ingress, egress)`: as written, or if nothing is written ingress always and egress if
/// there are egress rules.
fn effective_types(
    types: &[String],
    has_egress_rules: bool,
    path: &Path<'_>,
) -> Result<(bool, bool), Refusal> {
    if types.is_empty() {
        return Ok((true, has_egress_rules));
    }
    if types.len() > 2 {
        return Err(path.refuse(
            format!("{} policy types are given", types.len()),
            "give at most two: Ingress, Egress",
        ));
    }
    let (mut ingress, mut egress) = (false, false);
    for (index, policy_type) in types.iter().enumerate() {
        match policy_type.as_str() {
            "Ingress" => ingress = true,
            "Egress" => egress = true,
            other => {
                return Err(path.index(index).refuse(
                    format!("{other:?} is no policy type"),
                    "use Ingress or Egress, spelt like that",
                ));
            }
        }
    }
    Ok((ingress, egress))
}

fn optional_selector(
    selector: Option<&LabelSelector>,
    path: &Path<'_>,
) -> Result<Option<Selector>, Refusal> {
    selector
        .map(|selector| validate::selector(selector, path))
        .transpose()
}

fn rule(
    (field, peers): (&str, Option<&[api::NetworkPolicyPeer]>),
    ports: Option<&[api::NetworkPolicyPort]>,
    path: &Path<'_>,
) -> Result<Rule, Refusal> {
    let mut faults = Faults::default();
    let given = peers.into_iter().flatten();
    let peers = faults.entries(given, &path.field(field), peer);
    let given = ports.into_iter().flatten();
    let ports = faults.entries(given, &path.field("ports"), port);
    faults.or(Rule { peers, ports })
}

fn peer(given: &api::NetworkPolicyPeer, path: &Path<'_>) -> Result<Peer, Refusal> {
    let pods = optional_selector(given.pod_selector.as_ref(), &path.field("podSelector"))?;
    let namespaces = optional_selector(
        given.namespace_selector.as_ref(),
        &path.field("namespaceSelector"),
    )?;
    match &given.ip_block {
        Some(_) if pods.is_some() || namespaces.is_some() => Err(path.refuse(
            "ipBlock and a selector stand in one peer",
            "make two list items of them: '- ipBlock: ...' and '- podSelector: ...'",
        )),
        Some(block) => ip_block(block, &path.field("ipBlock")),
        None if pods.is_none() && namespaces.is_none() => Err(path.refuse(
            "the peer is empty",
            "give podSelector, namespaceSelector or ipBlock; to mean everyone, leave out the whole list",
        )),
        None => Ok(Peer::Pods { namespaces, pods }),
    }
}

fn ip_block(block: &api::IPBlock, path: &Path<'_>) -> Result<Peer, Refusal> {
    let cidr = validate::cidr(&block.cidr, &path.field("cidr"))?;
    let mut faults = Faults::default();
    let given = block.except.iter().flatten();
    let except = faults.entries(given, &path.field("except"), |text, path| {
        let net = validate::cidr(text, path)?;
        if !cidr.contains(&net.network()) || net.prefix_len() <= cidr.prefix_len() {
            return Err(path.refuse(
                format!("{text} is not a strict subset of cidr {cidr}"),
                "give a smaller range inside the cidr, or remove it",
            ));
        }
        Ok(net)
    });
    faults.or(Peer::IpBlock { cidr, except })
}

fn port(given: &api::NetworkPolicyPort, path: &Path<'_>) -> Result<PolicyPort, Refusal> {
    let protocol = validate::protocol(given.protocol.as_deref(), &path.field("protocol"))?;
    let end_path = path.field("endPort");
    let port = match (&given.port, given.end_port) {
        (None, None) => PortMatch::Any,
        (None, Some(_)) => {
            return Err(end_path.refuse(
                "endPort stands without port",
                "give port as the first port of the range",
            ));
        }
        (Some(IntOrString::Int(port)), end) => {
            let first = validate::port_number(*port, &path.field("port"))?;
            let last = match end {
                None => first,
                Some(end) => validate::port_number(end, &end_path)?,
            };
            if last < first {
                return Err(end_path.refuse(
                    format!("endPort {last} is less than port {first}"),
                    "give an endPort not less than port",
                ));
            }
            PortMatch::Range(first, last)
        }
        (Some(IntOrString::String(_)), Some(_)) => {
            return Err(end_path.refuse(
                "endPort stands beside a named port",
                "give port as a number, or leave endPort out",
            ));
        }
        (Some(IntOrString::String(name)), None) => {
            PortMatch::Named(validate::port_name(name, &path.field("port"))?)
        }
    };
    Ok(PolicyPort {
        protocol,
        port,
        end_port_written: given.end_port.is_some(),
    })
}
