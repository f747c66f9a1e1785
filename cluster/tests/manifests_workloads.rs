//! Workload templates stand as pods where no real pod of theirs is given.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fs;

use polproof_cluster::View;
use polproof_cluster::manifests::load;
use polproof_policy::{Kind, NamespacedName, Protocol};

fn read(text: &str) -> View {
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    fs::write(file.path(), text).unwrap();
    load(file.path()).unwrap_or_else(|error| panic!("{error}\n{text}"))
}

fn pods(view: &View) -> Vec<String> {
    let mut names: Vec<String> = view.snapshot.pods().map(|pod| pod.id.to_string()).collect();
    names.sort();
    names
}

const TEMPLATE: &str = "template: {metadata: {labels: {app: web}}, spec: {hostNetwork: true, \
    containers: [{name: c, ports: [{name: http, containerPort: 80}, {containerPort: 53, protocol: UDP}]}], \
    initContainers: [{name: once, ports: [{containerPort: 1}]}, {name: side, restartPolicy: Always, ports: [{containerPort: 2}]}]}}";

fn workload(version: &str, kind: &str, meta: &str, spec: &str) -> String {
    format!(
        "apiVersion: {version}\nkind: {kind}\nmetadata: {{namespace: shop, {meta}}}\nspec: {{{spec}}}\n---\n"
    )
}

fn all() -> String {
    let mut text = String::new();
    for (version, kind) in polproof_policy::compile::WORKLOADS {
        let spec = match kind {
            "CronJob" => format!("schedule: '* * * * *', jobTemplate: {{spec: {{{TEMPLATE}}}}}"),
            "ReplicationController" => format!("replicas: 0, selector: {{app: web}}, {TEMPLATE}"),
            "Job" => TEMPLATE.to_owned(),
            _ => format!("selector: {{matchLabels: {{app: web}}}}, {TEMPLATE}"),
        };
        text.push_str(&workload(version, kind, "name: web", &spec));
    }
    text
}

fn pod(name: &str, meta: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{namespace: shop, name: {name}, {meta}}}\nstatus: {{podIP: 10.0.0.1}}\n---\n"
    )
}

fn owned_by(kind: &str, name: &str) -> String {
    format!(
        "ownerReferences: [{{apiVersion: v, kind: {kind}, name: {name}, uid: u, controller: true}}]"
    )
}

#[test]
fn each_kind_stands_as_one_pod() {
    let view = read(&all());
    assert!(view.refused.is_empty(), "{:?}", view.refused);
    assert_eq!(
        pods(&view),
        [
            "shop/cronjob.web",
            "shop/daemonset.web",
            "shop/deployment.web",
            "shop/job.web",
            "shop/replicaset.web",
            "shop/replicationcontroller.web",
            "shop/statefulset.web",
        ]
    );
    for pod in view.snapshot.pods() {
        let (kind, name) = pod.owner.clone().unwrap();
        assert_eq!(format!("{}.{name}", kind.to_lowercase()), &*pod.id.name);
        assert_eq!(&*pod.labels["app"], "web");
        assert!(pod.host_network && pod.ips.is_empty() && !pod.finished);
        let ports: Vec<_> = pod.ports.iter().map(|p| (p.number, p.protocol)).collect();
        assert_eq!(
            ports,
            [(80, Protocol::Tcp), (53, Protocol::Udp), (2, Protocol::Tcp)]
        );
    }
}

#[test]
fn a_real_pod_stands_for_its_workload() {
    let of_deployment = format!(
        "labels: {{pod-template-hash: 7d4b9c6f5}}, {}",
        owned_by("ReplicaSet", "web-7d4b9c6f5")
    );
    let text = all()
        + &pod("a", &of_deployment)
        + &pod("b", &owned_by("StatefulSet", "web"))
        + &pod("c", &owned_by("Job", "web-29387400"));
    assert_eq!(
        pods(&read(&text)),
        [
            "shop/a",
            "shop/b",
            "shop/c",
            "shop/daemonset.web",
            "shop/job.web",
            "shop/replicaset.web",
            "shop/replicationcontroller.web",
        ]
    );
    // In another namespace it stands for nothing here.
    let elsewhere = pod("b", &owned_by("StatefulSet", "web")).replace("shop", "pay");
    assert_eq!(pods(&read(&(all() + &elsewhere))).len(), 8);
}

