//! Runs every file of `tests/fixtures/semantics` as one test. What the files mean is said in
//! the README there; adding a case takes no Rust.

#![allow(clippy::unwrap_used, clippy::panic, clippy::disallowed_methods)]

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::{
    core::v1 as core, discovery::v1 as discovery, networking::v1 as networking,
};
use libtest_mimic::{Arguments, Failed, Trial};
use polproof_policy::compile::{self, OPTIONAL_KINDS, OptionalKind, Refusal};
use polproof_policy::reference::{self, Answer, Decided};
use polproof_policy::{
    Direction, Endpoint, Expectation, Family, IpOwner, NamespacedName, Object, Protocol, Query,
    Snapshot, State,
};
use serde::Deserialize;
use serde_json::Value;

/// The document of a file that is no Kubernetes object.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// The sentence that the file shows.
    semantics: String,
    #[serde(default)]
    queries: Vec<Asked>,
    /// Objects that must be refused: `Kind namespace/name: field`.
    #[serde(default)]
    refused: Vec<String>,
    /// Who must own an address.
    #[serde(default)]
    owners: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Asked {
    from: String,
    to: String,
    port: String,
    egress: String,
    ingress: String,
    /// The combination; derived from the directions if absent.
    verdict: Option<String>,
    /// Said when the case fails.
    because: Option<String>,
}

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/semantics");
    let mut files: Vec<PathBuf> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|of| of == "yaml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{}: no fixtures", folder.display());
    let names: Vec<String> = files
        .iter()
        .map(|path| path.file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let listed = Trial::test("readme-says-what-is-shown-where", move || {
        let readme = std::fs::read_to_string(folder.join("README.md")).unwrap();
        let missing: Vec<_> = names
            .iter()
            .filter(|name| !readme.contains(&format!("`{name}`")))
            .collect();
        let told = format!("not in the table of README.md: {missing:?}");
        missing.is_empty().then_some(()).ok_or_else(|| told.into())
    });
    let trials = files
        .into_iter()
        .map(|path| {
            let name = path.file_stem().unwrap().to_string_lossy().into_owned();
            Trial::test(name, move || run(&path).map_err(Failed::from))
        })
        .chain([listed])
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}

fn run(path: &Path) -> Result<(), String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).map_err(|error| error.to_string())?;
    let mut case = None;
    let mut objects = Vec::new();
    let mut refused = Vec::new();
    let mut refused_policies = Vec::new();
    for document in documents {
        if document.get("semantics").is_some() {
            let parsed: Case = serde_json::from_value(document).map_err(|e| e.to_string())?;
            if case.replace(parsed).is_some() {
                return Err("two documents have 'semantics'".to_owned());
            }
        } else {
            let policy = policy_name(&document);
            match object(document)? {
                Ok(object) => objects.push(object),
                Err(refusal) => {
                    refused.push(refusal);
                    refused_policies.extend(policy);
                }
            }
        }
    }
    let case = case.ok_or("no document has 'semantics'")?;
    let told: Vec<_> = refused
        .iter()
        .map(|refusal| format!("{}: {}", refusal.object, refusal.field))
        .collect();
    if told != case.refused {
        let all: Vec<_> = refused.iter().map(ToString::to_string).collect();
        return Err(format!(
            "refused must be {:#?}\nbut is {told:#?}\nin full {all:#?}",
            case.refused
        ));
    }

    let mut state = State::new();
    for object in &objects {
        state.apply(object.clone());
    }
    state.set_refused_policies(refused_policies.iter().cloned());
    let snapshot = state.snapshot();
    let mut wrong: Vec<String> = case
        .queries
        .iter()
        .filter_map(|asked| ask(&snapshot, &objects, &refused_policies, asked).err())
        .collect();
    for (ip, expected) in &case.owners {
        let owner = owner(
            &snapshot,
            ip.parse().map_err(|_| format!("{ip} is no address"))?,
        );
        if owner != *expected {
            wrong.push(format!(
                "owner of {ip} must be {expected:?}, but is {owner:?}"
            ));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(format!("{}\n\n{}", case.semantics, wrong.join("\n\n")))
    }
}

