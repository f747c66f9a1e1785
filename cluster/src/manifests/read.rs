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
pub(super) fn files(
    path: &Path,
) -> Result<impl Iterator<Item = Result<Text, ClusterError>>, ClusterError> {
    let mut paths = Vec::new();
    if path == Path::new("-") {
        paths.push(path.to_owned());
    } else if fs::metadata(path)
        .map_err(|error| unreadable(path, &error))?
        .is_dir()
    {
        collect(path, 0, &mut paths)?;
        paths.sort();
    } else {
        paths.push(path.to_owned());
    }
    let source = path.to_owned();
    let mut left = MAX_BYTES;
    Ok(paths
        .into_iter()
        .map(move |file| text(&source, file, &mut left)))
}

/// The text of a file, of standard input if it is `-`: what kustomize, Helm or kubectl print into a pipe. One file is held at
/// a time.
fn text(source: &Path, path: PathBuf, left: &mut u64) -> Result<Text, ClusterError> {
    let mut bytes = Vec::new();
    let reading = if path == Path::new("-") {
        std::io::stdin()
            .lock()
            .take(*left + 1)
            .read_to_end(&mut bytes)
    } else {
        fs::File::open(&path).and_then(|file| file.take(*left + 1).read_to_end(&mut bytes))
    };
    reading.map_err(|error| unreadable(&path, &error))?;
    let Some(still) = left.checked_sub(bytes.len() as u64) else {
        return Err(too_much(
            source,
            format!("more than {} MiB of manifests", MAX_BYTES >> 20),
        ));
    };
    *left = still;
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Text { path, text }),
        Err(error) => Err(not_utf8(path, &error)),
    }
}

fn not_utf8(path: PathBuf, error: &std::string::FromUtf8Error) -> ClusterError {
    let bytes = error.as_bytes();
    let good = bytes
        .get(..error.utf8_error().valid_up_to())
        .unwrap_or_default();
    let problem = if bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]) {
        "it is not UTF-8 text but UTF-16, which `>` of PowerShell writes; save it as UTF-8"
            .to_owned()
    } else {
        match bytes.get(good.len()) {
            Some(byte) => {
                format!("it is not UTF-8 text: there is the byte {byte:#04x}; save it as UTF-8")
            }
            None => "it is not UTF-8 text; save it as UTF-8".to_owned(),
        }
    };
    let lines = good.iter().filter(|byte| **byte == b'\n').count();
    ClusterError::Manifest {
        file: path,
        line: u64::try_from(lines).unwrap_or(u64::MAX).saturating_add(1),
        problem,
    }
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
        problem: error.to_string(),
    }
}

fn too_much(path: &Path, problem: String) -> ClusterError {
    ClusterError::TooMuch {
        path: path.to_owned(),
        problem,
    }
}
