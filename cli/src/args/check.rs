//! `polproof check`.

use std::path::PathBuf;

/// Options of check.
#[derive(Debug, clap::Args)]
#[command(after_help = "The file lists what must be allowed or denied:

  checks:
  - name: only the api reaches the database
    from: shop/deploy/api
    to: shop/svc/db
    ports: [5432]
    expect: allow
  - from: \"*\"                                     # every pod
    to: [169.254.169.254, 100.100.100.200]
    port: 80
    expect: deny
    reason: cloud credentials
  - from: {namespace: shop, labels: {app: web}}    # {namespace: shop} is every pod of it
    to: {namespace: kube-system, labels: {k8s-app: kube-dns}}
    ports: [53/UDP, dns-tcp]                       # a name means what each destination declares
    family: IPv4                                   # else every family that both ends have
    expect: allow

  from and to are ends as for explain (shop/web-0, shop/deploy/web, shop/svc/db, 10.0.0.7),
  selectors, \"*\", or a list of these. Without ports: those that the destination declares, else
  80/TCP. expect: allow, deny or unknown. Every pair is looked at; one that the policies leave
  open is neither allowed nor denied.

Exit codes:
  0  every check holds
  1  a check does not hold
  2  wrong flags or bad input; a check names nobody
  3  the cluster cannot be reached")]
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
