//! `polproof explain`: what the policies say of a connection.

use polproof_policy::{Protocol, ask};
use polproof_proto::v1;

use crate::args::{Explain as Options, Format, Global};
use crate::connect::connect;
use crate::convert;
use crate::failure::{FINE, Failure};
use crate::output::{Screen, Tone, note};
use crate::printable::printable;
use crate::view::{Explanation, Family};

/// A destination as typed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Destination {
    end: String,
    port: u16,
    protocol: Protocol,
}

/// Explains.
pub(crate) async fn run(
    global: &Global,
    options: &Options,
    screen: &Screen,
) -> Result<u8, Failure> {
    let destination = destination(&options.destination)?;
    let source = unbracket(&options.source).to_owned();
    let families = match &options.manifests {
        Some(path) => from_manifests(path, &source, &destination)?,
        None => from_collector(global, &source, &destination).await?,
    };
    let explanation = Explanation {
        verdict: overall(&families),
        source,
        port: destination.port,
        protocol: word(destination.protocol),
        destination: destination.end,
        families,
    };
    match screen.format {
        Format::Json | Format::Yaml => screen.document(&explanation)?,
        _ => screen.write(&text(&explanation, screen))?,
    }
    Ok(FINE)
}

fn from_manifests(
    path: &std::path::Path,
    source: &str,
    destination: &Destination,
) -> Result<Vec<Family>, Failure> {
    let view = polproof_cluster::manifests::load(path)
        .map_err(|error| Failure::usage(error.to_string()))?;
    for refused in view.refused.iter() {
        note(&format!("left out {}: {}", refused.object, refused.reason));
    }
    let answers = ask::ask(
        &view.snapshot,
        source,
        &destination.end,
        destination.port,
        destination.protocol,
    )
    .map_err(|error| match error {
        // The cluster's own lists are no help for manifests.
        ask::AskError::NoPod { pod, near } if near.is_empty() => Failure::usage(format!(
            "there is no pod {pod} in {}; explain needs the pods too (kubectl get pods -A -o yaml), or an address",
            path.display()
        )),
        other => Failure::usage(printable(other.to_string())),
    })?;
    Ok(answers.into_iter().map(convert::answer).collect())
}

async fn from_collector(
    global: &Global,
    source: &str,
    destination: &Destination,
) -> Result<Vec<Family>, Failure> {
    let mut client = connect(global).await?;
    let answer = client
        .explain(v1::ExplainRequest {
            source: source.to_owned(),
            destination: destination.end.clone(),
            port: u32::from(destination.port),
            protocol: convert::protocol(destination.protocol),
        })
        .await
        .map_err(|status| Failure::status(&global.collector, &status))?
        .into_inner();
    Ok(answer
        .explanations
        .into_iter()
        .map(convert::family)
        .collect())
}

fn unbracket(end: &str) -> &str {
    end.strip_prefix('[')
        .and_then(|end| end.strip_suffix(']'))
        .unwrap_or(end)
}

/// Reads `END[:PORT[/PROTOCOL]]`. A pod has one slash of its own, and an IPv6 address has colons, so with a port it
/// must stand in brackets.
fn destination(text: &str) -> Result<Destination, Failure> {
    let wrong = |why: &str| {
        Failure::usage(format!(
            "destination {text:?} {why}; for example shop/db:5432, 10.0.0.7:53/UDP or '[fd00::5]:443'"
        ))
    };
    let plain = |end: &str| {
        Ok(Destination {
            end: end.to_owned(),
            port: 80,
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
    let (port, protocol) = rest.split_once('/').unwrap_or((rest, "TCP"));
    let port = port
        .parse::<u16>()
        .ok()
        .filter(|port| *port > 0)
        .ok_or_else(|| wrong("has no port from 1 to 65535 after the colon"))?;
    let protocol = match protocol.to_ascii_uppercase().as_str() {
        "TCP" => Protocol::Tcp,
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => return Err(wrong("names a protocol that is not TCP, UDP or SCTP")),
    };
    Ok(Destination {
        end: end.to_owned(),
        port,
        protocol,
    })
}

const fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "TCP",
        Protocol::Udp => "UDP",
        Protocol::Sctp => "SCTP",
    }
}

fn overall(families: &[Family]) -> String {
    let mut verdicts = families
        .iter()
        .map(|family| family.verdict.split(':').next().unwrap_or_default());
    let first = verdicts.next().unwrap_or("unknown");
    if verdicts.all(|verdict| verdict == first) {
        first.to_owned()
    } else {
        "mixed".to_owned()
    }
}

fn tone(verdict: &str) -> Tone {
    match verdict {
        "allow" => Tone::Good,
        "deny" => Tone::Bad,
        _ => Tone::Warn,
    }
}

fn text(explanation: &Explanation, screen: &Screen) -> String {
    let colon = if explanation.destination.contains(':') {
        format!("[{}]", explanation.destination)
    } else {
        explanation.destination.clone()
    };
    let mut text = format!(
        "{} -> {colon}:{}/{}: {}\n",
        explanation.source,
        explanation.port,
        explanation.protocol,
        screen.paint(tone(&explanation.verdict), &sentence(&explanation.verdict)),
    );
    for family in &explanation.families {
        text.push_str(&format!(
            "\n{}: {}\n",
            screen.paint(Tone::Bold, &family.family),
            screen.paint(tone(&family.verdict), &family.verdict)
        ));
        for walk in &family.directions {
            let end = if walk.direction == "egress" {
                &explanation.source
            } else {
                &explanation.destination
            };
            text.push_str(&format!(
                "  {} of {end}: {}, because {}\n",
                walk.direction,
                screen.paint(tone(&walk.verdict), &walk.verdict),
                walk.because
            ));
            for policy in &walk.policies {
                text.push_str(&format!("    policy {}\n", policy.policy));
                for rule in &policy.rules {
                    text.push_str(&format!("      {rule}\n"));
                }
            }
        }
    }
    text
}

fn sentence(verdict: &str) -> String {
    match verdict {
        "allow" => "the policies allow it".to_owned(),
        "deny" => "the policies deny it".to_owned(),
        "mixed" => "the policies say different things for IPv4 and IPv6".to_owned(),
        _ => "the policies leave it open".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn destinations() {
        for (text, end, port, protocol) in [
            ("shop/db", "shop/db", 80, Protocol::Tcp),
            ("shop/db:5432", "shop/db", 5432, Protocol::Tcp),
            ("shop/db:53/udp", "shop/db", 53, Protocol::Udp),
            ("10.0.0.7:1/SCTP", "10.0.0.7", 1, Protocol::Sctp),
            ("fd00::5", "fd00::5", 80, Protocol::Tcp),
            ("[fd00::5]", "fd00::5", 80, Protocol::Tcp),
            ("[fd00::5]:443/TCP", "fd00::5", 443, Protocol::Tcp),
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
