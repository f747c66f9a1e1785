//! Fields of a JSON object, their types checked where they are read.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta,
};
use serde_json::{Map, Value};

use super::path::Path;
use super::{Refusal, validate};
use crate::model::Selector;

/// A field that is there; `null` is absence, as the API server prunes it.
pub(super) fn get<'v>(fields: &'v Map<String, Value>, name: &str) -> Option<&'v Value> {
    fields.get(name).filter(|value| !value.is_null())
}

/// A field that must be there.
pub(super) fn required<'v>(
    fields: &'v Map<String, Value>,
    name: &str,
    path: &Path<'_>,
) -> Result<&'v Value, Refusal> {
    get(fields, name).ok_or_else(|| {
        path.field(name)
            .refuse("it is missing", format!("write {name}; it is required"))
    })
}

/// The fields of an object.
pub(super) fn object<'v>(
    value: &'v Value,
    path: &Path<'_>,
) -> Result<&'v Map<String, Value>, Refusal> {
    value
        .as_object()
        .ok_or_else(|| mistyped(value, "an object", path))
}

/// The entries of a list.
pub(super) fn list<'v>(value: &'v Value, path: &Path<'_>) -> Result<&'v [Value], Refusal> {
    match value {
        Value::Array(entries) => Ok(entries),
        other => Err(mistyped(other, "a list", path)),
    }
}

/// A string.
pub(super) fn text<'v>(value: &'v Value, path: &Path<'_>) -> Result<&'v str, Refusal> {
    value
        .as_str()
        .ok_or_else(|| mistyped(value, "a string", path))
}

/// A whole number.
pub(super) fn integer(value: &Value, path: &Path<'_>) -> Result<i64, Refusal> {
    value
        .as_i64()
        .ok_or_else(|| mistyped(value, "a whole number", path))
}

fn mistyped(value: &Value, wanted: &str, path: &Path<'_>) -> Refusal {
    let is = match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    path.refuse(
        format!("it is {is} and must be {wanted}"),
        format!("write {wanted} there"),
    )
}

/// What of `metadata` means something to us.
pub(super) fn metadata(value: &Value, root: &Path<'_>) -> Result<ObjectMeta, Refusal> {
    let Some(given) = value.get("metadata").filter(|given| !given.is_null()) else {
        return Ok(ObjectMeta::default());
    };
    let path = root.field("metadata");
    let given = object(given, &path)?;
    let string = |name: &str| {
        get(given, name)
            .map(|value| text(value, &path.field(name)).map(str::to_owned))
            .transpose()
    };
    let mut meta = ObjectMeta {
        name: string("name")?,
        generate_name: string("generateName")?,
        namespace: string("namespace")?,
        uid: string("uid")?,
        generation: get(given, "generation")
            .map(|value| integer(value, &path.field("generation")))
            .transpose()?,
        ..ObjectMeta::default()
    };
    for (name, to) in [
        ("labels", &mut meta.labels),
        ("annotations", &mut meta.annotations),
    ] {
        if let Some(pairs) = get(given, name) {
            *to = Some(strings(pairs, &path.field(name))?);
        }
    }
    Ok(meta)
}

/// A map of strings; a value that is `null` is the empty string.
fn strings<C: FromIterator<(String, String)>>(
    value: &Value,
    path: &Path<'_>,
) -> Result<C, Refusal> {
    object(value, path)?
        .iter()
        .map(|(key, value)| {
            let value = match value {
                Value::Null => "",
                value => text(value, &path.key(key))?,
            };
            Ok((key.clone(), value.to_owned()))
        })
        .collect()
}

/// A label selector, validated. One with other fields (in its first versions the API had `namespaceSelector` and `sameLabels`
/// here) is no empty one, which would select everything.
pub(super) fn selector(value: &Value, path: &Path<'_>) -> Result<Selector, Refusal> {
    let given = object(value, path)?;
    let known = ["matchLabels", "matchExpressions"];
    let mut there = given.iter().filter(|(_, value)| !value.is_null());
    if let Some((field, _)) = there.find(|(field, _)| !known.contains(&field.as_str())) {
        return Err(path.field(field).refuse(
            "a label selector has no such field",
            "write matchLabels or matchExpressions",
        ));
    }
    let mut written = LabelSelector::default();
    if let Some(pairs) = get(given, "matchLabels") {
        written.match_labels = Some(strings(pairs, &path.field("matchLabels"))?);
    }
    if let Some(expressions) = get(given, "matchExpressions") {
        let entries = path.field("matchExpressions");
        let mut requirements = Vec::new();
        for (index, expression) in list(expressions, &entries)?.iter().enumerate() {
            let path = entries.index(index);
            let expression = object(expression, &path)?;
            let of = |name: &str| text(required(expression, name, &path)?, &path.field(name));
            let values_path = path.field("values");
            let values = match get(expression, "values") {
                None => None,
                Some(values) => {
                    let mut texts = Vec::new();
                    for (index, value) in list(values, &values_path)?.iter().enumerate() {
                        texts.push(text(value, &values_path.index(index))?.to_owned());
                    }
                    Some(texts)
                }
            };
            requirements.push(LabelSelectorRequirement {
                key: of("key")?.to_owned(),
                operator: of("operator")?.to_owned(),
                values,
            });
        }
        written.match_expressions = Some(requirements);
    }
    validate::selector(&written, path)
}
