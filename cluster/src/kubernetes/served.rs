//! Which of the optional kinds an API server serves, and in which version.
//!
//! One request tells the groups; a group that may hold one of our kinds costs one more for each version that we can read.
//! A cluster that has none of them is asked for one small document. An answer that is no clear yes or no is an error: a
//! kind that is served and not seen would be evaluated as if its policies did not exist.

use std::collections::{BTreeMap, BTreeSet};

use kube::Client;
use polproof_policy::Kind;
use polproof_policy::compile::{OPTIONAL_KINDS, OptionalKind};

use super::problem;

/// API group and version.
pub(super) type Version = (&'static str, &'static str);

/// What is known of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Served {
    /// In this version.
    In(Version),
    /// In none that we can read.
    Not,
    /// It cannot be said, for this reason.
    Unknown(Trouble),
}

/// Why something could not be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Trouble {
    /// For a person.
    pub(super) text: String,
    /// The server refuses us; waiting does not help.
    pub(super) refused: bool,
    /// The credentials must be read again.
    pub(super) credentials: bool,
}

/// Looks which kinds are served.
///
/// # Errors
/// Nothing could be learned at all.
pub(super) async fn look(
    client: &Client,
    url: &str,
    credentials: &str,
) -> Result<BTreeMap<Kind, Served>, Trouble> {
    let groups = client
        .list_api_groups()
        .await
        .map_err(|error| trouble(&error, "/apis", url, credentials))?;
    let offered: BTreeSet<String> = groups
        .groups
        .into_iter()
        .flat_map(|group| group.versions)
        .map(|version| version.group_version)
        .collect();
    let readable: BTreeSet<Version> = OPTIONAL_KINDS
        .iter()
        .flat_map(|kind| kind.apis)
        .copied()
        .filter(|(group, version)| offered.contains(&format!("{group}/{version}")))
        .collect();
    let mut resources = BTreeMap::new();
    for (group, version) in readable {
        let api = format!("{group}/{version}");
        let plurals = match client.list_api_group_resources(&api).await {
            Ok(list) => Ok(list.resources.into_iter().map(|one| one.name).collect()),
            // Gone between the two requests.
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(BTreeSet::new()),
            Err(error) => Err(trouble(&error, &format!("/apis/{api}"), url, credentials)),
        };
        resources.insert((group, version), plurals);
    }
    Ok(OPTIONAL_KINDS
        .iter()
        .map(|kind| (kind.kind, served(kind, &resources)))
        .collect())
}

/// The first version that serves the kind. One before it that could not be asked may be the one.
fn served(
    kind: &OptionalKind,
    resources: &BTreeMap<Version, Result<BTreeSet<String>, Trouble>>,
) -> Served {
    for version in kind.apis {
        match resources.get(version) {
            Some(Ok(plurals)) if plurals.contains(kind.plural) => return Served::In(*version),
            Some(Err(trouble)) => return Served::Unknown(trouble.clone()),
            Some(Ok(_)) | None => {}
        }
    }
    Served::Not
}

fn trouble(error: &kube::Error, path: &str, url: &str, credentials: &str) -> Trouble {
    let kube::Error::Api(status) = error else {
        return Trouble {
            text: problem::away(error, url),
            refused: matches!(error, kube::Error::Auth(_)),
            credentials: true,
        };
    };
    let text = match status.code {
        401 => problem::unauthorised(url, credentials),
        403 => format!(
            "not allowed to ask which policy kinds the API server {url} serves ({path}): bind the ClusterRole system:discovery to \
             {user} (a default cluster binds it to the group system:authenticated; the API server says: {message}); without that \
             it is not known whether there are admin policies, and nothing can be judged; trying again",
            user = problem::said(&status.message, "User \"", "\"").unwrap_or("this user"),
            message = status.message,
        ),
        code => format!(
            "the API server {url} answers {code} when asked what {path} serves: {}; until it answers it is not known whether there \
             are policies of these kinds; if it is an aggregated API, check its APIService and the pods behind it; trying again",
            status.message.trim(),
        ),
    };
    Trouble {
        text,
        refused: matches!(status.code, 401 | 403),
        credentials: status.code == 401,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use kube::core::Status;

    use super::*;

    fn calico() -> &'static OptionalKind {
        OPTIONAL_KINDS
            .iter()
            .find(|kind| kind.kind == Kind::CalicoNetworkPolicy)
            .unwrap()
    }

    fn with(plurals: &[&str]) -> Result<BTreeSet<String>, Trouble> {
        Ok(plurals.iter().map(|&plural| plural.to_owned()).collect())
    }

    const FIRST: Version = ("crd.projectcalico.org", "v1");
    const SECOND: Version = ("projectcalico.org", "v3");

    #[test]
    fn of_several_versions_the_first_that_serves_the_kind_counts() {
        let both = BTreeMap::from([
            (FIRST, with(&["networkpolicies"])),
            (SECOND, with(&["networkpolicies"])),
        ]);
        assert_eq!(served(calico(), &both), Served::In(FIRST));
        let second = BTreeMap::from([
            (FIRST, with(&["ippools"])),
            (SECOND, with(&["networkpolicies"])),
        ]);
        assert_eq!(served(calico(), &second), Served::In(SECOND));
        assert_eq!(served(calico(), &BTreeMap::new()), Served::Not);
    }

    #[test]
    fn a_version_that_cannot_be_asked_is_never_taken_for_absent() {
        let error = kube::Error::Api(
            Status::failure("service unavailable", "")
                .with_code(503)
                .boxed(),
        );
        let away = trouble(
            &error,
            "/apis/projectcalico.org/v3",
            "https://h:1",
            "kubeconfig k",
        );
        assert!(
            away.text.contains("503") && away.text.contains("APIService"),
            "{}",
            away.text
        );
        assert!(!away.refused);
        let second_away = BTreeMap::from([(FIRST, with(&[])), (SECOND, Err(away.clone()))]);
        assert_eq!(
            served(calico(), &second_away),
            Served::Unknown(away.clone())
        );
        let first_is_enough =
            BTreeMap::from([(FIRST, with(&["networkpolicies"])), (SECOND, Err(away))]);
        assert_eq!(served(calico(), &first_is_enough), Served::In(FIRST));
    }

    #[test]
    fn who_may_not_ask_is_told_which_role_is_missing() {
        let message = "forbidden: User \"system:serviceaccount:a:b\" cannot get path \"/apis\"";
        let error = kube::Error::Api(Status::failure(message, "Forbidden").with_code(403).boxed());
        let refused = trouble(&error, "/apis", "https://h:1", "kubeconfig k");
        assert!(
            refused
                .text
                .contains("bind the ClusterRole system:discovery to system:serviceaccount:a:b"),
            "{}",
            refused.text
        );
        assert!(refused.refused);
    }
}
