//! Servers that go away and come back.

use std::sync::atomic::Ordering;

use anyhow::{Context, Result, ensure};
use polproof_policy::{Kind, Uid};
use polproof_tests::cluster::{ApiServer, Binaries, ControlPlane, Proxy};

use crate::shared::{Watching, delete_pod, has_pod, namespace, pod, policy};

/// The history that the watch stands on is discarded while it is cut off: deletes in it are never sent.
pub(crate) async fn gone(binaries: &Binaries) -> Result<()> {
    // Without the server's own memory of events a watch reads etcd's history, which is compacted below.
    let options = ApiServer {
        flags: vec!["--watch-cache=false".to_owned()],
    };
    let plane = ControlPlane::start(binaries, options).await?;
    let client = plane.client().await?;
    namespace(&client, "gone").await?;
    pod(&client, "gone", "stays", None).await?;
    pod(&client, "gone", "goes", Some("10.3.0.1")).await?;
    let before = pod(&client, "gone", "again", Some("10.3.0.2")).await?;
    let proxy = Proxy::start(plane.address()).await?;
    let kubeconfig = plane.kubeconfig("through-proxy", proxy.address(), &plane.admin_user())?;
    let mut watching = Watching::start(kubeconfig)?;
    watching.ready().await?;
    let stats = std::sync::Arc::clone(&watching.config.stats);
    let pods = stats.kind(Kind::Pod);
    ensure!(pods.lists.load(Ordering::Relaxed) == 1 && pods.gone.load(Ordering::Relaxed) == 0);

    proxy.cut();
    watching
        .until("a problem", |view| view.problem.is_some())
        .await?;
    delete_pod(&client, "gone", "goes").await?;
    delete_pod(&client, "gone", "again").await?;
    let after = pod(&client, "gone", "again", Some("10.3.0.3")).await?;
    pod(&client, "gone", "new", None).await?;
    policy(&client, "gone", "new").await?;
    plane.compact()?;
    proxy.heal();

    let view = watching
        .until("the state after the relist", |view| {
            !has_pod(view, "gone", "goes")
                && has_pod(view, "gone", "new")
                && view.snapshot.pod(&Uid(after.as_str().into())).is_some()
                && view.snapshot.policies().count() == 1
                && view.problem.is_none()
        })
        .await?;
    ensure!(has_pod(&view, "gone", "stays"));
    ensure!(
        view.snapshot.pod(&Uid(before.as_str().into())).is_none(),
        "the earlier pod of that name is still there"
    );
    ensure!(view.snapshot.count(Kind::Pod) == 3);
    ensure!(
        pods.gone.load(Ordering::Relaxed) >= 1,
        "there was no 410 Gone: this test proved nothing"
    );
    ensure!(
        pods.lists.load(Ordering::Relaxed) >= 2,
        "there was no second list: this test proved nothing"
    );
    Ok(())
}

pub(crate) async fn api_restarts(binaries: &Binaries) -> Result<()> {
    let mut plane = ControlPlane::start(binaries, ApiServer::default()).await?;
    let client = plane.client().await?;
    namespace(&client, "api").await?;
    pod(&client, "api", "a", None).await?;
    let mut watching = Watching::start(plane.admin_kubeconfig()?)?;
    watching.ready().await?;

    plane.stop_api();
    let view = watching
        .until("a problem", |view| view.problem.is_some())
        .await?;
    let problem = view.problem.clone().context("a problem")?;
    ensure!(
        problem.contains("cannot be reached") && problem.contains(&plane.address().to_string()),
        "{problem}"
    );
    ensure!(
        view.ready && has_pod(&view, "api", "a"),
        "the last view must stay"
    );

    plane.start_api()?;
    plane.wait_ready().await?;
    let view = watching.ready().await?;
    ensure!(has_pod(&view, "api", "a"));
    delete_pod(&client, "api", "a").await?;
    pod(&client, "api", "b", None).await?;
    watching
        .until("changes after the restart", |view| {
            !has_pod(view, "api", "a") && has_pod(view, "api", "b")
        })
        .await?;

    // It hangs: connections stay open and silent.
    plane.freeze_api()?;
    let view = watching
        .until("a problem of a silent server", |view| {
            view.problem.is_some()
        })
        .await;
    plane.thaw_api()?;
    let problem = view?.problem.clone().context("a problem")?;
    ensure!(problem.contains("gave no answer"), "{problem}");
    watching.ready().await?;
    Ok(())
}

pub(crate) async fn etcd_restarts(binaries: &Binaries) -> Result<()> {
    let mut plane = ControlPlane::start(binaries, ApiServer::default()).await?;
    let client = plane.client().await?;
    namespace(&client, "etcd").await?;
    let uid = pod(&client, "etcd", "a", None).await?;
    let mut watching = Watching::start(plane.admin_kubeconfig()?)?;
    watching.ready().await?;

    plane.stop_etcd();
    let view = watching
        .until("a problem", |view| view.problem.is_some())
        .await?;
    let problem = view.problem.clone().context("a problem")?;
    ensure!(problem.contains("etcd"), "{problem}");
    ensure!(
        view.ready && has_pod(&view, "etcd", "a"),
        "the last view must stay"
    );

    plane.start_etcd()?;
    plane.wait_ready().await?;
    let view = watching.ready().await?;
    ensure!(view.snapshot.pod(&Uid(uid.as_str().into())).is_some());
    pod(&client, "etcd", "b", None).await?;
    watching
        .until("changes after the restart", |view| {
            has_pod(view, "etcd", "b")
        })
        .await?;
    Ok(())
}

/// etcd comes back with less history than the watch has seen. A watch from a version that the server has not reached
/// is silent, not refused.
pub(crate) async fn etcd_is_restored(binaries: &Binaries) -> Result<()> {
    let mut plane = ControlPlane::start(binaries, ApiServer::default()).await?;
    let client = plane.client().await?;
    namespace(&client, "before").await?;
    for index in 0..200 {
        pod(&client, "before", &format!("p{index}"), None).await?;
    }
    let mut watching = Watching::start(plane.admin_kubeconfig()?)?;
    watching.ready().await?;

    plane.stop_api();
    plane.stop_etcd();
    plane.forget()?;
    plane.start_etcd()?;
    plane.start_api()?;
    plane.wait_ready().await?;
    namespace(&client, "after").await?;
    pod(&client, "after", "a", None).await?;

    let view = watching
        .until("only what the restored cluster has", |view| {
            has_pod(view, "after", "a")
                && view.snapshot.count(Kind::Pod) == 1
                && view.problem.is_none()
        })
        .await?;
    ensure!(view.ready);
    pod(&client, "after", "b", None).await?;
    watching
        .until("later changes", |view| has_pod(view, "after", "b"))
        .await?;
    Ok(())
}
