//! What lies in `deploy/`, as its kustomization puts it together.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The folder.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

/// The objects of `kubectl apply -k deploy`, in its order, each with a name for messages ("file: Kind name").
///
/// # Errors
/// When a file cannot be read, or is in no kustomization.
pub fn objects() -> Result<Vec<(String, Value)>> {
    let top: Value = serde_saphyr::from_str(&std::fs::read_to_string(
        folder().join("kustomization.yaml"),
    )?)?;
    ensure!(
        top.get("resources") == Some(&serde_json::json!(["base"])),
        "deploy/kustomization.yaml must name base alone"
    );
    let base = folder().join("base");
    let read = |name: &str| {
        std::fs::read_to_string(base.join(name)).with_context(|| format!("deploy/base/{name}"))
    };
    let kustomization: Value = serde_saphyr::from_str(&read("kustomization.yaml")?)?;
    let resources = kustomization
        .get("resources")
        .and_then(Value::as_array)
        .context("resources")?;
    // Nothing is in the folder that nobody applies.
    ensure!(
        std::fs::read_dir(&base)?.count() == resources.len() + 1,
        "a file of deploy/base is not in its kustomization"
    );
    let mut objects = Vec::new();
    for name in resources {
        let name = name.as_str().context("a file name")?;
        let documents: Vec<Value> =
            serde_saphyr::from_multiple(&read(name)?).with_context(|| name.to_owned())?;
        objects.extend(documents.into_iter().map(|object| {
            let of = |pointer| {
                object
                    .pointer(pointer)
                    .and_then(Value::as_str)
                    .unwrap_or_default()
            };
            (
                format!("{name}: {} {}", of("/kind"), of("/metadata/name")),
                object,
            )
        }));
    }
    Ok(objects)
}
