//! The command line.

mod audit;
mod check;
mod diff;
mod explain;
mod fix;
mod matrix;
mod source;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};

pub(crate) use audit::{Assumptions, Audit};
pub(crate) use check::Check;
pub(crate) use diff::{Diff, FailOn};
pub(crate) use explain::{Explain, Family};
pub(crate) use fix::Fix;
pub(crate) use matrix::{By, Matrix, Only};
pub(crate) use source::Source;

const AFTER: &str = "Exit codes:
  0  nothing is wrong
  1  there are violations (violations; status with --exit-code), findings that fail (audit),
     checks that do not hold (check) or changes (diff), or the connection is not allowed
     (explain with --exit-code)
  2  wrong flags or bad input
  3  the collector or the cluster cannot be reached

Environment: POLPROOF_COLLECTOR, POLPROOF_TLS_CA, POLPROOF_TLS_CERT, POLPROOF_TLS_KEY and
POLPROOF_TLS_SERVER_NAME stand for the flags of those names; NO_COLOR switches colours off.";

const AFTER_COLLECTOR: &str = "Exit codes:
  0  nothing is wrong
  1  there are violations: unenforced findings, or any of the kinds asked for with --kind
     (violations; status with --exit-code)
  2  wrong flags or bad input
  3  the collector cannot be reached";

/// What was typed.
#[derive(Debug, Parser)]
#[command(
    name = "polproof",
    version,
    about = "Shows whether NetworkPolicies are enforced, not merely created",
    after_help = AFTER,
    subcommand_required = true,
    arg_required_else_help = true
)]
pub(crate) struct Args {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// For all commands.
    #[command(flatten)]
    pub(crate) global: Global,
}

/// Flags of all commands.
#[derive(Debug, clap::Args)]
pub(crate) struct Global {
    /// URL of the collector
    #[arg(
        long,
        global = true,
        help_heading = "Collector (status, violations, explain)",
        env = "POLPROOF_COLLECTOR",
        hide_env = true,
        value_name = "URL",
        default_value = "https://localhost:8443"
    )]
    pub(crate) collector: String,
    /// CA that signed the collector's certificate (PEM)
    #[arg(
        long,
        global = true,
        help_heading = "Collector (status, violations, explain)",
        env = "POLPROOF_TLS_CA",
        hide_env = true,
        value_name = "FILE"
    )]
    pub(crate) tls_ca: Option<PathBuf>,
    /// Your certificate (PEM)
    #[arg(
        long,
        global = true,
        help_heading = "Collector (status, violations, explain)",
        env = "POLPROOF_TLS_CERT",
        hide_env = true,
        value_name = "FILE"
    )]
    pub(crate) tls_cert: Option<PathBuf>,
    /// The private key of your certificate (PEM)
    #[arg(
        long,
        global = true,
        help_heading = "Collector (status, violations, explain)",
        env = "POLPROOF_TLS_KEY",
        hide_env = true,
        value_name = "FILE"
    )]
    pub(crate) tls_key: Option<PathBuf>,
    /// Name in the collector's certificate, if it is not the host of the URL (say, through a port-forward)
    #[arg(
        long,
        global = true,
        help_heading = "Collector (status, violations, explain)",
        env = "POLPROOF_TLS_SERVER_NAME",
        hide_env = true,
        value_name = "NAME"
    )]
    pub(crate) tls_server_name: Option<String>,
    /// How to print
    #[arg(short, long, global = true, value_enum, default_value = "table")]
    pub(crate) output: Format,
    /// Colours
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "auto",
        value_name = "WHEN"
    )]
    pub(crate) color: When,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For people with room: violations with every policy that denies them
    Wide,
    /// For programs; one object, with --follow one a line
    Json,
    /// As json, in YAML
    Yaml,
    /// SARIF 2.1.0, for code scanning (audit)
    Sarif,
    /// JUnit XML, for CI (audit, check)
    Junit,
    /// One self-contained page (audit)
    Html,
    /// Comma-separated values (matrix)
    Csv,
    /// A graph for Graphviz (matrix)
    Dot,
    /// A picture (matrix)
    Svg,
    /// Tables for pull requests (diff, matrix)
    Markdown,
}

