//! CNI configuration files: which plugins, in which order.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// A file with more bytes is no CNI configuration.
const MAX_BYTES: u64 = 1024 * 1024;
/// Nesting of delegates that is followed.
const MAX_DEPTH: usize = 4;

/// The plugins of one file, in the order in which they are called.
#[derive(Clone, Debug, PartialEq)]
pub struct Chain {
    /// `name` of the network.
    pub name: Option<String>,
    /// Every plugin, delegates included.
    pub plugins: Vec<Plugin>,
}

/// One plugin of a chain.
#[derive(Clone, Debug, PartialEq)]
pub struct Plugin {
    /// `type`.
    pub kind: String,
    /// The rest, as written.
    pub settings: Value,
}

impl Plugin {
    /// A setting, if it is a text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.settings.get(key).and_then(Value::as_str)
    }
}

impl Chain {
    /// Whether a plugin of this type is in it.
    pub fn has(&self, kind: &str) -> bool {
        self.plugins.iter().any(|p| p.kind == kind)
    }
    /// The types in order.
    pub fn types(&self) -> Vec<&str> {
        self.plugins.iter().map(|p| p.kind.as_str()).collect()
    }
}

/// A file of a folder.
#[derive(Clone, Debug, PartialEq)]
pub struct ConfFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it has, or why that cannot be said.
    pub chain: Result<Chain, String>,
}

/// The configuration files of a folder in the order of runtimes, which take the first. A folder that is not there
/// has none.
pub fn read(folder: &Path) -> Vec<ConfFile> {
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|e| e.ok().map(|e| e.path()))
        .filter(|p| {
            let extension = p.extension().and_then(|e| e.to_str());
            matches!(extension, Some("conf" | "conflist" | "json"))
        })
        .collect();
    paths.sort();
    paths
        .into_iter()
        .map(|path| ConfFile {
            chain: load(&path),
            path,
        })
        .collect()
}

fn load(path: &Path) -> Result<Chain, String> {
    let length = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if length > MAX_BYTES {
        return Err(format!(
            "{length} bytes are too many for a CNI configuration"
        ));
    }
    let text = std::fs::read_to_string(path).map_err(|e| e.to_string())?;
    parse(&text)
}

/// Reads the text of one file.
///
/// # Errors
/// It is not JSON, or has no plugin.
pub fn parse(text: &str) -> Result<Chain, String> {
    let root: Value = serde_json::from_str(text).map_err(|e| format!("not JSON: {e}"))?;
    let mut plugins = Vec::new();
    collect(&root, MAX_DEPTH, &mut plugins);
    if plugins.is_empty() {
        return Err("no plugin with a \"type\"".to_owned());
    }
    Ok(Chain {
        name: root.get("name").and_then(Value::as_str).map(str::to_owned),
        plugins,
    })
}

fn collect(value: &Value, depth: usize, plugins: &mut Vec<Plugin>) {
    if depth == 0 {
        return;
    }
    if let Some(kind) = value.get("type").and_then(Value::as_str) {
        plugins.push(Plugin {
            kind: kind.to_owned(),
            settings: value.clone(),
        });
    }
    // `plugins` of a list, `delegates` of multus; flannel's `delegate` has no type of its own, it is a bridge.
    for key in ["plugins", "delegates"] {
        let inner = value.get(key).and_then(Value::as_array);
        for plugin in inner.into_iter().flatten() {
            collect(plugin, depth - 1, plugins);
        }
    }
}
