//! What the collector answers, asked over its real query service from the control namespace.

use std::fs;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use polproof_proto::v1::query_service_client::QueryServiceClient;
use polproof_proto::v1::{
    Finding, FindingFilter, GetStatusRequest, GetStatusResponse, ListFindingsRequest,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use super::certificates;
use super::resident::Resident;

/// How long one question may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// A client of the query service, living in the control namespace.
#[derive(Debug)]
pub struct Questions {
    resident: Resident,
    channel: Channel,
}

impl Questions {
    pub(super) fn new(
        resident: Resident,
        collector: SocketAddr,
        server_name: &str,
        identity: &certificates::Identity,
    ) -> Result<Self> {
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(fs::read(&identity.ca)?))
            .identity(Identity::from_pem(
                fs::read(&identity.cert)?,
                fs::read(&identity.key)?,
            ))
            .domain_name(server_name);
        let endpoint = Endpoint::from_shared(format!("https://{collector}"))?
            .connect_timeout(PATIENCE)
            .timeout(PATIENCE)
            .tls_config(tls)?;
        // The channel's work is done by the runtime that makes it.
        let channel = resident.call(PATIENCE, move || async move { endpoint.connect_lazy() })?;
        Ok(Self { resident, channel })
    }

    /// The state of the collector and of every node it has heard of.
    ///
    /// # Errors
    /// When the collector does not answer.
    pub fn status(&self) -> Result<GetStatusResponse> {
        let mut client = QueryServiceClient::new(self.channel.clone());
        self.resident
            .call(PATIENCE * 3, move || async move {
                client.get_status(GetStatusRequest {}).await
            })?
            .map(tonic::Response::into_inner)
            .context("ask the collector for its status")
    }

    /// Every finding that it keeps, those that were taken back included.
    ///
    /// # Errors
    /// When the collector does not answer.
    pub fn findings(&self) -> Result<Vec<Finding>> {
        let mut client = QueryServiceClient::new(self.channel.clone())
            .max_decoding_message_size(polproof_proto::MAX_MESSAGE_BYTES);
        self.resident
            .call(PATIENCE * 3, move || async move {
                let mut all = Vec::new();
                let mut page_token = String::new();
                loop {
                    let request = ListFindingsRequest {
                        filter: Some(FindingFilter {
                            include_retracted: true,
                            ..FindingFilter::default()
                        }),
                        page_size: 1_000,
                        page_token,
                    };
                    let page = client.list_findings(request).await?.into_inner();
                    all.extend(page.findings);
                    if page.next_page_token.is_empty() {
                        return Ok::<_, tonic::Status>(all);
                    }
                    page_token = page.next_page_token;
                }
            })?
            .context("ask the collector for its findings")
    }
}
