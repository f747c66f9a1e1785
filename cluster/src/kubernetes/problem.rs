//! What an error of a watch means, and what a person can do about it.

use kube::core::Status;
use kube::runtime::watcher;

use crate::error::chain;
use crate::object::Watched;

/// How a kind is called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Names {
    /// Its API group, empty for core.
    pub(super) group: &'static str,
    /// Its name in paths and RBAC rules.
    pub(super) plural: &'static str,
    /// What names its watch among the others: plurals are not unique, Calico's policies are `networkpolicies`, too.
    pub(super) part: &'static str,
    /// Whether only some clusters serve it.
    pub(super) optional: bool,
}

impl Names {
    pub(super) const fn of<K: Watched>() -> Self {
        Self {
            group: K::GROUP,
            plural: K::PLURAL,
            part: K::PLURAL,
            optional: false,
        }
    }
}

/// What must be done about an error, beside waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// Nothing: the watcher goes on from where it was, or lists again.
    Retry,
    /// 410 Gone: list again. No fault of anybody.
    Relist,
    /// The place in the history that the watcher remembers is unusable: start a new one.
    Restart,
    /// The credentials were refused: read them again.
    Reconnect,
    /// A right is missing. A person must grant it.
    Refused,
    /// The kind is not served, which may be so: look again which kinds are.
    Discover,
    /// The server does not know streaming lists: use paged ones.
    PagedLists,
}

/// Sorts an error of a watcher.
pub(super) fn remedy(
    names: Names,
    error: &watcher::Error,
    streaming: bool,
    listing: bool,
) -> Remedy {
    let Some(status) = status_of(error) else {
        return Remedy::Retry;
    };
    let started = matches!(error, watcher::Error::WatchStartFailed(_));
    match status.code {
        401 => Remedy::Reconnect,
        403 => Remedy::Refused,
        404 if names.optional => Remedy::Discover,
        // As answer to the request itself the watcher would repeat the same request for ever.
        410 if started => Remedy::Restart,
        410 => Remedy::Relist,
        // etcd was restored from a backup: the history is now shorter than what we have seen.
        _ if started && status.message.contains("Too large resource version") => Remedy::Restart,
        400 | 422 if streaming && listing => Remedy::PagedLists,
        _ => Remedy::Retry,
    }
}

fn status_of(error: &watcher::Error) -> Option<&Status> {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => status_of_client(error),
        watcher::Error::WatchError(status) => Some(status),
        watcher::Error::NoResourceVersion => None,
    }
}

fn status_of_client(error: &kube::Error) -> Option<&Status> {
    match error {
        kube::Error::Api(status) => Some(status),
        _ => None,
    }
}

/// The text for an error of a watch.
pub(super) fn of_watch(
    names: Names,
    error: &watcher::Error,
    url: &str,
    credentials: &str,
) -> String {
    match error {
        watcher::Error::InitialListFailed(inner) => {
            of_request(names, inner, "list", url, credentials)
        }
        watcher::Error::WatchStartFailed(inner) | watcher::Error::WatchFailed(inner) => {
            of_request(names, inner, "watch", url, credentials)
        }
        watcher::Error::WatchError(status) => of_status(names, status, "watch", url, credentials),
        watcher::Error::NoResourceVersion => format!(
            "the API server {url} answered a list of {} without a resourceVersion; is it a real API server?",
            names.plural
        ),
    }
}

/// The text for an error of one request.
pub(super) fn of_request(
    names: Names,
    error: &kube::Error,
    verb: &str,
    url: &str,
    credentials: &str,
) -> String {
    match status_of_client(error) {
        Some(status) => of_status(names, status, verb, url, credentials),
        None => away(error, url),
    }
}

/// The server gave no answer.
pub(super) fn away(error: &kube::Error, url: &str) -> String {
    match error {
        kube::Error::SerdeError(error) => format!(
            "the API server {url} sent something that is not a Kubernetes object ({error}); trying again"
        ),
        kube::Error::Auth(error) => format!(
            "the credentials for the API server {url} cannot be had ({}); check the user of the kubeconfig; trying again",
            chain(error)
        ),
        _ => format!(
            "the API server {url} cannot be reached ({}); the cluster is known only as of the last update; \
             check that the API server runs and that this node reaches it; trying again",
            innermost(error)
        ),
    }
}

