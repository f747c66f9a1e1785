//! The file of expected connectivity: strict, with the line of whatever is wrong.

use std::collections::BTreeMap;
use std::path::Path;

use polproof_policy::{Family, Protocol};
use serde::Deserialize;
use serde_json::Value;
use serde_saphyr::Spanned;

use crate::explain::protocol;
use crate::failure::Failure;

/// Bytes of a file.
const LARGEST: u64 = 16 << 20;

/// What is expected of some pairs.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) line: u64,
    pub(super) name: String,
    pub(super) reason: Option<String>,
    pub(super) from: Vec<End>,
    pub(super) to: Vec<End>,
    /// Empty: those that the destination declares.
    pub(super) ports: Vec<Port>,
    pub(super) expect: Expect,
    pub(super) family: Option<Family>,
}

/// What must come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Expect {
    Allow,
    Deny,
    Unknown,
}

impl Expect {
    pub(super) const fn word(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Unknown => "unknown",
        }
    }
}

/// One end, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// `"*"`.
    EveryPod,
    /// As explain takes it.
    Named(String),
    /// Pods by namespace and labels.
    Selector {
        namespace: Option<String>,
        labels: BTreeMap<String, String>,
    },
}

/// A port, as written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Port {
    Number(u16, Protocol),
    /// Resolved on each destination; in this protocol, if one is written.
    Name(String, Option<Protocol>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    checks: Vec<Spanned<Entry>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    name: Option<String>,
    // What is required is asked for here: the parser cannot say in which entry a field is missing.
    #[serde(default)]
    from: Option<Spanned<Value>>,
    #[serde(default)]
    to: Option<Spanned<Value>>,
    #[serde(default)]
    ports: Option<Spanned<Value>>,
    #[serde(default)]
    port: Option<Spanned<Value>>,
    #[serde(default)]
    expect: Option<Expect>,
    #[serde(default)]
    family: Option<Spanned<String>>,
    #[serde(default)]
    reason: Option<String>,
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<Check>, Failure> {
    let unreadable =
        |problem: String| Failure::usage(format!("cannot read {}: {problem}", path.display()));
    let size = std::fs::metadata(path)
        .map_err(|error| unreadable(error.to_string()))?
        .len();
    if size > LARGEST {
        return Err(unreadable(format!(
            "it has more than {} MiB; split it",
            LARGEST >> 20
        )));
    }
    let text = std::fs::read_to_string(path).map_err(|error| unreadable(error.to_string()))?;
    parse(&text)
        .map_err(|(line, problem)| Failure::usage(format!("{}:{line}: {problem}", path.display())))
}

/// A line and what is wrong there.
type Wrong = (u64, String);

fn parse(text: &str) -> Result<Vec<Check>, Wrong> {
    let size = text.len() + 1024;
    let budget = serde_saphyr::budget! {
        max_events: size,
        max_nodes: size,
        max_total_scalar_bytes: size,
        max_aliases: 1000,
        max_anchors: 1000,
        max_inclusion_depth: 0,
        max_merge_keys: 1000,
    };
    let options = serde_saphyr::options! {
        budget: budget,
        with_snippet: false,
    };
    let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let error = error.without_snippet();
        let line = error.location().map_or(1, |at| at.line().max(1));
        (line, plain(&error.to_string()))
    })?;
    if file.checks.is_empty() {
        return Err((1, "checks is empty: nothing would be checked".to_owned()));
    }
    file.checks
        .into_iter()
        .enumerate()
        .map(|(index, entry)| check(index, entry))
        .collect()
}

/// The parser's text without the place that stands before it already.
fn plain(text: &str) -> String {
    let text = text.lines().next().unwrap_or_default();
    let text = match text.split_once(": ") {
        Some((place, rest)) if place.contains("line ") => rest,
        _ => text,
    };
    match text.rfind(" at line ") {
        Some(at) => text.get(..at).unwrap_or(text).to_owned(),
        None => text.to_owned(),
    }
}

