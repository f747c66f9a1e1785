//! Which files are manifests, and their text, within bounds.

use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use crate::ClusterError;

/// A file and its text.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) path: PathBuf,
    pub(super) text: String,
}

/// Folders within folders.
const MAX_DEPTH: usize = 16;
/// Files of one source.
const MAX_FILES: usize = 20_000;
/// Bytes of all files: about 100,000 pods as `kubectl get -o yaml` prints them.
const MAX_BYTES: u64 = 1 << 30;

/// The manifests at a path, ordered by name. Of a folder: `*.yaml`, `*.yml` and `*.json` in it and in
/// its folders, without hidden ones; a mounted ConfigMap keeps its versions in `..` folders and links to
/// them. Of a file: that file, whatever its name.
pub(super) fn files(path: &Path) -> Result<Vec<Text>, ClusterError> {
    if path == Path::new("-") {
        return standard_input(path).map(|text| vec![text]);
    }
    let meta = fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    let mut paths = Vec::new();
    if meta.is_dir() {
        collect(path, 0, &mut paths)?;
        paths.sort();
    } else {
        paths.push(path.to_owned());
    }
    let mut bytes = 0;
    paths
        .into_iter()
        .map(|file| {
            let size = fs::metadata(&file)
                .map_err(|error| unreadable(&file, &error))?
                .len();
            bytes += size;
            if bytes > MAX_BYTES {
                return Err(too_much(
                    path,
                    format!("more than {} MiB of manifests", MAX_BYTES >> 20),
                ));
            }
            let text = fs::read_to_string(&file).map_err(|error| unreadable(&file, &error))?;
            Ok(Text { path: file, text })
        })
        .collect()
}

/// What kustomize, Helm or kubectl print into a pipe.
fn standard_input(path: &Path) -> Result<Text, ClusterError> {
    let mut text = String::new();
    std::io::stdin()
        .lock()
        .take(MAX_BYTES + 1)
        .read_to_string(&mut text)
        .map_err(|error| unreadable(path, &error))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(too_much(
            path,
            format!("more than {} MiB of manifests", MAX_BYTES >> 20),
        ));
    }
    Ok(Text {
        path: path.to_owned(),
        text,
    })
}

fn collect(folder: &Path, depth: usize, paths: &mut Vec<PathBuf>) -> Result<(), ClusterError> {
    if depth > MAX_DEPTH {
        return Err(too_much(
            folder,
            format!("more than {MAX_DEPTH} folders deep (a link to itself?)"),
        ));
    }
    for entry in fs::read_dir(folder).map_err(|error| unreadable(folder, &error))? {
        let path = entry.map_err(|error| unreadable(folder, &error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        // Editors' and ConfigMaps' own files.
        if name.starts_with('.') {
            continue;
        }
        let Ok(meta) = fs::metadata(&path) else {
            // Removed since the folder was read, or a dangling link: what an editor leaves for a moment.
            continue;
        };
        if meta.is_dir() {
            collect(&path, depth + 1, paths)?;
        } else if meta.is_file()
            && path
                .extension()
                .is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
        {
            if paths.len() == MAX_FILES {
                return Err(too_much(folder, format!("more than {MAX_FILES} files")));
            }
            paths.push(path);
        }
    }
    Ok(())
}

fn unreadable(path: &Path, error: &std::io::Error) -> ClusterError {
    ClusterError::Unreadable {
        path: path.to_owned(),
        problem: if error.kind() == std::io::ErrorKind::InvalidData {
            "it is not UTF-8 text".to_owned()
        } else {
            error.to_string()
        },
    }
}

fn too_much(path: &Path, problem: String) -> ClusterError {
    ClusterError::TooMuch {
        path: path.to_owned(),
        problem,
    }
}
