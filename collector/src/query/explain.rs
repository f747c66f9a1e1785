//! "May A connect to B?", asked of the cluster as the collector sees it.

use std::sync::Arc;

use polproof_cluster::{SourceKind, View};
use polproof_policy::{Family, ask};
use polproof_proto::v1;
use tonic::Status;

use super::{Query, refused};
use crate::convert;

/// Refused objects that a status names.
const REFUSED_SHOWN: usize = 20;

/// Pairs of pods that one question may be about: a workload of 300 pods with another one. Each is a verdict, and the
/// collector has other work.
const MOST_PAIRS: usize = 100_000;

/// Bytes of an end: a namespace, a kind and a name.
const LONGEST_END: usize = 63 + 64 + 253 + 2;

fn family(text: &str) -> Result<Option<Family>, Status> {
    match text {
        "" => Ok(None),
        "IPv4" => Ok(Some(Family::V4)),
        "IPv6" => Ok(Some(Family::V6)),
        _ => Err(Status::invalid_argument(
            "family is neither IPv4 nor IPv6 (leave it out for both)",
        )),
    }
}

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
        let family = family(&request.family)?;
        for end in [&request.source, &request.destination] {
            if end.len() > LONGEST_END {
                return Err(Status::invalid_argument(format!(
                    "an end of {} bytes is no name: NAMESPACE/KIND/NAME has {LONGEST_END} at most",
                    end.len()
                )));
            }
        }
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
        let question = ask::Question {
            source: &request.source,
            destination: &request.destination,
            port: (!request.port_by_default).then_some(port),
            protocol,
            family,
        };
        let directory = ask::Directory::new(&view.snapshot);
        let reply = ask::ask(&directory, &question, MOST_PAIRS).map_err(|error| {
            let said = error.to_string();
            match error {
                ask::AskError::Missing { .. } => Status::not_found(said),
                ask::AskError::Finished { .. }
                | ask::AskError::NoEndpoints { .. }
                | ask::AskError::Ambiguous { .. } => Status::failed_precondition(said),
                ask::AskError::Unreadable { .. }
                | ask::AskError::UnknownKind { .. }
                | ask::AskError::NoServicePort { .. }
                | ask::AskError::NoCommonFamily
                | ask::AskError::NotInFamily { .. }
                | ask::AskError::TooMany { .. } => Status::invalid_argument(said),
            }
        })?;
        Ok(v1::ExplainResponse {
            explanations: reply
                .answers
                .into_iter()
                .map(convert::explanation)
                .collect(),
            notes: reply.notes,
            port: u32::from(reply.port),
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