fn check(index: usize, entry: Spanned<Entry>) -> Result<Check, Wrong> {
    let line = entry.defined.line().max(1);
    let entry = entry.value;
    let field = |name: &str| format!("checks[{index}].{name}");
    let missing = |name: &str, example: &str| {
        let wrong = format!(
            "{} is missing; write for example {name}: {example}",
            field(name)
        );
        (line, wrong)
    };
    let from = entry.from.ok_or_else(|| missing("from", "shop/web"))?;
    let to = entry.to.ok_or_else(|| missing("to", "shop/db"))?;
    let expect = entry.expect.ok_or_else(|| missing("expect", "deny"))?;
    let ports = match (entry.ports, entry.port) {
        (Some(both), Some(_)) => {
            return Err((
                both.defined.line(),
                format!("{}: port and ports are both given: use one", field("ports")),
            ));
        }
        (Some(list), None) | (None, Some(list)) => ports(&list, &field("ports"))?,
        (None, None) => Vec::new(),
    };
    let family = match &entry.family {
        None => None,
        Some(text) => Some(match text.value.as_str() {
            "IPv4" => Family::V4,
            "IPv6" => Family::V6,
            other => {
                return Err((
                    text.defined.line(),
                    format!("{}: {other:?} is neither IPv4 nor IPv6", field("family")),
                ));
            }
        }),
    };
    let from = ends(&from, &field("from"))?;
    let to = ends(&to, &field("to"))?;
    let name = entry
        .name
        .filter(|name| !name.trim().is_empty())
        .unwrap_or_else(|| format!("{} -> {}", written(&from), written(&to)));
    Ok(Check {
        line,
        name,
        reason: entry.reason,
        from,
        to,
        ports,
        expect,
        family,
    })
}

fn written(ends: &[End]) -> String {
    let shown: Vec<String> = ends.iter().take(2).map(ToString::to_string).collect();
    match ends.len().saturating_sub(2) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::EveryPod => f.write_str("every pod"),
            Self::Named(name) => f.write_str(name),
            Self::Selector { namespace, labels } => {
                let labels: Vec<_> = labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
                match (namespace, labels.is_empty()) {
                    (Some(namespace), true) => write!(f, "every pod of {namespace}"),
                    (Some(namespace), false) => {
                        write!(f, "pods of {namespace} with {}", labels.join(","))
                    }
                    (None, _) => write!(f, "pods with {}", labels.join(",")),
                }
            }
        }
    }
}

fn ends(value: &Spanned<Value>, field: &str) -> Result<Vec<End>, Wrong> {
    let line = value.defined.line();
    let wrong = |what: String| (line, format!("{field}: {what}"));
    let found = match &value.value {
        Value::Array(list) => list
            .iter()
            .map(|value| end(value).map_err(wrong))
            .collect::<Result<Vec<_>, _>>()?,
        one => vec![end(one).map_err(wrong)?],
    };
    if found.is_empty() {
        return Err(wrong("the list is empty".to_owned()));
    }
    Ok(found)
}

fn end(value: &Value) -> Result<End, String> {
    const FORMS: &str = "an end is a string (shop/web-0, shop/deploy/web, shop/svc/db, 10.0.0.7, \"*\") or a selector \
                         ({namespace: shop, labels: {app: web}})";
    match value {
        Value::String(text) if text == "*" => Ok(End::EveryPod),
        Value::String(text) if !text.trim().is_empty() => Ok(End::Named(text.clone())),
        Value::Object(fields) => {
            let mut namespace = None;
            let mut labels = BTreeMap::new();
            for (key, value) in fields {
                match (key.as_str(), value) {
                    ("namespace", Value::String(name)) => namespace = Some(name.clone()),
                    ("labels", Value::Object(pairs)) => {
                        for (label, value) in pairs {
                            let Value::String(value) = value else {
                                return Err(format!(
                                    "label {label} is no string: write it in quotes"
                                ));
                            };
                            labels.insert(label.clone(), value.clone());
                        }
                    }
                    ("namespace" | "labels", _) => {
                        return Err(format!("{key} has the wrong type; {FORMS}"));
                    }
                    _ => {
                        return Err(format!(
                            "{key} is no field of a selector: namespace and labels are"
                        ));
                    }
                }
            }
            if namespace.is_none() && labels.is_empty() {
                return Err(format!("the selector is empty; {FORMS}"));
            }
            Ok(End::Selector { namespace, labels })
        }
        _ => Err(FORMS.to_owned()),
    }
}

