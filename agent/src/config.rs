//! Settings: [`Args`] is what was typed, [`Config`] is what we run.
//!
//! Every setting is a flag and a key of the TOML file given by `--config` (the flag's name with `_`); the flag wins.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, Subcommand};
use serde::Deserialize;

/// Watches the connection attempts of this node's pods with eBPF, compares them with what the NetworkPolicies make
/// expected, and streams what contradicts them to the polproof collector.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "polproof-agent",
    version,
    max_term_width = 110,
    after_help = "Durations: 500ms, 30s, 5m, 1h30m. Sizes: 1048576, 512KiB, 256MiB, 1GiB.\n\
                  Needs CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN and CAP_SYS_ADMIN (to enter the pods' network namespaces), and \
                  CAP_SYS_PTRACE to match namespaces to pods by their processes.\n\n\
                  At SIGTERM it stops cleanly and leaves its programs and their ring buffer pinned, so that the next start misses \
                  nothing; `polproof-agent uninstall` removes them."
)]
pub struct Args {
    /// TOML file with any of these settings, as `key = value`; the key is the flag's name with `_`
    #[arg(long, value_name = "FILE", global = true, env = "POLPROOF_CONFIG")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    /// Everything that may also stand in the file.
    pub settings: Settings,
    /// What to do; nothing given: run.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Remove the pinned programs, links and ring buffer below --bpf-dir, and on kernels without tcx the filters in the
    /// pods' network namespaces, and end
    Uninstall,
}

/// Everything that may be typed as a flag or stand in the file. Unset means: the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Name of this node in the cluster [default: the host name]
    #[arg(long, value_name = "NAME", env = "POLPROOF_NODE_NAME")]
    pub node_name: Option<String>,
    /// Folder or file with the cluster's objects as YAML or JSON, instead of an API server; followed
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Kubeconfig of the API server [default: the pod's service account]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Folder where the container runtime binds network namespaces [default: /run/netns]
    #[arg(long, value_name = "DIR")]
    pub netns_dir: Option<PathBuf>,
    /// The node's network namespace, whose traffic to its own pods no policy forbids [default: the one that the agent runs in]
    #[arg(long, value_name = "FILE")]
    pub host_netns: Option<PathBuf>,
    /// Folder on a BPF file system where programs, links and the ring buffer stay pinned [default: /sys/fs/bpf/polproof]
    #[arg(long, value_name = "DIR", global = true)]
    pub bpf_dir: Option<PathBuf>,
    /// Size of the ring buffer between kernel and agent, a power of two [default: 16MiB]
    #[arg(long, value_name = "SIZE")]
    pub ring_bytes: Option<String>,
    /// Folder for the spool and what else must survive a restart [default: /var/lib/polproof]
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Root of the cgroup file system [default: /sys/fs/cgroup]
    #[arg(long, value_name = "DIR")]
    pub cgroup_root: Option<PathBuf>,
    /// The host's /proc [default: /proc]
    #[arg(long, value_name = "DIR")]
    pub proc_root: Option<PathBuf>,
    /// Folder with CNI configuration, for hints; may be repeated [default: /etc/cni/net.d]
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Vec<PathBuf>,
    /// Where the collector listens, https://HOST:PORT; without it findings stay in the spool
    #[arg(long, value_name = "URL")]
    pub collector: Option<String>,
    /// CA that signed the collector's certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// This agent's certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Key of that certificate, PEM
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Name to expect in the collector's certificate [default: the host of --collector]
    #[arg(long, value_name = "NAME")]
    pub tls_server_name: Option<String>,
    /// Address of /metrics, /healthz and /readyz, or "off" [default: 127.0.0.1:9464]
    #[arg(long, value_name = "ADDR")]
    pub listen_http: Option<String>,
    /// Time that the CNI has to put a change of policy into force [default: 30s]
    #[arg(long, value_name = "DURATION")]
    pub grace: Option<String>,
    /// Age at which an attempt is judged for good [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub settle: Option<String>,
    /// How long after --grace a connection that still gets through counts as enforced late, and not as never enforced [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub late: Option<String>,
    /// How long to wait for what the agent at the other end of a connection has seen [default: 10s]
    #[arg(long, value_name = "DURATION")]
    pub witness_timeout: Option<String>,
    /// How long nothing may have been sent between two ends before a UDP datagram counts as a new connection [default: 180s]
    #[arg(long, value_name = "DURATION")]
    pub udp_idle: Option<String>,
    /// Most that the spool may take of the disk; beyond it the oldest is dropped, and counted [default: 256MiB]
    #[arg(long, value_name = "SIZE")]
    pub spool_max_bytes: Option<String>,
    /// text or json [default: text]
    #[arg(long, value_name = "FORMAT", global = true)]
    pub log_format: Option<String>,
    /// error, warn, info, debug, trace, or directives such as info,polproof_agent::judge=debug [default: info]
    #[arg(long, value_name = "LEVEL", global = true, env = "POLPROOF_LOG")]
    pub log_level: Option<String>,
}

