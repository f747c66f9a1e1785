//! Settings: what was typed ([`Args`], and the same names in a TOML file) and what we run ([`Config`]).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Parser, ValueEnum};
use serde::Deserialize;

use crate::tls::TlsFiles;

/// How logs are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// The command line of polproof-collector.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "polproof-collector",
    version,
    about = "Takes what the polproof agents found, stores it, and answers the polproof command",
    after_help = "Every setting can also stand in the --config file, as `name_of_the_flag = ...`; a flag wins.\n\
                  Exit codes: 0 ended on SIGTERM or SIGINT, 1 could not start or go on, 2 wrong flags."
)]
pub struct Args {
    /// TOML file with settings
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// What the flags set.
    #[command(flatten)]
    pub settings: Settings,
}

/// Every setting, as flag and as key of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Address of the gRPC service for agents and the command [default: 0.0.0.0:8443]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Address of /metrics, /healthz and /readyz [default: 127.0.0.1:9465]
    #[arg(long, value_name = "ADDR")]
    pub listen_http: Option<SocketAddr>,
    /// Where findings are kept [default: sqlite:/var/lib/polproof/polproof.db]
    #[arg(long, value_name = "sqlite:PATH")]
    pub database: Option<String>,
    /// CA that signed the certificates of agents and users (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// The collector's certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The private key of the certificate (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Take the cluster's objects from a folder of manifests instead of an API server
    #[arg(long, value_name = "DIR", conflicts_with = "kubeconfig")]
    pub manifests: Option<PathBuf>,
    /// Reach the API server as this file says [default: the service account of the pod]
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Forget findings not seen for this long, e.g. 12h or 90d [default: 30d]
    #[arg(long, value_name = "DURATION")]
    pub retention: Option<String>,
    /// Keep at most this many findings; beyond, the oldest go [default: 1000000]
    #[arg(long, value_name = "N")]
    pub max_findings: Option<u64>,
    /// A violation this young makes a node "not enforced" in the status [default: 60s]
    #[arg(long, value_name = "DURATION")]
    pub recent_window: Option<String>,
    /// How logs are written [default: text]
    #[arg(long, value_enum)]
    pub log_format: Option<LogFormat>,
    /// error, warn, info, debug or trace [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// Where the cluster's objects come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A folder.
    Manifests(PathBuf),
    /// An API server; `None` for in-cluster.
    Kubernetes(Option<PathBuf>),
}

/// What we run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// gRPC.
    pub listen: SocketAddr,
    /// HTTP.
    pub listen_http: SocketAddr,
    /// The SQLite file.
    pub database: PathBuf,
    /// Certificates.
    pub tls: TlsFiles,
    /// Where the cluster's objects come from.
    pub source: Source,
    /// Age at which findings are forgotten.
    pub retention: Duration,
    /// Number beyond which they are.
    pub max_findings: u64,
    /// See `--recent-window`.
    pub recent_window: Duration,
    /// How logs are written.
    pub log_format: LogFormat,
    /// Which.
    pub log_level: String,
}

impl Args {
    /// Reads the file, if one is named, and checks everything.
    pub fn resolve(self) -> anyhow::Result<Config> {
        let file = match &self.config {
            None => Settings::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read the --config file {}", path.display()))?;
                toml::from_str(&text)
                    .with_context(|| format!("the --config file {} is wrong", path.display()))?
            }
        };
        self.settings.over(file).resolve()
    }
}

impl Settings {
    fn over(self, file: Self) -> Self {
        // Both name a source of objects: the flag's source wins as a whole.
        let from_flags = self.manifests.is_some() || self.kubeconfig.is_some();
        let (manifests, kubeconfig) = if from_flags {
            (self.manifests, self.kubeconfig)
        } else {
            (file.manifests, file.kubeconfig)
        };
        Self {
            listen: self.listen.or(file.listen),
            listen_http: self.listen_http.or(file.listen_http),
            database: self.database.or(file.database),
            tls_ca: self.tls_ca.or(file.tls_ca),
            tls_cert: self.tls_cert.or(file.tls_cert),
            tls_key: self.tls_key.or(file.tls_key),
            manifests,
            kubeconfig,
            retention: self.retention.or(file.retention),
            max_findings: self.max_findings.or(file.max_findings),
            recent_window: self.recent_window.or(file.recent_window),
            log_format: self.log_format.or(file.log_format),
            log_level: self.log_level.or(file.log_level),
        }
    }

