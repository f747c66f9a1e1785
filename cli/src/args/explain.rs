//! `polproof explain`.

use std::path::PathBuf;

/// Options of explain.
#[derive(Debug, clap::Args)]
#[command(after_help = "An end is
  shop/web-0          a pod
  shop/deploy/web     the pods of a workload: deploy, sts, ds, rs, rc, job, cronjob
  shop/svc/web        a Service: the pods behind it, on their own port
  10.0.0.7            an address: of a pod, a node, a Service, or outside the cluster

Examples:
  polproof explain shop/web shop/db:5432
  polproof explain shop/deploy/web 10.96.0.10:53/UDP
  polproof explain --manifests ./policies 192.0.2.7 '[fd00::5]:443'
  kustomize build . | polproof explain --manifests - shop/deploy/web shop/svc/db:5432
  polproof explain --context prod shop/web 203.0.113.9:443 --family IPv4
  polproof explain --manifests ./policies --queries questions.jsonl

Questions, one JSON object a line, and one a line comes back, in order:
  {\"src\":\"shop/web\",\"dst\":{\"ip\":\"203.0.113.9\"},\"proto\":\"TCP\",\"port\":443,\"family\":\"IPv4\"}
  src and dst are ends as above; proto is TCP if not said; family is IPv4 if both ends have it,
  else IPv6

Exit codes:
  0  answered, whatever the verdict (with --exit-code: the policies allow it)
  1  with --exit-code: they deny it, or leave it open
  2  wrong flags or bad input; some lines of --queries could not be answered
  3  the collector or the cluster cannot be reached")]
pub(crate) struct Explain {
    /// Who connects: NAMESPACE/POD, NAMESPACE/KIND/NAME or an IP address
    #[arg(value_name = "SRC", required_unless_present = "queries")]
    pub(crate) source: Option<String>,
    /// To whom (an IPv6 address in brackets if a port follows); port 80 (or a Service's only one) and TCP if not said
    #[arg(
        value_name = "DST[:PORT[/PROTOCOL]]",
        required_unless_present = "queries"
    )]
    pub(crate) destination: Option<String>,
    /// Read the objects from a file or folder of manifests, or from standard input (-), instead of asking the collector
    #[arg(long, value_name = "PATH")]
    pub(crate) manifests: Option<PathBuf>,
    /// Or from a cluster.
    #[command(flatten)]
    pub(crate) cluster: super::Source,
    /// For this address family only
    #[arg(
        long,
        value_enum,
        ignore_case = true,
        value_name = "IPv4|IPv6",
        hide_possible_values = true
    )]
    pub(crate) family: Option<Family>,
    /// Answer the questions of a file, or of standard input (-), one JSON object a line; needs --manifests or a cluster
    #[arg(long, value_name = "FILE", conflicts_with_all = ["source", "destination", "family", "exit_code"])]
    pub(crate) queries: Option<PathBuf>,
    /// End with code 1 unless the policies allow it
    #[arg(long)]
    pub(crate) exit_code: bool,
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Family {
    /// IPv4
    #[value(name = "IPv4", alias = "4")]
    V4,
    /// IPv6
    #[value(name = "IPv6", alias = "6")]
    V6,
}
