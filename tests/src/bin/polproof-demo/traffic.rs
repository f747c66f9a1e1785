//! The connections of the story, which the policies of the shop admit or not.

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use polproof_proto::v1::endpoint::Kind;
use polproof_proto::v1::{Endpoint, Finding};
use polproof_tests::lab::{Lab, wiring};

/// Which family a row of the story uses.
#[derive(Clone, Copy)]
pub(crate) enum To {
    V4(&'static str, u16),
    V6(&'static str, u16),
    Metadata,
}

/// One connection of the story.
pub(crate) struct Row {
    pub(crate) from: &'static str,
    pub(crate) to: To,
    /// The policies that admit it, or what they say against it.
    pub(crate) why: &'static str,
    pub(crate) allowed: bool,
}

pub(crate) const TRAFFIC: &[Row] = &[
    Row {
        from: "shop/web",
        to: To::V4("shop/api", 8080),
        why: "web may call api",
        allowed: true,
    },
    Row {
        from: "shop/api",
        to: To::V6("shop/db", 5432),
        why: "api may use db",
        allowed: true,
    },
    Row {
        from: "shop/web",
        to: To::V4("kube-system/coredns", 53),
        why: "everyone may ask DNS",
        allowed: true,
    },
    Row {
        from: "monitoring/prometheus",
        to: To::V4("shop/db", 9090),
        why: "metrics may be scraped",
        allowed: true,
    },
    Row {
        from: "shop/web",
        to: To::V4("shop/db", 5432),
        why: "only api may use db",
        allowed: false,
    },
    Row {
        from: "shop/jobs",
        to: To::V6("shop/db", 5432),
        why: "only api may use db",
        allowed: false,
    },
    Row {
        from: "monitoring/prometheus",
        to: To::V4("shop/db", 5432),
        why: "metrics only",
        allowed: false,
    },
    Row {
        from: "shop/jobs",
        to: To::V4("shop/api", 8080),
        why: "only web may call api",
        allowed: false,
    },
    Row {
        from: "shop/web",
        to: To::Metadata,
        why: "cloud metadata is blocked",
        allowed: false,
    },
];

impl Row {
    /// Whether it arrives at a pod that it may not reach: only there stands a witness.
    pub(crate) const fn is_witnessed_violation(&self) -> bool {
        !self.allowed && !matches!(self.to, To::Metadata)
    }

    pub(crate) fn is(&self, finding: &Finding) -> bool {
        let Some(key) = &finding.key else {
            return false;
        };
        let (to, port) = match self.to {
            To::V4(pod, port) | To::V6(pod, port) => (pod, port),
            To::Metadata => return false,
        };
        pod_of(&key.source).as_deref() == Some(self.from)
            && pod_of(&key.destination).as_deref() == Some(to)
            && key.destination_port == u32::from(port)
    }
}

impl To {
    pub(crate) fn address(self, lab: &Lab) -> Result<SocketAddr> {
        Ok(match self {
            Self::V4(pod, port) => lab.pod(pod)?.v4(port),
            Self::V6(pod, port) => lab.pod(pod)?.v6(port),
            Self::Metadata => SocketAddr::new(wiring::METADATA, 80),
        })
    }
}

impl std::fmt::Display for To {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::V4(pod, port) => write!(f, "{pod}:{port}"),
            Self::V6(pod, port) => write!(f, "{pod}:{port} (IPv6)"),
            Self::Metadata => {
                let ip: IpAddr = wiring::METADATA;
                write!(f, "{ip}:80")
            }
        }
    }
}

fn pod_of(end: &Option<Endpoint>) -> Option<String> {
    match end.as_ref()?.kind.as_ref()? {
        Kind::Pod(pod) => Some(format!("{}/{}", pod.namespace, pod.name)),
        Kind::Node(_) | Kind::External(_) => None,
    }
}
