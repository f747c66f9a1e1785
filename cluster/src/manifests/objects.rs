//! Documents -> objects: lists, kinds and versions, types.

use k8s_openapi::api::core::v1::{Namespace, Node, Pod, PodTemplateSpec, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use polproof_policy::compile::{self, OPTIONAL_KINDS, OptionalKind, Refusal, WORKLOADS};
use polproof_policy::{Kind, Object};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::contents::{Contents, Name};
use super::place::Place;
use super::slim::slim;
use crate::ClusterError;
use crate::object::Watched;

/// API groups whose workloads have moved to another version, and what to write today.
const MOVED: [&str; 3] = ["apps", "batch", "extensions"];

/// Adds the objects of a document.
pub(super) fn add(
    value: Value,
    place: Place<'_>,
    contents: &mut Contents,
) -> Result<(), ClusterError> {
    let (api_version, kind) = match (text(&value, "apiVersion"), text(&value, "kind")) {
        (Some(api_version), Some(kind)) => (api_version.to_owned(), kind.to_owned()),
        (None, None) => {
            contents.ignore("(no Kubernetes object)");
            return Ok(());
        }
        (Some(_), None) => {
            return Err(place.broken("there is an apiVersion but no kind; write the kind"));
        }
        (None, Some(kind)) => {
            return Err(place.broken(&format!(
                "a {kind} without an apiVersion; write the apiVersion"
            )));
        }
    };
    let Some(item_kind) = kind.strip_suffix("List") else {
        one(value, &api_version, &kind, place, contents);
        return Ok(());
    };
    let items = match value {
        Value::Object(mut fields) => fields.remove("items"),
        _ => None,
    };
    let items = match items {
        Some(Value::Array(items)) => items,
        None | Some(Value::Null) => return Ok(()),
        Some(_) => return Err(place.broken(&format!("the items of a {kind} must be a list"))),
    };
    for (index, item) in items.into_iter().enumerate() {
        let place = place.item(index);
        // Items of a typed list do not repeat what they are.
        match (text(&item, "apiVersion"), text(&item, "kind")) {
            (Some(_), Some(kind)) if kind.ends_with("List") => add(item, place, contents)?,
            (Some(version), Some(kind)) => {
                let (version, kind) = (version.to_owned(), kind.to_owned());
                one(item, &version, &kind, place, contents);
            }
            _ if item_kind.is_empty() => {
                return Err(place.broken(&format!(
                    "items[{index}] has no apiVersion or no kind; write both"
                )));
            }
            _ => one(item, &api_version, item_kind, place, contents),
        }
    }
    Ok(())
}

fn one(value: Value, api_version: &str, kind: &str, place: Place<'_>, contents: &mut Contents) {
    match (api_version, kind) {
        ("v1", "Pod") => typed::<Pod>(value, place, contents),
        ("v1", "Namespace") => typed::<Namespace>(value, place, contents),
        ("v1", "Node") => typed::<Node>(value, place, contents),
        ("v1", "Service") => typed::<Service>(value, place, contents),
        ("networking.k8s.io/v1", "NetworkPolicy") => {
            typed::<NetworkPolicy>(value, place, contents);
        }
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            typed::<EndpointSlice>(value, place, contents);
        }
        ("extensions/v1beta1", "NetworkPolicy") => {
            let name = Name::of(Kind::NetworkPolicy, kind, true, &value);
            contents.refuse(
                &name,
                place,
                "apiVersion: extensions/v1beta1 is no longer served since Kubernetes 1.16; write networking.k8s.io/v1",
            );
        }
        ("discovery.k8s.io/v1beta1", "EndpointSlice") => {
            let name = Name::of(Kind::EndpointSlice, kind, true, &value);
            contents.refuse(
                &name,
                place,
                "apiVersion: discovery.k8s.io/v1beta1 is no longer served since Kubernetes 1.25; write discovery.k8s.io/v1",
            );
        }
        _ => other(value, api_version, kind, place, contents),
    }
}