/// The name of a policy that is evaluated, be it refused or not. Those of the tiers around NetworkPolicy have no namespace.
fn policy_name(document: &Value) -> Option<NamespacedName> {
    let text = |field| document.pointer(field).and_then(Value::as_str);
    let namespace = match (text("/kind"), optional_kind(document)) {
        (Some("NetworkPolicy"), None) => text("/metadata/namespace").unwrap_or("default"),
        (_, Some(of)) if !of.namespaced => "",
        _ => return None,
    };
    Some(NamespacedName::new(
        namespace,
        text("/metadata/name").unwrap_or_default(),
    ))
}

/// The kind of a document that only some clusters serve.
fn optional_kind(document: &Value) -> Option<&'static OptionalKind> {
    let text = |field| document.get(field).and_then(Value::as_str);
    let (kind, api) = (text("kind")?, text("apiVersion")?);
    OPTIONAL_KINDS.iter().find(|of| {
        of.kind.name() == kind
            && of
                .apis
                .iter()
                .any(|(group, version)| api == format!("{group}/{version}"))
    })
}

fn object(document: Value) -> Result<Result<Object, Refusal>, String> {
    fn parse<K: serde::de::DeserializeOwned>(document: Value) -> Result<K, String> {
        serde_json::from_value(document).map_err(|error| error.to_string())
    }
    if let Some(of) = optional_kind(&document) {
        return Ok(compile::optional(of.kind, &document));
    }
    let kind = document
        .get("kind")
        .and_then(Value::as_str)
        .map(str::to_owned);
    Ok(match kind.as_deref() {
        Some("Pod") => {
            compile::pod(&parse::<core::Pod>(document)?).map(|o| Object::Pod(Arc::new(o)))
        }
        Some("Namespace") => compile::namespace(&parse::<core::Namespace>(document)?)
            .map(|o| Object::Namespace(Arc::new(o))),
        Some("Node") => {
            compile::node(&parse::<core::Node>(document)?).map(|o| Object::Node(Arc::new(o)))
        }
        Some("NetworkPolicy") => {
            compile::network_policy(&parse::<networking::NetworkPolicy>(document)?)
                .map(|o| Object::NetworkPolicy(Arc::new(o)))
        }
        Some("Service") => compile::service(&parse::<core::Service>(document)?)
            .map(|o| Object::Service(Arc::new(o))),
        Some("EndpointSlice") => {
            compile::endpoint_slice(&parse::<discovery::EndpointSlice>(document)?)
                .map(|o| Object::EndpointSlice(Arc::new(o)))
        }
        other => {
            return Err(format!(
                "a document has neither 'semantics' nor a known kind: {other:?}"
            ));
        }
    })
}

fn ask(
    snapshot: &Snapshot,
    objects: &[Object],
    refused: &[NamespacedName],
    asked: &Asked,
) -> Result<(), String> {
    let family = [&asked.from, &asked.to]
        .iter()
        .filter_map(|end| end.split_whitespace().next_back()?.parse().ok())
        .map(Family::of)
        .next()
        .unwrap_or(Family::V4);
    let (source, source_ip) = end(snapshot, &asked.from, family)?;
    let (destination, destination_ip) = end(snapshot, &asked.to, family)?;
    let (port, protocol) = asked
        .port
        .split_once('/')
        .ok_or("port must be NUMBER/PROTOCOL, such as 80/TCP")?;
    let query = Query {
        source,
        source_ip,
        destination,
        destination_ip,
        protocol: match protocol {
            "TCP" => Protocol::Tcp,
            "UDP" => Protocol::Udp,
            "SCTP" => Protocol::Sctp,
            other => return Err(format!("{other} is no protocol")),
        },
        port: port
            .parse()
            .map_err(|_| format!("{port} is no port number"))?,
    };

    let verdict = snapshot.evaluate(&query);
    let mut wrong = Vec::new();
    for (name, direction, of, expected) in [
        ("egress", Direction::Egress, &verdict.egress, &asked.egress),
        (
            "ingress",
            Direction::Ingress,
            &verdict.ingress,
            &asked.ingress,
        ),
    ] {
        let answer = Answer::from(of);
        let told = words(&answer);
        if told != *expected {
            wrong.push(format!("{name} must be: {expected}\n  but is: {told}"));
        }
        let naive = reference::evaluate_beside(objects, refused, &query, direction);
        if naive != answer {
            wrong.push(format!("the reference says of {name}: {}", words(&naive)));
        }
    }
    let told = outcome(verdict.expectation());
    if let Some(expected) = &asked.verdict
        && told != *expected
    {
        wrong.push(format!("verdict must be: {expected}\n  but is: {told}"));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!(
        "from {} to {} on {}{}\n{}\n{:#?}",
        asked.from,
        asked.to,
        asked.port,
        asked
            .because
            .as_ref()
            .map(|why| format!(" ({why})"))
            .unwrap_or_default(),
        wrong.join("\n"),
        snapshot.explain(&query)
    ))
}