/// Where the cluster's objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder or file.
    Manifests(PathBuf),
    /// An API server: by a kubeconfig, or from inside the cluster.
    Kubernetes(Option<PathBuf>),
}

/// The collector and how to reach it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collector {
    /// `https://HOST:PORT`.
    pub url: String,
    /// Its CA.
    pub tls_ca: PathBuf,
    /// Our certificate.
    pub tls_cert: PathBuf,
    /// Our key.
    pub tls_key: PathBuf,
    /// Name in its certificate, if not the URL's host.
    pub tls_server_name: Option<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What we run: complete and checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Name of this node.
    pub node_name: String,
    /// The cluster's objects.
    pub source: Source,
    /// Bound network namespaces.
    pub netns_dir: PathBuf,
    /// The node's own, if it is not the agent's.
    pub host_netns: Option<PathBuf>,
    /// Pins.
    pub bpf_dir: PathBuf,
    /// Ring buffer, in bytes.
    pub ring_bytes: u32,
    /// State.
    pub state_dir: PathBuf,
    /// cgroup file system.
    pub cgroup_root: PathBuf,
    /// The host's /proc.
    pub proc_root: PathBuf,
    /// CNI configuration.
    pub cni_conf_dirs: Vec<PathBuf>,
    /// The collector, if there is one.
    pub collector: Option<Collector>,
    /// Metrics and health, if wanted.
    pub listen_http: Option<SocketAddr>,
    /// Grace.
    pub grace: Duration,
    /// Settling age.
    pub settle: Duration,
    /// How long after the grace time an enforcement is late, and not missing.
    pub late: Duration,
    /// How long the word of another witness is waited for.
    pub witness_timeout: Duration,
    /// How long nothing may have been sent between two ends before a UDP datagram counts as a new connection.
    pub udp_idle: Duration,
    /// Bound of the spool, in bytes.
    pub spool_max_bytes: u64,
    /// Format of the log.
    pub log_format: LogFormat,
    /// Directives of the log's filter.
    pub log_level: String,
}

/// What is wrong with the settings. Each text names the setting and what to write.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("--config {}: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is not TOML, has a key that we do not know or a value of another type.
    #[error("--config {}: {}\nThe keys are the flags of `polproof-agent --help` with _ for -", path.display(), source.to_string().trim_end())]
    File {
        /// The file.
        path: PathBuf,
        /// Where and what.
        source: Box<toml::de::Error>,
    },
    /// A value.
    #[error("--{setting} ({}) = {value:?}: {why}", setting.replace('-', "_"))]
    Value {
        /// The flag's name.
        setting: &'static str,
        /// What was given.
        value: String,
        /// What is wrong and what to write.
        why: String,
    },
    /// Something is missing.
    #[error("--{setting} ({}) is missing: {why}", setting.replace('-', "_"))]
    Missing {
        /// The flag's name.
        setting: &'static str,
        /// Why it is needed.
        why: &'static str,
    },
    /// Two settings that exclude each other.
    #[error("--{one} and --{other} exclude each other: {why}")]
    Both {
        /// One.
        one: &'static str,
        /// The other.
        other: &'static str,
        /// Why.
        why: &'static str,
    },
}

impl Settings {
    /// Reads a TOML file.
    ///
    /// # Errors
    /// It cannot be read, is not TOML, has an unknown key or a value of a wrong type.
    pub fn from_file(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Unreadable {
            path: path.to_owned(),
            source,
        })?;
        toml::from_str(&text).map_err(|source| ConfigError::File {
            path: path.to_owned(),
            source: Box::new(source),
        })
    }

    /// These settings, and where they are unset those.
    fn or(self, other: Self) -> Self {
        Self {
            node_name: self.node_name.or(other.node_name),
            manifests: self.manifests.or(other.manifests),
            kubeconfig: self.kubeconfig.or(other.kubeconfig),
            netns_dir: self.netns_dir.or(other.netns_dir),
            host_netns: self.host_netns.or(other.host_netns),
            bpf_dir: self.bpf_dir.or(other.bpf_dir),
            ring_bytes: self.ring_bytes.or(other.ring_bytes),
            state_dir: self.state_dir.or(other.state_dir),
            cgroup_root: self.cgroup_root.or(other.cgroup_root),
            proc_root: self.proc_root.or(other.proc_root),
            cni_conf_dir: if self.cni_conf_dir.is_empty() {
                other.cni_conf_dir
            } else {
                self.cni_conf_dir
            },
            collector: self.collector.or(other.collector),
            tls_ca: self.tls_ca.or(other.tls_ca),
            tls_cert: self.tls_cert.or(other.tls_cert),
            tls_key: self.tls_key.or(other.tls_key),
            tls_server_name: self.tls_server_name.or(other.tls_server_name),
            listen_http: self.listen_http.or(other.listen_http),
            grace: self.grace.or(other.grace),
            settle: self.settle.or(other.settle),
            late: self.late.or(other.late),
            witness_timeout: self.witness_timeout.or(other.witness_timeout),
            udp_idle: self.udp_idle.or(other.udp_idle),
            spool_max_bytes: self.spool_max_bytes.or(other.spool_max_bytes),
            log_format: self.log_format.or(other.log_format),
            log_level: self.log_level.or(other.log_level),
        }
    }
}

