//! A large cluster.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use polproof_policy::Kind;
use polproof_tests::cluster::{ApiServer, Binaries, ControlPlane};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::shared::{Watching, delete_pod, has_pod, namespace, pod};

const PODS: usize = 5_000;

pub(crate) async fn five_thousand(binaries: &Binaries) -> Result<()> {
    let plane = ControlPlane::start(
        binaries,
        ApiServer {
            flags: vec!["--max-mutating-requests-inflight=1000".to_owned()],
        },
    )
    .await?;
    let client = plane.client().await?;
    namespace(&client, "many").await?;
    let at_once = Arc::new(Semaphore::new(64));
    let mut making = JoinSet::new();
    for index in 0..PODS {
        let (client, at_once) = (client.clone(), Arc::clone(&at_once));
        making.spawn(async move {
            let _turn = at_once.acquire().await?;
            pod(&client, "many", &format!("p{index}"), None).await
        });
    }
    while let Some(made) = making.join_next().await {
        made??;
    }

    let started = Instant::now();
    let mut watching = Watching::start(plane.admin_kubeconfig()?)?;
    let view = watching.ready().await?;
    let took = started.elapsed();
    ensure!(
        view.snapshot.count(Kind::Pod) == PODS,
        "{} pods",
        view.snapshot.count(Kind::Pod)
    );
    eprintln!("{PODS} pods listed in {took:?}");
    // About 1 s when the machine is otherwise idle.
    ensure!(took < Duration::from_secs(30), "{PODS} pods took {took:?}");

    delete_pod(&client, "many", "p17").await?;
    watching
        .until("one pod less", |view| !has_pod(view, "many", "p17"))
        .await?;
    Ok(())
}
