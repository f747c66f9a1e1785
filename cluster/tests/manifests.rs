//! Manifests in files, as people and tools write them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use polproof_cluster::manifests::{load, load_counted, watch};
use polproof_cluster::{ClusterError, SourceKind, View};
use polproof_policy::{
    Endpoint, Expectation, Kind, NamespacedName, Protocol, Query, UnknownReason,
};
use tokio_util::sync::CancellationToken;

const WEB: &str = "apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
spec: {containers: [{name: c, image: i, resources: {requests: {cpu: 1}}}]}
status: {podIP: 10.0.0.1}
";

const DENY: &str = "apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: deny, namespace: shop}
spec: {podSelector: {}}
";

fn names(view: &View, kind: Kind) -> Vec<String> {
    let mut names: Vec<String> = view
        .snapshot
        .objects()
        .map(|object| object.key())
        .filter(|key| key.kind == kind)
        .map(|key| key.id.to_string())
        .collect();
    names.sort();
    names
}

#[test]
fn a_folder_is_read_with_all_forms() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir(at("deep")).unwrap();
    fs::create_dir(at(".git")).unwrap();
    fs::write(
        at("a.yaml"),
        format!("# a comment\n---\n{WEB}---\n---\n{DENY}"),
    )
    .unwrap();
    fs::write(
        at("deep/b.json"),
        r#"{"kind":"PodList","apiVersion":"v1","items":[{"metadata":{"name":"j"}},{"metadata":{"name":"k","namespace":"shop"}}]}"#,
    )
    .unwrap();
    fs::write(
        at("c.yml"),
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: shop, labels: {a: b}}}\n\
         - {apiVersion: example.com/v1, kind: Deployment, metadata: {name: d}}\n",
    )
    .unwrap();
    fs::write(at("values.yaml"), "replicas: 3\n").unwrap();
    fs::write(at("empty.yaml"), "# nothing\n").unwrap();
    fs::write(at("notes.txt"), "kind: nonsense: [").unwrap();
    fs::write(at(".git/x.yaml"), "{").unwrap();
    fs::write(at(".hidden.yaml"), "{").unwrap();

    let (view, ignored) = load_counted(folder.path()).unwrap();
    assert!(
        view.ready && view.problem.is_none() && view.refused.is_empty(),
        "{view:?}"
    );
    assert_eq!(view.source, SourceKind::Manifests);
    assert_eq!(names(&view, Kind::Pod), ["default/j", "shop/k", "shop/web"]);
    assert_eq!(names(&view, Kind::NetworkPolicy), ["shop/deny"]);
    // `default` is used and was defined nowhere.
    assert_eq!(names(&view, Kind::Namespace), ["/default", "/shop"]);
    assert_eq!(view.snapshot.policies().next().unwrap().generation, 0);
    let counted: Vec<(&str, usize)> = ignored
        .iter()
        .map(|(kind, n)| (kind.as_str(), *n))
        .collect();
    assert_eq!(
        counted,
        [("(no Kubernetes object)", 1), ("Deployment.example.com", 1)]
    );
}

#[test]
fn reading_twice_gives_the_same_uids() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), WEB).unwrap();
    let uid = || {
        load(file.path())
            .unwrap()
            .snapshot
            .pods()
            .next()
            .unwrap()
            .uid
            .clone()
    };
    assert_eq!(uid(), uid());
}