impl Command {
    /// How it can print.
    pub(crate) const fn formats(&self) -> &'static [Format] {
        use Format::{Csv, Dot, Html, Json, Junit, Markdown, Sarif, Svg, Table, Wide, Yaml};
        match self {
            Self::Audit(_) => &[Table, Wide, Json, Yaml, Sarif, Junit, Html],
            Self::Check(_) => &[Table, Wide, Json, Yaml, Junit],
            Self::Matrix(_) => &[Table, Wide, Json, Yaml, Csv, Dot, Svg, Markdown],
            Self::Diff(_) => &[Table, Wide, Json, Yaml, Markdown],
            Self::Status(_)
            | Self::Violations(_)
            | Self::Explain(_)
            | Self::Fix(_)
            | Self::Completion { .. } => &[Table, Wide, Json, Yaml],
        }
    }
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What was proved of every node, beside what its CNI claims
    Status(Status),
    /// Connections that the policies deny and that were delivered all the same, and other findings
    Violations(Violations),
    /// What the policies say of a connection, and which rules decide
    Explain(Explain),
    /// What is wrong with the policies of a cluster or a folder of manifests, before anything is enforced
    Audit(Box<Audit>),
    /// Writes the manifests that remedy what audit finds; applies nothing
    Fix(Fix),
    /// Holds the policies against a file of expected connectivity
    Check(Check),
    /// Who may talk to whom, by workload and port
    Matrix(Matrix),
    /// Which connectivity a change of manifests opens and closes
    Diff(Diff),
    /// Prints the completions of a shell, for example: polproof completion bash > ~/.local/share/bash-completion/completions/polproof
    Completion {
        /// Which shell
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// Options of status.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_COLLECTOR)]
pub(crate) struct Status {
    /// End with code 1 if a denied connection was delivered on any node within the recent window
    #[arg(long)]
    pub(crate) exit_code: bool,
}

/// Options of violations.
#[derive(Debug, clap::Args)]
#[command(after_help = AFTER_COLLECTOR)]
pub(crate) struct Violations {
    /// Go on: print every change until Ctrl-C (which ends with code 0)
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// Only where either end is in this namespace
    #[arg(short, long, value_name = "NAMESPACE")]
    pub(crate) namespace: Option<String>,
    /// Only what the agent of this node saw
    #[arg(long, value_name = "NODE")]
    pub(crate) node: Option<String>,
    /// Only what was seen within this time, for example 90s, 15m, 12h, 7d
    #[arg(long, value_name = "DURATION")]
    pub(crate) since: Option<String>,
    /// Also what was taken back because the policies were just changing
    #[arg(long)]
    pub(crate) all: bool,
    /// Only findings of these kinds; any of them then ends with code 1, not only unenforced ones
    #[arg(long, value_enum, value_delimiter = ',', value_name = "KIND")]
    pub(crate) kind: Vec<FindingKind>,
    /// Only what has not ended
    #[arg(long)]
    pub(crate) standing: bool,
}

/// Kinds of findings, by the names of `-o json`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(crate) enum FindingKind {
    /// Denied for long, and delivered
    Unenforced,
    /// Allowed, and never delivered though the way was open
    OverBlocked,
    /// Denied, delivered after the grace time, and stopped not much later
    LateEnforcement,
    /// Denied, and delivered to or from a pod that had just started
    StartupGap,
    /// A connection that is older than the policies that deny it, and goes on
    Survivor,
    /// Allowed and delivered; the answer never came back
    ReplyLost,
}

impl FindingKind {
    /// The name.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Unenforced => "unenforced",
            Self::OverBlocked => "over_blocked",
            Self::LateEnforcement => "late_enforcement",
            Self::StartupGap => "startup_gap",
            Self::Survivor => "survivor",
            Self::ReplyLost => "reply_lost",
        }
    }
}
