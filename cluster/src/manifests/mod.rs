//! The cluster from files: YAML or JSON manifests in a folder, a file or a mounted ConfigMap.
//!
//! ```text
//! files --read--> texts --documents--> objects by kind --Reset of each kind--> owner --View--> readers
//! ```
//!
//! A set of files is taken whole or not at all: while one of them is broken, the last good view
//! stays and [`View::problem`] names the file and the line. An object that no API server would take
//! does not break its file: it is left out and named in [`View::refused`].

mod contents;
mod documents;
mod follow;
mod objects;
mod place;
mod read;
mod slim;
mod value;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use polproof_policy::Kind;
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;

use crate::owner::{Owner, Update};
use crate::{ClusterError, SourceKind, View};
use contents::Contents;

/// Kinds that were in the files and mean nothing to the engine, as `kind.group`, with how many
/// there were.
pub type Ignored = BTreeMap<String, usize>;

/// Reads a file or folder once.
///
/// # Errors
/// A path that cannot be read, a file that is no manifest (with its line), too much input.
pub fn load(path: impl AsRef<Path>) -> Result<View, ClusterError> {
    load_counted(path).map(|(view, _)| view)
}

/// As [`load`], with the kinds that were passed over.
///
/// # Errors
/// As [`load`].
pub fn load_counted(path: impl AsRef<Path>) -> Result<(View, Ignored), ClusterError> {
    let contents = contents(path.as_ref())?;
    let ignored = contents.ignored.clone();
    let mut owner = Owner::new(SourceKind::Manifests);
    take(&mut owner, contents);
    Ok((owner.view(), ignored))
}

/// Reads a file or folder and follows its changes until cancelled or until the last receiver is
/// dropped. Must be called inside a tokio runtime.
///
/// A file that is broken from the start is a [`View::problem`] of a view that is not ready: it may
/// be corrected.
///
/// # Errors
/// A path that is not there, or whose changes cannot be followed.
#[expect(
    clippy::needless_pass_by_value,
    reason = "the signature of both sources: configuration and token are handed over"
)]
pub fn watch(
    path: PathBuf,
    cancel: CancellationToken,
) -> Result<channel::Receiver<Arc<View>>, ClusterError> {
    follow::start(&path, cancel)
}

/// The objects of a file or folder.
fn contents(path: &Path) -> Result<Contents, ClusterError> {
    let mut contents = Contents::default();
    for file in read::files(path)? {
        documents::parse(&file?, &mut contents)?;
    }
    contents.complete();
    Ok(contents)
}

/// Replaces everything that an owner holds. Whether anything changed.
fn take(owner: &mut Owner, mut contents: Contents) -> bool {
    let mut changed = false;
    for kind in Kind::ALL {
        let objects = contents.objects.remove(&kind).unwrap_or_default();
        changed |= owner.take(Update::Reset(kind, objects));
    }
    changed |= owner.place(contents.origins);
    changed
}
