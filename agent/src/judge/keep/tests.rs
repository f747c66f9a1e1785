//! What is kept comes back; what is damaged does not.
#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use polproof_flow::netns::Hook;
use polproof_flow::record::NetnsCookie;
use polproof_policy::model::{
    Action, AdminKind, AdminPeer, AdminPolicy, AdminPort, AdminRule, ForeignEffect, ForeignKind,
    ForeignPolicy, ForeignScope, Namespace, Pod, PortMatch, Selector, Subject, Tier,
};
use polproof_policy::{Protocol, Uid};

use super::*;

fn pod(name: &str, address: &str) -> Object {
    Object::Pod(Arc::new(Pod {
        id: NamespacedName::new("shop", name),
        uid: Uid(name.into()),
        labels: BTreeMap::new(),
        ips: vec![address.parse().unwrap()],
        node: None,
        host_network: false,
        finished: false,
        ports: Vec::new(),
        owner: None,
        annotations: Default::default(),
    }))
}

fn file(dir: &Path) -> File {
    File {
        path: dir.join(FILE),
        boot_id: "boot".into(),
        retention: 60 * Instant::SECOND,
        current: Contents::default(),
        base: Contents::default(),
        base_at: None,
        steps: VecDeque::new(),
    }
}

fn names(snapshot: &Snapshot) -> Vec<String> {
    let mut names: Vec<_> = snapshot.pods().map(|pod| pod.id.name.to_string()).collect();
    names.sort();
    names
}

fn at(seconds: u64) -> Instant {
    Instant(seconds * Instant::SECOND)
}

#[test]
fn views_come_back_with_their_times_and_old_ones_fold_into_the_base() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = file(dir.path());
    let mut state = State::new();
    state.apply(Object::Namespace(Arc::new(Namespace {
        name: "shop".into(),
        uid: Uid("shop".into()),
        labels: BTreeMap::new(),
        annotations: Default::default(),
    })));
    state.apply(pod("a", "10.0.0.1"));
    file.step(at(1), &state.snapshot());
    state.apply(pod("b", "10.0.0.2"));
    file.step(at(10), &state.snapshot());
    state.delete(&pod("a", "10.0.0.1").key());
    file.step(at(50), &state.snapshot());
    file.step(at(51), &state.snapshot());
    let bindings = vec![Binding {
        netns: NetnsCookie(7),
        pod: Uid("b".into()),
        addresses: Vec::new(),
        since: at(2),
        hook: Hook::Exclusive,
        exclusive_from: at(0),
        plain_from: Some(at(2)),
    }];
    file.write(file.base_at.unwrap(), &bindings).unwrap();

    let kept = load(dir.path(), "boot");
    assert_eq!(kept.bindings, bindings);
    let seen: Vec<_> = kept
        .views
        .iter()
        .map(|(at, snapshot)| (*at, names(snapshot)))
        .collect();
    let expected: Vec<(Instant, Vec<String>)> = vec![
        (at(1), vec!["a".into()]),
        (at(10), vec!["a".into(), "b".into()]),
        (at(50), vec!["b".into()]),
    ];
    assert_eq!(seen, expected);
    assert!(load(dir.path(), "another boot").views.is_empty());

    state.apply(pod("c", "10.0.0.3"));
    file.step(at(112), &state.snapshot());
    file.write(file.base_at.unwrap(), &[]).unwrap();
    let kept = load(dir.path(), "boot");
    assert_eq!(
        kept.views[0].0,
        at(50),
        "in force when the last minute began"
    );
    assert_eq!(names(&kept.views[0].1), ["b"]);
    assert_eq!(kept.views.len(), 2);
}

#[test]
fn every_damage_means_a_fresh_start_and_no_panic() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = file(dir.path());
    let mut state = State::new();
    state.apply(pod("a", "10.0.0.1"));
    file.step(at(1), &state.snapshot());
    file.write(at(1), &[]).unwrap();
    let whole = fs::read(dir.path().join(FILE)).unwrap();
    assert_eq!(load(dir.path(), "boot").views.len(), 1);
    for cut in 0..whole.len() {
        fs::write(dir.path().join(FILE), &whole[..cut]).unwrap();
        assert!(load(dir.path(), "boot").views.is_empty(), "cut at {cut}");
    }
    for flip in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[flip] ^= 0x20;
        fs::write(dir.path().join(FILE), &bytes).unwrap();
        assert!(load(dir.path(), "boot").views.is_empty(), "flipped {flip}");
    }
}

