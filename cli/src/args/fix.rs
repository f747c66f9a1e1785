//! `polproof fix`.

use std::path::PathBuf;

/// Options of fix.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Nothing is applied and no file of yours is changed. A default-deny cuts every connection that no
rule allows: look at `polproof diff`, and begin with a namespace that you can watch.

Examples:
  polproof fix ./policies > fixes.yaml
  polproof fix --context prod -n shop --out fixes/
  polproof fix ./policies --dns openshift-dns:dns.operator.openshift.io/daemonset-dns=default
  polproof fix --kyverno > clusterpolicy.yaml

Exit codes:
  0  written, also if something is left for a person
  2  wrong flags or bad input
  3  the cluster cannot be reached"
)]
pub(crate) struct Fix {
    /// A file or folder of manifests, or - for standard input
    #[arg(value_name = "DIR|FILE|-")]
    pub(crate) path: Option<PathBuf>,
    /// Or a cluster.
    #[command(flatten)]
    pub(crate) source: super::Source,
    /// Only for this namespace; repeatable
    #[arg(short, long = "namespace", value_name = "NAMESPACE")]
    pub(crate) namespaces: Vec<String>,
    /// Leave egress as it is: no default-deny for it, and so no DNS rules and no blocked metadata services
    #[arg(long)]
    pub(crate) ingress_only: bool,
    /// Write a folder: a file a policy, a patch a correction, and a kustomization that names them
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Write over files that are there
    #[arg(long, requires = "out")]
    pub(crate) force: bool,
    /// Findings to be left as they are, as for audit: a YAML list of lint, subject, reason, until
    #[arg(long, value_name = "FILE")]
    pub(crate) suppressions: Option<PathBuf>,
    /// What the lints take for granted.
    #[command(flatten)]
    pub(crate) assumptions: super::Assumptions,
    /// A Kyverno policy instead, which gives every namespace, new ones too, its default-deny; needs no input
    #[arg(long, conflicts_with_all = ["path", "out", "context", "kubeconfig", "dns"])]
    pub(crate) kyverno: bool,
}
