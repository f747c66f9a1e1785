//! Values of single settings.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tracing_subscriber::EnvFilter;

use super::{Collector, ConfigError, LogFormat};
use crate::report::spool::SpoolConfig;

fn wrong(setting: &'static str, value: &str, why: impl Into<String>) -> ConfigError {
    ConfigError::Value {
        setting,
        value: value.to_owned(),
        why: why.into(),
    }
}

/// `500ms`, `30s`, `1h30m`: numbers with a unit, joined.
pub(super) fn duration(
    setting: &'static str,
    given: Option<&str>,
    default: Duration,
    (least, most): (Duration, Duration),
) -> Result<Duration, ConfigError> {
    let Some(text) = given else {
        return Ok(default);
    };
    let value = read_duration(text).ok_or_else(|| {
        wrong(
            setting,
            text,
            "is not a duration; write a number with a unit, such as 500ms, 30s, 5m or 1h30m",
        )
    })?;
    if value < least || value > most {
        return Err(wrong(
            setting,
            text,
            format!("must lie between {least:?} and {most:?}"),
        ));
    }
    Ok(value)
}

fn read_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (number, tail) = rest.split_at_checked(digits)?;
        let end = tail
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(end)?;
        let number: u64 = number.parse().ok()?;
        let part = match unit.trim() {
            "ms" => Duration::from_millis(number),
            "s" => Duration::from_secs(number),
            "m" => Duration::from_secs(number.checked_mul(60)?),
            "h" => Duration::from_secs(number.checked_mul(3600)?),
            _ => return None,
        };
        total = total.checked_add(part)?;
        rest = tail;
    }
    Some(total)
}

/// `1048576`, `512KiB`, `256MiB`, `1GiB`.
pub(super) fn size(
    setting: &'static str,
    given: Option<&str>,
    default: u64,
) -> Result<u64, ConfigError> {
    let Some(text) = given else {
        return Ok(default);
    };
    let text = text.trim();
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let unit = match text.get(digits..).unwrap_or_default().trim() {
        "" | "B" => Some(1),
        "KiB" | "Ki" => Some(1 << 10),
        "MiB" | "Mi" => Some(1 << 20),
        "GiB" | "Gi" => Some(1 << 30),
        _ => None,
    };
    let number: Option<u64> = text.get(..digits).and_then(|n| n.parse().ok());
    number
        .zip(unit)
        .and_then(|(number, unit)| number.checked_mul(unit))
        .ok_or_else(|| {
            wrong(
                setting,
                text,
                "is not a size; write bytes or a number with KiB, MiB or GiB, such as 256MiB",
            )
        })
}

pub(super) fn spool(given: Option<&str>) -> Result<u64, ConfigError> {
    let bytes = size("spool-max-bytes", given, SpoolConfig::MAX_BYTES)?;
    if bytes < 2 * SpoolConfig::SEGMENT_BYTES {
        return Err(wrong(
            "spool-max-bytes",
            given.unwrap_or_default(),
            "is too small; give at least 8MiB (two segments)",
        ));
    }
    Ok(bytes)
}

pub(super) fn node_name(given: Option<&str>) -> Result<String, ConfigError> {
    let host = || {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
        // The kubelet registers the lower-case host name.
        Some(name.trim().to_lowercase())
    };
    let name = match given {
        Some(name) => name.to_owned(),
        None => host().ok_or(ConfigError::Missing {
            setting: "node-name",
            why: "this host has no usable name; give the node's name in the cluster",
        })?,
    };
    let valid = !name.is_empty()
        && name.len() <= 253
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.');
    if valid {
        Ok(name)
    } else {
        Err(wrong(
            "node-name",
            &name,
            "is not the name of a node; see `kubectl get nodes` (lower-case letters, digits, '-' and '.')",
        ))
    }
}

pub(super) fn listen(
    setting: &'static str,
    given: Option<&str>,
    default: &str,
) -> Result<Option<SocketAddr>, ConfigError> {
    let text = given.unwrap_or(default);
    if text == "off" {
        return Ok(None);
    }
    text.parse().map(Some).map_err(|_| {
        wrong(
            setting,
            text,
            "is not an address; write IP:PORT such as 127.0.0.1:9464 or [::]:9464, or \"off\"",
        )
    })
}

pub(super) fn collector(
    url: Option<String>,
    tls_ca: Option<PathBuf>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    tls_server_name: Option<String>,
) -> Result<Option<Collector>, ConfigError> {
    let Some(url) = url else {
        if tls_ca.is_some() || tls_cert.is_some() || tls_key.is_some() || tls_server_name.is_some()
        {
            return Err(ConfigError::Missing {
                setting: "collector",
                why: "TLS settings are given, but no collector to use them with",
            });
        }
        return Ok(None);
    };
    let bad = |why: &str| wrong("collector", &url, why);
    let uri: tonic::transport::Uri = url
        .parse()
        .map_err(|_| bad("is not a URL; write https://HOST:PORT, such as https://polproof-collector.polproof:8443"))?;
    match uri.scheme_str() {
        Some("https") => {}
        Some("http") => {
            return Err(bad(
                "findings are never sent unencrypted; write https:// and give the collector a certificate",
            ));
        }
        _ => {
            return Err(bad(
                "has no https://; write https://HOST:PORT, such as https://polproof-collector.polproof:8443",
            ));
        }
    }
    if uri.host().is_none_or(str::is_empty) || uri.port_u16().is_none() {
        return Err(bad(
            "has no host or no port; write https://HOST:PORT, such as https://polproof-collector.polproof:8443",
        ));
    }
    if uri.path() != "/" || uri.query().is_some() {
        return Err(bad(
            "has a path; the collector needs none, write https://HOST:PORT",
        ));
    }
    let needed = |setting, file: Option<PathBuf>| {
        file.ok_or(ConfigError::Missing {
            setting,
            why: "--collector needs mutual TLS: --tls-ca, --tls-cert and --tls-key, each a PEM file",
        })
    };
    Ok(Some(Collector {
        tls_ca: needed("tls-ca", tls_ca)?,
        tls_cert: needed("tls-cert", tls_cert)?,
        tls_key: needed("tls-key", tls_key)?,
        tls_server_name,
        url,
    }))
}

pub(super) fn log_format(given: Option<&str>) -> Result<LogFormat, ConfigError> {
    match given {
        None | Some("text") => Ok(LogFormat::Text),
        Some("json") => Ok(LogFormat::Json),
        Some(other) => Err(wrong("log-format", other, "write text or json")),
    }
}

pub(super) fn log_level(given: Option<String>) -> Result<String, ConfigError> {
    let text = given.unwrap_or_else(|| "info".to_owned());
    // A word that is no level would be taken for the name of a module, and silence everything else.
    let bare = !text.contains(['=', ',', ':', '[']);
    let level = ["off", "error", "warn", "info", "debug", "trace"]
        .iter()
        .any(|l| text.eq_ignore_ascii_case(l));
    if (bare && !level) || EnvFilter::try_new(&text).is_err() {
        return Err(wrong(
            "log-level",
            &text,
            "write error, warn, info, debug or trace, or directives such as info,polproof_agent::judge=debug",
        ));
    }
    Ok(text)
}
