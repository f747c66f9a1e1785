//! The rules of admin policies: actions, peers, ports.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::admin::{Api, FROM, namespaced_pods, only};
use super::json::{get, integer, list, object, required, selector, text};
use super::path::Path;
use super::{Faults, Refusal, validate};
use crate::model::{Action, AdminPeer, AdminPort, AdminRule, Direction, PortMatch, Protocol};

/// Entries of `networks` and `domainNames`.
const MOST_ADDRESSES: usize = 25;
/// Characters of a rule's name.
const MOST_OF_NAME: usize = 100;

/// The rules of a direction.
pub(super) fn rules(
    api: &Api,
    direction: Direction,
    spec: &Map<String, Value>,
    path: &Path<'_>,
) -> Result<Vec<AdminRule>, Refusal> {
    let field = match direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let path = path.field(field);
    let Some(given) = get(spec, field) else {
        return Ok(Vec::new());
    };
    let mut faults = Faults::default();
    let rules = faults.entries(entries(given, 0, api.most, &path)?, &path, |given, path| {
        rule(api, direction, given, path)
    });
    faults.or(rules)
}

/// The entries of a list within its bounds.
fn entries<'v>(
    value: &'v Value,
    least: usize,
    most: usize,
    path: &Path<'_>,
) -> Result<&'v [Value], Refusal> {
    let entries = list(value, path)?;
    if entries.len() < least {
        return Err(path.refuse("the list is empty", "give at least one entry"));
    }
    if entries.len() > most {
        return Err(path.refuse(
            format!("it has {} entries", entries.len()),
            format!("give at most {most}"),
        ));
    }
    Ok(entries)
}

fn rule(
    api: &Api,
    direction: Direction,
    given: &Value,
    path: &Path<'_>,
) -> Result<AdminRule, Refusal> {
    let given = object(given, path)?;
    let name = match get(given, "name") {
        None => None,
        Some(name) => {
            let path = path.field("name");
            let name = text(name, &path)?;
            let length = name.chars().count();
            if length > MOST_OF_NAME {
                return Err(path.refuse(
                    format!("it has {length} characters"),
                    format!("use at most {MOST_OF_NAME}"),
                ));
            }
            Some(name).filter(|name| !name.is_empty()).map(Arc::from)
        }
    };
    let action = action(api, required(given, "action", path)?, &path.field("action"))?;
    // The other version's field: without it the rule would be about every port.
    let other = if api.ports == "ports" {
        "protocols"
    } else {
        "ports"
    };
    if get(given, other).is_some() {
        return Err(path.field(other).refuse(
            format!("a rule of a {} has no such field", api.kind.kind().name()),
            format!("write {}", api.ports),
        ));
    }
    let (field, known) = match direction {
        Direction::Ingress => ("from", FROM),
        Direction::Egress => ("to", api.to),
    };
    let list = path.field(field);
    let mut faults = Faults::default();
    let peers = faults.entries(
        entries(required(given, field, path)?, 1, api.most, &list)?,
        &list,
        |given, path| peer(api, known, action, given, path),
    );
    let list = path.field(api.ports);
    let given = get(given, api.ports)
        .map(|given| entries(given, 1, api.most, &list))
        .transpose()?;
    let ports = faults.entries(given.into_iter().flatten(), &list, |given, path| {
        let port = port(api, given, path)?;
        match peers.iter().find_map(outside) {
            Some(outside) if matches!(port, AdminPort::Named(_)) => Err(path.refuse(
                format!("a named port stands in a rule with a peer of {outside}"),
                format!(
                    "give the port's number, or make two rules of it: {outside} have no named ports"
                ),
            )),
            _ => Ok(port),
        }
    });
    faults.or(AdminRule {
        name,
        action,
        peers,
        ports,
    })
}

/// The field of a peer that names no pods.
const fn outside(peer: &AdminPeer) -> Option<&'static str> {
    match peer {
        AdminPeer::Nodes(_) => Some("nodes"),
        AdminPeer::Networks(_) => Some("networks"),
        AdminPeer::DomainNames(_) => Some("domainNames"),
        AdminPeer::Namespaces(_) | AdminPeer::Pods { .. } | AdminPeer::Unrecognised => None,
    }
}

fn action(api: &Api, given: &Value, path: &Path<'_>) -> Result<Action, Refusal> {
    let word = text(given, path)?;
    match word {
        "Deny" => Ok(Action::Deny),
        "Pass" if api.actions.contains(&word) => Ok(Action::Pass),
        word if api.actions.first() == Some(&word) => Ok(Action::Allow),
        other => Err(path.refuse(
            format!("{other:?} is no action of a {}", api.kind.kind().name()),
            format!("use one of {}, spelt like that", api.actions.join(", ")),
        )),
    }
}

