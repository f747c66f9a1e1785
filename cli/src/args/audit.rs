//! `polproof audit`.

use std::path::PathBuf;

/// Options of audit.
#[derive(Debug, clap::Args)]
#[command(after_help = super::AFTER)]
pub(crate) struct Audit {
    /// A file or folder of manifests, or - for standard input (kustomize build . | polproof audit -)
    #[arg(value_name = "DIR|FILE|-")]
    pub(crate) path: Option<PathBuf>,
    /// Or a cluster.
    #[command(flatten)]
    pub(crate) source: super::Source,
}
