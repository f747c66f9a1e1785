//! Text -> objects: YAML documents, JSON, lists.

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use polproof_policy::Kind;
use polproof_policy::compile::{OPTIONAL_KINDS, OptionalKind};
use serde_json::Value;

use super::contents::Contents;
use super::read::Text;
use super::slim::slim;
use crate::ClusterError;
use crate::object::Watched;

/// Where something stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    file: &'a Text,
    /// The line of the document's first line, from 1.
    line: u64,
    /// The document, for finding the line of an error in it.
    text: &'a str,
}

impl Place<'_> {
    fn origin(&self) -> String {
        format!("{}:{}", self.file.path.display(), self.line)
    }

    /// The origin of the document or of an item of the list in it.
    fn item(&self, item: Option<usize>) -> String {
        match item {
            Some(index) => format!("{} items[{index}]", self.origin()),
            None => self.origin(),
        }
    }

    fn broken(&self, line: u64, problem: String) -> ClusterError {
        ClusterError::Manifest {
            file: self.file.path.clone(),
            line,
            problem,
        }
    }
}

/// Adds the objects of a file.
pub(super) fn parse(file: &Text, contents: &mut Contents) -> Result<(), ClusterError> {
    let json = file.path.extension().is_some_and(|e| e == "json");
    for (line, text) in documents(&file.text, json) {
        let place = Place { file, line, text };
        let value = if json {
            serde_json::from_str(text).map_err(|error| {
                let at = u64::try_from(error.line()).unwrap_or(1);
                place.broken(at, error.to_string())
            })?
        } else {
            yaml::<Value>(place)?
        };
        match value {
            // Only comments.
            Value::Null => {}
            value => add(value, place, contents)?,
        }
    }
    Ok(())
}

/// The documents of a text with their first lines. `---` and `...` in the first column always
/// separate documents, also inside block scalars.
fn documents(text: &str, json: bool) -> Vec<(u64, &str)> {
    if json {
        return vec![(1, text)];
    }
    let mut documents = Vec::new();
    let mut start = (1, 0);
    let mut offset = 0;
    for (index, line) in (1..).zip(text.split_inclusive('\n')) {
        let marker = line.starts_with("---") || line.starts_with("...");
        let alone = line
            .get(3..)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace));
        if marker && alone {
            documents.extend(
                text.get(start.1..offset)
                    .map(|document| (start.0, document)),
            );
            start = (index, offset);
            if line.starts_with("...") {
                start = (index + 1, offset + line.len());
            }
        }
        offset += line.len();
    }
    documents.extend(text.get(start.1..).map(|document| (start.0, document)));
    documents
}

/// Parses one document. Every bound grows with the text, so that a large dump is read and a
/// small file cannot grow by aliases.
fn yaml<'a, T: serde::Deserialize<'a>>(place: Place<'a>) -> Result<T, ClusterError> {
    let size = place.text.len() + 1024;
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
        // kubectl's reader takes 0644 as octal, too.
        legacy_octal_numbers: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(place.text, options).map_err(|error| {
        let error = error.without_snippet();
        let within = error
            .location()
            .map_or(1, |location| location.line().max(1));
        place.broken(place.line + within - 1, error.to_string())
    })
}

fn add(value: Value, place: Place<'_>, contents: &mut Contents) -> Result<(), ClusterError> {
    let (api_version, kind) = match (text(&value, "apiVersion"), text(&value, "kind")) {
        (Some(api_version), Some(kind)) => (api_version.to_owned(), kind.to_owned()),
        (None, None) => {
            contents.ignore("(no Kubernetes object)");
            return Ok(());
        }
        (Some(_), None) => {
            return Err(place.broken(
                place.line,
                "there is an apiVersion but no kind; write the kind".to_owned(),
            ));
        }
        (None, Some(kind)) => {
            return Err(place.broken(
                place.line,
                format!("a {kind} without an apiVersion; write the apiVersion"),
            ));
        }
    };
    match kind.strip_suffix("List") {
        Some(item_kind) if value.get("items").is_some_and(Value::is_array) => {
            let Some(Value::Array(items)) = value.get("items").cloned() else {
                return Ok(());
            };
            drop(value);
            for (index, item) in items.into_iter().enumerate() {
                // Items of a typed list do not repeat what they are.
                let (item_version, kind) = match (text(&item, "apiVersion"), text(&item, "kind")) {
                    (Some(version), Some(kind)) => (version.to_owned(), kind.to_owned()),
                    _ if item_kind.is_empty() => {
                        return Err(place.broken(
                            place.line,
                            format!("items[{index}] has no apiVersion or no kind; write both"),
                        ));
                    }
                    _ => (api_version.clone(), item_kind.to_owned()),
                };
                one(item, &item_version, &kind, Some(index), place, contents)?;
            }
            Ok(())
        }
        _ => one(value, &api_version, &kind, None, place, contents),
    }
}

