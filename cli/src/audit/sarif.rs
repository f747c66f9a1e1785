//! SARIF 2.1.0, for code scanning.
//!
//! Of the fifty objects of the format these are the twelve that an audit has something to say in; a test holds the output
//! against the format's own schema.

use std::path::Path;

use polproof_policy::lint::{Lint, Severity};
use serde::Serialize;

use super::report::{Location, Report, Reported};
use crate::failure::Failure;

const SCHEMA: &str =
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json";
/// What relative addresses are relative to: where the command ran, which in CI is the top of the checkout.
const ROOT: &str = "%SRCROOT%";

#[derive(Serialize)]
struct Log<'a> {
    #[serde(rename = "$schema")]
    schema: &'static str,
    version: &'static str,
    runs: [Run<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Run<'a> {
    tool: Tool<'a>,
    invocations: [Invocation; 1],
    results: Vec<SarifResult<'a>>,
    column_kind: &'static str,
    properties: RunProperties<'a>,
}

#[derive(Serialize)]
struct RunProperties<'a> {
    summary: &'a str,
    source: &'a str,
}

#[derive(Serialize)]
struct Tool<'a> {
    driver: Driver<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Driver<'a> {
    name: &'static str,
    semantic_version: &'static str,
    rules: Vec<Rule<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Rule<'a> {
    id: &'a str,
    short_description: Message<'a>,
    full_description: Message<'a>,
    help: Message<'a>,
    default_configuration: Configuration,
    properties: RuleProperties<'a>,
}

#[derive(Serialize)]
struct RuleProperties<'a> {
    tags: Vec<&'a str>,
    /// What GitHub sorts by, 0 to 10.
    #[serde(rename = "security-severity")]
    severity: &'static str,
}

#[derive(Serialize)]
struct Configuration {
    level: &'static str,
}

#[derive(Serialize)]
struct Message<'a> {
    text: std::borrow::Cow<'a, str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Invocation {
    execution_successful: bool,
    end_time_utc: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_configuration_notifications: Vec<Notification>,
}

#[derive(Serialize)]
struct Notification {
    level: &'static str,
    message: Message<'static>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SarifResult<'a> {
    rule_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule_index: Option<usize>,
    level: &'static str,
    message: Message<'a>,
    locations: [Place<'a>; 1],
    partial_fingerprints: Fingerprints,
    suppressions: Vec<Suppression<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    baseline_state: Option<&'static str>,
    properties: ResultProperties<'a>,
}

#[derive(Serialize)]
struct Fingerprints {
    #[serde(rename = "lintAndSubject/v1")]
    identity: String,
}

#[derive(Serialize)]
struct ResultProperties<'a> {
    subject: &'a str,
    severity: Severity,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    policies: &'a [String],
}

#[derive(Serialize)]
struct Suppression<'a> {
    kind: &'static str,
    status: &'static str,
    justification: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Place<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    physical_location: Option<Physical>,
    logical_locations: [Logical<'a>; 1],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Physical {
    artifact_location: Artifact,
    region: Region,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Artifact {
    uri: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri_base_id: Option<&'static str>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Region {
    start_line: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Logical<'a> {
    name: &'a str,
    fully_qualified_name: String,
    kind: &'static str,
}

/// The log.
pub(super) fn render(report: &Report) -> Result<String, Failure> {
    let here = std::env::current_dir().ok();
    let mut text = serde_json::to_string_pretty(&log(report, here.as_deref()))
        .map_err(|error| Failure::usage(format!("cannot write SARIF: {error}")))?;
    text.push('\n');
    Ok(text)
}

fn log<'a>(report: &'a Report, here: Option<&Path>) -> Log<'a> {
    let suppressions = report.ineffective.iter();
    let suppressions = suppressions.map(|idle| {
        let text = format!("suppression without effect: {}: {}", idle.by, idle.problem);
        (text, "warning")
    });
    let notes = report.notes.iter().map(|note| (note.clone(), "note"));
    let notifications = suppressions.chain(notes).map(|(text, level)| Notification {
        level,
        message: Message { text: text.into() },
    });
    let all = report.findings.iter().chain(&report.suppressed_findings);
    Log {
        schema: SCHEMA,
        version: "2.1.0",
        runs: [Run {
            tool: Tool {
                driver: Driver {
                    name: "polproof",
                    semantic_version: env!("CARGO_PKG_VERSION"),
                    rules: report.lints.iter().map(|lint| rule(lint)).collect(),
                },
            },
            invocations: [Invocation {
                execution_successful: true,
                end_time_utc: report.at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                tool_configuration_notifications: notifications.collect(),
            }],
            results: all.map(|finding| result(finding, report, here)).collect(),
            column_kind: "unicodeCodePoints",
            properties: RunProperties {
                summary: &report.summary,
                source: &report.source.name,
            },
        }],
    }
}

