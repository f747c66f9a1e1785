//! `polproof check`.

use std::path::PathBuf;

/// Options of check.
#[derive(Debug, clap::Args)]
#[command(after_help = super::AFTER)]
pub(crate) struct Check {
    /// The expected connectivity (YAML)
    #[arg(value_name = "FILE")]
    pub(crate) file: PathBuf,
    /// A file or folder of manifests, or - for standard input
    #[arg(long, value_name = "PATH")]
    pub(crate) manifests: Option<PathBuf>,
    /// Or a cluster.
    #[command(flatten)]
    pub(crate) source: super::Source,
}
