//! Which crate may know which: the arrows that must not be there.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Deserialize;

/// `(from, to, why)`: no path of ordinary or build dependencies leads from one to the other. A `to` of `*` is
/// any crate of ours.
const FORBIDDEN: &[(&str, &str, &str)] = &[
    (
        "polproof-policy",
        "polproof-proto",
        "semantics do not know the wire",
    ),
    (
        "polproof-policy",
        "polproof-agent-common",
        "semantics do not know the kernel",
    ),
    ("polproof-policy", "tokio", PURE),
    ("polproof-policy", "kube", PURE),
    ("polproof-policy", "aya", PURE),
    ("polproof-policy", "tonic", PURE),
    (
        "polproof-flow",
        "polproof-proto",
        "verdicts do not know the wire",
    ),
    (
        "polproof-flow",
        "polproof-agent-common",
        "verdicts do not know the kernel",
    ),
    (
        "polproof-flow",
        "polproof-cluster",
        "verdicts do not know the API server",
    ),
    ("polproof-flow", "tokio", PURE),
    ("polproof-flow", "kube", PURE),
    ("polproof-flow", "aya", PURE),
    ("polproof-flow", "tonic", PURE),
    (
        "polproof-proto",
        "polproof-policy",
        "the wire outlives the engine",
    ),
    (
        "polproof-proto",
        "polproof-flow",
        "the wire outlives the engine",
    ),
    (
        "polproof-agent-common",
        "tokio",
        "it is compiled for the kernel too",
    ),
    (
        "polproof-cluster",
        "polproof-flow",
        "the cluster does not know of packets",
    ),
    (
        "polproof-cluster",
        "polproof-proto",
        "the cluster does not know the wire",
    ),
    (
        "polproof-cluster",
        "aya",
        "the cluster does not know of packets",
    ),
    (
        "polproof-agent",
        "polproof-collector",
        "they meet on the wire only",
    ),
    (
        "polproof-collector",
        "polproof-agent",
        "they meet on the wire only",
    ),
    ("polproof-collector", "aya", "a collector needs no kernel"),
    (
        "polproof-cli",
        "polproof-agent",
        "a person's shell needs no kernel",
    ),
    (
        "polproof-cli",
        "polproof-collector",
        "they meet on the wire only",
    ),
    ("polproof-cli", "aya", "a person's shell needs no kernel"),
    ("xtask", "*", "it must work when they do not compile"),
    ("*", "polproof-tests", "nothing that ships knows the lab"),
];

const PURE: &str = "it is pure: decisions need neither a runtime nor the world";

/// The packages of the workspace and everything that they use.
#[derive(Debug, Default)]
pub(super) struct Packages {
    members: Vec<Member>,
    /// Ordinary and build dependencies, by name.
    edges: BTreeMap<String, BTreeSet<String>>,
}

#[derive(Debug)]
struct Member {
    name: String,
    folder: PathBuf,
    roots: Vec<(String, PathBuf)>,
}

/// A crate of ours: its folder, and its main root (the library's, else the binary's) and all roots.
#[derive(Debug, Clone)]
pub(super) struct Crate {
    pub(super) folder: PathBuf,
    pub(super) main: PathBuf,
    pub(super) roots: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    workspace_members: Vec<String>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    manifest_path: PathBuf,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    src_path: PathBuf,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    kind: Option<String>,
}

impl Packages {
    /// Reads the output of `cargo metadata`.
    pub(super) fn parse(text: &str, root: &Path) -> Result<Self> {
        let metadata: Metadata = serde_json::from_str(text).context("read cargo's metadata")?;
        let names: BTreeMap<&str, &str> = metadata
            .packages
            .iter()
            .map(|package| (package.id.as_str(), package.name.as_str()))
            .collect();
        let mut this = Self::default();
        let relative = |path: &Path| path.strip_prefix(root).unwrap_or(path).to_owned();
        for package in &metadata.packages {
            if !metadata.workspace_members.contains(&package.id) {
                continue;
            }
            let roots = package
                .targets
                .iter()
                .map(|target| {
                    let kind = target.kind.first().cloned().unwrap_or_default();
                    (kind, relative(&target.src_path))
                })
                .collect();
            this.members.push(Member {
                name: package.name.clone(),
                folder: relative(package.manifest_path.parent().unwrap_or(root)),
                roots,
            });
        }
        for node in &metadata.resolve.nodes {
            let Some(from) = names.get(node.id.as_str()) else {
                continue;
            };
            for dependency in &node.deps {
                let ships = |kind: &Kind| kind.kind.as_deref() != Some("dev");
                if let Some(to) = names.get(dependency.pkg.as_str())
                    && dependency.dep_kinds.iter().any(ships)
                {
                    this.edges
                        .entry((*from).to_owned())
                        .or_default()
                        .insert((*to).to_owned());
                }
            }
        }
        Ok(this)
    }