fn text(text: &str) -> Message<'_> {
    Message { text: text.into() }
}

fn rule(lint: &Lint) -> Rule<'_> {
    Rule {
        id: lint.id,
        short_description: text(lint.title),
        full_description: text(lint.help),
        help: text(lint.help),
        default_configuration: Configuration {
            level: level(lint.severity),
        },
        properties: RuleProperties {
            tags: std::iter::once("security")
                .chain(lint.references.iter().copied())
                .collect(),
            severity: match lint.severity {
                Severity::High => "8.0",
                Severity::Medium => "5.5",
                Severity::Low => "3.0",
                Severity::Info => "1.0",
            },
        },
    }
}

const fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::High => "error",
        Severity::Medium => "warning",
        Severity::Low | Severity::Info => "note",
    }
}

fn result<'a>(finding: &'a Reported, report: &Report, here: Option<&Path>) -> SarifResult<'a> {
    let message = match &finding.suggest {
        Some(suggest) => format!("{}. Try: {suggest}", finding.message).into(),
        None => finding.message.as_str().into(),
    };
    let object = &finding.object;
    let known = if finding.known { "unchanged" } else { "new" };
    SarifResult {
        rule_id: &finding.id.lint,
        rule_index: report
            .lints
            .iter()
            .position(|lint| lint.id == finding.id.lint),
        level: level(finding.severity),
        message: Message { text: message },
        locations: [Place {
            physical_location: finding.location.as_ref().map(|place| physical(place, here)),
            logical_locations: [Logical {
                name: &object.name,
                fully_qualified_name: match &object.namespace {
                    Some(namespace) => format!("{}/{namespace}/{}", object.kind, object.name),
                    None => format!("{}/{}", object.kind, object.name),
                },
                kind: "resource",
            }],
        }],
        partial_fingerprints: Fingerprints {
            identity: format!("{} {}", finding.id.lint, finding.id.subject),
        },
        suppressions: finding
            .suppressed
            .iter()
            .map(|accepted| Suppression {
                kind: if accepted.in_source {
                    "inSource"
                } else {
                    "external"
                },
                status: "accepted",
                justification: &accepted.reason,
            })
            .collect(),
        baseline_state: report.has_baseline.then_some(known),
        properties: ResultProperties {
            subject: &finding.id.subject,
            severity: finding.severity,
            policies: &finding.policies,
        },
    }
}

fn physical(place: &Location, here: Option<&Path>) -> Physical {
    let file = Path::new(&place.file);
    let whole = file.canonicalize();
    let whole = whole.as_deref().unwrap_or(file);
    let below = here.and_then(|here| whole.strip_prefix(here).ok());
    let artifact_location = match below {
        Some(below) => Artifact {
            uri: encoded(below),
            uri_base_id: Some(ROOT),
        },
        None if whole.is_absolute() => Artifact {
            uri: format!("file://{}", encoded(whole)),
            uri_base_id: None,
        },
        // It is gone since it was read.
        None => Artifact {
            uri: encoded(whole),
            uri_base_id: Some(ROOT),
        },
    };
    Physical {
        artifact_location,
        region: Region {
            start_line: place.line.max(1),
        },
    }
}

