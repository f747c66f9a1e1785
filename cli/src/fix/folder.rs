//! Fixes as a folder: a file a policy, a patch a correction, and a kustomization that names them.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use polproof_policy::remedy::Remedy;
use serde::Serialize;

use super::{comment, yaml};
use crate::failure::Failure;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Kustomization {
    api_version: &'static str,
    kind: &'static str,
    resources: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    patches: Vec<Patch>,
}

#[derive(Serialize)]
struct Patch {
    path: String,
    target: Target,
}

#[derive(Serialize)]
struct Target {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    name: String,
    namespace: String,
}

/// Writes the folder. Names of namespaces and policies have no character that a path gives a meaning to, but for single dots.
pub(super) fn write(folder: &Path, remedy: &Remedy, force: bool) -> Result<(), Failure> {
    let mut files: Vec<(String, String)> = Vec::new();
    let mut kustomization = Kustomization {
        api_version: "kustomize.config.k8s.io/v1beta1",
        kind: "Kustomization",
        resources: Vec::new(),
        patches: Vec::new(),
    };
    for new in &remedy.policies {
        let id = &new.policy.id;
        let file = format!("{}/{}.yaml", id.namespace, id.name);
        files.push((
            file.clone(),
            comment(&new.purpose, &new.remedies) + &yaml(new)?,
        ));
        kustomization.resources.push(file);
    }
    for edit in &remedy.edits {
        let id = &edit.policy;
        let file = format!("{}/{}.patch.yaml", id.namespace, id.name);
        let head = comment(
            &format!(
                "kubectl -n {} patch networkpolicy {} --type=json --patch-file {file}",
                id.namespace, id.name
            ),
            &edit.remedies,
        );
        files.push((file.clone(), head + &text(&edit.operations)?));
        kustomization.patches.push(Patch {
            path: file,
            target: Target {
                group: "networking.k8s.io",
                version: "v1",
                kind: "NetworkPolicy",
                name: id.name.to_string(),
                namespace: id.namespace.to_string(),
            },
        });
    }
    let head = if kustomization.patches.is_empty() {
        ""
    } else {
        "# The patches need the policies that they correct among the resources: add your own manifests.\n"
    };
    files.push((
        "kustomization.yaml".to_owned(),
        head.to_owned() + &text(&kustomization)?,
    ));
    if !force && let Some((file, _)) = files.iter().find(|(file, _)| folder.join(file).exists()) {
        return Err(Failure::usage(format!(
            "{} is there already; give another folder, or --force to write over it",
            folder.join(file).display()
        )));
    }
    for (file, text) in files {
        put(&folder.join(file), &text, force)?;
    }
    Ok(())
}

fn text<T: Serialize>(value: &T) -> Result<String, Failure> {
    serde_saphyr::to_string(value)
        .map_err(|error| Failure::usage(format!("cannot write YAML: {error}")))
}

fn put(path: &Path, text: &str, force: bool) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        Failure::usage(format!(
            "cannot write {}: {error}; give a folder that this user may write to",
            path.display()
        ))
    };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(failed)?;
    }
    let mut how = OpenOptions::new();
    how.write(true);
    if force {
        how.create(true).truncate(true);
    } else {
        how.create_new(true);
    }
    how.open(path)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(failed)
}
