//! Reports for the tests of the outputs.

use std::collections::BTreeMap;
use std::sync::Arc;

use polproof_cluster::{SourceKind, View};
use polproof_policy::State;
use polproof_policy::lint::suppress::{Place, Sorted, Suppressed};
use polproof_policy::lint::{Finding, Posture, Severity, Summary};
use polproof_policy::model::{Annotations, Kind, Labels, NamespacedName, Object, Pod, Uid};

use super::report::{Location, Report, Taken};
use super::scope::Scope;
use crate::source::Loaded;

/// Text that must be escaped, wherever it comes out.
pub(super) const HOSTILE: &str =
    "</script><script>alert(1)</script> & \"q\" 'a' ]]> \u{1b}[31m <!-- https://x.example/";

fn posture(namespace: &str, policies: usize, pods: usize, deny: bool, covered: usize) -> Posture {
    Posture {
        namespace: Arc::from(namespace),
        policies,
        governed_pods: pods,
        default_deny_ingress: deny,
        default_deny_egress: false,
        covered_ingress: covered,
        covered_egress: 0,
    }
}

fn finding(
    lint: &'static str,
    subject: &str,
    severity: Severity,
    object: (Kind, &str, &str),
) -> Finding {
    Finding {
        lint,
        subject: subject.to_owned(),
        severity,
        message: format!("{subject} is not as it should be"),
        suggest: None,
        by: None,
        object: (object.0, NamespacedName::new(object.1, object.2)),
        workload: None,
        policies: Vec::new(),
    }
}

/// With a pod, or it would be an input in which nothing was found.
fn view(pods: bool) -> View {
    let mut state = State::new();
    if pods {
        state.apply(Object::Pod(Arc::new(Pod {
            id: NamespacedName::new("shop", "web-0"),
            uid: Uid(Arc::from("web-0")),
            labels: Labels::new(),
            ips: Vec::new(),
            node: None,
            host_network: false,
            finished: false,
            ports: Vec::new(),
            owner: None,
            annotations: Annotations::new(),
        })));
    }
    View {
        snapshot: state.snapshot(),
        ..View::empty(SourceKind::Manifests)
    }
}

fn report(postures: Vec<Posture>, sorted: Sorted) -> Report {
    let scope = Scope::whole();
    let loaded = Loaded {
        view: view(!postures.is_empty()),
        ignored: BTreeMap::from([("ConfigMap".to_owned(), 3)]),
        name: "deploy".to_owned(),
    };
    let summary = Summary {
        network_policies: postures.iter().map(|of| of.policies).sum(),
        namespaces_with_policies: postures.iter().filter(|of| of.policies > 0).count(),
        namespaces: postures.len(),
        governed_pods: postures.iter().map(|of| of.governed_pods).sum(),
        other_policies: BTreeMap::from([("AdminNetworkPolicy", 1)]),
        refused: 1,
    };
    Report::new(Taken {
        loaded: &loaded,
        summary,
        postures,
        sorted,
        scope: &scope,
        exempt: &[],
        baseline: None,
        fail_on: Some(Severity::High),
    })
}

/// Nothing at all.
pub(super) fn empty() -> Report {
    report(Vec::new(), Sorted::default())
}

/// All is well.
pub(super) fn clean() -> Report {
    report(vec![posture("shop", 2, 3, true, 3)], Sorted::default())
}

/// Findings of every shape.
pub(super) fn full() -> Report {
    let mut live = vec![finding(
        "NP001",
        "legacy",
        Severity::High,
        (Kind::Namespace, "", "legacy"),
    )];
    for index in 0..12 {
        let name = format!("web-{index}");
        let subject = format!("shop/{name}:egress");
        let mut found = finding(
            "NP004",
            &subject,
            Severity::Medium,
            (Kind::Pod, "shop", &name),
        );
        found.workload = Some((Arc::from("Deployment"), Arc::from("web")));
        live.push(found);
    }
    let mut single = finding(
        "NP004",
        "shop/db-0:egress",
        Severity::Medium,
        (Kind::Pod, "shop", "db-0"),
    );
    single.workload = Some((Arc::from("StatefulSet"), Arc::from("db")));
    live.push(single);
    for name in ["log-a", "log-b"] {
        let subject = format!("shop/{name}->169.254.169.254");
        let mut found = finding("NP022", &subject, Severity::High, (Kind::Pod, "shop", name));
        found.workload = Some((Arc::from("DaemonSet"), Arc::from("log")));
        found.by = Some("rule");
        found.policies = vec!["shop/egress".to_owned()];
        live.push(found);
    }
    let mut typo = finding(
        "NP030",
        "shop/api",
        Severity::Medium,
        (Kind::NetworkPolicy, "shop", "api"),
    );
    typo.message = HOSTILE.to_owned();
    typo.suggest = Some(format!("app=frontend {HOSTILE}"));
    typo.policies = vec!["shop/api".to_owned()];
    live.push(typo);
    live.push(finding(
        "NP034",
        "shop/api:ingress[0].from[1]",
        Severity::Low,
        (Kind::NetworkPolicy, "shop", "api"),
    ));
    live.push(finding(
        "NP110",
        "admin-b",
        Severity::Info,
        (Kind::AdminNetworkPolicy, "", "admin-b"),
    ));
    let by = |place| (HOSTILE.to_owned(), place);
    let accepted = [
        (
            finding(
                "NP001",
                "sandbox",
                Severity::High,
                (Kind::Namespace, "", "sandbox"),
            ),
            by(Place::Annotation(
                Kind::Namespace,
                NamespacedName::new("", "sandbox"),
            )),
        ),
        (
            finding(
                "NP003",
                "shop",
                Severity::Medium,
                (Kind::Namespace, "", "shop"),
            ),
            by(Place::File("accepted.yaml, entry 1".to_owned())),
        ),
    ];
    let suppressed = accepted.map(|(finding, (reason, by))| Suppressed {
        finding,
        reason,
        by,
    });
    let sorted = Sorted {
        live,
        suppressed: suppressed.into(),
        ineffective: Vec::new(),
    };
    let postures = vec![
        posture("legacy", 0, 4, false, 0),
        posture("sandbox", 0, 2, false, 0),
        posture("shop", 3, 15, true, 15),
    ];
    let mut report = report(postures, sorted);
    for finding in &mut report.findings {
        if finding.object.kind == "NetworkPolicy" {
            finding.location = Some(Location {
                file: "deploy/net pol/api #1%.yaml".to_owned(),
                line: 12,
            });
        }
    }
    report
}
