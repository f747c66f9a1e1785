//! What needs no API server.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::time::Duration;

use polproof_cluster::kubernetes::{KubernetesConfig, watch};
use polproof_cluster::{ClusterError, SourceKind};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn outside_of_a_cluster_without_a_kubeconfig_fails_at_once() {
    let error = watch(KubernetesConfig::default(), CancellationToken::new()).unwrap_err();
    assert!(matches!(error, ClusterError::NotInCluster(_)), "{error}");
    assert!(
        error
            .to_string()
            .contains("--kubeconfig FILE or --manifests DIR"),
        "{error}"
    );
}

#[tokio::test]
async fn a_server_that_is_away_is_a_problem_and_no_error() {
    // A port that was free a moment ago.
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(
        file.path(),
        format!(
            "{{apiVersion: v1, kind: Config, current-context: c, clusters: [{{name: c, cluster: {{server: \"https://127.0.0.1:{port}\"}}}}], \
             users: [{{name: u, user: {{token: t}}}}], contexts: [{{name: c, context: {{cluster: c, user: u}}}}]}}"
        ),
    )
    .unwrap();
    let config = KubernetesConfig {
        kubeconfig: Some(file.path().to_owned()),
        ..KubernetesConfig::default()
    };
    let cancel = CancellationToken::new();
    let mut views = watch(config, cancel.clone()).unwrap();
    let waiting = views.wait_for(|view| view.problem.is_some());
    let view = tokio::time::timeout(Duration::from_secs(30), waiting)
        .await
        .unwrap()
        .unwrap()
        .clone();
    assert!(!view.ready && view.source == SourceKind::Kubernetes);
    let problem = view.problem.clone().unwrap();
    assert!(
        problem.contains(&format!("https://127.0.0.1:{port} cannot be reached")),
        "{problem}"
    );
    assert!(problem.to_lowercase().contains("refused"), "{problem}");
    // Six watches, one cause, one text.
    assert_eq!(problem.matches("cannot be reached").count(), 1, "{problem}");

    cancel.cancel();
    let ended = async { while views.changed().await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(30), ended)
        .await
        .expect("everything ends when cancelled");
}
