//! `polproof audit`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::ValueEnum;
use ipnet::IpNet;
use polproof_policy::lint::Severity;

const AFTER: &str = "Examples:
  polproof audit                                  the cluster of the current context
  polproof audit ./deploy                         a folder of manifests
  kustomize build . | polproof audit -            what kustomize, Helm or kubectl prints
  polproof audit -o html --write audit.html       a page for an auditor
  polproof audit ./deploy -o json > known.json    what is known, so that only new ones fail:
  polproof audit ./deploy --baseline known.json
  polproof audit --explain NP012                  what a finding means

A finding is accepted by the annotation polproof.io/suppress: \"NP022: why; NP003: why\" on the
NetworkPolicy, pod template or Namespace (which then holds for all that is in it), or by an entry
of --suppressions:
  - lint: NP001
    subject: sandbox-*
    reason: thrown away every night
    until: 2027-01-31

Exit codes:
  0  no finding of --fail-on severity or worse, beside accepted and known (--baseline) ones
  1  there is such a finding
  2  wrong flags or bad input
  3  the cluster cannot be reached";

/// Options of audit.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Audit {
    /// A file or folder of manifests, or - for standard input (kustomize build . | polproof audit -)
    #[arg(value_name = "DIR|FILE|-")]
    pub(crate) path: Option<PathBuf>,
    /// Or a cluster.
    #[command(flatten)]
    pub(crate) source: super::Source,
    /// Only this namespace (repeatable)
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Vec<String>,
    /// End with code 1 if there is a finding of this severity or worse
    #[arg(
        help_heading = "What fails",
        long,
        value_enum,
        default_value = "high",
        value_name = "SEVERITY"
    )]
    pub(crate) fail_on: FailOn,
    /// An earlier output of -o json: findings in it are known and do not fail
    #[arg(help_heading = "What fails", long, value_name = "FILE")]
    pub(crate) baseline: Option<PathBuf>,
    /// A YAML list of accepted findings: lint, subject (* stands for any text), reason, until (YYYY-MM-DD, optional)
    #[arg(help_heading = "What fails", long, value_name = "FILE")]
    pub(crate) suppressions: Option<PathBuf>,
    /// Write to this file instead of standard output
    #[arg(long, value_name = "FILE")]
    pub(crate) write: Option<PathBuf>,
    /// Show everything, however much it is (table)
    #[arg(long)]
    pub(crate) all: bool,
    /// Only these lints, such as NP001,NP022
    #[arg(help_heading = "Lints", long, value_name = "ID", value_delimiter = ',')]
    pub(crate) lint: Vec<String>,
    /// All lints but these
    #[arg(
        help_heading = "Lints",
        long,
        value_name = "ID",
        value_delimiter = ',',
        conflicts_with = "lint"
    )]
    pub(crate) skip: Vec<String>,
    /// What the lints take for granted.
    #[command(flatten)]
    pub(crate) assumptions: Assumptions,
    /// List the lints: identifier, severity, title, references
    #[arg(help_heading = "Lints", long, conflicts_with_all = ["path", "explain"])]
    pub(crate) list: bool,
    /// Why a lint matters and what to do
    #[arg(
        help_heading = "Lints",
        long,
        value_name = "ID",
        conflicts_with = "path"
    )]
    pub(crate) explain: Option<String>,
}

/// What the lints take for granted of a cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct Assumptions {
    /// No findings NP001 to NP004 for this namespace (repeatable)
    #[arg(help_heading = "Lints", long, value_name = "NAMESPACE")]
    pub(crate) exempt_namespace: Vec<String>,
    /// The DNS servers, instead of kube-system:k8s-app=kube-dns (repeatable; labels joined by commas)
    #[arg(help_heading = "Lints", long, value_name = "NAMESPACE:SELECTOR")]
    pub(crate) dns: Vec<String>,
    /// A metadata service beyond 169.254.169.254, 100.100.100.200 and fd00:ec2::254 (repeatable)
    #[arg(help_heading = "Lints", long, value_name = "IP")]
    pub(crate) metadata_address: Vec<IpAddr>,
    /// Addresses of pods beyond the podCIDRs of the nodes (repeatable)
    #[arg(help_heading = "Lints", long, value_name = "CIDR")]
    pub(crate) pod_cidr: Vec<IpNet>,
}

/// From which severity on findings fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum FailOn {
    /// Any finding
    Info,
    /// Low or worse
    Low,
    /// Medium or worse
    Medium,
    /// High
    High,
    /// No finding
    Never,
}

impl FailOn {
    /// The least severity that fails.
    pub(crate) const fn severity(self) -> Option<Severity> {
        match self {
            Self::Info => Some(Severity::Info),
            Self::Low => Some(Severity::Low),
            Self::Medium => Some(Severity::Medium),
            Self::High => Some(Severity::High),
            Self::Never => None,
        }
    }
}
