//! Fields that no API server knows: `kubectl` refuses a manifest with one, for it is a slip of the pen, and what the
//! author meant is missing.
//!
//! For manifests only. A server has pruned its objects, or is newer than we are.

use crate::similar::distance;
use serde_json::Value;

use super::Refusal;
use super::admin::named;
use super::path::Path;
use crate::model::Kind;

/// What may stand somewhere.
enum Shape {
    /// Anything.
    Any,
    /// An object with these fields.
    Fields(&'static [(&'static str, Shape)]),
    /// An object with one of these fields, or with one that a newer API may have; what is similar to a known one, or stands
    /// beside one, is a slip.
    Open(&'static [(&'static str, Shape)]),
    /// A list of these.
    Each(&'static Shape),
}

use Shape::{Any, Each, Fields, Open};

const SELECTOR: Shape = Fields(&[
    ("matchLabels", Any),
    (
        "matchExpressions",
        Each(&Fields(&[("key", Any), ("operator", Any), ("values", Any)])),
    ),
]);

const METADATA: Shape = Fields(&[
    ("name", Any),
    ("generateName", Any),
    ("namespace", Any),
    ("uid", Any),
    ("resourceVersion", Any),
    ("generation", Any),
    ("creationTimestamp", Any),
    ("deletionTimestamp", Any),
    ("deletionGracePeriodSeconds", Any),
    ("labels", Any),
    ("annotations", Any),
    ("ownerReferences", Any),
    ("finalizers", Any),
    ("managedFields", Any),
    // Servers before 1.20 and 1.24 wrote them.
    ("selfLink", Any),
    ("clusterName", Any),
]);

macro_rules! kind {
    ($spec:expr) => {
        Fields(&[
            ("apiVersion", Any),
            ("kind", Any),
            ("metadata", METADATA),
            ("spec", $spec),
            ("status", Any),
        ])
    };
}

const PEERS: Shape = Each(&Fields(&[
    ("podSelector", SELECTOR),
    ("namespaceSelector", SELECTOR),
    ("ipBlock", Fields(&[("cidr", Any), ("except", Any)])),
]));
const PORTS: Shape = Each(&Fields(&[
    ("protocol", Any),
    ("port", Any),
    ("endPort", Any),
]));
static NETWORK_POLICY: Shape = kind!(Fields(&[
    ("podSelector", SELECTOR),
    ("policyTypes", Any),
    (
        "ingress",
        Each(&Fields(&[("from", PEERS), ("ports", PORTS)]))
    ),
    ("egress", Each(&Fields(&[("to", PEERS), ("ports", PORTS)]))),
]));

const PODS: Shape = Fields(&[("namespaceSelector", SELECTOR), ("podSelector", SELECTOR)]);
const SUBJECT: Shape = Fields(&[("namespaces", SELECTOR), ("pods", PODS)]);
const ADMIN_FROM: Shape = Each(&Open(&[("namespaces", SELECTOR), ("pods", PODS)]));
const ADMIN_TO: Shape = Each(&Open(&[
    ("namespaces", SELECTOR),
    ("pods", PODS),
    ("nodes", SELECTOR),
    ("networks", Any),
    ("domainNames", Any),
]));
const ADMIN_PORTS: Shape = Each(&Fields(&[
    ("portNumber", Fields(&[("protocol", Any), ("port", Any)])),
    (
        "portRange",
        Fields(&[("protocol", Any), ("start", Any), ("end", Any)]),
    ),
    ("namedPort", Any),
]));
const PROTOCOL: Shape = Fields(&[(
    "destinationPort",
    Fields(&[
        ("number", Any),
        ("range", Fields(&[("start", Any), ("end", Any)])),
    ]),
)]);
const PROTOCOLS: Shape = Each(&Fields(&[
    ("tcp", PROTOCOL),
    ("udp", PROTOCOL),
    ("sctp", PROTOCOL),
    ("destinationNamedPort", Any),
]));
macro_rules! rules {
    ($from:literal, $peers:expr, $named:literal, $ports:expr) => {
        Each(&Fields(&[
            ("name", Any),
            ("action", Any),
            ($from, $peers),
            ($named, $ports),
        ]))
    };
}