fn one(
    value: Value,
    api_version: &str,
    kind: &str,
    item: Option<usize>,
    place: Place<'_>,
    contents: &mut Contents,
) -> Result<(), ClusterError> {
    match (api_version, kind) {
        ("v1", "Pod") => typed::<Pod>(value, kind, item, place, contents),
        ("v1", "Namespace") => typed::<Namespace>(value, kind, item, place, contents),
        ("v1", "Node") => typed::<Node>(value, kind, item, place, contents),
        ("v1", "Service") => typed::<Service>(value, kind, item, place, contents),
        ("networking.k8s.io/v1", "NetworkPolicy") => {
            typed::<NetworkPolicy>(value, kind, item, place, contents)
        }
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            typed::<EndpointSlice>(value, kind, item, place, contents)
        }
        ("extensions/v1beta1", "NetworkPolicy") => {
            contents.refuse(
                Kind::NetworkPolicy,
                namespace(&value),
                format!("NetworkPolicy {} ({})", name(&value), place.origin()),
                "apiVersion: extensions/v1beta1 is no longer served since Kubernetes 1.16; write networking.k8s.io/v1".to_owned(),
            );
            Ok(())
        }
        ("discovery.k8s.io/v1beta1", "EndpointSlice") => {
            contents.refuse(
                Kind::EndpointSlice,
                namespace(&value),
                format!("EndpointSlice {} ({})", name(&value), place.origin()),
                "apiVersion: discovery.k8s.io/v1beta1 is no longer served since Kubernetes 1.25; write discovery.k8s.io/v1".to_owned(),
            );
            Ok(())
        }
        _ => {
            match optional(api_version, kind) {
                Some((found, true)) => contents.add_optional(found, &value, &place.item(item)),
                Some((found, false)) => {
                    let (group, _) = api_version.split_once('/').unwrap_or_default();
                    let served = OPTIONAL_KINDS.iter().find(|of| of.kind == found.kind);
                    let version = served.and_then(|of| of.apis.iter().find(|api| api.0 == group));
                    contents.refuse(
                        found.kind,
                        if found.namespaced { namespace(&value) } else { "" },
                        format!("{kind} {} ({})", name(&value), place.item(item)),
                        format!(
                            "apiVersion: {api_version} has no {kind} that we know; write {group}/{}",
                            version.map_or("v1", |api| api.1)
                        ),
                    );
                }
                None => match api_version.split_once('/') {
                    Some((group, _)) => contents.ignore(&format!("{kind}.{group}")),
                    None => contents.ignore(kind),
                },
            }
            Ok(())
        }
    }
}

/// The optional kind of that name in that API group, and whether it is of a version that we can read.
fn optional(api_version: &str, kind: &str) -> Option<(&'static OptionalKind, bool)> {
    let (group, version) = api_version.split_once('/')?;
    OPTIONAL_KINDS
        .iter()
        .filter(|known| known.kind.name() == kind)
        .find_map(|known| {
            let mut apis = known.apis.iter().filter(|api| api.0 == group).peekable();
            apis.peek()?;
            Some((known, apis.any(|api| api.1 == version)))
        })
}

fn typed<K: Watched>(
    mut value: Value,
    kind: &str,
    item: Option<usize>,
    place: Place<'_>,
    contents: &mut Contents,
) -> Result<(), ClusterError> {
    let label = format!("{kind} {}", name(&value));
    slim(kind, &mut value);
    let object: K = serde_json::from_value(value).map_err(|error| {
        // The value has lost its lines; the text has them.
        let line = match yaml::<K>(place) {
            Err(ClusterError::Manifest { line, .. }) if item.is_none() => line,
            _ => place.line,
        };
        let which = item.map_or(String::new(), |index| format!("items[{index}], "));
        place.broken(line, format!("{which}{label}: {error}"))
    })?;
    contents.add(&object, &place.item(item));
    Ok(())
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value
        .get(field)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}

/// As kubectl would have it.
fn namespace(value: &Value) -> &str {
    value
        .pointer("/metadata/namespace")
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
        .unwrap_or("default")
}

fn name(value: &Value) -> String {
    let of = |field| value.pointer(field).and_then(Value::as_str);
    match (of("/metadata/namespace"), of("/metadata/name")) {
        (Some(namespace), Some(name)) => format!("{namespace}/{name}"),
        (None, Some(name)) => name.to_owned(),
        _ => "(no name)".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::documents;

    #[test]
    fn documents_keep_their_lines() {
        let text = "a: 1\n---\nb: 2\n--- # c\nc: 3\n...\n---\nd: |\n  ---\n  x\n---x: 1\n";
        let lines: Vec<(u64, &str)> = documents(text, false);
        assert_eq!(
            lines,
            [
                (1, "a: 1\n"),
                (2, "---\nb: 2\n"),
                (4, "--- # c\nc: 3\n"),
                (7, ""),
                (7, "---\nd: |\n  ---\n  x\n---x: 1\n"),
            ]
        );
    }
}
