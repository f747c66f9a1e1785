//! Whether the API server is there and ready, asked apart from the watches: a watch is silent both
//! when nothing happens and when its server hangs or has lost etcd.

use std::sync::Arc;
use std::time::Duration;

use http::Request;
use kube::Client;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::connect::Connector;
use super::problem;
use crate::owner::Update;

/// The part of the source that this speaks for.
const PART: &str = "server";

/// Asks until cancelled.
pub(super) async fn run(
    connector: Arc<Connector>,
    every: Duration,
    updates: mpsc::Sender<Update>,
    cancel: CancellationToken,
) {
    let work = async {
        let mut client: Option<(Client, String)> = None;
        loop {
            tokio::time::sleep(every).await;
            let said = match &client {
                Some((client, url)) => ask(client, url, every).await,
                None => match connector.client().await {
                    Ok(made) => {
                        let said = ask(&made.0, &made.1, every).await;
                        client = Some(made);
                        said
                    }
                    Err(error) => Some(error.to_string()),
                },
            };
            if said.is_some() {
                // The address or the CA may change with the credentials.
                client = None;
            }
            if updates.send(Update::Problem(PART, said)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = cancel.cancelled() => {}
        () = work => {}
    }
}

/// What is wrong with the server, if anything.
async fn ask(client: &Client, url: &str, patience: Duration) -> Option<String> {
    let Ok(request) = Request::get("/readyz").body(Vec::new()) else {
        return None; // a constant path is always a request
    };
    match tokio::time::timeout(patience, client.request_text(request)).await {
        Ok(Ok(_)) => None,
        Ok(Err(kube::Error::Api(status))) => match status.code {
            // It answers, which is all that is asked here; the watches tell what it refuses.
            401 | 403 | 404 => None,
            _ => Some(format!(
                "the API server {url} is up but not ready ({}); changes of the cluster may not be seen; check etcd and the \
                 API server's log",
                failed_checks(&status.message),
            )),
        },
        Ok(Err(error)) => Some(problem::away(&error, url)),
        Err(_) => Some(format!(
            "the API server {url} takes connections but gave no answer for {} s; the cluster is known only as of the last \
             update; check the load of the API server and of etcd; trying again",
            patience.as_secs(),
        )),
    }
}

/// The names of the checks that `/readyz` marks as failed.
fn failed_checks(body: &str) -> String {
    let failed: Vec<&str> = body
        .lines()
        .filter_map(|line| line.trim().strip_prefix("[-]"))
        .map(|line| line.split_once(' ').map_or(line, |(name, _)| name))
        .collect();
    if failed.is_empty() {
        body.trim().chars().take(200).collect()
    } else {
        format!("failed: {}", failed.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::failed_checks;

    #[test]
    fn only_failed_checks_are_named() {
        let body = "[+]ping ok\n[-]etcd failed: reason withheld\n[-]etcd-readiness failed: reason withheld\nreadyz check failed\n";
        assert_eq!(failed_checks(body), "failed: etcd, etcd-readiness");
        assert_eq!(failed_checks("busy"), "busy");
    }
}
