//! `polproof fix`.

use std::path::PathBuf;

/// Options of fix.
#[derive(Debug, clap::Args)]
#[command(after_help = super::AFTER)]
pub(crate) struct Fix {
    /// A file or folder of manifests, or - for standard input
    #[arg(value_name = "DIR|FILE|-")]
    pub(crate) path: Option<PathBuf>,
    /// Or a cluster.
    #[command(flatten)]
    pub(crate) source: super::Source,
}