fn ports(value: &Spanned<Value>, field: &str) -> Result<Vec<Port>, Wrong> {
    let wrong = |what: String| (value.defined.line(), format!("{field}: {what}"));
    let found = match &value.value {
        Value::Array(list) => list
            .iter()
            .map(|value| port(value).map_err(wrong))
            .collect::<Result<Vec<_>, _>>()?,
        one => vec![port(one).map_err(wrong)?],
    };
    if found.is_empty() {
        return Err(wrong(
            "the list is empty; leave it out for the ports that the destination declares"
                .to_owned(),
        ));
    }
    Ok(found)
}

fn port(value: &Value) -> Result<Port, String> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => String::new(),
    };
    let forms = || format!("{text:?} is no port: 5432, 53/UDP, http or http/TCP are");
    let (name, named) = match text.split_once('/') {
        Some((name, after)) => (name, Some(protocol(after).ok_or_else(forms)?)),
        None => (text.as_str(), None),
    };
    if name.bytes().all(|b| b.is_ascii_digit()) {
        return match name.parse::<u16>() {
            Ok(number) if number > 0 => Ok(Port::Number(number, named.unwrap_or(Protocol::Tcp))),
            _ => Err(format!("{text:?} is no port from 1 to 65535")),
        };
    }
    let fits = name.len() <= 15
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if fits {
        Ok(Port::Name(name.to_owned(), named))
    } else {
        Err(forms())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing)]
    use super::*;

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        for (text, line, said) in [
            ("checks: []", 1, "nothing would be checked"),
            ("cheks: []", 1, "cheks"),
            ("checks:\n- from: a/b\n  to: c/d\n", 2, "expect"),
            (
                "checks:\n- from: a/b\n  to: c/d\n  expect: maybe\n",
                4,
                "maybe",
            ),
            (
                "checks:\n- from: a/b\n  to: c/d\n  expect: deny\n  prot: TCP\n",
                5,
                "prot",
            ),
            (
                "checks:\n- from: a/b\n  to: c/d\n  ports: [80, 70000]\n  expect: deny\n",
                4,
                "\"70000\" is no port from 1 to 65535",
            ),
            (
                "checks:\n- from: a/b\n  to: c/d\n  port: 80/ICMP\n  expect: deny\n",
                4,
                "is no port",
            ),
            (
                "checks:\n- from: {namespace: a, label: {}}\n  to: c/d\n  expect: deny\n",
                2,
                "label is no field of a selector",
            ),
            (
                "checks:\n- from: {namespace: a, labels: {v: 1}}\n  to: c/d\n  expect: deny\n",
                2,
                "write it in quotes",
            ),
            (
                "checks:\n- from: a/b\n  to: []\n  expect: deny\n",
                3,
                "the list is empty",
            ),
            (
                "checks:\n- from: a/b\n  to: c/d\n  family: v4\n  expect: deny\n",
                4,
                "neither IPv4 nor IPv6",
            ),
        ] {
            let (at, problem) = parse(text).unwrap_err();
            assert!(problem.contains(said), "{said}: {problem}");
            assert_eq!(at, line, "{text}: {problem}");
        }
    }

    #[test]
    fn every_form_is_read() {
        let text = r#"
checks:
- name: all
  from: ["*", shop/deploy/web, {namespace: shop}, {labels: {app: web}}]
  to: 10.0.0.7
  ports: [5432, 53/udp, http, dns/UDP]
  expect: unknown
  family: IPv6
  reason: why not
- {from: a/b, to: c/d, port: 80, expect: deny}
"#;
        let checks = parse(text).unwrap();
        assert_eq!(checks.len(), 2);
        assert_eq!((checks[0].line, checks[1].line), (3, 10));
        assert_eq!(checks[0].from.len(), 4);
        assert_eq!(
            checks[0].ports,
            [
                Port::Number(5432, Protocol::Tcp),
                Port::Number(53, Protocol::Udp),
                Port::Name("http".to_owned(), None),
                Port::Name("dns".to_owned(), Some(Protocol::Udp)),
            ]
        );
        assert_eq!(checks[1].name, "a/b -> c/d");
    }
}
