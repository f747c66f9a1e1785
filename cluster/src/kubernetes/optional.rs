//! The watch of a kind that only some clusters serve: objects of any shape, compiled from JSON.

use kube::api::{ApiResource, DynamicObject, TypeMeta};
use kube::{Api, Client};
use polproof_policy::compile::{self, OptionalKind, Refusal};
use polproof_policy::{Key, Kind};

use super::follow::Followed;
use super::problem::Names;
use crate::object::{Compiled, key_in};

/// A kind in the version in which it is served.
#[derive(Clone, Copy, Debug)]
pub(super) struct Optional {
    kind: &'static OptionalKind,
    group: &'static str,
    version: &'static str,
}

impl Optional {
    pub(super) const fn new(
        kind: &'static OptionalKind,
        (group, version): (&'static str, &'static str),
    ) -> Self {
        Self {
            kind,
            group,
            version,
        }
    }

    fn resource(&self) -> ApiResource {
        ApiResource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            api_version: format!("{}/{}", self.group, self.version),
            kind: self.kind.kind.name().to_owned(),
            plural: self.kind.plural.to_owned(),
        }
    }
}

/// What names the watch of a kind among the others.
pub(super) const fn part(kind: &OptionalKind) -> &'static str {
    match kind.kind {
        Kind::CalicoNetworkPolicy => "networkpolicies of Calico",
        _ => kind.plural,
    }
}

impl Followed for Optional {
    type Object = DynamicObject;

    fn kind(&self) -> Kind {
        self.kind.kind
    }

    fn names(&self) -> Names {
        Names {
            group: self.group,
            plural: self.kind.plural,
            part: part(self.kind),
            optional: true,
        }
    }

    fn api(&self, client: Client) -> Api<DynamicObject> {
        Api::all_with(client, &self.resource())
    }

    fn compile(&self, object: &DynamicObject) -> Compiled {
        let mut object = object.clone();
        // Objects in a list do not say what they are.
        object.types.get_or_insert_with(|| TypeMeta {
            api_version: self.resource().api_version,
            kind: self.kind.kind.name().to_owned(),
        });
        let compiled = serde_json::to_value(&object)
            .map_err(|error| Refusal {
                object: format!(
                    "{} {}",
                    self.kind.kind.name(),
                    object.metadata.name.as_deref().unwrap_or_default()
                ),
                field: "metadata".to_owned(),
                problem: error.to_string(),
                remedy: "delete it and apply it anew".to_owned(),
                more: Vec::new(),
            })
            .and_then(|value| compile::optional(self.kind.kind, &value));
        Compiled::of(self.key(&object), compiled, None)
    }

    fn key(&self, object: &DynamicObject) -> Key {
        key_in(self.kind.kind, self.kind.namespaced, &object.metadata)
    }
}