/// A kind that only some clusters serve, a workload, or one that means nothing to us.
fn other(value: Value, api_version: &str, kind: &str, place: Place<'_>, contents: &mut Contents) {
    if let Some((known, served)) = optional(api_version, kind) {
        let name = Name::of(known.kind, kind, known.namespaced, &value);
        match served {
            Ok(()) => contents.add(&name, place, || {
                compile::known_fields(known.kind, &value)
                    .and_then(|()| compile::optional(known.kind, &value))
            }),
            Err(version) => contents.refuse(
                &name,
                place,
                &format!("apiVersion: {api_version} has no {kind} that we know; write {version}"),
            ),
        }
        return;
    }
    let (group, _) = api_version.split_once('/').unwrap_or_default();
    match WORKLOADS.iter().find(|(_, known)| *known == kind) {
        Some((version, known)) if *version == api_version => {
            workload(value, known, place, contents);
        }
        Some((version, _)) if MOVED.contains(&group) => {
            let name = Name::of_workload(kind, &value);
            contents.refuse(
                &name,
                place,
                &format!(
                    "apiVersion: {api_version} has no {kind} in Kubernetes any more; write {version}"
                ),
            );
        }
        _ if group.is_empty() => contents.ignore(kind),
        _ => contents.ignore(&format!("{kind}.{group}")),
    }
}

/// The optional kind of that name in that API group; an error is the version to write instead.
fn optional(api_version: &str, kind: &str) -> Option<(&'static OptionalKind, Result<(), String>)> {
    let (group, version) = api_version.split_once('/')?;
    OPTIONAL_KINDS
        .iter()
        .filter(|known| known.kind.name() == kind)
        .find_map(|known| {
            let served: Vec<_> = known.apis.iter().filter(|api| api.0 == group).collect();
            let (_, newest) = served.first()?;
            if served.iter().any(|api| api.1 == version) {
                Some((known, Ok(())))
            } else {
                Some((known, Err(format!("{group}/{newest}"))))
            }
        })
}

fn typed<K: Watched>(mut value: Value, place: Place<'_>, contents: &mut Contents) {
    let kind = K::kind(&());
    let name = Name::of(K::KIND, &kind, K::NAMESPACED, &value);
    contents.add(&name, place, || {
        compile::known_fields(K::KIND, &value)?;
        slim(&kind, &mut value);
        decode::<K>(value, &name, "")?.compile()
    });
}

fn workload(mut value: Value, kind: &'static str, place: Place<'_>, contents: &mut Contents) {
    let name = Name::of_workload(kind, &value);
    slim(kind, &mut value);
    let mut meta = ObjectMeta::default();
    let compiled = pod_of(value, kind, &name, &mut meta);
    let made_by = meta
        .owner_references
        .unwrap_or_default()
        .into_iter()
        .find(|owner| owner.controller == Some(true))
        .map(|owner| (owner.kind, owner.name));
    contents.stand_in(&name, kind, made_by, place, compiled);
}

fn pod_of(
    mut value: Value,
    kind: &str,
    name: &Name,
    to: &mut ObjectMeta,
) -> Result<Object, Refusal> {
    let mut part = |pointer: &str| value.pointer_mut(pointer).map(Value::take);
    let path = match kind {
        "CronJob" => "spec.jobTemplate.spec.template",
        _ => "spec.template",
    };
    if let Some(meta @ Value::Object(_)) = part("/metadata") {
        *to = decode(meta, name, "metadata")?;
    }
    let selector: Option<LabelSelector> = match part("/spec/selector") {
        None | Some(Value::Null) => None,
        Some(pairs) if kind == "ReplicationController" => {
            let match_labels = Some(decode(pairs, name, "spec.selector")?);
            Some(LabelSelector {
                match_labels,
                ..LabelSelector::default()
            })
        }
        Some(selector) => Some(decode(selector, name, "spec.selector")?),
    };
    let template = match part(&format!("/{}", path.replace('.', "/"))) {
        None | Some(Value::Null) => {
            return Err(name.refusal(path, "it is missing", "write the template of the pods"));
        }
        Some(template) => decode::<PodTemplateSpec>(template, name, path)?,
    };
    let pod = compile::template(kind, to, selector.as_ref(), &template)?;
    Ok(Object::Pod(pod.into()))
}

/// Into the generated type. `path` is where the value stands in its object.
fn decode<T: DeserializeOwned>(value: Value, name: &Name, path: &str) -> Result<T, Refusal> {
    serde_path_to_error::deserialize(value).map_err(|error| {
        let field = match (path, error.path().to_string().as_str()) {
            ("", ".") => "(the object)".to_owned(),
            ("", within) => within.to_owned(),
            (path, ".") => path.to_owned(),
            (path, within) => format!("{path}.{within}"),
        };
        name.refusal(
            &field,
            &error.into_inner().to_string(),
            "write a value of the type that the API has there",
        )
    })
}

fn text<'a>(value: &'a Value, field: &str) -> Option<&'a str> {
    value
        .get(field)
        .and_then(Value::as_str)
        .filter(|text| !text.is_empty())
}
