//! `polproof diff`.

use std::path::PathBuf;

/// Options of diff.
#[derive(Debug, clap::Args)]
#[command(after_help = super::AFTER)]
pub(crate) struct Diff {
    /// Manifests before: a file or folder
    #[arg(value_name = "A")]
    pub(crate) before: PathBuf,
    /// Manifests after: a file or folder, or - for standard input
    #[arg(value_name = "B")]
    pub(crate) after: PathBuf,
}