fn error(name: &str, text: &str) -> (String, u64) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("good.yaml"), WEB).unwrap();
    fs::write(folder.path().join(name), text).unwrap();
    match load(folder.path()) {
        Err(error @ ClusterError::Manifest { line, .. }) => (error.to_string(), line),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_broken_file_is_named_with_its_line() {
    let (text, line) = error(
        "bad.yaml",
        &format!("{WEB}---\n{DENY}\n---\na: [1,\nb: 2\n"),
    );
    assert!(
        text.contains("bad.yaml:") && text.contains("kubectl apply --dry-run"),
        "{text}"
    );
    assert!((12..=14).contains(&line), "{text}");

    let (text, line) = error("bad.json", "{\n\"a\": 1,\n}");
    assert_eq!(line, 3, "{text}");

    let (text, _) = error("kind.yaml", "apiVersion: v1\nmetadata: {name: a}\n");
    assert!(text.contains("no kind"), "{text}");

    let (text, _) = error("dup.yaml", "apiVersion: v1\nkind: Pod\nkind: Node\n");
    assert!(text.contains("dup.yaml:3"), "{text}");
}

#[test]
fn hostile_input_ends_soon() {
    let mut bomb = String::from("a: &a [x,x,x,x,x,x,x,x,x,x]\n");
    for level in 1..30_u8 {
        let (this, last) = (
            char::from(b'a' + level % 26),
            char::from(b'a' + (level - 1) % 26),
        );
        bomb.push_str(&format!(
            "k{level}: &{this} [*{last},*{last},*{last},*{last},*{last},*{last},*{last},*{last}]\n"
        ));
    }
    let deep = "[".repeat(100_000);
    let deep_json = format!("{{\"a\":{}", "[".repeat(100_000));
    for (name, text) in [
        ("bomb.yaml", bomb),
        ("deep.yaml", deep),
        ("deep.json", deep_json),
    ] {
        let started = std::time::Instant::now();
        error(name, &text);
        assert!(started.elapsed() < Duration::from_secs(5), "{name}");
    }
}

#[test]
fn a_refused_object_is_named_and_the_rest_counts() {
    let folder = tempfile::tempdir().unwrap();
    let mistyped = DENY.replace("deny", "mistyped").replace(
        "{podSelector: {}}",
        "{podSelector: {}, ingress: [{from: 7}]}",
    );
    let bad = DENY.replace("deny", "bad").replace(
        "{podSelector: {}}",
        "{podSelector: {}, ingress: [{ports: [{port: 0}]}]}",
    );
    let old = DENY.replace("networking.k8s.io/v1", "extensions/v1beta1");
    let nameless = "apiVersion: v1\nkind: Pod\nmetadata: {generateName: x-}\n";
    fs::write(
        folder.path().join("a.yaml"),
        format!("{WEB}---\n{DENY}---\n{bad}---\n{DENY}---\n{old}---\n{nameless}---\n{nameless}---\n{mistyped}"),
    )
    .unwrap();
    let view = load(folder.path()).unwrap();
    assert_eq!(names(&view, Kind::NetworkPolicy), ["shop/deny"]);
    assert_eq!(names(&view, Kind::Pod), ["shop/web"]);
    let text: Vec<String> = view
        .refused
        .iter()
        .map(|r| format!("{} => {}", r.object, r.reason))
        .collect();
    let text = text.join("\n");
    assert_eq!(view.refused.len(), 6, "{text}");
    assert!(
        text.contains("NetworkPolicy shop/bad (") && text.contains("spec.ingress[0].ports[0].port"),
        "{text}"
    );
    assert!(
        text.contains("defined twice: the one at ") && text.contains("a.yaml:6"),
        "{text}"
    );
    assert!(text.contains("write networking.k8s.io/v1"), "{text}");
    assert!(
        text.contains("spec.ingress[0].from: invalid type: integer `7`, expected"),
        "{text}"
    );
}

/// What is to happen between the two pods of the tests below, at the destination.
fn expected(view: &View) -> Expectation {
    let pod = |name: &str| {
        let id = NamespacedName::new("shop", name);
        Arc::clone(view.snapshot.pod_named(&id).unwrap())
    };
    let (web, db) = (pod("web"), pod("db"));
    view.snapshot
        .evaluate(&Query {
            source: Endpoint::Pod(&web),
            source_ip: web.ips[0],
            destination: Endpoint::Pod(&db),
            destination_ip: db.ips[0],
            protocol: Protocol::Tcp,
            port: 80,
        })
        .expectation()
}

#[tokio::test]
async fn a_refused_policy_beside_a_default_deny_leaves_the_denial_open() {
    let opened = Expectation::Unknown(UnknownReason::RefusedPolicy);
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let db = WEB.replace("web", "db").replace("10.0.0.1", "10.0.0.2");
    fs::write(at("a.yaml"), format!("{WEB}---\n{db}---\n{DENY}")).unwrap();
    assert_eq!(expected(&load(folder.path()).unwrap()), Expectation::Deny);

    let admits = |port: &str| {
        DENY.replace("name: deny", "name: to-db").replace(
            "{podSelector: {}}",
            &format!("{{podSelector: {{}}, ingress: [{{ports: [{{port: {port}}}]}}]}}"),
        )
    };
    for (what, text) in [
        ("a bad port", admits("0")),
        ("twice", format!("{}---\n{}", admits("1"), admits("80"))),
        (
            "another version",
            admits("80").replace("networking.k8s.io/v1", "extensions/v1beta1"),
        ),
        ("no name", admits("80").replace("name: to-db, ", "")),
    ] {
        fs::write(at("b.yaml"), text).unwrap();
        let view = load(folder.path()).unwrap();
        assert_eq!(expected(&view), opened, "{what}: {:?}", view.refused);
    }
    fs::write(at("b.yaml"), admits("0").replace("shop", "pay")).unwrap();
    assert_eq!(expected(&load(folder.path()).unwrap()), Expectation::Deny);

    fs::write(at("b.yaml"), admits("0")).unwrap();
    let mut followed = Followed::start(folder.path());
    assert_eq!(expected(&followed.views.borrow()), opened);
    fs::write(at("b.yaml"), admits("1")).unwrap();
    followed
        .until("corrected", |view| expected(view) == Expectation::Deny)
        .await;
    fs::write(at("b.yaml"), admits("65536")).unwrap();
    followed
        .until("refused again", |view| expected(view) == opened)
        .await;
    fs::remove_file(at("b.yaml")).unwrap();
    followed
        .until("deleted", |view| expected(view) == Expectation::Deny)
        .await;
}

#[test]
fn a_missing_path_is_said() {
    let error = load("/no/such/folder").unwrap_err().to_string();
    assert!(
        error.starts_with("/no/such/folder: No such file"),
        "{error}"
    );
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), [0xff, 0xfe]).unwrap();
    let error = load(folder.path()).unwrap_err().to_string();
    assert!(
        error.contains("a.yaml") && error.contains("not UTF-8"),
        "{error}"
    );
}

