//! What the owner makes of updates.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use polproof_policy::model::{NetworkPolicy, Pod, Selector};

use super::*;

fn pod(name: &str, uid: &str) -> Object {
    Object::Pod(Arc::new(Pod {
        id: NamespacedName::new("ns", name),
        uid: Uid(Arc::from(uid)),
        labels: Default::default(),
        ips: Vec::new(),
        node: None,
        host_network: false,
        finished: false,
        ports: Vec::new(),
        owner: None,
        annotations: Default::default(),
    }))
}

fn sound(name: &str, uid: &str) -> Compiled {
    Compiled::Sound(pod(name, uid))
}

fn refused(name: &str, uid: &str) -> Compiled {
    Compiled::Refused(
        pod(name, uid).key(),
        Refused {
            key: pod(name, uid).key(),
            object: name.to_owned(),
            reason: "bad".to_owned(),
        },
    )
}

fn uids(owner: &Owner) -> Vec<String> {
    let mut uids: Vec<String> = owner
        .view()
        .snapshot
        .pods()
        .map(|pod| pod.uid.0.to_string())
        .collect();
    uids.sort();
    uids
}

#[test]
fn ready_only_when_every_kind_was_listed_and_then_for_ever() {
    let mut owner = Owner::new(SourceKind::Kubernetes);
    for kind in Kind::ALL {
        assert!(!owner.view().ready);
        assert!(
            owner.take(Update::Reset(kind, Vec::new())),
            "the first list is news, even if empty"
        );
    }
    assert!(owner.view().ready);
    assert!(owner.take(Update::Problem("pods", Some("away".to_owned()))));
    assert!(owner.view().ready);
    assert!(!owner.take(Update::Reset(Kind::Pod, Vec::new())));
}

#[test]
fn a_late_delete_of_an_earlier_pod_does_not_remove_its_successor() {
    let mut owner = Owner::new(SourceKind::Kubernetes);
    owner.take(Update::Apply(sound("a", "1")));
    owner.take(Update::Apply(sound("a", "2")));
    assert!(!owner.take(Update::Delete(pod("a", "1").key())));
    assert_eq!(uids(&owner), ["2"]);
    assert!(owner.take(Update::Delete(pod("a", "2").key())));
    assert!(uids(&owner).is_empty());
}

#[test]
fn a_list_replaces_what_is_not_in_it() {
    let mut owner = Owner::new(SourceKind::Kubernetes);
    owner.take(Update::Reset(
        Kind::Pod,
        vec![sound("a", "1"), sound("b", "2"), refused("c", "3")],
    ));
    assert_eq!(owner.view().refused.len(), 1);
    assert!(owner.take(Update::Reset(
        Kind::Pod,
        vec![sound("b", "2"), sound("a", "4")]
    )));
    assert_eq!(uids(&owner), ["2", "4"]);
    assert!(owner.view().refused.is_empty());
    assert!(
        !owner.take(Update::Reset(
            Kind::Pod,
            vec![sound("a", "4"), sound("b", "2")]
        )),
        "the same again is no change"
    );
}

#[test]
fn an_object_that_becomes_bad_leaves_and_comes_back_when_it_is_good() {
    let mut owner = Owner::new(SourceKind::Kubernetes);
    owner.take(Update::Apply(sound("a", "1")));
    assert!(owner.take(Update::Apply(refused("a", "1"))));
    assert!(uids(&owner).is_empty() && owner.view().refused.len() == 1);
    assert!(!owner.take(Update::Apply(refused("a", "1"))));
    assert!(owner.take(Update::Apply(sound("a", "1"))));
    assert!(owner.view().refused.is_empty());
    owner.take(Update::Apply(refused("b", "2")));
    assert!(!owner.take(Update::Delete(pod("b", "9").key())));
    assert!(owner.take(Update::Delete(pod("b", "2").key())));
    assert!(owner.view().refused.is_empty());
}

fn policy(name: &str, uid: &str) -> Object {
    Object::NetworkPolicy(Arc::new(NetworkPolicy {
        id: NamespacedName::new("ns", name),
        uid: Uid(Arc::from(uid)),
        generation: 1,
        pod_selector: Selector::default(),
        isolates_ingress: true,
        isolates_egress: false,
        ingress: Vec::new(),
        egress: Vec::new(),
        written: Default::default(),
        annotations: Default::default(),
    }))
}

fn bad_policy(name: &str, uid: &str) -> Compiled {
    Compiled::Refused(
        policy(name, uid).key(),
        Refused {
            key: policy(name, uid).key(),
            object: name.to_owned(),
            reason: "bad".to_owned(),
        },
    )
}

/// The policies that the engine knows it lacks.
fn lacking(owner: &Owner) -> Vec<String> {
    let snapshot = owner.view().snapshot;
    snapshot
        .refused_policies()
        .map(|id| id.to_string())
        .collect()
}