#[test]
fn refused_policies_come_back_too() {
    let refused = |snapshot: &Snapshot| -> Vec<String> {
        let names = snapshot.refused_policies();
        names.map(|id| id.to_string()).collect()
    };
    let dir = tempfile::tempdir().unwrap();
    let mut file = file(dir.path());
    let mut state = State::new();
    let mut set = |names: &[&str]| {
        state.set_refused_policies(names.iter().map(|name| NamespacedName::new("shop", *name)));
        state.snapshot()
    };
    file.step(at(1), &set(&["a"]));
    file.step(at(10), &set(&["a", "b"]));
    file.step(at(20), &set(&["a", "b"]));
    file.step(at(30), &set(&[]));
    let seen = |file: &File| -> Vec<(Instant, Vec<String>)> {
        file.write(file.base_at.unwrap(), &[]).unwrap();
        let kept = load(dir.path(), "boot").views;
        kept.iter().map(|(at, view)| (*at, refused(view))).collect()
    };
    let both = vec!["shop/a".to_owned(), "shop/b".to_owned()];
    let begun = vec![
        (at(1), vec!["shop/a".to_owned()]),
        (at(10), both.clone()),
        (at(30), Vec::new()),
    ];
    assert_eq!(seen(&file), begun);
    // It goes on with what was loaded.
    let mut next = self::file(dir.path());
    for (at, view) in &load(dir.path(), "boot").views {
        next.step(*at, view);
    }
    assert_eq!(seen(&next), begun);
    next.step(at(75), &set(&["c"]));
    let folded = vec![
        (at(10), both),
        (at(30), Vec::new()),
        (at(75), vec!["shop/c".to_owned()]),
    ];
    assert_eq!(seen(&next), folded);
}

fn admin(kind: AdminKind) -> Object {
    let everybody = || Selector::default();
    let peers = vec![
        AdminPeer::Namespaces(everybody()),
        AdminPeer::Pods {
            namespaces: everybody(),
            pods: everybody(),
        },
        AdminPeer::Nodes(everybody()),
        AdminPeer::Networks(vec!["10.0.0.0/8".parse().unwrap()]),
        AdminPeer::DomainNames(vec!["*.example.com".into()]),
        AdminPeer::Unrecognised,
    ];
    let rule = AdminRule {
        name: Some("rule".into()),
        action: Action::Pass,
        peers,
        ports: vec![
            AdminPort::Of(Protocol::Tcp, PortMatch::Range(1, 2)),
            AdminPort::Named("web".into()),
        ],
    };
    Object::AdminPolicy(Arc::new(AdminPolicy {
        kind,
        name: "default".into(),
        uid: Uid(format!("{kind:?}").into()),
        generation: 3,
        tier: Tier::Baseline,
        priority: 7,
        subject: Subject::Namespaces(everybody()),
        ingress: vec![rule.clone()],
        egress: vec![rule],
        annotations: Default::default(),
    }))
}

fn foreign(kind: ForeignKind) -> Object {
    Object::ForeignPolicy(Arc::new(ForeignPolicy {
        kind,
        id: NamespacedName::new("shop", "l7"),
        uid: Uid(format!("{kind:?}").into()),
        scope: ForeignScope {
            own_namespace: true,
            namespaces: None,
            pods: Some(Selector::default()),
        },
        ingress: ForeignEffect {
            may_admit: true,
            may_block: true,
        },
        egress: ForeignEffect::default(),
    }))
}

#[test]
fn policies_of_every_kind_come_back_and_go() {
    let policies = [
        admin(AdminKind::AdminNetworkPolicy),
        admin(AdminKind::BaselineAdminNetworkPolicy),
        admin(AdminKind::ClusterNetworkPolicy),
        foreign(ForeignKind::CiliumNetworkPolicy),
        foreign(ForeignKind::CiliumClusterwideNetworkPolicy),
        foreign(ForeignKind::CalicoNetworkPolicy),
        foreign(ForeignKind::CalicoGlobalNetworkPolicy),
    ];
    let dir = tempfile::tempdir().unwrap();
    let mut file = file(dir.path());
    let mut state = State::new();
    file.step(at(1), &state.snapshot());
    for policy in &policies {
        state.apply(policy.clone());
    }
    file.step(at(10), &state.snapshot());
    for policy in policies.iter().skip(1) {
        state.delete(&policy.key());
    }
    file.step(at(20), &state.snapshot());
    file.write(file.base_at.unwrap(), &[]).unwrap();
    let kept = load(dir.path(), "boot").views;
    let held: Vec<Vec<Object>> = kept
        .iter()
        .map(|(_, view)| view.objects().collect())
        .collect();
    assert_eq!(held, [vec![], policies.to_vec(), vec![policies[0].clone()]]);
    // And as the base of the file.
    let mut next = self::file(dir.path());
    next.step(kept[1].0, &kept[1].1);
    next.write(kept[1].0, &[]).unwrap();
    let kept = load(dir.path(), "boot").views;
    assert_eq!(kept[0].1.objects().collect::<Vec<_>>(), policies);
}

#[test]
fn the_file_of_another_version_means_a_fresh_start() {
    let dir = tempfile::tempdir().unwrap();
    let mut file = file(dir.path());
    file.step(at(1), &State::new().snapshot());
    file.write(at(1), &[]).unwrap();
    assert_eq!(load(dir.path(), "boot").views.len(), 1);
    let mut bytes = fs::read(dir.path().join(FILE)).unwrap();
    bytes[..MAGIC.len()].copy_from_slice(b"ppview01");
    fs::write(dir.path().join(FILE), bytes).unwrap();
    assert!(load(dir.path(), "boot").views.is_empty());
}
