//! Why the collector cannot be reached, said so that somebody can act on it.

use std::error::Error;
use std::path::PathBuf;

use rustls::{AlertDescription, CertificateError};
use tonic::{Code, Status};

use super::spool::SpoolError;

/// Why there is no stream to the collector.
#[derive(Debug, thiserror::Error)]
pub enum StreamProblem {
    /// A file of the TLS settings.
    #[error("{option} {}: {why}", path.display())]
    TlsFile {
        /// The flag that names the file.
        option: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// Nobody listens there.
    #[error(
        "connection refused: nothing listens there. Is the collector running, and is --collector its gRPC address?"
    )]
    Refused,
    /// The name or the address cannot be reached.
    #[error(
        "{0}. Check the address in --collector, DNS and the network between the node and the collector"
    )]
    Unreachable(String),
    /// The collector's certificate is not signed by our CA.
    #[error(
        "the collector's certificate is not issued by the CA in --tls-ca (unknown issuer). Give the CA that signed the collector's certificate"
    )]
    UnknownIssuer,
    /// The collector's certificate is too old or too new.
    #[error("the collector's certificate {0}. Renew it, or set the node's clock")]
    Validity(String),
    /// The collector's certificate is for other names.
    #[error(
        "the collector's certificate is for {presented}, not for {expected:?} (name mismatch). Correct --collector, or name what the \
         certificate has with --tls-server-name"
    )]
    WrongName {
        /// What we asked for.
        expected: String,
        /// What it has.
        presented: String,
    },
    /// The collector refuses our certificate.
    #[error(
        "the collector refuses this agent's certificate ({0}). --tls-cert must be signed by the collector's --tls-ca and be valid today"
    )]
    ClientCertificate(String),
    /// Another TLS error.
    #[error("TLS: {0}. Is it a polproof collector that listens there?")]
    Tls(String),
    /// A batch is larger than the other side accepts.
    #[error(
        "the collector refuses a message as too large: {0}. Agent and collector must be of the same release"
    )]
    TooLarge(String),
    /// No answer in time.
    #[error(
        "the collector accepted the connection but sent no {what} for {seconds} s; is it overloaded, or its database locked?"
    )]
    Silent {
        /// What was awaited.
        what: &'static str,
        /// For how long.
        seconds: u64,
    },
    /// The connection ended before the welcome, and nothing said why.
    #[error(
        "the connection ended before the collector's welcome ({0}). Is it a polproof collector of this release that listens there?"
    )]
    Vague(String),
    /// The collector ended the stream.
    #[error("the collector ended the stream: {0}")]
    Ended(String),
    /// It sent what the protocol does not have.
    #[error("the collector sent {0}; agent and collector must be of the same release")]
    Protocol(&'static str),
    /// Our own disk.
    #[error(transparent)]
    Spool(#[from] SpoolError),
}

impl StreamProblem {
    /// From a failed connect.
    pub fn from_connect(error: &(dyn Error + 'static)) -> Self {
        Self::from_chain(error).unwrap_or_else(|| Self::Unreachable(chain(error)))
    }

    /// From a failed or ended stream.
    pub fn from_status(status: &Status) -> Self {
        if let Some(problem) = status.source().and_then(Self::from_chain) {
            return problem;
        }
        let text = status.message();
        match status.code() {
            Code::OutOfRange | Code::ResourceExhausted if text.contains("too large") => {
                Self::TooLarge(text.to_owned())
            }
            Code::Unavailable if status.source().is_some() => {
                Self::Vague(status.source().map_or_else(String::new, chain))
            }
            Code::Cancelled | Code::Unknown | Code::Internal => {
                Self::Vague(format!("{:?}: {text}", status.code()))
            }
            code => Self::Ended(format!("{code:?}: {text}")),
        }
    }

    /// The first cause in a chain of errors that we know.
    pub(super) fn from_chain(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(tls) = error.downcast_ref::<rustls::Error>() {
                return Some(Self::from_tls(tls));
            }
            if let Some(io) = error.downcast_ref::<std::io::Error>() {
                // `source()` of an io::Error skips the error that it wraps.
                if let Some(inner) = io.get_ref()
                    && let Some(problem) = Self::from_chain(inner)
                {
                    return Some(problem);
                }
                if io.kind() == std::io::ErrorKind::ConnectionRefused {
                    return Some(Self::Refused);
                }
            }
            next = error.source();
        }
        None
    }

    fn from_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(why) => match why {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    Self::UnknownIssuer
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    Self::Validity("has expired".to_owned())
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::Validity("is not valid yet".to_owned())
                }
                CertificateError::NotValidForNameContext {
                    expected,
                    presented,
                } => Self::WrongName {
                    expected: expected.to_str().into_owned(),
                    presented: if presented.is_empty() {
                        "no name at all".to_owned()
                    } else {
                        presented.join(", ")
                    },
                },
                CertificateError::NotValidForName => Self::WrongName {
                    expected: "the name in --collector".to_owned(),
                    presented: "other names".to_owned(),
                },
                other => Self::Tls(format!("the collector's certificate: {other}")),
            },
            rustls::Error::AlertReceived(alert) => match alert {
                AlertDescription::UnknownCA
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::CertificateRevoked
                | AlertDescription::CertificateUnknown
                | AlertDescription::CertificateRequired
                | AlertDescription::UnsupportedCertificate
                | AlertDescription::AccessDenied
                | AlertDescription::DecryptError => Self::ClientCertificate(format!("{alert:?}")),
                other => Self::Tls(format!("alert {other:?}")),
            },
            other => Self::Tls(other.to_string()),
        }
    }
}

/// An error and its causes in one line, without repetitions.
pub(super) fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let own = error.to_string();
        if !text.contains(&own) {
            text.push_str(": ");
            text.push_str(&own);
        }
        next = error.source();
    }
    text
}
