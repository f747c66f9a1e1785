//! What an error of a watch means, and what a person can do about it.

use kube::core::Status;
use kube::runtime::watcher;

use crate::error::chain;
use crate::object::Watched;

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
    /// The server does not know streaming lists: use paged ones.
    PagedLists,
}

/// Sorts an error of a watcher.
pub(super) fn remedy(error: &watcher::Error, streaming: bool, listing: bool) -> Remedy {
    let Some(status) = status_of(error) else {
        return Remedy::Retry;
    };
    let started = matches!(error, watcher::Error::WatchStartFailed(_));
    match status.code {
        401 => Remedy::Reconnect,
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

/// The text for an error of the watch of `K`.
pub(super) fn of_watch<K: Watched>(error: &watcher::Error, url: &str, credentials: &str) -> String {
    match error {
        watcher::Error::InitialListFailed(inner) => {
            of_request::<K>(inner, "list", url, credentials)
        }
        watcher::Error::WatchStartFailed(inner) | watcher::Error::WatchFailed(inner) => {
            of_request::<K>(inner, "watch", url, credentials)
        }
        watcher::Error::WatchError(status) => of_status::<K>(status, "watch", url, credentials),
        watcher::Error::NoResourceVersion => format!(
            "the API server {url} answered a list of {} without a resourceVersion; is it a real API server?",
            K::PLURAL
        ),
    }
}

/// The text for an error of one request.
pub(super) fn of_request<K: Watched>(
    error: &kube::Error,
    verb: &str,
    url: &str,
    credentials: &str,
) -> String {
    match status_of_client(error) {
        Some(status) => of_status::<K>(status, verb, url, credentials),
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

fn of_status<K: Watched>(status: &Status, verb: &str, url: &str, credentials: &str) -> String {
    match status.code {
        401 => format!(
            "the API server {url} refused the credentials (401): the token or certificate of {credentials} has expired \
             or is not of this cluster; renew it; it is read again at every attempt"
        ),
        403 => {
            let verb = said(&status.message, "cannot ", " resource").unwrap_or(verb);
            let user = said(&status.message, "User \"", "\"").unwrap_or("this user");
            format!(
                "not allowed to {verb} {plural}: add {{apiGroups: [\"{group}\"], resources: [\"{plural}\"], verbs: [\"list\", \
                 \"watch\"]}} to a ClusterRole that is bound to {user} (the API server {url} says: {message}); trying again",
                plural = K::PLURAL,
                group = K::GROUP,
                message = status.message,
            )
        }
        code => format!(
            "the API server {url} answers {code} when asked to {verb} {}: {}; trying again",
            K::PLURAL,
            status.message.trim(),
        ),
    }
}

/// The part of a message between two marks.
fn said<'a>(message: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = message.split_once(before)?;
    let (said, _) = rest.split_once(after)?;
    Some(said)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::networking::v1::NetworkPolicy;

    use super::*;

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
        let text = of_watch::<NetworkPolicy>(&error, "https://h:1", "kubeconfig k");
        assert!(text.starts_with("not allowed to watch networkpolicies: add {apiGroups: [\"networking.k8s.io\"], resources: [\"networkpolicies\"], verbs: [\"list\", \"watch\"]} to a ClusterRole that is bound to system:serviceaccount:a:b"), "{text}");
        assert_eq!(remedy(&error, true, true), Remedy::Retry);
    }

    #[test]
    fn each_error_has_its_remedy() {
        let start = |code, message| watcher::Error::WatchStartFailed(api(code, message));
        assert_eq!(
            remedy(&start(401, "Unauthorized"), true, true),
            Remedy::Reconnect
        );
        assert_eq!(remedy(&start(410, "gone"), true, false), Remedy::Restart);
        let gone =
            watcher::Error::WatchError(Status::failure("gone", "Expired").with_code(410).boxed());
        assert_eq!(remedy(&gone, true, false), Remedy::Relist);
        assert_eq!(
            remedy(
                &start(504, "Too large resource version: 9, current: 3"),
                true,
                false
            ),
            Remedy::Restart
        );
        assert_eq!(
            remedy(&start(422, "sendInitialEvents: Forbidden"), true, true),
            Remedy::PagedLists
        );
        assert_eq!(
            remedy(&start(422, "sendInitialEvents: Forbidden"), false, true),
            Remedy::Retry
        );
        assert_eq!(remedy(&start(503, "x"), true, true), Remedy::Retry);
    }
}
