//! `polproof status`: what was proved of every node.

use jiff::Timestamp;
use polproof_proto::v1;

use crate::args::{Format, Global, Status as Options};
use crate::connect::connect;
use crate::convert;
use crate::failure::{FINE, Failure, VIOLATIONS};
use crate::output::{Screen, Tone};
use crate::view::{Cluster, Node, Overall, Status};
use crate::violations::{age, plural};

mod reasons;

/// Unwatched pods and refused objects that are named; `-o json` has what the agent sent.
const NAMED: usize = 5;

/// Shows it.
pub(crate) async fn run(
    global: &Global,
    options: &Options,
    screen: &Screen,
) -> Result<u8, Failure> {
    let mut client = connect(global).await?;
    let status = client
        .get_status(v1::GetStatusRequest {})
        .await
        .map_err(|status| Failure::status(&global.collector, &status))?
        .into_inner();
    let status = convert::status(status);
    match screen.format {
        Format::Json | Format::Yaml => screen.document(&status)?,
        _ => screen.write(&text(&status, screen))?,
    }
    // "Partial" without a recent violation is an old one that nobody tried again.
    let failing = status.nodes.iter().any(|node| {
        node.enforcement == "not_enforced"
            || (node.enforcement == "partial" && node.violations_recent > 0)
    });
    Ok(if failing && options.exit_code {
        VIOLATIONS
    } else {
        FINE
    })
}

fn text(status: &Status, screen: &Screen) -> String {
    if status.nodes.is_empty() {
        return "No agent has ever reported to this collector. Does the DaemonSet run, and do the agents' logs show a \
                connection? (kubectl -n polproof-system get pods -o wide)\n"
            .to_owned();
    }
    // The collector's clock: ours may be another one.
    let now = status.now.unwrap_or_else(Timestamp::now);
    let recent = format!("VIOLATIONS {}s/ALL", status.recent_window_seconds);
    let head = [
        "NODE",
        "AGENT",
        "PODS WATCHED",
        "CNI CLAIMS",
        "PROVED",
        recent.as_str(),
        "DENIED, UNANSWERED",
        "PROVED STOPPED",
        "LOST",
    ];
    let rows: Vec<_> = status.nodes.iter().map(|node| row(node, now)).collect();
    let mut text = screen.table(&head, &rows);
    text.push('\n');
    if let Some(overall) = &status.overall {
        text.push_str(&summary(overall, screen));
    }
    for node in &status.nodes {
        text.push_str(&verdict(node, now, screen));
    }
    for node in &status.nodes {
        text.push_str(&late(node));
    }
    let reasons = reasons::lines(&status.nodes);
    if !reasons.is_empty() {
        text.push_str(&format!(
            "\n{}\n",
            screen.paint(Tone::Bold, "Attempts without a verdict, and why:")
        ));
        for reason in reasons {
            text.push_str(&format!("  {reason}\n"));
        }
    }
    let mut remarks = Vec::new();
    for node in &status.nodes {
        remark(node, now, &mut remarks);
    }
    if let Some(cluster) = &status.cluster {
        remark_cluster("the collector", cluster, &mut remarks);
    }
    if !remarks.is_empty() {
        text.push_str(&format!("\n{}\n", screen.paint(Tone::Warn, "Look at:")));
        for remark in remarks {
            text.push_str(&format!("  {remark}\n"));
        }
    }
    if status.nodes.iter().any(|node| node.findings > 0) {
        text.push_str("\nWhich connections: polproof violations\n");
    }
    text
}

fn row(node: &Node, now: Timestamp) -> Vec<(Tone, String)> {
    let agent = if node.connected {
        (Tone::Good, "connected".to_owned())
    } else {
        (
            Tone::Bad,
            format!("away, heard {}", age(node.last_heartbeat, now)),
        )
    };
    let full = node.pods_watched >= node.pods_expected;
    let claims = if node.cni.is_empty() {
        "nothing known".to_owned()
    } else {
        node.cni
            .iter()
            .map(|cni| format!("{} {}", cni.name, cni.claim.replace('_', " ")))
            .collect::<Vec<_>>()
            .join(", ")
    };
    let proved = match node.enforcement {
        "not_enforced" => (Tone::Bad, "NOT ENFORCED".to_owned()),
        "enforced" => (Tone::Good, "enforced".to_owned()),
        "partial" => (Tone::Bad, "PARTIAL".to_owned()),
        other => (Tone::Warn, other.replace('_', " ")),
    };
    let lost = node.loss.total();
    vec![
        (Tone::Plain, node.node.clone()),
        agent,
        (
            if full { Tone::Plain } else { Tone::Warn },
            format!("{}/{}", node.pods_watched, node.pods_expected),
        ),
        (Tone::Plain, claims),
        proved,
        (
            if node.violations_recent > 0 {
                Tone::Bad
            } else {
                Tone::Plain
            },
            format!("{}/{}", node.violations_recent, node.violations),
        ),
        (Tone::Plain, node.judged.denied_unanswered.to_string()),
        (Tone::Plain, node.judged.denied_stopped.to_string()),
        (
            if lost > 0 { Tone::Warn } else { Tone::Plain },
            lost.to_string(),
        ),
    ]
}

/// All nodes in one line.
fn summary(overall: &Overall, screen: &Screen) -> String {
    let (tone, state) = match overall.enforcement {
        "not_enforced" => (Tone::Bad, "policies are NOT enforced".to_owned()),
        "partial" => (Tone::Bad, "policies are enforced in part only".to_owned()),
        "enforced" => (Tone::Good, "enforced".to_owned()),
        other => (Tone::Bold, other.replace('_', " ")),
    };
    format!(
        "{}: {}\n",
        screen.paint(tone, &format!("cluster: {state}")),
        overall.enforcement_reason
    )
}

