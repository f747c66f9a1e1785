//! Names like the one that was asked for.

use std::collections::BTreeSet;

use super::end::{Directory, short};
use crate::similar::distance;
use crate::state::Snapshot;

/// How many similar names an error offers.
const OFFERED: usize = 3;

/// Slips of the keyboard between two names, if they are few.
fn slips(asked: &str, there: &str) -> Option<usize> {
    // At most two characters, of four bytes. Names that are asked for come from anywhere, and may have any length.
    if asked.len().abs_diff(there.len()) > 8 {
        return None;
    }
    let slips = distance(asked, there);
    (slips <= (asked.chars().count() / 3).clamp(1, 2)).then_some(slips)
}

/// How like an object is: the same name in another namespace, what begins with it, or a slip of the keyboard.
fn rank(asked: (&str, &str), there: (&str, &str)) -> Option<usize> {
    let ((asked_namespace, asked_name), (namespace, name)) = (asked, there);
    if namespace == asked_namespace {
        slips(asked_name, name)
            // "web" for "web-7d4b9-x2x": what `kubectl get deployments` shows.
            .or_else(|| name.starts_with(asked_name).then_some(3))
    } else if name == asked_name {
        Some(slips(asked_namespace, namespace).unwrap_or(4))
    } else {
        slips(asked_namespace, namespace)
            .zip(slips(asked_name, name))
            .map(|(a, b)| a + b)
    }
}

fn best(mut found: Vec<(usize, String)>) -> Vec<String> {
    found.sort();
    found.dedup();
    found.truncate(OFFERED);
    found.into_iter().map(|(_, full)| full).collect()
}

/// Pods like `namespace/name`, and workloads of that very name.
pub(super) fn pods(
    snapshot: &Snapshot,
    directory: &Directory,
    namespace: &str,
    name: &str,
) -> Vec<String> {
    let asked = (namespace, name);
    let mut found: Vec<(usize, String)> = snapshot
        .pods()
        .filter(|pod| !pod.finished)
        .filter_map(|pod| {
            let rank = rank(asked, (&pod.id.namespace, &pod.id.name))?;
            Some((rank, pod.id.to_string()))
        })
        .collect();
    found.extend(
        directory
            .workloads()
            .filter(|(of, kind, workload)| *of == namespace && *workload == name && *kind != "Pod")
            .map(|(of, kind, workload)| (0, format!("{of}/{}/{workload}", short(kind)))),
    );
    best(found)
}

/// Workloads of a kind like `namespace/name`, and those of another kind with that very name.
pub(super) fn workloads(
    directory: &Directory,
    kind: &str,
    namespace: &str,
    name: &str,
) -> Vec<String> {
    let found = directory
        .workloads()
        .filter_map(|(of, other, workload)| {
            let rank = if other == kind {
                rank((namespace, name), (of, workload))?
            } else if (of, workload) == (namespace, name) {
                1
            } else {
                return None;
            };
            Some((rank, format!("{of}/{}/{workload}", short(other))))
        })
        .collect();
    best(found)
}

/// Services like `namespace/name`.
pub(super) fn services(snapshot: &Snapshot, namespace: &str, name: &str) -> Vec<String> {
    let found = snapshot
        .services()
        .filter_map(|service| {
            let rank = rank((namespace, name), (&service.id.namespace, &service.id.name))?;
            Some((
                rank,
                format!("{}/svc/{}", service.id.namespace, service.id.name),
            ))
        })
        .collect();
    best(found)
}

/// Namespaces like one that nothing we know lies in; `None` if something does.
pub(super) fn namespaces(snapshot: &Snapshot, namespace: &str) -> Option<Vec<String>> {
    let known: BTreeSet<&str> = snapshot
        .namespaces()
        .map(|held| &*held.name)
        .chain(snapshot.pods().map(|pod| &*pod.id.namespace))
        .collect();
    if known.is_empty() || known.contains(namespace) {
        return None;
    }
    let found = known
        .into_iter()
        .filter_map(|there| Some((slips(namespace, there)?, format!("namespace {there}"))))
        .collect();
    Some(best(found))
}
