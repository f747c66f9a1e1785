//! Which part of the matrix is wanted.

use std::net::IpAddr;

use ipnet::IpNet;
use polproof_policy::Protocol;
use polproof_policy::connectivity::{Access, Connectivity, End, EndKind, Filter, Ports, Segment};

use crate::args::{Matrix as Options, Only};
use crate::failure::Failure;

/// The filters of the command line, understood.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) ends: Filter,
    pub(super) port: Option<(Protocol, u16)>,
    pub(super) only: Option<Only>,
}

impl Wanted {
    pub(super) fn of(options: &Options, matrix: &Connectivity) -> Result<Self, Failure> {
        let ends = matrix.ends();
        let mut either = Vec::new();
        if !options.namespace.is_empty() {
            for namespace in &options.namespace {
                if !ends.iter().any(|end| *end.namespace == **namespace) {
                    return Err(nobody("--namespace", namespace, ends));
                }
            }
            let is = |end: &End| options.namespace.iter().any(|of| **of == *end.namespace);
            either = ends.iter().map(is).collect();
        }
        Ok(Self {
            ends: Filter {
                sources: selected("--from", &options.from, ends)?,
                destinations: selected("--to", &options.to, ends)?,
                either,
            },
            port: options.port.as_deref().map(port).transpose()?,
            only: options.only,
        })
    }

    /// Whether ports have what is wanted; `or` where nothing is said.
    pub(super) fn keeps(&self, ports: &Ports, or: impl Fn(&Access) -> bool) -> bool {
        let is = |access: &Access| match self.only {
            Some(_) => self.shows(access),
            None => or(access),
        };
        match self.port {
            Some((protocol, port)) => ports.at(protocol, port).is_some_and(|access| is(&access)),
            None => ports.any(is),
        }
    }

    /// Whether a verdict is wanted.
    pub(super) const fn shows(&self, access: &Access) -> bool {
        match self.only {
            None => true,
            Some(Only::Allow) => access.any_allowed(),
            Some(Only::Deny) => access.any_denied(),
            Some(Only::Unknown) => access.any_unknown(),
        }
    }

    /// The segments that are wanted, cut to the port if one is.
    pub(super) fn segments(&self, ports: &Ports) -> Vec<Segment> {
        let segments = ports.segments().filter(|of| self.shows(&of.access));
        match self.port {
            None => segments.collect(),
            Some((protocol, port)) => segments
                .filter(|of| of.protocol == protocol && of.first <= port && port <= of.last)
                .map(|of| Segment {
                    first: port,
                    last: port,
                    ..of
                })
                .collect(),
        }
    }

    pub(super) fn pair(&self, source: usize, destination: usize, ends: &[End]) -> bool {
        let of = |list: &[bool], end: usize| {
            list.is_empty() || list.get(end).copied().unwrap_or_default()
        };
        let outside = |end: usize| {
            ends.get(end)
                .is_some_and(|end| end.kind == EndKind::Outside)
        };
        of(&self.ends.sources, source)
            && of(&self.ends.destinations, destination)
            && (of(&self.ends.either, source) || of(&self.ends.either, destination))
            && !(outside(source) && outside(destination))
    }
}

fn selected(flag: &str, wanted: &[String], ends: &[End]) -> Result<Vec<bool>, Failure> {
    let mut selected = Vec::new();
    for text in wanted {
        selected.resize(ends.len(), false);
        let address = text
            .parse::<IpAddr>()
            .map(IpNet::from)
            .or_else(|_| text.parse::<IpNet>().map(|net| net.trunc()))
            .ok();
        let mut any = false;
        for (end, selected) in ends.iter().zip(&mut selected) {
            let is = match address {
                Some(net) => holds(end, &net),
                None => named(end, text),
            };
            any |= is;
            *selected |= is;
        }
        if !any {
            return Err(nobody(flag, text, ends));
        }
    }
    Ok(selected)
}

/// `shop`, `shop/web`, `shop/deployment/web`, `outside`.
fn named(end: &End, text: &str) -> bool {
    if end.kind == EndKind::Outside {
        return text == "outside" || end.to_string() == text;
    }
    let parts: Vec<&str> = text.split('/').collect();
    let owner = |kind: &str| {
        let short = match kind.to_lowercase().as_str() {
            "deploy" => "deployment".to_owned(),
            "sts" => "statefulset".to_owned(),
            "ds" => "daemonset".to_owned(),
            "rs" => "replicaset".to_owned(),
            other => other.to_owned(),
        };
        end.owner.to_lowercase() == short
    };
    match parts.as_slice() {
        [namespace] => *end.namespace == **namespace,
        [namespace, name] => {
            *end.namespace == **namespace
                && (*end.name == **name || end.pods.iter().any(|pod| *pod.id.name == **name))
        }
        [namespace, kind, name] => {
            *end.namespace == **namespace && owner(kind) && *end.name == **name
        }
        _ => false,
    }
}

/// A region outside holds a block if its own does and none of the smaller ones within it; a block holds a region that is
/// within it.
fn holds(end: &End, net: &IpNet) -> bool {
    end.block.is_some_and(|block| {
        net.contains(&block)
            || (block.contains(net) && !end.except.iter().any(|hole| hole.contains(net)))
    })
}

fn nobody(flag: &str, text: &str, ends: &[End]) -> Failure {
    let mut near: Vec<String> = Vec::new();
    let last = text.rsplit('/').next().unwrap_or(text);
    for end in ends {
        let name = if flag == "--namespace" {
            end.namespace.to_string()
        } else {
            end.to_string()
        };
        if !name.is_empty() && name.contains(last) && !near.contains(&name) {
            near.push(name);
        }
        if near.len() == 3 {
            break;
        }
    }
    let hint = if near.is_empty() {
        "`polproof matrix -o json` lists all ends".to_owned()
    } else {
        format!("did you mean {}?", near.join(" or "))
    };
    Failure::usage(format!("{flag} {text}: no living pod is there; {hint}"))
}

fn port(text: &str) -> Result<(Protocol, u16), Failure> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "TCP"));
    let protocol = match protocol.to_ascii_uppercase().as_str() {
        "TCP" => Some(Protocol::Tcp),
        "UDP" => Some(Protocol::Udp),
        "SCTP" => Some(Protocol::Sctp),
        _ => None,
    };
    match (number.parse(), protocol) {
        (Ok(number @ 1..), Some(protocol)) => Ok((protocol, number)),
        _ => Err(Failure::usage(format!(
            "--port {text}: give a number from 1 to 65535 and TCP, UDP or SCTP, for example 5432/TCP"
        ))),
    }
}
