#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::*;

fn fixture(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/cni")
        .join(name);
    assert!(path.is_dir(), "{} is missing", path.display());
    path
}

#[test]
fn every_fixture_is_recognised() {
    use Claim::{Depends, DoesNotEnforce, Enforces};
    let cases: &[(&str, &[(&str, Claim)])] = &[
        ("flannel", &[("flannel", DoesNotEnforce)]),
        ("flannel-cilium", &[("flannel", Depends)]),
        ("calico", &[("Calico", Enforces)]),
        ("cilium", &[("Cilium", Enforces)]),
        ("cilium-chained", &[("Cilium (chained)", Depends)]),
        ("aws", &[("AWS VPC CNI", Depends)]),
        ("bridge", &[("bridge or ptp", DoesNotEnforce)]),
        ("kindnet", &[("bridge or ptp", Depends)]),
        ("multus-flannel", &[("flannel", DoesNotEnforce)]),
        (
            "leftover",
            &[("Calico", Enforces), ("flannel", DoesNotEnforce)],
        ),
        ("broken", &[("unreadable", Depends)]),
    ];
    for (name, expected) in cases {
        let folder = fixture(name);
        let hints = detect(std::slice::from_ref(&folder));
        let got: Vec<_> = hints.iter().map(|h| (h.name.as_str(), h.claim)).collect();
        assert_eq!(got, *expected, "{name}");
        for hint in &hints {
            assert!(hint.evidence.contains(folder.to_str().unwrap()), "{hint:?}");
            assert!(!hint.remedy.is_empty(), "{hint:?}");
        }
        // Only the first file of a folder is in effect.
        let late = hints
            .iter()
            .skip(1)
            .all(|h| h.evidence.contains("not in effect"));
        assert!(late, "{hints:?}");
    }
}

#[test]
fn a_folder_that_is_not_there_has_no_hints() {
    assert_eq!(detect(&[PathBuf::from("/nonexistent/cni")]), []);
}

#[test]
fn a_deep_nest_ends() {
    let mut text = r#"{"type": "x"}"#.to_owned();
    for _ in 0..50 {
        text = format!(r#"{{"plugins": [{text}]}}"#);
    }
    assert!(conf::parse(&text).is_err());
}

#[tokio::test]
async fn a_changed_folder_is_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let cancel = CancellationToken::new();
    let (mut hints, task) = watch(vec![folder.path().to_owned()], cancel.clone());
    let task = tokio::spawn(task);
    assert!(hints.borrow_and_update().is_empty());
    // Written again and again, as nobody knows when the watch is there.
    let seen = async {
        loop {
            std::fs::copy(
                fixture("flannel").join("10-flannel.conflist"),
                folder.path().join("10-flannel.conflist"),
            )
            .unwrap();
            if tokio::time::timeout(Duration::from_secs(1), hints.changed())
                .await
                .is_ok()
            {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), seen)
        .await
        .expect("noticed before the 30 s are over");
    assert_eq!(hints.borrow().first().unwrap().name, "flannel");
    cancel.cancel();
    task.await.unwrap().unwrap();
}