    fn resolve(self) -> anyhow::Result<Config> {
        let database = self
            .database
            .unwrap_or_else(|| "sqlite:/var/lib/polproof/polproof.db".to_owned());
        let Some(path) = database
            .strip_prefix("sqlite:")
            .map(|path| path.strip_prefix("//").unwrap_or(path))
            .filter(|path| !path.is_empty())
        else {
            bail!(
                "database is {database:?}; it must be `sqlite:PATH`, for example sqlite:/var/lib/polproof/polproof.db"
            );
        };
        let needed = |flag: &str, value: Option<PathBuf>| {
            value.with_context(|| {
                format!(
                    "{flag} is missing: the collector only talks TLS, and only to clients with a certificate of its \
                     CA; give --tls-ca, --tls-cert and --tls-key"
                )
            })
        };
        if self.manifests.is_some() && self.kubeconfig.is_some() {
            bail!("manifests and kubeconfig are both set in the --config file: take one out");
        }
        let duration = |name: &str, text: Option<String>, default: Duration| match text {
            None => Ok(default),
            Some(text) => parse_duration(&text).with_context(|| format!("{name} is {text:?}")),
        };
        let retention = duration(
            "retention",
            self.retention,
            Duration::from_secs(30 * 86_400),
        )?;
        let recent_window = duration("recent_window", self.recent_window, Duration::from_secs(60))?;
        if !(Duration::from_secs(10)..=Duration::from_secs(86_400)).contains(&recent_window) {
            bail!("recent_window must be from 10s to 24h");
        }
        if retention < recent_window {
            bail!(
                "retention must not be shorter than recent_window ({} s)",
                recent_window.as_secs()
            );
        }
        Ok(Config {
            listen: self
                .listen
                .unwrap_or_else(|| SocketAddr::from(([0, 0, 0, 0], 8443))),
            listen_http: self
                .listen_http
                .unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 9465))),
            database: PathBuf::from(path),
            tls: TlsFiles {
                ca: needed("--tls-ca", self.tls_ca)?,
                cert: needed("--tls-cert", self.tls_cert)?,
                key: needed("--tls-key", self.tls_key)?,
            },
            source: match self.manifests {
                Some(dir) => Source::Manifests(dir),
                None => Source::Kubernetes(self.kubeconfig),
            },
            retention,
            max_findings: self.max_findings.unwrap_or(1_000_000).max(1),
            recent_window,
            log_format: self.log_format.unwrap_or_default(),
            log_level: self.log_level.unwrap_or_else(|| "info".to_owned()),
        })
    }
}

/// Reads "90s", "15m", "12h" or "30d".
fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    let text = text.trim();
    let unit = text.chars().last().unwrap_or(' ');
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3_600,
        'd' => 86_400,
        _ => bail!("a duration is a number and one of s, m, h, d, for example 90s or 30d"),
    };
    let number: u64 = text
        .strip_suffix(unit)
        .unwrap_or_default()
        .parse()
        .context("a duration is a whole number and one of s, m, h, d, for example 90s or 30d")?;
    // A century: beyond it, sums with the present time stop making sense.
    match number.checked_mul(seconds) {
        Some(total) if total <= 100 * 366 * 86_400 => Ok(Duration::from_secs(total)),
        _ => bail!("that is more than 100 years"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn config(args: &[&str], file: Option<&str>) -> anyhow::Result<Config> {
        let dir = tempfile::tempdir().unwrap();
        let mut all = vec!["polproof-collector"];
        let path = dir.path().join("c.toml");
        if let Some(file) = file {
            std::fs::write(&path, file).unwrap();
            all.extend(["--config", path.to_str().unwrap()]);
        }
        all.extend(args);
        Args::try_parse_from(all)?.resolve()
    }

    const TLS: [&str; 6] = ["--tls-ca", "a", "--tls-cert", "b", "--tls-key", "c"];

    #[test]
    fn flags_win_over_the_file() {
        let file =
            "tls_ca = 'x'\ntls_cert = 'b'\ntls_key = 'c'\nretention = '2d'\nmanifests = '/m'\n";
        let config = config(&["--tls-ca", "a", "--kubeconfig", "/k"], Some(file)).unwrap();
        assert_eq!(config.tls.ca, PathBuf::from("a"));
        assert_eq!(config.retention, Duration::from_secs(2 * 86_400));
        assert_eq!(config.source, Source::Kubernetes(Some("/k".into())));
        assert_eq!(
            config.database,
            PathBuf::from("/var/lib/polproof/polproof.db")
        );
    }

    #[test]
    fn wrong_settings_are_named() {
        for (args, file, said) in [
            (vec![], None, "--tls-ca is missing"),
            (vec![], Some("lisen = '1.2.3.4:5'"), "unknown field `lisen`"),
            (vec!["--database", "postgres://x"], None, "sqlite:PATH"),
            (vec!["--retention", "5 weeks"], None, "retention is"),
            (vec!["--recent-window", "1s"], None, "from 10s to 24h"),
            (vec!["--listen", "nowhere"], None, "--listen"),
        ] {
            let mut all = args;
            if said != "--tls-ca is missing" {
                all.extend(TLS);
            }
            let error = format!("{:#}", config(&all, file).unwrap_err());
            assert!(error.contains(said), "{said}: {error}");
        }
    }
}
