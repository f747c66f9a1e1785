//! The API server's rules for names, labels, ports and CIDRs
//! (k8s.io/apimachinery `pkg/util/validation`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::Refusal;
use super::path::Path;
use crate::model::{Protocol, Requirement, Selector};

/// A DNS label: at most 63 of a-z, 0-9 and `-`, no `-` at either end.
pub(super) fn dns_label(text: &str, path: &Path<'_>) -> Result<(), Refusal> {
    if is_dns_label(text) && text.len() <= 63 {
        return Ok(());
    }
    Err(path.refuse(
        format!("{text:?} is no DNS label"),
        "use at most 63 of a-z, 0-9 and '-', beginning and ending with a letter or digit",
    ))
}

/// Dot-separated DNS labels, at most 253 characters together.
pub(super) fn dns_subdomain(text: &str, path: &Path<'_>) -> Result<(), Refusal> {
    if is_dns_subdomain(text) {
        return Ok(());
    }
    Err(path.refuse(
        format!("{text:?} is no DNS subdomain name"),
        "use at most 253 of a-z, 0-9, '-' and '.', each part beginning and ending with a letter or digit",
    ))
}

fn is_dns_label(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    text.bytes().all(|b| word(b) || b == b'-')
        && text.bytes().next().is_some_and(word)
        && text.bytes().next_back().is_some_and(word)
}

fn is_dns_subdomain(text: &str) -> bool {
    text.len() <= 253 && text.split('.').all(is_dns_label)
}

/// `([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]`, at most 63 characters.
fn is_name_part(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric();
    text.len() <= 63
        && text
            .bytes()
            .all(|b| word(b) || matches!(b, b'-' | b'_' | b'.'))
        && text.bytes().next().is_some_and(word)
        && text.bytes().next_back().is_some_and(word)
}

/// A label key: `name` or `prefix/name`.
pub(super) fn label_key(key: &str, path: &Path<'_>) -> Result<(), Refusal> {
    let valid = match key.split_once('/') {
        None => is_name_part(key),
        Some((prefix, name)) => is_dns_subdomain(prefix) && is_name_part(name),
    };
    if valid {
        return Ok(());
    }
    Err(path.refuse(
        format!("{key:?} is no label key"),
        "write NAME or DNS-PREFIX/NAME, where NAME is at most 63 of A-Z, a-z, 0-9, '-', '_' and '.', \
         beginning and ending with a letter or digit",
    ))
}

/// A label value: empty, or like the name of a key.
pub(super) fn label_value(value: &str, path: &Path<'_>) -> Result<(), Refusal> {
    if value.is_empty() || is_name_part(value) {
        return Ok(());
    }
    Err(path.refuse(
        format!("{value:?} is no label value"),
        "use at most 63 of A-Z, a-z, 0-9, '-', '_' and '.', beginning and ending with a letter or \
         digit, or leave it empty",
    ))
}

/// A label selector with the operators `In`, `NotIn`, `Exists` and `DoesNotExist`.
pub(super) fn selector(selector: &LabelSelector, path: &Path<'_>) -> Result<Selector, Refusal> {
    let labels = path.field("matchLabels");
    let match_labels = selector
        .match_labels
        .iter()
        .flatten()
        .map(|(key, value)| {
            label_key(key, &labels)?;
            label_value(value, &labels.key(key))?;
            Ok((Arc::from(key.as_str()), Arc::from(value.as_str())))
        })
        .collect::<Result<BTreeMap<_, _>, _>>()?;
    let expressions = path.field("matchExpressions");
    let mut match_expressions = Vec::new();
    for (index, expression) in selector.match_expressions.iter().flatten().enumerate() {
        let path = expressions.index(index);
        label_key(&expression.key, &path.field("key"))?;
        let values_path = path.field("values");
        let given = expression.values.as_deref().unwrap_or_default();
        let mut values = Vec::with_capacity(given.len());
        for (index, value) in given.iter().enumerate() {
            label_value(value, &values_path.index(index))?;
            values.push(Arc::from(value.as_str()));
        }
        let key = Arc::from(expression.key.as_str());
        match_expressions.push(match expression.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                return Err(values_path.refuse(
                    format!("operator {} has no values", expression.operator),
                    "give at least one value, or use Exists or DoesNotExist",
                ));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                return Err(values_path.refuse(
                    format!("operator {} takes no values", expression.operator),
                    "remove the values, or use In or NotIn",
                ));
            }
            "In" => Requirement::In(key, values),
            "NotIn" => Requirement::NotIn(key, values),
            "Exists" => Requirement::Exists(key),
            "DoesNotExist" => Requirement::DoesNotExist(key),
            other => {
                return Err(path.field("operator").refuse(
                    format!("{other:?} is no operator"),
                    "use In, NotIn, Exists or DoesNotExist",
                ));
            }
        });
    }
    Ok(Selector {
        match_labels,
        match_expressions,
    })
}