/// `NAMESPACE/POD`, `node NAME` or `ADDRESS`; the first two may be followed by an address.
fn end<'a>(
    snapshot: &'a Snapshot,
    text: &'a str,
    family: Family,
) -> Result<(Endpoint<'a>, IpAddr), String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let (endpoint, addresses, given) = match words.as_slice() {
        ["node", name, given @ ..] => {
            let node = snapshot.nodes().find(|node| *node.name == **name);
            let addresses = node
                .map(|node| node.addresses.as_slice())
                .unwrap_or_default();
            (Endpoint::Node(name), addresses, given.first())
        }
        [name, given @ ..] if name.contains('/') => {
            let (namespace, name) = name.split_once('/').unwrap();
            let pod = snapshot
                .pod_named(&NamespacedName::new(namespace, name))
                .ok_or_else(|| format!("there is no pod {text}"))?;
            (Endpoint::Pod(pod), pod.ips.as_slice(), given.first())
        }
        [ip] => (Endpoint::External, &[] as &[IpAddr], Some(ip)),
        _ => return Err(format!("{text:?} is no end")),
    };
    let ip = match given {
        Some(ip) => ip.parse().map_err(|_| format!("{ip} is no address"))?,
        None => *addresses
            .iter()
            .find(|ip| Family::of(**ip) == family)
            .ok_or_else(|| format!("{text} has no address of family {family:?}"))?,
    };
    Ok((endpoint, ip))
}

fn outcome(expectation: Expectation) -> String {
    match expectation {
        Expectation::Allow => "allow".to_owned(),
        Expectation::Deny => "deny".to_owned(),
        Expectation::Unknown(reason) => format!("unknown {reason:?}"),
    }
}

/// `OUTCOME (WHY)`, as the README says.
fn words(answer: &Answer) -> String {
    let why = match &answer.decision {
        Decided::NotGoverned => "not governed".to_owned(),
        Decided::NotIsolated => "not isolated".to_owned(),
        Decided::Exempt => "exempt".to_owned(),
        Decided::Rule(policy, Some(rule)) => format!("{policy} rule {rule}"),
        Decided::Rule(policy, None) => policy.to_string(),
        Decided::Admin(policy, rule) => format!("{policy} rule {rule}"),
        Decided::NoRule => {
            let names: Vec<_> = answer.isolating.iter().map(ToString::to_string).collect();
            names.join(", ")
        }
    };
    format!("{} ({why})", outcome(answer.expectation))
}

fn owner(snapshot: &Snapshot, ip: IpAddr) -> String {
    match snapshot.owner(ip) {
        IpOwner::Nobody => "nobody".to_owned(),
        IpOwner::UnknownInPodCidr => "unknown in a pod CIDR".to_owned(),
        IpOwner::Pod(pod) => format!("pod {}", pod.id),
        IpOwner::Node(node) => format!("node {node}"),
        IpOwner::Service(service) => format!("service {service}"),
        IpOwner::Ambiguous => "ambiguous".to_owned(),
    }
}
