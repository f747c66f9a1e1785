//! `DST[:PORT[/PROTOCOL]]`.

use polproof_policy::Protocol;

use crate::failure::Failure;

/// A destination as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Destination {
    pub(super) end: String,
    pub(super) port: Option<u16>,
    pub(super) protocol: Protocol,
}

/// An IPv6 address without its brackets.
pub(super) fn unbracket(end: &str) -> &str {
    end.strip_prefix('[')
        .and_then(|end| end.strip_suffix(']'))
        .unwrap_or(end)
}

/// `TCP`, `udp`.
pub(crate) fn protocol(text: &str) -> Option<Protocol> {
    [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
        .into_iter()
        .find(|protocol| text.eq_ignore_ascii_case(word(*protocol)))
}

/// As people write it.
pub(crate) const fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

/// Reads `END[:PORT[/PROTOCOL]]`. A pod has slashes of its own, and an IPv6 address has colons, so with a port it must
/// stand in brackets.
pub(super) fn destination(text: &str) -> Result<Destination, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format!(
            "destination {text:?} {why}; for example shop/db:5432, 10.0.0.7:53/UDP or '[fd00::5]:443'"
        ))
    };
    let plain = |end: &str| {
        Ok(Destination {
            end: end.to_owned(),
            port: None,
            protocol: Protocol::Tcp,
        })
    };
    let (end, rest) = if let Some(open) = text.strip_prefix('[') {
        let Some((address, rest)) = open.split_once(']') else {
            return Err(wrong("has no closing bracket"));
        };
        match rest.strip_prefix(':') {
            Some(rest) => (address, rest),
            None if rest.is_empty() => return plain(address),
            None => return Err(wrong("has something after the bracket that is no :PORT")),
        }
    } else if text.parse::<std::net::Ipv6Addr>().is_ok() {
        return plain(text);
    } else {
        match text.split_once(':') {
            Some(parts) => parts,
            None => return plain(text),
        }
    };
    if end.is_empty() {
        return Err(wrong("names nobody"));
    }
    let (port, named) = rest.split_once('/').unwrap_or((rest, "TCP"));
    let port = port
        .parse::<u16>()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| wrong("has no port from 1 to 65535 after the colon"))?;
    let protocol =
        protocol(named).ok_or_else(|| wrong("names a protocol that is not TCP, UDP or SCTP"))?;
    Ok(Destination {
        end: end.to_owned(),
        port: Some(port),
        protocol,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn destinations() {
        for (text, end, port, protocol) in [
            ("shop/db", "shop/db", None, Protocol::Tcp),
            ("shop/db:5432", "shop/db", Some(5432), Protocol::Tcp),
            ("shop/db:53/udp", "shop/db", Some(53), Protocol::Udp),
            ("shop/svc/db:53/udp", "shop/svc/db", Some(53), Protocol::Udp),
            ("10.0.0.7:1/SCTP", "10.0.0.7", Some(1), Protocol::Sctp),
            ("fd00::5", "fd00::5", None, Protocol::Tcp),
            ("[fd00::5]", "fd00::5", None, Protocol::Tcp),
            ("[fd00::5]:443/TCP", "fd00::5", Some(443), Protocol::Tcp),
        ] {
            let got = destination(text).unwrap();
            assert_eq!(
                (got.end.as_str(), got.port, got.protocol),
                (end, port, protocol),
                "{text}"
            );
        }
        for wrong in [
            "shop/db:",
            "shop/db:0",
            "shop/db:65536",
            "shop/db:80/ICMP",
            ":80",
            "[fd00::5",
            "[fd00::5]443",
        ] {
            assert_eq!(destination(wrong).unwrap_err().code, 2, "{wrong}");
        }
    }
}
