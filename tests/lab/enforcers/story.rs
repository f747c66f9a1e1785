//! What happens to an enforcer in its test.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use polproof_policy::Protocol;
use polproof_tests::lab::Lab;
use polproof_tests::lab::enforcers::{Entry, Event, Fate, Fault, How, None as Nothing, named};
use polproof_tests::lab::node::PodSpec;

use super::Bench;

const POLICIES: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{port: 5432}, {port: 53, protocol: UDP}, {port: 5432, protocol: SCTP}]
---
# Allowed to send, but nobody may send to it: an answer is not an attempt.
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  policyTypes: [Ingress]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: x, namespace: shop}
spec:
  podSelector: {matchLabels: {app: x}}
  policyTypes: [Egress]
  egress:
    - ports: [{port: 80}, {port: 54, protocol: UDP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: named, namespace: shop}
spec:
  podSelector: {matchLabels: {app: named}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{port: pg}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: block, namespace: shop}
spec:
  podSelector: {matchLabels: {app: block}}
  policyTypes: [Ingress]
  ingress:
    - from: [{ipBlock: {cidr: 10.244.0.0/16}}, {ipBlock: {cidr: fd00:10:244::/48}}]
";

/// Denies what db's policy allowed, and isolates a pod that was open.
const CHANGE: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: free, namespace: shop}
spec:
  podSelector: {matchLabels: {app: free}}
  policyTypes: [Ingress]
";

const PODS: [(&str, usize, &str); 8] = [
    // db-1 and db-2 differ only behind the last -.
    ("db-1", 0, "db"),
    ("db-2", 0, "free"),
    ("weba", 0, "web"),
    ("webb", 1, "web"),
    ("xa", 0, "x"),
    ("xb", 1, "x"),
    ("named", 1, "named"),
    ("block", 1, "block"),
];

const PAIRS: [(&str, &str); 13] = [
    ("shop/weba", "shop/db-1"),
    ("shop/webb", "shop/db-1"),
    ("shop/xa", "shop/db-1"),
    ("shop/xb", "shop/db-1"),
    ("shop/xa", "shop/db-2"),
    ("shop/webb", "shop/db-2"),
    ("shop/db-1", "shop/webb"),
    ("shop/xb", "shop/named"),
    ("shop/weba", "shop/named"),
    ("shop/db-2", "shop/named"),
    ("shop/weba", "shop/block"),
    ("shop/xb", "shop/block"),
    ("shop/db-2", "shop/xb"),
];

fn add(bench: &mut Bench<'_>, name: &str, node: usize, app: &str) -> Result<()> {
    let spec = PodSpec::new("shop", name, node).labels(&[("app", app)]);
    bench.lab.add_pod(&spec.port("pg", 5432).port("http", 80))?;
    bench.take_seat(&format!("shop/{name}"))
}

/// A lab with all pods, under the policies and the enforcer.
fn furnish<'a>(lab: &'a mut Lab, entry: &'a Entry) -> Result<Bench<'a>> {
    lab.add_namespace("shop", &[])?;
    let mut bench = Bench {
        lab,
        entry,
        witnesses: BTreeMap::new(),
        echoes: BTreeMap::new(),
        numbers: 0,
        seen: BTreeMap::new(),
    };
    for (name, node, app) in PODS {
        add(&mut bench, name, node, app)?;
    }
    warm_up(&mut bench)?;
    bench.lab.apply(POLICIES)?;
    bench.lab.set_enforcer(entry.make())?;
    Ok(bench)
}

/// A new deny holds for the pods of the node whose agent lives, and for no others.
pub(super) fn one_agent_dies(lab: &mut Lab) -> Result<()> {
    let entry = named("iptables-drop").context("the catalogue has no iptables-drop")?;
    let mut bench = furnish(lab, entry)?;
    bench.lab.befall(&Event::Died(Some("node-1".to_owned())))?;
    bench.lab.apply(CHANGE)?;
    let other = CHANGE.replace("name: free", "name: shut");
    bench.lab.apply(&other.replace("app: free", "app: block"))?;
    bench.lab.delete("NetworkPolicy", "shop", "block")?;
    let open = bench.attempt("shop/xb", "shop/db-2", false, Protocol::Tcp, 80)?;
    let closed = bench.attempt("shop/weba", "shop/block", false, Protocol::Tcp, 80)?;
    ensure!(open.fate == Fate::Passes && closed.fate == Fate::Dies(How::Silence));
    let mut attempts = bench.begin(&PAIRS)?;
    attempts.extend([open, closed]);
    bench.check("with one agent dead", &attempts)?;
    bench.lab.befall(&Event::Restarted)?;
    let attempts = bench.begin(&PAIRS)?;
    bench.check("with both again", &attempts)
}