fn peer(
    api: &Api,
    known: &[&str],
    action: Action,
    given: &Value,
    path: &Path<'_>,
) -> Result<AdminPeer, Refusal> {
    let (field, given) = only(object(given, path)?, known, path)?;
    let field_path = path.field(field);
    match field {
        field if !known.contains(&field) => Ok(AdminPeer::Unrecognised),
        "namespaces" => Ok(AdminPeer::Namespaces(selector(given, &field_path)?)),
        "pods" => {
            let (namespaces, pods) = namespaced_pods(api, given, &field_path)?;
            Ok(AdminPeer::Pods { namespaces, pods })
        }
        "nodes" => Ok(AdminPeer::Nodes(selector(given, &field_path)?)),
        "networks" => {
            let mut networks = Vec::new();
            for (text, path) in set(given, &field_path)? {
                networks.push(validate::cidr(text, &field_path.index(path))?);
            }
            Ok(AdminPeer::Networks(networks))
        }
        "domainNames" => {
            if action != Action::Allow {
                return Err(field_path.refuse(
                    "domain names stand in a rule that does not allow",
                    format!(
                        "use them with {} only; to deny the rest, add a Deny rule after it",
                        api.actions.first().unwrap_or(&"Allow")
                    ),
                ));
            }
            let mut names = Vec::new();
            for (text, index) in set(given, &field_path)? {
                if !is_domain_name(text) {
                    return Err(field_path.index(index).refuse(
                        format!("{text:?} is no domain name"),
                        "write a name with a dot such as example.com, or *.example.com for those below it",
                    ));
                }
                names.push(Arc::from(text));
            }
            Ok(AdminPeer::DomainNames(names))
        }
        // In `known`, so there is an arm for it above.
        _ => Ok(AdminPeer::Unrecognised),
    }
}

/// The texts of a list that is a set, with their indices.
fn set<'v>(value: &'v Value, path: &Path<'_>) -> Result<Vec<(&'v str, usize)>, Refusal> {
    let mut seen = BTreeSet::new();
    let mut texts = Vec::new();
    for (index, entry) in entries(value, 1, MOST_ADDRESSES, path)?.iter().enumerate() {
        let path = path.index(index);
        let entry = text(entry, &path)?;
        if !seen.insert(entry) {
            return Err(path.refuse(
                format!("{entry:?} stands in the list twice"),
                "remove one of the two",
            ));
        }
        texts.push((entry, index));
    }
    Ok(texts)
}

/// `(*.)?label(.label)+.?`, labels of letters, digits, `-` and `_`, no `-` or `_` at either end.
fn is_domain_name(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let name = name.strip_suffix('.').unwrap_or(name);
    let word = |b: u8| b.is_ascii_alphanumeric();
    name.contains('.')
        && name.split('.').all(|label| {
            label.bytes().all(|b| word(b) || matches!(b, b'-' | b'_'))
                && label.bytes().next().is_some_and(word)
                && label.bytes().next_back().is_some_and(word)
        })
}

fn port(api: &Api, given: &Value, path: &Path<'_>) -> Result<AdminPort, Refusal> {
    let known: &[&str] = if api.ports == "ports" {
        &["portNumber", "portRange", "namedPort"]
    } else {
        &["tcp", "udp", "sctp", "destinationNamedPort"]
    };
    let (field, given) = only(object(given, path)?, known, path)?;
    let path = path.field(field);
    if !known.contains(&field) {
        return Err(path.refuse(
            format!("an entry of {} has no such field", api.ports),
            format!("write exactly one of {}", known.join(", ")),
        ));
    }
    match field {
        "namedPort" | "destinationNamedPort" => {
            Ok(AdminPort::Named(Arc::from(text(given, &path)?)))
        }
        "portNumber" => {
            let given = object(given, &path)?;
            let number = number(given, "port", &path)?;
            Ok(AdminPort::Of(
                protocol(given, &path)?,
                PortMatch::Range(number, number),
            ))
        }
        "portRange" => {
            let given = object(given, &path)?;
            Ok(AdminPort::Of(protocol(given, &path)?, range(given, &path)?))
        }
        word => {
            let protocol = match word {
                "tcp" => Protocol::Tcp,
                "udp" => Protocol::Udp,
                _ => Protocol::Sctp,
            };
            let ports = object(given, &path)?;
            let given = required(ports, "destinationPort", &path)?;
            let path = path.field("destinationPort");
            let known = ["number", "range"];
            let (field, value) = only(object(given, &path)?, &known, &path)?;
            let port = match field {
                "number" => {
                    let number = number(object(given, &path)?, "number", &path)?;
                    PortMatch::Range(number, number)
                }
                "range" => {
                    let path = path.field("range");
                    range(object(value, &path)?, &path)?
                }
                other => {
                    return Err(path
                        .field(other)
                        .refuse("a port has no such field", "write number or range"));
                }
            };
            Ok(AdminPort::Of(protocol, port))
        }
    }
}

fn protocol(given: &Map<String, Value>, path: &Path<'_>) -> Result<Protocol, Refusal> {
    let path = path.field("protocol");
    let word = get(given, "protocol")
        .map(|word| text(word, &path))
        .transpose()?;
    validate::protocol(word, &path)
}

fn number(given: &Map<String, Value>, name: &str, path: &Path<'_>) -> Result<u16, Refusal> {
    let value = required(given, name, path)?;
    let path = path.field(name);
    let number = integer(value, &path)?;
    match u16::try_from(number) {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(path.refuse(
            format!("{number} is no port number"),
            "use a number from 1 to 65535",
        )),
    }
}

fn range(given: &Map<String, Value>, path: &Path<'_>) -> Result<PortMatch, Refusal> {
    let start = number(given, "start", path)?;
    let end = number(given, "end", path)?;
    if start >= end {
        return Err(path.field("end").refuse(
            format!("end {end} is not greater than start {start}"),
            "give a greater end; for one port, write its number instead of a range",
        ));
    }
    Ok(PortMatch::Range(start, end))
}
