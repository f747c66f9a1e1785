//! `polproof diff`.

use std::path::PathBuf;

use clap::ValueEnum;

/// Options of diff.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  polproof diff main/manifests pr/manifests
  git show main:policies.yaml | polproof diff - policies.yaml --workloads ./apps
  kustomize build . | polproof diff --context prod -        # what applying it would change
  polproof diff before after -o markdown >> \"$GITHUB_STEP_SUMMARY\"

Exit codes:
  0  nothing changed, or nothing that --fail-on names
  1  connectivity changed
  2  wrong flags or bad input
  3  the cluster cannot be reached")]
pub(crate) struct Diff {
    /// Manifests before and after: two files or folders, or - for standard input; with --context or --kubeconfig only those
    /// after, and the cluster is what was before
    #[arg(value_name = "A B", required = true, num_args = 1..=2)]
    pub(crate) paths: Vec<PathBuf>,
    /// A cluster instead of A.
    #[command(flatten)]
    pub(crate) source: super::Source,
    /// Pods, workloads and namespaces for both sides, where A and B are policies alone: a file or folder. What A or B
    /// holds itself goes before it
    #[arg(long, value_name = "PATH")]
    pub(crate) workloads: Option<PathBuf>,
    /// What an end is
    #[arg(long, value_enum, default_value = "workload")]
    pub(crate) by: super::matrix::By,
    /// Which changes end the command with code 1
    #[arg(long, value_enum, default_value = "any", value_name = "CHANGE")]
    pub(crate) fail_on: FailOn,
    /// Show the progress also if stderr is no terminal
    #[arg(long)]
    pub(crate) progress: bool,
}

/// Which changes count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailOn {
    /// Something that was denied may be let through now
    Opened,
    /// Something that was allowed may be blocked now
    Closed,
    /// Any change
    Any,
    /// No change
    Never,
}