fn innermost(error: &kube::Error) -> String {
    let mut last: &(dyn std::error::Error + 'static) = error;
    while let Some(next) = last.source() {
        last = next;
    }
    let text = last.to_string();
    // hyper's own words for a connection that ended.
    if text.is_empty() {
        error.to_string()
    } else {
        text
    }
}

/// The credentials are no good.
pub(super) fn unauthorised(url: &str, credentials: &str) -> String {
    format!(
        "the API server {url} refused the credentials (401): the token or certificate of {credentials} has expired \
         or is not of this cluster; renew it; it is read again at every attempt"
    )
}

fn of_status(names: Names, status: &Status, verb: &str, url: &str, credentials: &str) -> String {
    match status.code {
        401 => unauthorised(url, credentials),
        403 => {
            let verb = said(&status.message, "cannot ", " resource").unwrap_or(verb);
            let user = said(&status.message, "User \"", "\"").unwrap_or("this user");
            format!(
                "not allowed to {verb} {plural}: add {{apiGroups: [\"{group}\"], resources: [\"{plural}\"], verbs: [\"list\", \
                 \"watch\"]}} to a ClusterRole that is bound to {user} (the API server {url} says: {message}); trying again",
                plural = names.plural,
                group = names.group,
                message = status.message,
            ) + if names.optional {
                "; this cluster serves them, so they may change what its policies mean, and nothing can be judged without them"
            } else {
                ""
            }
        }
        code => format!(
            "the API server {url} answers {code} when asked to {verb} {}: {}; trying again",
            names.plural,
            status.message.trim(),
        ),
    }
}

/// The part of a message between two marks.
pub(super) fn said<'a>(message: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = message.split_once(before)?;
    let (said, _) = rest.split_once(after)?;
    Some(said)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::networking::v1::NetworkPolicy;

    use super::*;

    const POLICIES: Names = Names::of::<NetworkPolicy>();

    fn api(code: u16, message: &str) -> kube::Error {
        kube::Error::Api(Status::failure(message, "").with_code(code).boxed())
    }

    #[test]
    fn forbidden_names_the_verb_the_resource_and_the_rule() {
        let error = watcher::Error::InitialListFailed(api(
            403,
            "networkpolicies.networking.k8s.io is forbidden: User \"system:serviceaccount:a:b\" cannot watch resource \
             \"networkpolicies\" in API group \"networking.k8s.io\" at the cluster scope",
        ));
        let text = of_watch(POLICIES, &error, "https://h:1", "kubeconfig k");
        assert!(text.starts_with("not allowed to watch networkpolicies: add {apiGroups: [\"networking.k8s.io\"], resources: [\"networkpolicies\"], verbs: [\"list\", \"watch\"]} to a ClusterRole that is bound to system:serviceaccount:a:b"), "{text}");
        assert_eq!(remedy(POLICIES, &error, true, true), Remedy::Refused);
    }

    #[test]
    fn each_error_has_its_remedy() {
        let start = |code, message| watcher::Error::WatchStartFailed(api(code, message));
        assert_eq!(
            remedy(POLICIES, &start(401, "Unauthorized"), true, true),
            Remedy::Reconnect
        );
        assert_eq!(
            remedy(POLICIES, &start(410, "gone"), true, false),
            Remedy::Restart
        );
        let gone =
            watcher::Error::WatchError(Status::failure("gone", "Expired").with_code(410).boxed());
        assert_eq!(remedy(POLICIES, &gone, true, false), Remedy::Relist);
        assert_eq!(
            remedy(
                POLICIES,
                &start(504, "Too large resource version: 9, current: 3"),
                true,
                false
            ),
            Remedy::Restart
        );
        assert_eq!(
            remedy(
                POLICIES,
                &start(422, "sendInitialEvents: Forbidden"),
                true,
                true
            ),
            Remedy::PagedLists
        );
        assert_eq!(
            remedy(
                POLICIES,
                &start(422, "sendInitialEvents: Forbidden"),
                false,
                true
            ),
            Remedy::Retry
        );
        assert_eq!(
            remedy(POLICIES, &start(503, "x"), true, true),
            Remedy::Retry
        );
        assert_eq!(
            remedy(POLICIES, &start(404, "x"), true, true),
            Remedy::Retry
        );
        let optional = Names {
            optional: true,
            ..POLICIES
        };
        assert_eq!(
            remedy(optional, &start(404, "x"), true, true),
            Remedy::Discover
        );
    }
}
