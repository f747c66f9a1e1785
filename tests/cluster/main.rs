//! The cluster sources against a real API server and etcd.
//!
//! `cargo xtask setup` builds the two programs (needs Go). Without them every test here is listed
//! as ignored, and the reason is printed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

mod auditor;
mod commands;
mod deploy;
mod deployed;
mod failures;
mod kinds;
mod large;
mod lists;
mod newer;
mod once;
mod rights;
mod shared;
mod sources;
mod tier_cases;
mod tiers;
mod validation;
mod whole;

use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};
use polproof_tests::cluster::Binaries;
use polproof_tests::cluster::crds::Crds;
use polproof_tests::lab::prerequisites;
use shared::Test;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let binaries = Binaries::find();
    if let Err(reason) = &binaries {
        eprintln!("the tests against an API server are ignored: {reason}");
    }
    let lab = prerequisites::missing_for_agents();
    let trials = TESTS
        .iter()
        .map(|(name, test)| {
            let mut found = binaries.clone();
            if matches!(test, Test::Lab(_) | Test::LabCrds(_)) && !lab.is_empty() {
                let reason = lab.join("; ");
                eprintln!("ignored: {name}: {reason}");
                found = Err(reason);
            }
            if matches!(test, Test::Crds(_) | Test::LabCrds(_))
                && let Err(reason) = Crds::find()
            {
                eprintln!("ignored: {name}: {reason}");
                found = Err(reason);
            }
            let missing = found.is_err();
            Trial::test(*name, move || match found {
                Ok(binaries) => test.run(&binaries),
                Err(reason) => Err(Failed::from(reason)),
            })
            .with_ignored_flag(missing)
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    shared::end();
    conclusion.exit_code()
}

const TESTS: &[(&str, Test)] = &[
    (
        "every_kind_is_listed_and_watched",
        Test::Shared(|c| Box::pin(lists::every_kind(c))),
    ),
    (
        "a_burst_is_few_views",
        Test::Shared(|c| Box::pin(lists::a_burst_is_few_views(c))),
    ),
    (
        "a_pod_recreated_while_the_watch_is_down",
        Test::Shared(|c| Box::pin(lists::recreated_while_down(c))),
    ),
    (
        "rights_are_missing_then_granted",
        Test::Shared(|c| Box::pin(rights::missing_then_granted(c))),
    ),
    (
        "a_token_expires_and_is_renewed",
        Test::Shared(|c| Box::pin(rights::token_expires(c))),
    ),
    (
        "a_kubeconfig_that_cannot_work_says_so",
        Test::Shared(|c| Box::pin(rights::bad_kubeconfig(c))),
    ),
    (
        "policies_are_refused_as_the_api_server_refuses_them",
        Test::Shared(|c| Box::pin(validation::same_verdicts(c))),
    ),
    (
        "manifests_and_api_give_equal_views",
        Test::Shared(|c| Box::pin(sources::equal_views(c))),
    ),
    (
        "the_api_server_accepts_deploy",
        Test::Shared(|c| Box::pin(deploy::accepted(c))),
    ),
    (
        "the_watches_run_with_the_rights_of_deploy",
        Test::Shared(|c| Box::pin(deploy::rights_suffice(c))),
    ),
    (
        "agent_and_collector_run_with_the_rights_of_deploy",
        Test::Lab(whole::with_the_rights_of_deploy),
    ),
    (
        "agent_and_collector_run_with_these_rights_where_admin_policies_are_served",
        Test::LabCrds(whole::with_admin_policies),
    ),
    (
        "admin_policies_of_a_newer_api_fail_closed",
        Test::Own(|b| Box::pin(newer::fails_closed(b))),
    ),
    (
        "reading_once_ends_when_it_is_of_no_use_to_wait",
        Test::Shared(|c| Box::pin(once::no_use_to_wait(c))),
    ),
    (
        "a_context_of_the_kubeconfig_is_the_one_that_is_read",
        Test::Shared(|c| Box::pin(once::context(c))),
    ),
    (
        "kinds_that_are_not_served_are_noticed_when_they_come_and_go",
        Test::Crds(|b, c| Box::pin(kinds::come_and_go(b, c))),
    ),
    (
        "a_right_on_a_kind_that_only_some_clusters_serve_is_named",
        Test::Crds(|b, c| Box::pin(kinds::right_is_missing(b, c))),
    ),
    (
        "admin_policies_are_refused_as_the_api_server_refuses_them",
        Test::Crds(|b, c| Box::pin(tiers::same_verdicts(b, c))),
    ),
    (
        "commands_say_the_same_of_a_cluster_and_of_its_manifests",
        Test::Own(|b| Box::pin(commands::same_answers(b))),
    ),
    (
        "commands_say_the_same_with_admin_policies",
        Test::Crds(|b, c| Box::pin(commands::same_answers_with_admin_policies(b, c))),
    ),
    (
        "what_fix_writes_is_taken_and_does_what_it_promises",
        Test::Own(|b| Box::pin(commands::fixes(b))),
    ),
    (
        "what_fix_writes_is_taken_with_admin_policies",
        Test::Crds(|b, c| Box::pin(commands::fixes_with_admin_policies(b, c))),
    ),
    (
        "the_rights_of_the_auditor_suffice_and_each_is_needed",
        Test::Crds(|b, c| Box::pin(auditor::rights(b, c))),
    ),
    (
        "the_auditor_may_what_the_programs_may",
        Test::Shared(|c| Box::pin(auditor::same_rules(c))),
    ),
    (
        "commands_on_a_cluster_that_is_away_end_soon_and_say_so",
        Test::Shared(|c| Box::pin(auditor::away(c))),
    ),
    (
        "relist_after_410_gone",
        Test::Own(|b| Box::pin(failures::gone(b))),
    ),
    (
        "the_api_server_restarts",
        Test::Own(|b| Box::pin(failures::api_restarts(b))),
    ),
    (
        "etcd_restarts",
        Test::Own(|b| Box::pin(failures::etcd_restarts(b))),
    ),
    (
        "etcd_is_restored_to_an_earlier_state",
        Test::Own(|b| Box::pin(failures::etcd_is_restored(b))),
    ),
    (
        "paged_lists_where_streaming_is_off",
        Test::Own(|b| Box::pin(lists::paged(b))),
    ),
    (
        "five_thousand_pods_in_one_list",
        Test::Own(|b| Box::pin(large::five_thousand(b))),
    ),
];
