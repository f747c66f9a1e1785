//! The cluster of the lab: a folder of manifests that agents and collector watch, kept the way an API server
//! keeps objects (a UID for each creation, a generation for each change of a spec).

use std::cell::Cell;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Map, Value, json};

/// The folder.
#[derive(Debug)]
pub struct Manifests {
    dir: PathBuf,
    changed: Cell<SystemTime>,
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectName {
    /// `kind`.
    pub kind: String,
    /// `metadata.namespace`, empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectName {
    /// Puts a name together.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self {
            kind: kind.to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        }
    }

    fn of(object: &Value) -> Result<Self> {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str);
        let kind = text("/kind").ok_or_else(|| anyhow!("an object has no kind"))?;
        let name =
            text("/metadata/name").ok_or_else(|| anyhow!("a {kind} has no metadata.name"))?;
        let namespace = text("/metadata/namespace").unwrap_or(match kind {
            "Namespace" | "Node" => "",
            "AdminNetworkPolicy" | "BaselineAdminNetworkPolicy" | "ClusterNetworkPolicy" => "",
            _ => "default",
        });
        Ok(Self::new(kind, namespace, name))
    }

    fn file(&self) -> String {
        format!(
            "{}_{}_{}.yaml",
            self.kind.to_lowercase(),
            self.namespace,
            self.name
        )
    }
}

impl Manifests {
    pub(super) fn create(dir: PathBuf) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        Ok(Self {
            dir,
            changed: Cell::new(SystemTime::now()),
        })
    }

    /// The folder's path.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// When anything was last written or deleted.
    pub fn changed(&self) -> SystemTime {
        self.changed.get()
    }

    /// Writes an object; one that is there already keeps its UID.
    ///
    /// # Errors
    /// When it has no kind or name, or the folder cannot be written.
    pub fn apply_object(&self, mut object: Value) -> Result<ObjectName> {
        let name = ObjectName::of(&object)?;
        let before = self.get(&name)?;
        let same_spec = before
            .as_ref()
            .is_some_and(|old| old.get("spec") == object.get("spec"));
        let metadata = object
            .get_mut("metadata")
            .and_then(Value::as_object_mut)
            .ok_or_else(|| anyhow!("{name:?} has no metadata"))?;
        let old = |key: &str| {
            before
                .as_ref()
                .and_then(|o| o.pointer(&format!("/metadata/{key}")).cloned())
        };
        if !metadata.contains_key("uid") {
            let uid = old("uid").unwrap_or_else(|| json!(uuid::Uuid::new_v4().to_string()));
            metadata.insert("uid".to_owned(), uid);
        }
        let generation = old("generation").and_then(|g| g.as_i64()).unwrap_or(0);
        metadata.insert(
            "generation".to_owned(),
            json!(if same_spec {
                generation
            } else {
                generation + 1
            }),
        );
        if !name.namespace.is_empty() {
            metadata.insert("namespace".to_owned(), json!(name.namespace));
        }
        self.write(&name.file(), &serde_saphyr::to_string(&object)?)?;
        Ok(name)
    }

    /// Deletes an object; says whether it was there.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn delete(&self, name: &ObjectName) -> Result<bool> {
        match fs::remove_file(self.dir.join(name.file())) {
            Ok(()) => {
                self.changed.set(SystemTime::now());
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// An object as it is now.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn get(&self, name: &ObjectName) -> Result<Option<Value>> {
        match fs::read_to_string(self.dir.join(name.file())) {
            Ok(text) => Ok(Some(serde_saphyr::from_str(&text)?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// `metadata.uid` of an object.
    ///
    /// # Errors
    /// When there is no such object.
    pub fn uid(&self, name: &ObjectName) -> Result<String> {
        self.get(name)?
            .and_then(|object| object.pointer("/metadata/uid")?.as_str().map(str::to_owned))
            .ok_or_else(|| anyhow!("the lab has no {name:?}"))
    }

    /// Every object, in the order of file names. Files that are not the lab's own are left out.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn objects(&self) -> Result<Vec<Value>> {
        let mut paths: Vec<PathBuf> = fs::read_dir(&self.dir)?
            .map(|entry| entry.map(|e| e.path()))
            .collect::<Result<_, _>>()?;
        paths.sort();
        let mut objects = Vec::new();
        for path in paths {
            let ours = path
                .file_name()
                .and_then(|n| n.to_str())
                .is_some_and(|n| !n.starts_with('.') && n.matches('_').count() == 2);
            if ours {
                let object: Value = serde_saphyr::from_str(&fs::read_to_string(&path)?)
                    .with_context(|| format!("read {}", path.display()))?;
                objects.push(object);
            }
        }
        Ok(objects)
    }

    /// Writes any text to a file of the folder, for manifests that are broken on purpose.
    ///
    /// # Errors
    /// When the folder cannot be written.
    pub fn write(&self, file: &str, text: &str) -> Result<()> {
        if file.contains('/') {
            bail!("{file:?} is not a file name");
        }
        // Whole or not at all: a watcher must never read half a manifest.
        let partial = self.dir.join(format!(".{file}.partial"));
        fs::write(&partial, text)?;
        fs::rename(&partial, self.dir.join(file)).with_context(|| format!("write {file}"))?;
        self.changed.set(SystemTime::now());
        Ok(())
    }

    /// Removes a file written by [`Manifests::write`].
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, file: &str) -> Result<()> {
        fs::remove_file(self.dir.join(file)).with_context(|| format!("remove {file}"))?;
        self.changed.set(SystemTime::now());
        Ok(())
    }
}

/// The objects of a YAML text.
pub(super) fn parse(yaml: &str) -> Result<Vec<Value>> {
    let objects: Vec<Value> = serde_saphyr::from_multiple(yaml).context("parse a manifest")?;
    Ok(objects
        .into_iter()
        .filter(|object| !object.is_null())
        .collect())
}

/// Labels as a JSON object.
pub(super) fn labels(labels: &[(&str, &str)]) -> Value {
    Value::Object(
        labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), json!(value)))
            .collect::<Map<_, _>>(),
    )
}
