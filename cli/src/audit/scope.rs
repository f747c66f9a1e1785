//! Which findings are asked for, and what the lints take for granted.

use std::collections::BTreeSet;
use std::sync::Arc;

use polproof_cluster::View;
use polproof_policy::lint::{self, Lint};
use polproof_policy::model::{Kind, NamespacedName, Requirement, Selector};

use super::baseline::Identity;
use crate::args::{Assumptions, Audit as Options};
use crate::failure::Failure;

/// Which lints and namespaces.
#[derive(Debug)]
pub(super) struct Scope {
    /// Empty: all.
    namespaces: BTreeSet<String>,
    /// Empty: all.
    lints: BTreeSet<&'static str>,
    skipped: BTreeSet<&'static str>,
}

impl Scope {
    /// Of what was typed.
    pub(super) fn new(options: &Options) -> Result<Self, Failure> {
        let known = |ids: &[String]| -> Result<BTreeSet<&'static str>, Failure> {
            ids.iter().map(|id| known(id).map(|lint| lint.id)).collect()
        };
        Ok(Self {
            namespaces: options.namespace.iter().cloned().collect(),
            lints: known(&options.lint)?,
            skipped: known(&options.skip)?,
        })
    }

    /// Everything.
    #[cfg(test)]
    pub(super) fn whole() -> Self {
        Self {
            namespaces: BTreeSet::new(),
            lints: BTreeSet::new(),
            skipped: BTreeSet::new(),
        }
    }

    /// A namespace that is not there is a typing mistake, and would be an audit without findings.
    pub(super) fn check(&self, view: &View) -> Result<(), Failure> {
        are_there(&self.namespaces, view)
    }

    /// Whether only some namespaces are asked for.
    pub(super) fn is_part(&self) -> bool {
        !self.namespaces.is_empty()
    }

    /// The namespaces that are asked for, if not all.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = &str> {
        self.namespaces.iter().map(String::as_str)
    }

    /// Whether a lint is asked for.
    pub(super) fn has_lint(&self, id: &str) -> bool {
        (self.lints.is_empty() || self.lints.contains(id)) && !self.skipped.contains(id)
    }

    /// Whether a namespace is asked for.
    pub(super) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.is_empty() || self.namespaces.contains(name)
    }

    /// Whether an object is asked for. Cluster-scoped ones are no part of a namespace.
    pub(super) fn has_object(&self, kind: Kind, id: &NamespacedName) -> bool {
        match kind {
            Kind::Namespace => self.has_namespace(&id.name),
            _ => self.has_namespace(&id.namespace),
        }
    }

    /// Whether an earlier finding would be found by this audit, if it were still there. Its subject begins with its
    /// namespace.
    pub(super) fn has_earlier(&self, earlier: &Identity) -> bool {
        let subject = &earlier.subject;
        let namespace = subject.split_once('/').map_or(&**subject, |(name, _)| name);
        self.has_lint(&earlier.lint) && self.has_namespace(namespace)
    }
}

/// That each of these namespaces is among what was read.
pub(crate) fn are_there(namespaces: &BTreeSet<String>, view: &View) -> Result<(), Failure> {
    let snapshot = &view.snapshot;
    let there = |name: &str| {
        let refused = view.refused.iter().map(|refused| &refused.key.id.namespace);
        let policies = snapshot.policies().map(|policy| &policy.id.namespace);
        let pods = snapshot.pods().map(|pod| &pod.id.namespace);
        let namespaces = snapshot.namespaces().map(|namespace| &namespace.name);
        namespaces
            .chain(policies)
            .chain(pods)
            .chain(refused)
            .any(|namespace| **namespace == *name)
    };
    match namespaces.iter().find(|name| !there(name)) {
        Some(name) => Err(Failure::usage(format!(
            "-n {name}: there is no such namespace in what was read; check the name"
        ))),
        None => Ok(()),
    }
}

/// A lint by what was typed.
pub(super) fn known(id: &str) -> Result<&'static Lint, Failure> {
    let id = id.trim().to_ascii_uppercase();
    lint::lint(&id).ok_or_else(|| {
        Failure::usage(format!(
            "there is no lint {id:?}; `polproof audit --list` names them"
        ))
    })
}

/// What the lints take for granted.
pub(crate) fn settings(options: &Assumptions) -> Result<lint::Options, Failure> {
    let mut settings = lint::Options {
        exempt_namespaces: options.exempt_namespace.clone(),
        metadata_addresses: options.metadata_address.clone(),
        pod_cidrs: options.pod_cidr.iter().map(ipnet::IpNet::trunc).collect(),
        ..lint::Options::default()
    };
    if !options.dns.is_empty() {
        let servers = options.dns.iter().map(|text| {
            servers(text).ok_or_else(|| {
                Failure::usage(format!(
                    "--dns {text}: write NAMESPACE:LABEL=VALUE[,LABEL=VALUE], such as \
                     openshift-dns:dns.operator.openshift.io/daemonset-dns=default"
                ))
            })
        });
        settings.dns = servers.collect::<Result<_, _>>()?;
    }
    Ok(settings)
}

/// `namespace:k=v,k!=v,k,!k`, as kubectl has selectors.
fn servers(text: &str) -> Option<(String, Selector)> {
    let (namespace, labels) = text.split_once(':')?;
    let mut selector = Selector::default();
    for part in labels.split(',').map(str::trim) {
        let key = |key: &str| -> Option<Arc<str>> {
            let key = key.trim();
            (!key.is_empty() && !key.contains(['=', '!', ' ', '('])).then(|| Arc::from(key))
        };
        let value = |value: &str| -> Option<Arc<str>> {
            let value = value.trim();
            (!value.contains(['=', '!', ' '])).then(|| Arc::from(value))
        };
        if let Some((k, v)) = part.split_once("!=") {
            let requirement = Requirement::NotIn(key(k)?, vec![value(v)?]);
            selector.match_expressions.push(requirement);
        } else if let Some((k, v)) = part.split_once("==").or_else(|| part.split_once('=')) {
            selector.match_labels.insert(key(k)?, value(v)?);
        } else if let Some(k) = part.strip_prefix('!') {
            let requirement = Requirement::DoesNotExist(key(k)?);
            selector.match_expressions.push(requirement);
        } else {
            let requirement = Requirement::Exists(key(part)?);
            selector.match_expressions.push(requirement);
        }
    }
    let namespace = namespace.trim();
    (!namespace.is_empty()).then(|| (namespace.to_owned(), selector))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn dns_servers_are_written_as_kubectl_has_selectors() {
        let (namespace, selector) =
            servers("openshift-dns:dns.operator.openshift.io/daemonset-dns=default").unwrap();
        assert_eq!(namespace, "openshift-dns");
        assert_eq!(
            selector
                .match_labels
                .get("dns.operator.openshift.io/daemonset-dns")
                .map(|v| &**v),
            Some("default")
        );
        let (_, selector) = servers("dns:a==b, c!=d,e,!f").unwrap();
        assert_eq!(selector.match_labels.len(), 1);
        assert_eq!(
            selector.match_expressions,
            [
                Requirement::NotIn(Arc::from("c"), vec![Arc::from("d")]),
                Requirement::Exists(Arc::from("e")),
                Requirement::DoesNotExist(Arc::from("f")),
            ]
        );
        for wrong in [
            "",
            "ns",
            "ns:",
            ":a=b",
            "ns:=b",
            "ns:a=b=c",
            "ns:a in (b)",
            "ns:a=b,,",
        ] {
            assert!(servers(wrong).is_none(), "{wrong}");
        }
    }
}