#[test]
fn the_engine_knows_of_refused_policies_until_they_are_corrected_or_deleted() {
    let mut owner = Owner::new(SourceKind::Kubernetes);
    owner.take(Update::Apply(refused("pod", "0")));
    assert!(lacking(&owner).is_empty(), "policies only");
    owner.take(Update::Apply(Compiled::Sound(policy("a", "1"))));
    let before = owner.view().snapshot.version();
    assert!(owner.take(Update::Apply(bad_policy("a", "1"))));
    assert_eq!(lacking(&owner), ["ns/a"]);
    assert_eq!(owner.view().snapshot.policies().count(), 0);
    assert_ne!(owner.view().snapshot.version(), before);
    // Corrected, under whatever UID.
    assert!(owner.take(Update::Apply(Compiled::Sound(policy("a", "2")))));
    assert!(lacking(&owner).is_empty());
    // Deleted; the late delete of an earlier one of that name is none.
    owner.take(Update::Apply(bad_policy("b", "3")));
    assert!(!owner.take(Update::Delete(policy("b", "2").key())));
    assert_eq!(lacking(&owner), ["ns/b"]);
    assert!(owner.take(Update::Delete(policy("b", "3").key())));
    assert!(lacking(&owner).is_empty());
    // Listed anew.
    let list = || vec![bad_policy("c", "4"), Compiled::Sound(policy("d", "5"))];
    owner.take(Update::Apply(bad_policy("b", "3")));
    assert!(owner.take(Update::Reset(Kind::NetworkPolicy, list())));
    assert_eq!(lacking(&owner), ["ns/c"]);
    let version = owner.view().snapshot.version();
    assert!(!owner.take(Update::Reset(Kind::NetworkPolicy, list())));
    assert_eq!(owner.view().snapshot.version(), version);
    assert!(owner.take(Update::Reset(Kind::NetworkPolicy, Vec::new())));
    assert!(lacking(&owner).is_empty());
}

#[test]
fn one_text_for_one_cause() {
    let mut owner = Owner::new(SourceKind::Kubernetes);
    for part in ["pods", "nodes"] {
        owner.take(Update::Problem(part, Some("away".to_owned())));
    }
    assert_eq!(owner.view().problem.as_deref(), Some("away"));
    owner.take(Update::Problem("nodes", Some("forbidden".to_owned())));
    assert_eq!(owner.view().problem.as_deref(), Some("away\nforbidden"));
    owner.take(Update::Problem("pods", None));
    owner.take(Update::Problem("nodes", None));
    assert_eq!(owner.view().problem, None);
}

#[tokio::test]
async fn a_burst_is_one_view_and_a_trickle_is_not_starved() {
    let (updates, queue) = mpsc::channel(QUEUE);
    let (views, mut reader) = watch::channel(Arc::new(View::empty(SourceKind::Kubernetes)));
    let cancel = CancellationToken::new();
    let owner = tokio::spawn(run(
        Owner::new(SourceKind::Kubernetes),
        queue,
        views,
        cancel.clone(),
    ));
    for index in 0..500 {
        updates
            .send(Update::Apply(sound(
                &format!("p{index}"),
                &index.to_string(),
            )))
            .await
            .unwrap();
    }
    let mut seen = 0;
    while reader.borrow_and_update().snapshot.count(Kind::Pod) < 500 {
        reader.changed().await.unwrap();
        seen += 1;
    }
    assert!(seen <= 20, "{seen} views of one burst");
    // Changes that never pause are shown while they go on.
    let trickle = tokio::spawn(async move {
        let mut index = 1000;
        while updates
            .send(Update::Apply(sound(
                &format!("p{index}"),
                &index.to_string(),
            )))
            .await
            .is_ok()
        {
            index += 1;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    tokio::time::timeout(Duration::from_secs(30), reader.changed())
        .await
        .unwrap()
        .unwrap();
    cancel.cancel();
    owner.await.unwrap();
    trickle.await.unwrap();
}

#[tokio::test]
async fn it_ends_when_nobody_looks() {
    let (_updates, queue) = mpsc::channel(QUEUE);
    let (views, reader) = watch::channel(Arc::new(View::empty(SourceKind::Kubernetes)));
    let cancel = CancellationToken::new();
    let owner = tokio::spawn(run(
        Owner::new(SourceKind::Kubernetes),
        queue,
        views,
        cancel.clone(),
    ));
    drop(reader);
    tokio::time::timeout(Duration::from_secs(30), owner)
        .await
        .unwrap()
        .unwrap();
    assert!(cancel.is_cancelled(), "the watches must end, too");
}

/// A refused admin policy is told without a namespace; a refused one of a CNI's own is not told.
#[test]
fn the_engine_knows_of_refused_admin_policies() {
    let key = |kind| Key {
        kind,
        id: NamespacedName::new("", "a"),
        uid: Uid(Arc::from("1")),
    };
    let bad = |kind| {
        let refused = Refused {
            key: key(kind),
            object: "a".to_owned(),
            reason: "bad".to_owned(),
        };
        Compiled::Refused(key(kind), refused)
    };
    let mut owner = Owner::new(SourceKind::Kubernetes);
    owner.take(Update::Apply(bad(Kind::CiliumClusterwideNetworkPolicy)));
    assert!(lacking(&owner).is_empty());
    for kind in [
        Kind::AdminNetworkPolicy,
        Kind::BaselineAdminNetworkPolicy,
        Kind::ClusterNetworkPolicy,
    ] {
        owner.take(Update::Apply(bad(kind)));
        assert_eq!(lacking(&owner), ["/a"]);
        owner.take(Update::Delete(key(kind)));
        assert!(lacking(&owner).is_empty());
        owner.take(Update::Reset(kind, vec![bad(kind)]));
        assert_eq!(lacking(&owner), ["/a"]);
        owner.take(Update::Reset(kind, Vec::new()));
        assert!(lacking(&owner).is_empty());
    }
}

#[test]
fn an_object_that_was_made_anew_and_is_bad_takes_the_old_one_away() {
    let mut owner = Owner::new(SourceKind::Kubernetes);
    owner.take(Update::Apply(Compiled::Sound(policy("p", "1"))));
    owner.take(Update::Apply(sound("a", "1")));
    assert!(owner.take(Update::Apply(bad_policy("p", "2"))));
    assert!(owner.take(Update::Apply(refused("a", "2"))));
    let snapshot = owner.view().snapshot;
    assert_eq!(
        (snapshot.policies().count(), snapshot.pods().count()),
        (0, 0)
    );
}
