//! `polproof matrix`.

use std::path::PathBuf;

use clap::ValueEnum;

/// Options of matrix.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  polproof matrix ./manifests
  helm template ./chart | polproof matrix - -n shop
  polproof matrix --context prod --to shop/deployment/db --port 5432/TCP
  polproof matrix ./manifests -o svg > matrix.svg
  polproof matrix ./manifests -o dot | dot -Tsvg > graph.svg

Pairs that are not listed cannot connect on any port; --only deny lists what is denied. csv lists
every pair.

Exit codes:
  0  done
  2  wrong flags or bad input
  3  the cluster cannot be reached")]
pub(crate) struct Matrix {
    /// A file or folder of manifests, or - for standard input
    #[arg(value_name = "DIR|FILE|-")]
    pub(crate) path: Option<PathBuf>,
    /// Or a cluster.
    #[command(flatten)]
    pub(crate) source: super::Source,
    /// Only pairs with an end in this namespace; may be given several times
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Vec<String>,
    /// Only from these: a namespace, NAMESPACE/NAME, NAMESPACE/KIND/NAME, `outside`, or an address or block outside
    #[arg(long, value_name = "END")]
    pub(crate) from: Vec<String>,
    /// Only to these; written as for --from
    #[arg(long, value_name = "END")]
    pub(crate) to: Vec<String>,
    /// Only this port, for example 5432/TCP or 53/UDP (TCP if not said)
    #[arg(long, value_name = "PORT[/PROTOCOL]")]
    pub(crate) port: Option<String>,
    /// Only what is allowed, denied, or left open by the API
    #[arg(long, value_enum, value_name = "VERDICT")]
    pub(crate) only: Option<Only>,
    /// What a row stands for
    #[arg(long, value_enum, default_value = "workload")]
    pub(crate) by: By,
    /// Show the progress also if stderr is no terminal
    #[arg(long)]
    pub(crate) progress: bool,
}

/// Which verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Only {
    /// Allowed for some pods
    Allow,
    /// Denied for some pods
    Deny,
    /// Left open by the API for some pods
    Unknown,
}

/// What an end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum By {
    /// The pods of a Deployment, StatefulSet and so on
    Workload,
    /// The pods of a namespace
    Namespace,
    /// One pod
    Pod,
}

impl From<By> for polproof_policy::connectivity::By {
    fn from(by: By) -> Self {
        match by {
            By::Workload => Self::Workload,
            By::Namespace => Self::Namespace,
            By::Pod => Self::Pod,
        }
    }
}