/// A path as part of a URI (RFC 3986).
fn encoded(path: &Path) -> String {
    let mut uri = String::new();
    for byte in path.to_string_lossy().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' => {
                uri.push(char::from(byte));
            }
            _ => uri.push_str(&format!("%{byte:02X}")),
        }
    }
    uri
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::audit::sample;

    fn value(report: &Report) -> Value {
        serde_json::from_str(&render(report).unwrap()).unwrap()
    }

    #[test]
    fn every_shape_of_report_is_valid_by_the_schema() {
        let schema = include_str!("../../tests/schemas/sarif-2.1.0.json");
        let mut schema: Value = serde_json::from_str(schema).unwrap();
        // It has a stray bracket, which strict readers of regular expressions refuse. We write no language.
        for with in ["run", "toolComponent"] {
            let language = &mut schema["definitions"][with]["properties"]["language"];
            language.as_object_mut().unwrap().remove("pattern").unwrap();
        }
        let validator = jsonschema::validator_for(&schema).unwrap();
        let mut known = sample::full();
        known.has_baseline = true;
        known.findings[0].known = true;
        for report in [sample::empty(), sample::clean(), sample::full(), known] {
            let log = value(&report);
            let errors: Vec<_> = validator.iter_errors(&log).map(|e| e.to_string()).collect();
            assert!(errors.is_empty(), "{errors:?}");
        }
        // The schema refuses something at all.
        let mut broken = value(&sample::full());
        broken["runs"][0]["results"][0]["level"] = "high".into();
        assert!(!validator.is_valid(&broken));
    }

    #[test]
    fn a_result_has_level_place_fingerprint_and_justification() {
        let log = value(&sample::full());
        let results = log["runs"][0]["results"].as_array().unwrap();
        let by = |lint: &str| results.iter().find(|of| of["ruleId"] == lint).unwrap();
        assert_eq!(by("NP001")["level"], "error");
        assert_eq!(by("NP004")["level"], "warning");
        assert_eq!(by("NP034")["level"], "note");
        assert_eq!(
            by("NP030")["partialFingerprints"]["lintAndSubject/v1"],
            "NP030 shop/api"
        );
        let place = &by("NP030")["locations"][0];
        assert_eq!(
            place["physicalLocation"]["artifactLocation"]["uri"],
            "deploy/net%20pol/api%20%231%25.yaml"
        );
        assert_eq!(place["physicalLocation"]["region"]["startLine"], 12);
        assert_eq!(
            place["logicalLocations"][0]["fullyQualifiedName"],
            "NetworkPolicy/shop/api"
        );
        let suppressed: Vec<_> = results
            .iter()
            .filter_map(|of| of["suppressions"][0]["kind"].as_str())
            .collect();
        assert_eq!(suppressed, ["inSource", "external"]);
        assert!(results.iter().all(|of| of["suppressions"].is_array()));
        assert!(results.iter().all(|of| of.get("baselineState").is_none()));
    }

    #[test]
    fn paths_below_the_working_folder_are_relative_and_others_are_whole() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("a")).unwrap();
        std::fs::write(root.join("a/b c.yaml"), "").unwrap();
        let place = Location {
            file: root.join("a/../a/b c.yaml").display().to_string(),
            line: 0,
        };
        let inside = physical(&place, Some(&root));
        assert_eq!(inside.artifact_location.uri, "a/b%20c.yaml");
        assert_eq!(inside.artifact_location.uri_base_id, Some(ROOT));
        assert_eq!(inside.region.start_line, 1);
        let outside = physical(&place, Some(Path::new("/nowhere")));
        assert!(
            outside.artifact_location.uri.starts_with("file:///")
                && outside.artifact_location.uri_base_id.is_none()
        );
    }
}
