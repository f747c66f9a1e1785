//! What other programs and auditors read.

use serde_json::Value;

use crate::run::{OPEN, polproof, stdin, stdout};

/// A reason that somebody wrote who means harm.
const HOSTILE: &str =
    "NP001: </script><script>alert(1)</script> <img src=https://x.example/y> ]]> & '";

fn hostile() -> String {
    format!(
        "{OPEN}---\napiVersion: v1\nkind: Namespace\nmetadata: {{ name: shop, annotations: {{ polproof.io/suppress: {HOSTILE:?} }} }}\n"
    )
}

#[test]
fn sarif_is_valid_by_its_schema_and_points_into_the_files() {
    let mut schema: Value =
        serde_json::from_str(include_str!("../schemas/sarif-2.1.0.json")).unwrap();
    // It has a stray bracket, which strict readers of regular expressions refuse. We write no language.
    for with in ["run", "toolComponent"] {
        let language = &mut schema["definitions"][with]["properties"]["language"];
        language.as_object_mut().unwrap().remove("pattern").unwrap();
    }
    let validator = jsonschema::validator_for(&schema).unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("deploy")).unwrap();
    std::fs::write(dir.path().join("deploy/all.yaml"), hostile()).unwrap();
    for args in [
        &["audit", "deploy", "-o", "sarif"][..],
        &["audit", "deploy", "-o", "sarif", "--lint", "NP001"],
    ] {
        let output = polproof(dir.path(), args);
        let log: Value = serde_json::from_slice(&output.stdout).unwrap();
        let errors: Vec<_> = validator.iter_errors(&log).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(output.status.code(), Some(1));
        let run = &log["runs"][0];
        let rule = &run["tool"]["driver"]["rules"][0];
        assert_eq!(rule["id"], "NP001");
        assert!(
            rule["help"]["text"]
                .as_str()
                .unwrap()
                .contains("default-deny")
        );
        let results = run["results"].as_array().unwrap();
        let suppressed = results
            .iter()
            .find(|of| of["suppressions"][0]["kind"] == "inSource");
        let reason = suppressed.unwrap()["suppressions"][0]["justification"].as_str();
        assert!(reason.unwrap().starts_with("</script>"), "{reason:?}");
    }
}

#[test]
fn junit_is_well_formed_and_fails_as_the_command_does() {
    let junit = |args: &[&str]| {
        let output = stdin(&hostile(), &[&["audit", "-", "-o", "junit"], args].concat());
        let report = quick_junit::Report::deserialize_from_str(&stdout(&output)).unwrap();
        (report, output.status.code())
    };
    let (report, code) = junit(&["--lint", "NP001"]);
    assert_eq!((report.failures, code), (1, Some(1)));
    let suite = report.test_suites.first().unwrap();
    assert_eq!(suite.name.as_str(), "NP001 namespace without any policy");
    let failed = |case: &&quick_junit::TestCase| {
        matches!(case.status, quick_junit::TestCaseStatus::NonSuccess { .. })
    };
    let failed: Vec<_> = suite
        .test_cases
        .iter()
        .filter(failed)
        .map(|of| of.name.as_str())
        .collect();
    assert_eq!((suite.tests, failed), (2, vec!["web"]));
    let (report, code) = junit(&["--fail-on", "never"]);
    assert_eq!((report.failures, code), (0, Some(0)));
}

#[test]
fn the_page_loads_nothing_and_what_others_wrote_is_text() {
    let output = stdin(&hostile(), &["audit", "-", "-o", "html"]);
    let page = stdout(&output);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        page.starts_with("<!DOCTYPE html><html lang=\"en\">"),
        "{page}"
    );
    for loads in [
        "<img",
        "src=\"",
        "href=\"http",
        "url(",
        "@import",
        "<link",
        "<script>alert",
    ] {
        assert!(!page.contains(loads), "{loads}");
    }
    assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
    assert!(page.contains("0 NetworkPolicies found across 0 namespaces"));
}

#[test]
fn a_terminal_is_not_steered_by_what_others_wrote() {
    let text = hostile().replace("</script>", "\\u001b[2J");
    for format in ["table", "wide"] {
        let output = stdin(&text, &["audit", "-", "-o", format]);
        assert!(!stdout(&output).contains('\u{1b}'));
    }
    let wide = stdout(&stdin(&text, &["audit", "-", "-o", "wide"]));
    assert!(
        wide.contains("\\u{1b}[2J") && wide.contains("CIS 5.3.1"),
        "{wide}"
    );
}

#[test]
fn colours_can_be_had_and_a_file_has_none() {
    let coloured = stdin(OPEN, &["audit", "-", "--color", "always"]);
    assert!(stdout(&coloured).contains("\u{1b}[1;31m"));
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("open.yaml"), OPEN).unwrap();
    let args = [
        "audit",
        "open.yaml",
        "--color",
        "always",
        "--write",
        "out.txt",
    ];
    polproof(dir.path(), &args);
    let written = std::fs::read_to_string(dir.path().join("out.txt")).unwrap();
    assert!(
        written.starts_with("0 NetworkPolicies found across 0 namespaces\n"),
        "{written}"
    );
}
