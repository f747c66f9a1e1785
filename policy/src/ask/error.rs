//! Why a question has no answer, in words that help.

use std::fmt;
use std::net::IpAddr;

use crate::model::{Family, Protocol};

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskError {
    /// An end is nothing that we know how to read.
    Unreadable {
        /// As it was written.
        end: String,
    },
    /// The kind of `namespace/kind/name` is none that has pods.
    UnknownKind {
        /// As it was written.
        kind: String,
    },
    /// No object of that name.
    Missing {
        /// `pod`, `Deployment`, `Service`.
        kind: &'static str,
        /// `namespace/name`.
        name: String,
        /// Ends like it, as they can be asked for.
        near: Vec<String>,
        /// Whether the namespace holds nothing that we know.
        no_namespace: bool,
    },
    /// The pod, or every pod of the workload, has ended.
    Finished {
        /// The end as it was written.
        end: String,
    },
    /// The Service has no port of that number and protocol.
    NoServicePort {
        /// `namespace/name`.
        service: String,
        /// As asked.
        port: u16,
        /// As asked.
        protocol: Protocol,
        /// Those that it has.
        ports: Vec<String>,
    },
    /// Nobody stands behind the Service.
    NoEndpoints {
        /// `namespace/name`.
        service: String,
        /// Why.
        why: String,
    },
    /// Several living pods claim the address.
    Ambiguous {
        /// The address.
        address: IpAddr,
    },
    /// One end has only IPv4 addresses, the other only IPv6.
    NoCommonFamily,
    /// The ends have no address of the family that was asked for.
    NotInFamily {
        /// The family.
        family: Family,
    },
    /// More pairs of pods than are answered at once.
    TooMany {
        /// How many there are.
        pairs: usize,
        /// How many are answered.
        most: usize,
    },
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable { end } => write!(
                f,
                "{end:?} is neither NAMESPACE/POD nor an IP address, nor NAMESPACE/KIND/NAME; for example shop/web-0, \
                 shop/deploy/web, shop/svc/web or 10.0.0.7"
            ),
            Self::UnknownKind { kind } => write!(
                f,
                "{kind:?} is no kind that has pods; use pod, deploy, sts, ds, rs, rc, job, cronjob or svc"
            ),
            Self::Missing {
                kind,
                name,
                near,
                no_namespace,
            } => {
                let namespace = name.split('/').next().unwrap_or_default();
                if *no_namespace {
                    write!(f, "there is no namespace {namespace}, so no {kind} {name}")?;
                } else {
                    write!(f, "there is no {kind} {name}")?;
                }
                if near.is_empty() {
                    write!(f, "; `kubectl get {} -A` lists them", plural(kind))
                } else {
                    write!(f, "; did you mean {}?", near.join(" or "))
                }
            }
            Self::Finished { end } => write!(
                f,
                "{end} has ended, so no policy applies to it any more; ask for a running one"
            ),
            Self::NoServicePort {
                service,
                port,
                protocol,
                ports,
            } => write!(
                f,
                "Service {service} has no port {port}/{protocol}; it has {}",
                if ports.is_empty() {
                    "none".to_owned()
                } else {
                    ports.join(", ")
                }
            ),
            Self::NoEndpoints { service, why } => write!(
                f,
                "nobody stands behind Service {service}: {why}; a connection to it reaches no pod, whatever the policies say"
            ),
            Self::Ambiguous { address } => write!(
                f,
                "several pods claim {address} at the moment; ask by NAMESPACE/POD"
            ),
            Self::NoCommonFamily => write!(
                f,
                "one end has only IPv4 and the other only IPv6 addresses: they cannot connect"
            ),
            Self::NotInFamily { family } => write!(
                f,
                "not both ends have an {} address; leave the family out to see what they have",
                family_name(*family)
            ),
            Self::TooMany { pairs, most } => write!(
                f,
                "that is {pairs} pairs of pods, and {most} are answered at once; ask for a pod of the larger end"
            ),
        }
    }
}

impl std::error::Error for AskError {}

/// As people write it.
pub const fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

fn plural(kind: &str) -> String {
    format!("{}s", kind.to_lowercase())
}
