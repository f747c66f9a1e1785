//! Clients of the API server, made anew whenever the credentials may have changed.

use std::path::PathBuf;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use crate::ClusterError;
use crate::error::chain;

/// A server that does not take the connection within this time is away.
const CONNECT: Duration = Duration::from_secs(5);

/// Where the credentials lie. Each client reads them again.
#[derive(Debug)]
pub(super) struct Connector {
    kubeconfig: Option<PathBuf>,
    context: Option<String>,
}

impl Connector {
    /// Fails at once for what a person must correct.
    pub(super) fn new(
        kubeconfig: Option<PathBuf>,
        context: Option<String>,
    ) -> Result<Self, ClusterError> {
        let this = Self {
            kubeconfig,
            context,
        };
        match this.read()? {
            Some(kubeconfig) => {
                let known = |name: &String| kubeconfig.contexts.iter().any(|c| c.name == *name);
                let wanted = this
                    .context
                    .as_ref()
                    .or(kubeconfig.current_context.as_ref());
                if wanted.is_some_and(known) {
                    Ok(this)
                } else {
                    Err(this.unusable(match wanted {
                        Some(name) => format!("it has no context `{name}`"),
                        None => "it has no current-context".to_owned(),
                    }))
                }
            }
            None => Config::incluster()
                .map(|_| this)
                .map_err(|error| ClusterError::NotInCluster(chain(&error))),
        }
    }

    fn read(&self) -> Result<Option<Kubeconfig>, ClusterError> {
        self.kubeconfig
            .as_ref()
            .map(|file| Kubeconfig::read_from(file).map_err(|e| self.unusable(chain(&e))))
            .transpose()
    }

    fn unusable(&self, problem: String) -> ClusterError {
        ClusterError::Kubeconfig {
            file: self.kubeconfig.clone().unwrap_or_default(),
            problem,
        }
    }

    /// Where the credentials come from, for messages.
    pub(super) fn credentials(&self) -> String {
        match &self.kubeconfig {
            Some(file) => format!("kubeconfig {}", file.display()),
            None => "the pod's service account token".to_owned(),
        }
    }

    /// A client with the credentials as they are now, and the server's address.
    pub(super) async fn client(&self) -> Result<(Client, String), ClusterError> {
        let mut config = match self.read()? {
            Some(kubeconfig) => {
                let options = KubeConfigOptions {
                    context: self.context.clone(),
                    ..KubeConfigOptions::default()
                };
                Config::from_custom_kubeconfig(kubeconfig, &options)
                    .await
                    .map_err(|error| self.unusable(chain(&error)))?
            }
            None => {
                Config::incluster().map_err(|error| ClusterError::NotInCluster(chain(&error)))?
            }
        };
        config.connect_timeout = Some(CONNECT);
        // Attempts are spaced by our own backoff; a hidden retry would only delay the message.
        config.default_retry = false;
        let url = config
            .cluster_url
            .to_string()
            .trim_end_matches('/')
            .to_owned();
        let client = Client::try_from(config).map_err(|error| ClusterError::Client {
            url: url.clone(),
            problem: chain(&error),
        })?;
        Ok((client, url))
    }
}
