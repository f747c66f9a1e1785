//! The objects that a command looks at: from files, standard input or a cluster.

use std::path::{Path, PathBuf};
use std::time::Duration;

use polproof_cluster::kubernetes::KubernetesConfig;
use polproof_cluster::manifests::Ignored;
use polproof_cluster::{ClusterError, View};

use crate::args::Source;
use crate::failure::Failure;
use crate::output::note;

/// How long a cluster may take to list everything.
const PATIENCE: Duration = Duration::from_secs(120);

/// What was read.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// The objects.
    pub(crate) view: View,
    /// Kinds in the files that mean nothing to the engine.
    pub(crate) ignored: Ignored,
    /// What was read, for texts: a path, `standard input`, `cluster (context prod)`.
    pub(crate) name: String,
}

/// Reads manifests if a path is given (`-` is standard input), else a cluster.
pub(crate) async fn load(path: Option<&Path>, source: &Source) -> Result<Loaded, Failure> {
    match path {
        Some(_) if source.context.is_some() || source.kubeconfig.is_some() => Err(Failure::usage(
            "a path and --context or --kubeconfig are given: leave one of them out",
        )),
        Some(path) => manifests(path),
        None => cluster(source).await,
    }
}

/// Reads a file or folder, or standard input for `-`.
pub(crate) fn manifests(path: &Path) -> Result<Loaded, Failure> {
    let (mut view, ignored) = polproof_cluster::manifests::load_counted(path)
        .map_err(|error| Failure::usage(error.to_string()))?;
    // The API server will not take what is refused, so in the cluster that these manifests make it is not there.
    view.snapshot = view.snapshot.without_refused();
    let name = if path == Path::new("-") {
        "standard input".to_owned()
    } else {
        path.display().to_string()
    };
    Ok(Loaded {
        view,
        ignored,
        name,
    })
}

async fn cluster(source: &Source) -> Result<Loaded, Failure> {
    let kubeconfig = match &source.kubeconfig {
        Some(file) => file.clone(),
        None => default_kubeconfig()?,
    };
    let config = KubernetesConfig {
        kubeconfig: Some(kubeconfig),
        context: source.context.clone(),
        ..KubernetesConfig::default()
    };
    let view = polproof_cluster::kubernetes::load(config, PATIENCE)
        .await
        .map_err(|error| match error {
            ClusterError::NotListed { .. } | ClusterError::NotRead { .. } => {
                Failure::away(error.to_string())
            }
            _ => Failure::usage(error.to_string()),
        })?;
    if let Some(problem) = &view.problem {
        note(problem);
    }
    let name = match &source.context {
        Some(context) => format!("cluster (context {context})"),
        None => "cluster (current context)".to_owned(),
    };
    Ok(Loaded {
        view,
        ignored: Ignored::new(),
        name,
    })
}

/// Where kubectl looks, too.
fn default_kubeconfig() -> Result<PathBuf, Failure> {
    if let Some(first) = std::env::var_os("KUBECONFIG")
        .and_then(|paths| std::env::split_paths(&paths).find(|path| path.exists()))
    {
        return Ok(first);
    }
    std::env::home_dir()
        .map(|home| home.join(".kube").join("config"))
        .filter(|path| path.exists())
        .ok_or_else(|| {
            Failure::usage(
                "nothing to read: give a file or folder of manifests, - for standard input, or a cluster \
                 (--kubeconfig FILE; there is no ~/.kube/config)",
            )
        })
}

/// Names what was left out, so that nobody takes it for looked at.
pub(crate) fn note_refused(loaded: &Loaded) {
    for refused in loaded.view.refused.iter() {
        note(&format!("left out {}: {}", refused.object, refused.reason));
    }
}

/// The objects that no API server would take, as the audit wants them.
pub(crate) fn refused(view: &View) -> Vec<polproof_policy::lint::Refused> {
    let refused = view.refused.iter();
    refused
        .map(|refused| polproof_policy::lint::Refused {
            kind: refused.key.kind,
            id: refused.key.id.clone(),
            reason: refused.reason.clone(),
        })
        .collect()
}
