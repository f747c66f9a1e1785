//! What a client may do, by the DNS names in its certificate.
//!
//! | DNS name (subjectAltName) | may |
//! | --- | --- |
//! | `polproof-agent` | report, for any node: one certificate for all of a DaemonSet |
//! | `NODE.polproof-agent` | report for the node NODE, and no other |
//! | `polproof-reader` | ask: status, findings, explanations |
//!
//! A certificate may have several. The common name counts for nothing: it has been out of use for names for years, and
//! cert-manager leaves it empty. A certificate of the CA without any of these names (the collector's own) may do nothing.

use std::fmt;

use tonic::{Request, Status};
use x509_parser::extensions::GeneralName;

use crate::convert::printable;

/// The name of agents, and what follows the node in the name of one.
pub const AGENT: &str = "polproof-agent";
/// The name of those who ask.
pub const READER: &str = "polproof-reader";
/// Names that a refusal lists.
const LISTED: usize = 10;

/// Who is at the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    common_name: String,
    dns: Vec<String>,
}

impl Identity {
    /// The identity of the client who sent a request. It is known to be signed by the CA: the handshake would have
    /// failed otherwise.
    pub fn of<T>(request: &Request<T>) -> Result<Self, Status> {
        let chain = request.peer_certs();
        let certificate = chain
            .as_ref()
            .and_then(|chain| chain.first())
            .ok_or_else(|| {
                Status::unauthenticated("no client certificate came with the connection")
            })?;
        Self::read(certificate).map_err(|problem| {
            Status::unauthenticated(format!("the client certificate cannot be read: {problem}"))
        })
    }

    fn read(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) =
            x509_parser::parse_x509_certificate(der).map_err(|error| error.to_string())?;
        let common_name = certificate
            .subject()
            .iter_common_name()
            .find_map(|name| name.as_str().ok())
            .unwrap_or_default()
            .to_owned();
        let names = certificate
            .subject_alternative_name()
            .map_err(|error| error.to_string())?;
        let dns = names
            .iter()
            .flat_map(|names| &names.value.general_names)
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            })
            .collect();
        Ok(Self { common_name, dns })
    }

    fn nodes(&self) -> impl Iterator<Item = &str> {
        self.dns
            .iter()
            .filter_map(|name| name.strip_suffix(AGENT)?.strip_suffix('.'))
    }

    /// Refuses those who are no agent at all.
    pub fn may_report(&self) -> Result<(), Status> {
        if self.any_node() || self.nodes().next().is_some() {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "{self} may not report: the certificate of an agent needs the DNS name {AGENT} (for all nodes) or \
             NODE.{AGENT} (for one); issue one with it (deploy/README.md, Certificates)"
        )))
    }

    /// Refuses an agent of another node.
    pub fn may_report_of(&self, node: &str) -> Result<(), Status> {
        self.may_report()?;
        if self.any_node() || self.nodes().any(|allowed| allowed == node) {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "{self} may not report of node {node}: it needs the DNS name {node}.{AGENT} or {AGENT}; is the agent's \
             --node-name right, and the certificate its own?"
        )))
    }

    /// Refuses those who may not ask.
    pub fn may_read(&self) -> Result<(), Status> {
        if self.dns.iter().any(|name| name == READER) {
            return Ok(());
        }
        Err(Status::permission_denied(format!(
            "{self} may not read: it needs the DNS name {READER}; use a certificate that has it (deploy/README.md, \
             Certificates)"
        )))
    }

    fn any_node(&self) -> bool {
        self.dns.iter().any(|name| name == AGENT)
    }
}

/// For the query service: lets those pass who may ask.
pub fn reader(request: Request<()>) -> Result<Request<()>, Status> {
    let refused = match Identity::of(&request).and_then(|identity| identity.may_read()) {
        Ok(()) => return Ok(request),
        Err(refused) => refused,
    };
    let peer = request.remote_addr().map(|address| address.to_string());
    tracing::warn!(peer, "a question was refused: {}", refused.message());
    Err(refused)
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the certificate with ")?;
        if self.dns.is_empty() {
            f.write_str("no DNS name")?;
        } else {
            let mut names: Vec<String> = self
                .dns
                .iter()
                .take(LISTED)
                .map(|name| printable(name, 253))
                .collect();
            if self.dns.len() > LISTED {
                names.push("...".to_owned());
            }
            write!(f, "the DNS names {}", names.join(", "))?;
        }
        if !self.common_name.is_empty() {
            write!(f, " (common name {})", printable(&self.common_name, 64))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_roles() {
        // Names; whether they may report of n1 and of a.b; whether they may read.
        for (names, n1, other, reads) in [
            (&["polproof-agent"][..], true, true, false),
            (&["n1.polproof-agent"], true, false, false),
            (&["a.b.polproof-agent", "x"], false, true, false),
            (&["polproof-reader"], false, false, true),
            (&["polproof-reader", "n1.polproof-agent"], true, false, true),
            (&["n1.polproof-agent.example.com"], false, false, false),
            (&["xpolproof-agent"], false, false, false),
            (&["*.polproof-agent"], false, false, false),
            (&[".polproof-agent"], false, false, false),
            (&["n1.polproof-reader"], false, false, false),
            (&[], false, false, false),
        ] {
            let identity = Identity {
                common_name: "polproof-agent".to_owned(),
                dns: names.iter().map(|name| (*name).to_owned()).collect(),
            };
            assert_eq!(identity.may_report_of("n1").is_ok(), n1, "{names:?}");
            assert_eq!(identity.may_report_of("a.b").is_ok(), other, "{names:?}");
            assert_eq!(identity.may_read().is_ok(), reads, "{names:?}");
        }
    }
}