#[test]
fn what_a_given_workload_made_is_no_second_one() {
    let made = |kind: &str, name: &str, by: &str, of: &str| {
        let version = if kind == "Job" { "batch/v1" } else { "apps/v1" };
        workload(
            version,
            kind,
            &format!("name: {name}, {}", owned_by(by, of)),
            TEMPLATE,
        )
    };
    let deployment = workload("apps/v1", "Deployment", "name: web", TEMPLATE);
    let set = made("ReplicaSet", "web-5f", "Deployment", "web");
    let job = made("Job", "tidy-1", "CronJob", "tidy");
    let cron = workload(
        "batch/v1",
        "CronJob",
        "name: tidy",
        &format!("jobTemplate: {{spec: {{{TEMPLATE}}}}}"),
    );
    let both = [&set, &job, &deployment, &cron]
        .map(String::as_str)
        .concat();
    assert_eq!(
        pods(&read(&both)),
        ["shop/cronjob.tidy", "shop/deployment.web"]
    );
    assert_eq!(
        pods(&read(&(set + &job))),
        ["shop/job.tidy-1", "shop/replicaset.web-5f"]
    );
    // The pod names the set, the set the Deployment: nothing of the three is missing.
    let chain = both + &pod("p", &owned_by("ReplicaSet", "web-5f"));
    assert_eq!(pods(&read(&chain)), ["shop/cronjob.tidy", "shop/p"]);
}

#[test]
fn a_bad_template_is_refused_with_its_path() {
    let spec = |text: &str| workload("apps/v1", "Deployment", "name: web", text);
    let cron = |text: &str| workload("batch/v1", "CronJob", "name: web", text);
    for (text, object, field) in [
        (
            spec(""),
            "Deployment shop/web",
            "spec.template: it is missing",
        ),
        (
            spec("template: {spec: {containers: [{name: c, ports: [{containerPort: 0}]}]}}"),
            "Deployment shop/web",
            "spec.template.spec.containers[0].ports[0].containerPort",
        ),
        (
            spec("template: {metadata: {labels: {a: b c}}}"),
            "Deployment shop/web",
            "spec.template.metadata.labels[a]",
        ),
        (
            spec("selector: {matchLabels: {app: wob}}, template: {metadata: {labels: {app: web}}}"),
            "Deployment shop/web",
            "spec.selector: it does not match the labels of the template",
        ),
        (
            spec("template: 7"),
            "Deployment shop/web",
            "spec.template: invalid type",
        ),
        (
            spec("template: {spec: {containers: {}}}"),
            "Deployment shop/web",
            "spec.template.spec.containers: invalid type",
        ),
        (
            cron("jobTemplate: {spec: {template: {spec: {hostNetwork: maybe}}}}"),
            "CronJob shop/web",
            "spec.jobTemplate.spec.template.spec.hostNetwork: invalid type",
        ),
        (
            cron("jobTemplate: {spec: {template: {metadata: {labels: {'': b}}}}}"),
            "CronJob shop/web",
            "spec.jobTemplate.spec.template.metadata.labels",
        ),
    ] {
        let view = read(&text);
        let refused = view.refused.first().unwrap_or_else(|| panic!("{text}"));
        assert!(
            refused.object.starts_with(object) && refused.reason.starts_with(field),
            "{refused:?}"
        );
        let name = format!("{}.web", object.split(' ').next().unwrap().to_lowercase());
        let key = (Kind::Pod, NamespacedName::new("shop", name));
        assert_eq!((refused.key.kind, &refused.key.id), (key.0, &key.1));
        assert_eq!(view.origins[&key].line, 1);
    }
}

#[test]
fn a_workload_that_is_defined_twice_counts_once() {
    let one = workload("apps/v1", "Deployment", "name: web", TEMPLATE);
    let view = read(&(one.clone() + &one));
    assert_eq!(pods(&view), ["shop/deployment.web"]);
    let refused = &view.refused[0];
    assert!(
        refused.object.starts_with("Deployment shop/web (")
            && refused.reason.contains(":1 counts; remove one"),
        "{refused:?}"
    );
}