impl Config {
    /// Makes what we run of what was typed.
    ///
    /// # Errors
    /// The file cannot be used, or a setting is wrong, missing or contradicts another.
    pub fn resolve(args: Args) -> Result<Self, ConfigError> {
        let mut settings = args.settings;
        if let Some(path) = &args.config {
            let mut file = Settings::from_file(path)?;
            // A flag for one source replaces the file's other one.
            if settings.manifests.is_some() || settings.kubeconfig.is_some() {
                file.manifests = None;
                file.kubeconfig = None;
            }
            settings = settings.or(file);
        }
        let path =
            |given: Option<PathBuf>, default: &str| given.unwrap_or_else(|| PathBuf::from(default));
        let source = match (&settings.manifests, &settings.kubeconfig) {
            (Some(_), Some(_)) => {
                return Err(ConfigError::Both {
                    one: "manifests",
                    other: "kubeconfig",
                    why: "the cluster's objects come from one place; leave one out",
                });
            }
            (Some(dir), None) => Source::Manifests(dir.clone()),
            (None, file) => Source::Kubernetes(file.clone()),
        };
        let ring = parse::size("ring-bytes", settings.ring_bytes.as_deref(), 16 << 20)?;
        let ring_bytes = u32::try_from(ring)
            .ok()
            .filter(|bytes| bytes.is_power_of_two() && *bytes >= 64 * 1024)
            .ok_or_else(|| ConfigError::Value {
                setting: "ring-bytes",
                value: ring.to_string(),
                why: "give a power of two from 64KiB to 2GiB, such as 16MiB".to_owned(),
            })?;
        let second = Duration::from_secs(1);
        Ok(Self {
            node_name: parse::node_name(settings.node_name.as_deref())?,
            source,
            netns_dir: path(settings.netns_dir, "/run/netns"),
            host_netns: settings.host_netns,
            bpf_dir: path(settings.bpf_dir, "/sys/fs/bpf/polproof"),
            ring_bytes,
            state_dir: path(settings.state_dir, "/var/lib/polproof"),
            cgroup_root: path(settings.cgroup_root, "/sys/fs/cgroup"),
            proc_root: path(settings.proc_root, "/proc"),
            cni_conf_dirs: if settings.cni_conf_dir.is_empty() {
                vec![PathBuf::from("/etc/cni/net.d")]
            } else {
                settings.cni_conf_dir
            },
            collector: parse::collector(
                settings.collector,
                settings.tls_ca,
                settings.tls_cert,
                settings.tls_key,
                settings.tls_server_name,
            )?,
            listen_http: parse::listen(
                "listen-http",
                settings.listen_http.as_deref(),
                "127.0.0.1:9464",
            )?,
            grace: parse::duration(
                "grace",
                settings.grace.as_deref(),
                Duration::from_secs(30),
                (Duration::ZERO, 3600 * second),
            )?,
            settle: parse::duration(
                "settle",
                settings.settle.as_deref(),
                Duration::from_secs(10),
                (second, 600 * second),
            )?,
            late: parse::duration(
                "late",
                settings.late.as_deref(),
                Duration::from_secs(10),
                (Duration::ZERO, 3600 * second),
            )?,
            witness_timeout: parse::duration(
                "witness-timeout",
                settings.witness_timeout.as_deref(),
                Duration::from_secs(10),
                (second, 60 * second),
            )?,
            udp_idle: parse::duration(
                "udp-idle",
                settings.udp_idle.as_deref(),
                Duration::from_secs(180),
                (second, 3600 * second),
            )?,
            spool_max_bytes: parse::spool(settings.spool_max_bytes.as_deref())?,
            log_format: parse::log_format(settings.log_format.as_deref())?,
            log_level: parse::log_level(settings.log_level)?,
        })
    }
}

mod parse;
#[cfg(test)]
mod tests;
