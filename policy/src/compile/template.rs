//! Workloads: the template of each is one pod, as far as policies are concerned.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};

use super::path::Path;
use super::pod::declared;
use super::{Refusal, annotations_of, id_of, labels_of, subject, uid_of, validate};
use crate::model::{NamespacedName, Pod};

/// The kinds whose templates stand as pods: `(apiVersion, kind)`.
pub const WORKLOADS: [(&str, &str); 7] = [
    ("apps/v1", "Deployment"),
    ("apps/v1", "StatefulSet"),
    ("apps/v1", "DaemonSet"),
    ("apps/v1", "ReplicaSet"),
    ("v1", "ReplicationController"),
    ("batch/v1", "Job"),
    ("batch/v1", "CronJob"),
];

/// The pod that stands for a workload: `kind.name` in lower case, without addresses. Whether it has a replica at the moment
/// does not matter.
///
/// # Errors
/// A missing name, a bad label, port or protocol, a selector that does not match the template.
pub fn template(
    kind: &str,
    meta: &ObjectMeta,
    selector: Option<&LabelSelector>,
    template: &api::PodTemplateSpec,
) -> Result<Pod, Refusal> {
    let object = subject(kind, meta, true);
    let root = Path::of(&object);
    let id = id_of(meta, &root)?;
    labels_of(meta, &root)?;
    let spec = root.field("spec");
    let job = spec.field("jobTemplate");
    let job_spec = job.field("spec");
    let above = if kind == "CronJob" { &job_spec } else { &spec };
    let path = above.field("template");

    let none = ObjectMeta::default();
    let given = template.metadata.as_ref().unwrap_or(&none);
    let labels = labels_of(given, &path)?;
    if let Some(selector) = selector {
        let selector_path = spec.field("selector");
        if !validate::selector(selector, &selector_path)?.matches(&labels) {
            return Err(selector_path.refuse(
                "it does not match the labels of the template",
                "give the pods of spec.template the labels that the selector asks for",
            ));
        }
    }
    let pod_spec = template.spec.as_ref();
    let ports = pod_spec
        .map(|spec| declared(spec, &path.field("spec")))
        .transpose()?
        .unwrap_or_default();
    let stands = NamespacedName::new(
        Arc::clone(&id.namespace),
        format!("{}.{}", kind.to_lowercase(), id.name),
    );
    Ok(Pod {
        uid: uid_of("Pod", &none, &stands),
        id: stands,
        labels,
        ips: Vec::new(),
        node: None,
        host_network: pod_spec.and_then(|spec| spec.host_network).unwrap_or(false),
        finished: false,
        ports,
        owner: Some((Arc::from(kind), id.name)),
        annotations: annotations_of(given),
    })
}