struct Followed {
    views: tokio::sync::watch::Receiver<Arc<View>>,
    cancel: CancellationToken,
}

impl Followed {
    fn start(path: &Path) -> Self {
        let cancel = CancellationToken::new();
        let views = watch(path.to_owned(), cancel.clone()).unwrap();
        Self { views, cancel }
    }

    async fn until(&mut self, what: &str, wanted: impl Fn(&View) -> bool) -> Arc<View> {
        let waiting = self.views.wait_for(|view| wanted(view));
        let found = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        Arc::clone(&*found.unwrap_or_else(|_| panic!("never: {what}")).unwrap())
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

fn has(view: &View, name: &str) -> bool {
    view.snapshot
        .pod_named(&NamespacedName::new("shop", name))
        .is_some()
}

#[tokio::test]
async fn changes_are_followed_and_a_broken_file_keeps_the_last_view() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a.yaml"), WEB).unwrap();
    let mut followed = Followed::start(folder.path());
    let first = Arc::clone(&followed.views.borrow());
    assert!(first.ready && has(&first, "web"));

    fs::write(at("b.yaml"), WEB.replace("web", "api")).unwrap();
    followed.until("a new file", |view| has(view, "api")).await;

    // As editors save: another file, renamed over.
    fs::write(at(".b.swp"), WEB.replace("web", "db")).unwrap();
    fs::rename(at(".b.swp"), at("b.yaml")).unwrap();
    followed
        .until("a replaced file", |view| {
            has(view, "db") && !has(view, "api")
        })
        .await;

    fs::write(at("a.yaml"), "kind: [").unwrap();
    let view = followed
        .until("a problem", |view| view.problem.is_some())
        .await;
    assert!(
        view.ready && has(&view, "web") && has(&view, "db"),
        "the last good view must stay"
    );
    let problem = view.problem.clone().unwrap();
    assert!(
        problem.contains("a.yaml:1") && problem.contains("last read whole"),
        "{problem}"
    );

    fs::write(at("a.yaml"), WEB).unwrap();
    followed
        .until("well again", |view| view.problem.is_none())
        .await;

    fs::remove_file(at("b.yaml")).unwrap();
    followed
        .until("a removed file", |view| {
            !has(view, "db") && has(view, "web")
        })
        .await;

    // A folder made later is followed, too.
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("sub/c.yaml"), WEB.replace("web", "sub")).unwrap();
    followed
        .until("a file in a new folder", |view| has(view, "sub"))
        .await;
    fs::write(at("sub/c.yaml"), WEB.replace("web", "sub2")).unwrap();
    followed
        .until("a change in a new folder", |view| {
            has(view, "sub2") && !has(view, "sub")
        })
        .await;
}