/// A port number, 1 to 65535.
pub(super) fn port_number(port: i32, path: &Path<'_>) -> Result<u16, Refusal> {
    match u16::try_from(port) {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(path.refuse(
            format!("{port} is no port number"),
            "use a number from 1 to 65535",
        )),
    }
}

/// A port name (IANA service name, lower case).
pub(super) fn port_name(name: &str, path: &Path<'_>) -> Result<Arc<str>, Refusal> {
    let valid = (1..=15).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.bytes().any(|b| b.is_ascii_lowercase())
        && !name.contains("--")
        && !name.starts_with('-')
        && !name.ends_with('-');
    if valid {
        return Ok(Arc::from(name));
    }
    let remedy = if name.bytes().all(|b| b.is_ascii_digit()) {
        "write a port number without quotes"
    } else {
        "use at most 15 of a-z, 0-9 and single '-', with at least one letter and no '-' at either end"
    };
    Err(path.refuse(format!("{name:?} is no port name"), remedy))
}

/// A transport protocol; absent means TCP.
pub(super) fn protocol(protocol: Option<&str>, path: &Path<'_>) -> Result<Protocol, Refusal> {
    match protocol {
        None | Some("TCP") => Ok(Protocol::Tcp),
        Some("UDP") => Ok(Protocol::Udp),
        Some("SCTP") => Ok(Protocol::Sctp),
        Some(other) => Err(path.refuse(
            format!("{other:?} is no protocol"),
            "use TCP, UDP or SCTP, in capitals",
        )),
    }
}

/// An IP address.
pub(super) fn address(text: &str, path: &Path<'_>) -> Result<IpAddr, Refusal> {
    text.parse::<IpAddr>()
        .map(|ip| ip.to_canonical())
        .map_err(|_| {
            path.refuse(
                format!("{text:?} is no IP address"),
                "write an address such as 10.9.8.7 or 2001:db8::ffff",
            )
        })
}

/// A CIDR, host bits cleared. Leading zeros and IPv4-mapped addresses mean different things to
/// different implementations; the API server refuses them, and so do we.
pub(super) fn cidr(text: &str, path: &Path<'_>) -> Result<IpNet, Refusal> {
    let remedy = "write a CIDR such as 10.9.8.0/24 or 2001:db8::/64, without leading zeros";
    // The parser of `IpNet` takes leading zeros; that of `IpAddr` does not.
    let Some((ip, length)) = text.split_once('/').and_then(|(ip, length)| {
        let strict = length == "0" || !length.starts_with(['0', '+']);
        Some((ip.parse::<IpAddr>().ok()?, length.parse().ok()?)).filter(|_| strict)
    }) else {
        return Err(path.refuse(format!("{text:?} is no CIDR"), remedy));
    };
    let Ok(net) = IpNet::new(ip, length) else {
        return Err(path.refuse(format!("{text:?} has a mask that is too long"), remedy));
    };
    if let IpNet::V6(v6) = net
        && let Some(v4) = v6.addr().to_ipv4_mapped()
    {
        let mapped = length
            .checked_sub(96)
            .map(|length| Ipv4Net::new(v4, length));
        let remedy = match mapped {
            Some(Ok(v4)) => format!("write {}", v4.trunc()),
            Some(Err(_)) | None => remedy.to_owned(),
        };
        return Err(path.refuse(
            format!("{text:?} is an IPv4 address written as IPv6"),
            remedy,
        ));
    }
    Ok(net.trunc())
}