    /// The root file of every target.
    pub(super) fn roots(&self) -> Vec<PathBuf> {
        self.members
            .iter()
            .flat_map(|member| member.roots.iter().map(|(_, path)| path.clone()))
            .collect()
    }

    /// Our crates.
    pub(super) fn crates(&self) -> Vec<Crate> {
        self.members
            .iter()
            .filter_map(|member| {
                let of = |kind: &str| {
                    let found = member.roots.iter().find(|(its, _)| its == kind);
                    found.map(|(_, path)| path.clone())
                };
                Some(Crate {
                    folder: member.folder.clone(),
                    main: of("lib").or_else(|| of("bin"))?,
                    roots: member.roots.iter().map(|(_, path)| path.clone()).collect(),
                })
            })
            .collect()
    }

    /// The shortest path from one package to another, both included.
    fn path(&self, from: &str, to: &str) -> Option<Vec<String>> {
        let mut queue = VecDeque::from([vec![from.to_owned()]]);
        let mut seen = BTreeSet::from([from.to_owned()]);
        while let Some(path) = queue.pop_front() {
            let last = path.last()?;
            for next in self.edges.get(last).into_iter().flatten() {
                let mut longer = path.clone();
                longer.push(next.clone());
                if next == to {
                    return Some(longer);
                }
                if seen.insert(next.clone()) {
                    queue.push_back(longer);
                }
            }
        }
        None
    }

    fn ours<'a>(&'a self, name: &'a str) -> Vec<&'a str> {
        if name == "*" {
            self.members
                .iter()
                .map(|member| member.name.as_str())
                .collect()
        } else {
            vec![name]
        }
    }
}

/// Complains of every forbidden arrow, by the path that makes it.
pub(super) fn check(packages: &Packages) -> Vec<String> {
    let mut complaints = Vec::new();
    for (from, to, why) in FORBIDDEN {
        for from in packages.ours(from) {
            for to in packages.ours(to) {
                if from != to
                    && let Some(path) = packages.path(from, to)
                {
                    complaints.push(format!(
                        "{} must not depend on {to} ({why}): {}",
                        from,
                        path.join(" -> ")
                    ));
                }
            }
        }
    }
    complaints
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn packages(edges: &[(&str, &str)]) -> Packages {
        let mut this = Packages::default();
        for (from, to) in edges {
            this.edges
                .entry((*from).to_owned())
                .or_default()
                .insert((*to).to_owned());
        }
        for name in [
            "polproof-policy",
            "polproof-tests",
            "polproof-agent",
            "xtask",
        ] {
            this.members.push(Member {
                name: name.to_owned(),
                folder: PathBuf::new(),
                roots: Vec::new(),
            });
        }
        this
    }

    #[test]
    fn the_agreed_arrows_are_allowed() {
        let allowed = packages(&[
            ("polproof-agent", "polproof-policy"),
            ("polproof-agent", "polproof-flow"),
            ("polproof-flow", "polproof-policy"),
            ("polproof-agent", "tokio"),
            ("xtask", "clap"),
            ("polproof-tests", "polproof-agent"),
        ]);
        assert_eq!(check(&allowed), Vec::<String>::new());
    }

    #[test]
    fn a_forbidden_arrow_is_named_by_its_path() {
        let complaints = check(&packages(&[
            ("polproof-policy", "innocent"),
            ("innocent", "tokio"),
        ]));
        assert_eq!(complaints.len(), 1);
        assert!(
            complaints
                .first()
                .unwrap()
                .ends_with("polproof-policy -> innocent -> tokio"),
            "{complaints:?}"
        );
    }

    #[test]
    fn wildcards_hold_for_each_crate_of_ours() {
        assert_eq!(check(&packages(&[("xtask", "polproof-policy")])).len(), 1);
        assert_eq!(
            check(&packages(&[("polproof-agent", "polproof-tests")])).len(),
            1
        );
    }

    #[test]
    fn development_dependencies_do_not_count_and_ordinary_ones_do() {
        let metadata = |kind: &str| {
            format!(
                r#"{{"packages":[
                {{"id":"p","name":"polproof-policy","manifest_path":"/w/policy/Cargo.toml","targets":[{{"kind":["lib"],"src_path":"/w/policy/src/lib.rs"}}]}},
                {{"id":"t","name":"tokio","manifest_path":"/r/tokio/Cargo.toml","targets":[]}}],
                "workspace_members":["p"],
                "resolve":{{"nodes":[{{"id":"p","deps":[{{"pkg":"t","dep_kinds":[{{"kind":{kind}}}]}}]}}]}}}}"#
            )
        };
        let parse = |kind: &str| Packages::parse(&metadata(kind), Path::new("/w")).unwrap();
        assert_eq!(check(&parse("\"dev\"")), Vec::<String>::new());
        assert_eq!(check(&parse("null")).len(), 1);
        assert_eq!(parse("null").roots(), [PathBuf::from("policy/src/lib.rs")]);
    }
}