pub(super) fn tell(lab: &mut Lab, entry: &Entry) -> Result<()> {
    let mut bench = furnish(lab, entry)?;
    let opened = Instant::now();
    let first = bench.begin(&PAIRS)?;
    bench.check("at first", &first)?;

    // Policies come and go while connections are open.
    bench.lab.apply(CHANGE)?;
    bench.lab.delete("NetworkPolicy", "shop", "web")?;
    bench.check_old(opened, &first)?;
    let second = bench.begin(&PAIRS)?;
    bench.check("after a change", &second)?;

    if let Some(drill) = entry.drill {
        bench.lab.befall(&drill.event())?;
        let during = bench.begin(&PAIRS)?;
        bench.check("during the drill", &during)?;
    }
    new_pod(&mut bench)?;
    if let Some(drill) = entry.drill {
        match drill.event() {
            Event::Upgraded(open) => bench.wait(open),
            _ => bench.lab.befall(&Event::Restarted)?,
        }
        let after = bench.begin(&PAIRS)?;
        bench.check("after the drill", &after)?;
    }
    nature(&bench)?;

    bench.lab.set_enforcer(Box::new(Nothing))?;
    let open = bench.begin(&PAIRS)?;
    bench.check("withdrawn", &open)?;
    nothing_left(&bench)
}

/// Waits until neighbours know each other: a link's own address may be tentative for two seconds, and nothing gets through before.
fn warm_up(bench: &mut Bench<'_>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(15);
    loop {
        let attempts = bench.begin(&PAIRS)?;
        match bench.check("without rules", &attempts) {
            Ok(()) => break,
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
        }
    }
    bench.seen.clear();
    Ok(())
}

/// A pod that comes under policies that were there before it.
fn new_pod(bench: &mut Bench<'_>) -> Result<()> {
    add(bench, "late", 1, "db")?;
    let pairs = [
        ("shop/xa", "shop/late"),
        ("shop/webb", "shop/late"),
        ("shop/late", "shop/db-1"),
    ];
    let time = bench.entry.faults().iter().find_map(|fault| match fault {
        Fault::NewPod { closed, open } => Some(*closed + *open),
        _ => None,
    });
    let Some(time) = time else {
        let attempts = bench.begin(&pairs)?;
        return bench.check("a new pod", &attempts);
    };
    // Attempts all the time, past the last change and ipset's seconds.
    let end = Instant::now() + time + Duration::from_millis(2_500);
    let mut attempts = Vec::new();
    while Instant::now() < end {
        let mut more = bench.begin(&pairs)?;
        bench.wait(Duration::from_millis(40));
        more.iter_mut().for_each(|attempt| attempt.client.hang_up());
        attempts.extend(more);
    }
    bench.check("a new pod growing up", &attempts)
}

/// That the test saw of it what the enforcer is there for.
fn nature(bench: &Bench<'_>) -> Result<()> {
    let name = bench.entry.name;
    let wants: &[&str] = match name {
        "none" | "inert" | "behind-accept" => &["Passes"],
        "reject-reset" | "nft-reject-reset" => &["Passes", "Dies(TcpReset)", "Dies(Silence)"],
        "reject-admin" | "nft-reject-admin" => &["Passes", "Dies(IcmpAdminProhibited)"],
        "reject-port" => &["Passes", "Dies(IcmpPortUnreachable)"],
        "reject-limited" | "nft-reject-port" => &[
            "Passes",
            "Dies(IcmpThenSilence)",
            "IcmpThenSilence: silence",
        ],
        "iptables-per-packet" | "tcx-per-packet" => &["Passes", "Dies", "ReplyDies"],
        "iptables-flush" | "tcx-flush" => &["Passes", "Dies", "old Dies", "old Passes"],
        _ => &["Passes", "Dies", "old Passes"],
    };
    for want in wants {
        ensure!(
            bench.seen(want) > 0,
            "{name}: no {want} in {:?}",
            bench.seen
        );
    }
    Ok(())
}

fn nothing_left(bench: &Bench<'_>) -> Result<()> {
    for node in bench.lab.nodes() {
        for (program, arguments) in [
            ("iptables-save", &[][..]),
            ("ip6tables-save", &[]),
            ("ipset", &["list", "-n"]),
            ("tc", &["qdisc", "show"]),
            (
                "sh",
                &["-c", "command -v nft > /dev/null && nft list tables"],
            ),
        ] {
            let output = node.netns().command(program)?.args(arguments).output()?;
            let text = String::from_utf8_lossy(&output.stdout).to_lowercase();
            let left = ["polproof", "clsact"]
                .iter()
                .any(|ours| text.contains(ours));
            ensure!(!left, "{program} on {}: {text}", node.name());
        }
    }
    Ok(())
}