/// A mounted ConfigMap: files are links into `..data`, which is a link that is switched.
#[tokio::test]
async fn a_switched_config_map_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for (version, name) in [("..v1", "web"), ("..v2", "api")] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("pod.yaml"), WEB.replace("web", name)).unwrap();
    }
    symlink("..v1", at("..data")).unwrap();
    symlink("..data/pod.yaml", at("pod.yaml")).unwrap();
    let mut by_folder = Followed::start(folder.path());
    let mut by_file = Followed::start(&at("pod.yaml"));
    assert!(has(&by_folder.views.borrow(), "web") && has(&by_file.views.borrow(), "web"));

    symlink("..v2", at("..data_tmp")).unwrap();
    fs::rename(at("..data_tmp"), at("..data")).unwrap();
    by_folder
        .until("the switch", |view| has(view, "api") && !has(view, "web"))
        .await;
    by_file
        .until("the switch", |view| has(view, "api") && !has(view, "web"))
        .await;
}

/// The whole folder is replaced: its inode is another one.
#[tokio::test]
async fn a_replaced_folder_is_seen() {
    let above = tempfile::tempdir().unwrap();
    let at = |name: &str| above.path().join(name);
    fs::create_dir(at("live")).unwrap();
    fs::write(at("live/a.yaml"), WEB).unwrap();
    let mut followed = Followed::start(&at("live"));
    fs::rename(at("live"), at("old")).unwrap();
    let view = followed
        .until("a problem", |view| view.problem.is_some())
        .await;
    assert!(has(&view, "web"));
    fs::create_dir(at("next")).unwrap();
    fs::write(at("next/a.yaml"), WEB.replace("web", "api")).unwrap();
    fs::rename(at("next"), at("live")).unwrap();
    followed
        .until("the new folder", |view| {
            has(view, "api") && view.problem.is_none()
        })
        .await;
    fs::write(at("live/b.yaml"), WEB).unwrap();
    followed
        .until("a change in it", |view| has(view, "web"))
        .await;
}

#[tokio::test]
async fn broken_from_the_start_is_not_ready_and_heals() {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    fs::write(file.path(), "kind: [").unwrap();
    let mut followed = Followed::start(file.path());
    let first = Arc::clone(&followed.views.borrow());
    assert!(!first.ready && first.problem.is_some());
    fs::write(file.path(), WEB).unwrap();
    let view = followed.until("ready", |view| view.ready).await;
    assert!(view.problem.is_none() && has(&view, "web"));
}

#[tokio::test]
async fn a_path_that_is_not_there_fails_at_once() {
    let error = watch("/no/such/folder".into(), CancellationToken::new()).unwrap_err();
    assert!(matches!(error, ClusterError::Unreadable { .. }), "{error}");
}