static ADMIN_POLICY: Shape = kind!(Fields(&[
    ("priority", Any),
    ("subject", SUBJECT),
    ("ingress", rules!("from", ADMIN_FROM, "ports", ADMIN_PORTS)),
    ("egress", rules!("to", ADMIN_TO, "ports", ADMIN_PORTS)),
]));
static BASELINE_POLICY: Shape = kind!(Fields(&[
    ("subject", SUBJECT),
    ("ingress", rules!("from", ADMIN_FROM, "ports", ADMIN_PORTS)),
    ("egress", rules!("to", ADMIN_TO, "ports", ADMIN_PORTS)),
]));
static CLUSTER_POLICY: Shape = kind!(Fields(&[
    ("tier", Any),
    ("priority", Any),
    ("subject", SUBJECT),
    (
        "ingress",
        rules!("from", ADMIN_FROM, "protocols", PROTOCOLS)
    ),
    ("egress", rules!("to", ADMIN_TO, "protocols", PROTOCOLS)),
]));

/// Checks that a manifest has no field that its kind does not. Kinds other than NetworkPolicy and those of the admin and
/// baseline tiers are not looked at.
///
/// # Errors
/// The first such field, with the one that may be meant.
pub fn known_fields(kind: Kind, value: &Value) -> Result<(), Refusal> {
    let shape = match kind {
        Kind::NetworkPolicy => &NETWORK_POLICY,
        Kind::AdminNetworkPolicy => &ADMIN_POLICY,
        Kind::BaselineAdminNetworkPolicy => &BASELINE_POLICY,
        Kind::ClusterNetworkPolicy => &CLUSTER_POLICY,
        _ => return Ok(()),
    };
    let object = named(kind.name(), value).unwrap_or_else(|| format!("{} (no name)", kind.name()));
    look(value, shape, &Path::of(&object), 0)
}

/// Shapes within one another; there is no deeper one.
const MAX_DEPTH: usize = 16;

fn look(value: &Value, shape: &Shape, path: &Path<'_>, depth: usize) -> Result<(), Refusal> {
    if depth > MAX_DEPTH {
        return Ok(());
    }
    match (shape, value) {
        (Each(shape), Value::Array(entries)) => {
            for (index, entry) in entries.iter().enumerate() {
                look(entry, shape, &path.index(index), depth + 1)?;
            }
            Ok(())
        }
        (Fields(known) | Open(known), Value::Object(fields)) => {
            let open = matches!(shape, Open(_))
                && !known
                    .iter()
                    .any(|(name, _)| fields.get(*name).is_some_and(|value| !value.is_null()));
            for (field, value) in fields {
                let path = path.field(field);
                match known.iter().find(|(name, _)| name == field) {
                    Some((_, shape)) => look(value, shape, &path, depth + 1)?,
                    None => {
                        let meant = meant(field, known);
                        if open && meant.is_none() {
                            continue;
                        }
                        let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
                        let remedy = match meant {
                            Some(meant) => format!("did you mean {meant}?"),
                            None => format!("remove it; there may be {}", names.join(", ")),
                        };
                        return Err(path.refuse("there is no such field", remedy));
                    }
                }
            }
            Ok(())
        }
        // A value of another type is refused where it is read.
        _ => Ok(()),
    }
}

/// The known field that was probably meant.
fn meant(written: &str, known: &[(&'static str, Shape)]) -> Option<&'static str> {
    // A field of a hostile file may be long.
    if written.len() > 64 {
        return None;
    }
    let most = (written.len() / 3).clamp(1, 3);
    let plain = written.to_ascii_lowercase();
    known
        .iter()
        .map(|(name, _)| (distance(&plain, &name.to_ascii_lowercase()), *name))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, name)| name)
}
