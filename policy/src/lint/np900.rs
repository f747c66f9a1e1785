//! NP900: refused by the API server.

use std::collections::BTreeMap;

use super::catalog::Lint;
use super::cluster::Cluster;
use super::finding::{Findings, Severity};
use crate::model::{Kind, NamespacedName};

pub(super) const LINT: Lint = Lint {
    id: "NP900",
    title: "refused by the API server",
    severity: Severity::High,
    references: &["kubernetes validation"],
    help: "The API server takes no such object, so nothing of it will be in force: a policy that is not there protects nobody. \
           Correct the field that is named. An object that a live cluster serves and that is reported here was stored before \
           the rule existed, and enforcers read it as they like; there is no good reason to suppress this.",
    check,
};

fn check(cluster: &Cluster<'_>, findings: &mut Findings) {
    // What is refused twice under one name is one subject.
    let mut by_name: BTreeMap<(Kind, NamespacedName), (&NamespacedName, Vec<&str>)> =
        BTreeMap::new();
    for refused in cluster.refused {
        let id = NamespacedName::new(refused.id.namespace.clone(), plain_name(&refused.id.name));
        let (_, reasons) = by_name
            .entry((refused.kind, id))
            .or_insert_with(|| (&refused.id, Vec::new()));
        if !reasons.contains(&&*refused.reason) {
            reasons.push(&refused.reason);
        }
    }
    for ((kind, id), (key, reasons)) in by_name {
        let subject = if id.namespace.is_empty() {
            id.name.to_string()
        } else {
            id.to_string()
        };
        let message = format!(
            "the API server refuses {} {subject}: {}",
            kind.name(),
            reasons.join("; also: ")
        );
        findings.add(subject, (kind, key.clone()), message);
    }
}

/// The name alone: what is refused beside an object of its name has its place behind it, and what has an outdated version
/// its kind and namespace before it. Neither can be part of a name.
fn plain_name(name: &str) -> &str {
    let (name, _place) = name.split_once(" (").unwrap_or((name, ""));
    match name.split_once(' ') {
        Some((_kind, id)) => id.rsplit('/').next().unwrap_or(id),
        None => name,
    }
}

#[cfg(test)]
mod tests {
    use super::plain_name;

    #[test]
    fn a_name_is_found_in_what_stands_for_it() {
        assert_eq!(plain_name("db"), "db");
        assert_eq!(plain_name("db (deploy/all.yaml:7)"), "db");
        assert_eq!(plain_name("NetworkPolicy shop/db (a b/all.yaml:7)"), "db");
        assert_eq!(plain_name("deploy/all.yaml:7"), "deploy/all.yaml:7");
    }
}
