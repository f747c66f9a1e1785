//! "May A connect to B?", asked of the cluster as the collector sees it.

use std::sync::Arc;

use polproof_cluster::{SourceKind, View};
use polproof_policy::ask;
use polproof_proto::v1;
use tonic::Status;

use super::{Query, refused};
use crate::convert;

/// Refused objects that a status names.
const REFUSED_SHOWN: usize = 20;

impl Query {
    fn view(&self) -> Option<Arc<View>> {
        self.view.as_ref().map(|view| Arc::clone(&view.borrow()))
    }

    pub(super) fn explanation(
        &self,
        request: &v1::ExplainRequest,
    ) -> Result<v1::ExplainResponse, Status> {
        let protocol = convert::asked_protocol(request.protocol).map_err(|bad| refused(&bad))?;
        let port = convert::port("port", request.port).map_err(|bad| refused(&bad))?;
        let Some(view) = self.view() else {
            return Err(Status::failed_precondition(
                "the collector has no source of the cluster's objects: start it in the cluster, or with --kubeconfig or \
                 --manifests; or ask with `polproof explain --manifests DIR`",
            ));
        };
        if !view.ready {
            return Err(Status::failed_precondition(format!(
                "the collector has not read the whole cluster yet{}; ask again in a moment",
                view.problem
                    .as_ref()
                    .map(|problem| format!(" ({problem})"))
                    .unwrap_or_default()
            )));
        }
        let answers = ask::ask(
            &view.snapshot,
            &request.source,
            &request.destination,
            port,
            protocol,
        )
        .map_err(|error| match error {
            ask::AskError::NoPod { .. } => Status::not_found(error.to_string()),
            ask::AskError::NoAddress { .. } | ask::AskError::Ambiguous { .. } => {
                Status::failed_precondition(error.to_string())
            }
            ask::AskError::Unreadable { .. }
            | ask::AskError::Service { .. }
            | ask::AskError::NoCommonFamily => Status::invalid_argument(error.to_string()),
        })?;
        Ok(v1::ExplainResponse {
            explanations: answers.into_iter().map(convert::explanation).collect(),
        })
    }

    pub(super) fn snapshot_state(&self) -> Option<v1::SnapshotState> {
        let view = self.view()?;
        let count = |kind| view.snapshot.count(kind) as u64;
        Some(v1::SnapshotState {
            ready: view.ready,
            source: match view.source {
                SourceKind::Kubernetes => "kubernetes",
                SourceKind::Manifests => "manifests",
            }
            .to_owned(),
            policies: count(polproof_policy::Kind::NetworkPolicy),
            pods: count(polproof_policy::Kind::Pod),
            refused: view
                .refused
                .iter()
                .take(REFUSED_SHOWN)
                .map(|refused| format!("{}: {}", refused.object, refused.reason))
                .collect(),
            problem: view.problem.clone().unwrap_or_default(),
            other_policies: view
                .other_policies()
                .map(|of| v1::PolicyCount {
                    kind: of.kind.to_owned(),
                    count: of.count,
                    evaluated: of.evaluated,
                })
                .collect(),
        })
    }
}