/// The sentence that people look for.
fn verdict(node: &Node, now: Timestamp, screen: &Screen) -> String {
    let name = &node.node;
    let reason = &node.enforcement_reason;
    if matches!(node.enforcement, "not_enforced" | "partial") {
        let claim = node
            .cni
            .iter()
            .find(|cni| cni.claim == "does_not_enforce")
            .map(|cni| {
                let remedy = if cni.remedy.is_empty() {
                    String::new()
                } else {
                    format!("; {}", cni.remedy)
                };
                format!(
                    " Its CNI {} says so itself ({}){remedy}.",
                    cni.name, cni.evidence
                )
            })
            .unwrap_or_default();
        let sentence = if node.enforcement == "partial" {
            format!("node {name}: policies are enforced in part only")
        } else {
            format!("node {name}: policies are NOT enforced")
        };
        return format!("{}: {reason}.{claim}\n", screen.paint(Tone::Bad, &sentence));
    }
    let quiet = match node.last_violation {
        Some(last) => format!(
            "no violation since {} ({})",
            last.strftime("%Y-%m-%d %H:%M:%S UTC"),
            age(Some(last), now)
        ),
        None => match node.first_heard {
            Some(heard) => format!(
                "no violation since {} ({}), when its agent was first heard of",
                heard.strftime("%Y-%m-%d %H:%M:%S UTC"),
                age(Some(heard), now)
            ),
            None => "no violation".to_owned(),
        },
    };
    format!(
        "node {name}: {quiet}; {}: {reason}\n",
        node.enforcement.replace('_', " ")
    )
}

/// How late enforcement was.
fn late(node: &Node) -> String {
    let exposure = &node.exposure;
    if exposure.changes == 0 {
        return String::new();
    }
    let at_most = |bound: Option<u64>| match bound {
        Some(ms) if ms < 1_000 => format!("at most {ms} ms"),
        Some(ms) if ms % 1_000 == 0 => format!("at most {} s", ms / 1_000),
        Some(ms) => format!("at most {}.{} s", ms / 1_000, ms % 1_000 / 100),
        None => "more than 30 s".to_owned(),
    };
    format!(
        "node {}: exposure window: after {} to a denial connections still got through, half of the times {} (p50), 99 % {} (p99)\n",
        node.node,
        plural(exposure.changes, "change"),
        at_most(exposure.p50_ms),
        at_most(exposure.p99_ms),
    )
}

/// What makes the figures of a node worth less than they look.
fn remark(node: &Node, now: Timestamp, remarks: &mut Vec<String>) {
    let name = &node.node;
    if !node.connected {
        remarks.push(format!(
            "node {name}: its agent was last heard {}; what happens there now is not seen",
            age(node.last_heartbeat, now)
        ));
    }
    let unwatched = node.pods_expected.saturating_sub(node.pods_watched);
    if unwatched > 0 || !node.pods_unwatched.is_empty() {
        let mut named = node
            .pods_unwatched
            .iter()
            .take(NAMED)
            .cloned()
            .collect::<Vec<_>>()
            .join("; ");
        if node.pods_unwatched.len() > NAMED {
            named.push_str("; ...");
        }
        let count = unwatched.max(node.pods_unwatched.len() as u64);
        remarks.push(format!(
            "node {name}: {} not watched{}{named}",
            plural(count, "pod"),
            if named.is_empty() { "" } else { ": " }
        ));
    }
    match &node.kernel_lacks {
        Some(lacks) => {
            for lack in lacks {
                remarks.push(format!(
                    "node {name}: its kernel {} has {}: {}. To do: {}",
                    node.kernel_release, lack.what, lack.consequence, lack.remedy
                ));
            }
        }
        None => remarks.push(format!(
            "node {name}: what its kernel lacks is not told: its agent ({}) has not said it since it started, or is too old to \
             say it. To do: upgrade the agent",
            node.agent_version
        )),
    }
    let loss = &node.loss;
    for (count, what) in [
        (
            loss.ring_records_lost,
            "records lost in the kernel's buffer",
        ),
        (loss.packets_unparsed, "packets that could not be read"),
        (loss.attempts_evicted, "attempts forgotten for lack of room"),
        (
            loss.batches_dropped.max(loss.batches_missing),
            "batches that never reached the collector",
        ),
        (
            loss.findings_refused,
            "findings that the collector could not use",
        ),
        (
            loss.pods_unidentified,
            "network namespaces that belong to no known pod",
        ),
    ] {
        if count > 0 {
            remarks.push(format!(
                "node {name}: {count} {what}: its figures may be too low"
            ));
        }
    }
    if let Some(cluster) = &node.cluster {
        remark_cluster(&format!("node {name}: its agent"), cluster, remarks);
    }
}

fn remark_cluster(who: &str, cluster: &Cluster, remarks: &mut Vec<String>) {
    if !cluster.ready {
        remarks.push(format!(
            "{who} has not read the whole cluster yet, and judges nothing before"
        ));
    }
    if !cluster.problem.is_empty() {
        remarks.push(format!(
            "{who} has a stale view of the cluster: {}",
            cluster.problem
        ));
    }
    for of in cluster.other_policies.iter().filter(|of| !of.evaluated) {
        let (are, them) = if of.count == 1 {
            ("is", "it")
        } else {
            ("are", "they")
        };
        remarks.push(format!(
            "{who} knows of {} {}, which {are} recognised and not evaluated: what {them} may let through is inconclusive",
            of.count, of.kind,
        ));
    }
    for refused in cluster.refused.iter().take(NAMED) {
        remarks.push(format!("{who} leaves out {refused}"));
    }
}
