//! The kinds that are kept: their names in the API and how they are compiled.

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use polproof_policy::compile::{self, Refusal};
use polproof_policy::{Key, Kind, NamespacedName, Object, Uid};
use std::sync::Arc;

use crate::Refused;

/// A kind of the API that the state keeps.
pub(crate) trait Watched:
    kube::Resource<DynamicType = ()>
    + Clone
    + std::fmt::Debug
    + serde::de::DeserializeOwned
    + Send
    + Sync
    + 'static
{
    /// The kind in the state.
    const KIND: Kind;
    /// Its API group, empty for core.
    const GROUP: &'static str;
    /// Its name in paths and RBAC rules.
    const PLURAL: &'static str;
    /// Whether it lies in a namespace.
    const NAMESPACED: bool;

    /// Into the model, with the API server's validation.
    fn compile(&self) -> Result<Object, Refusal>;
}

macro_rules! watched {
    ($type:ty, $kind:ident, $group:literal, $plural:literal, $namespaced:literal, $compile:path) => {
        impl Watched for $type {
            const KIND: Kind = Kind::$kind;
            const GROUP: &'static str = $group;
            const PLURAL: &'static str = $plural;
            const NAMESPACED: bool = $namespaced;

            fn compile(&self) -> Result<Object, Refusal> {
                $compile(self).map(|object| Object::$kind(Arc::new(object)))
            }
        }
    };
}

watched!(Pod, Pod, "", "pods", true, compile::pod);
watched!(
    Namespace,
    Namespace,
    "",
    "namespaces",
    false,
    compile::namespace
);
watched!(Node, Node, "", "nodes", false, compile::node);
watched!(Service, Service, "", "services", true, compile::service);
watched!(
    NetworkPolicy,
    NetworkPolicy,
    "networking.k8s.io",
    "networkpolicies",
    true,
    compile::network_policy
);
watched!(
    EndpointSlice,
    EndpointSlice,
    "discovery.k8s.io",
    "endpointslices",
    true,
    compile::endpoint_slice
);

/// An object as it goes into the state, or why it does not.
#[derive(Debug)]
pub(crate) enum Compiled {
    /// It can be part of a cluster.
    Sound(Object),
    /// It cannot. The key remembers which object of that name it was.
    Refused(Key, Refused),
}

impl Compiled {
    /// What became of the compilation of the object with this key. `origin` (a file) is named in a refusal.
    pub(crate) fn of(key: Key, compiled: Result<Object, Refusal>, origin: Option<&str>) -> Self {
        let refusal = match compiled {
            Ok(object) => return Self::Sound(object),
            Err(refusal) => refusal,
        };
        let reason = refusal.reason();
        let object = match origin {
            Some(origin) => format!("{} ({origin})", refusal.object),
            None => refusal.object,
        };
        let refused = Refused {
            key: key.clone(),
            object,
            reason,
        };
        Self::Refused(key, refused)
    }
}

/// Compiles an object. `origin` (a file) is named in a refusal.
pub(crate) fn compile_object<K: Watched>(object: &K, origin: Option<&str>) -> Compiled {
    Compiled::of(key_of(object), object.compile(), origin)
}

/// The key under which the state holds an object, also if it is refused.
pub(crate) fn key_of<K: Watched>(object: &K) -> Key {
    key_in(K::KIND, K::NAMESPACED, object.meta())
}

/// The same of an object of any kind.
pub(crate) fn key_in(kind: Kind, namespaced: bool, meta: &ObjectMeta) -> Key {
    let namespace = match meta.namespace.as_deref() {
        _ if !namespaced => "",
        None | Some("") => "default",
        Some(namespace) => namespace,
    };
    let name = meta.name.as_deref().unwrap_or_default();
    Key {
        kind,
        id: NamespacedName::new(namespace, name),
        uid: Uid(Arc::from(meta.uid.as_deref().unwrap_or_default())),
    }
}

// The scope constants above are written by hand; this holds one of them against the API's own.
const _: fn() = || {
    fn namespaced<K: k8s_openapi::Resource<Scope = NamespaceResourceScope>>() {}
    namespaced::<Pod>();
    namespaced::<Service>();
    namespaced::<NetworkPolicy>();
    namespaced::<EndpointSlice>();
};
