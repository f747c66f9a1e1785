//! The lab itself: its traffic, its enforcers, and that it leaves nothing behind.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use polproof_tests::lab::enforcers::{self, IptablesDrop};
use polproof_tests::lab::node::PodSpec;
use polproof_tests::lab::traffic::{Burst, Outcome};
use polproof_tests::lab::{Lab, Setup, lease, wiring};

use crate::Scenario;

pub(crate) fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario::network("network: outcomes without an enforcer", without_enforcer),
        Scenario::network(
            "network: iptables-drop blocks what is denied and nothing else",
            iptables_drop,
        ),
        Scenario::network("network: the demo's shop under iptables-drop", shop),
        Scenario::network("network: two labs side by side", side_by_side),
        Scenario::network("network: a dropped lab leaves nothing", leaves_nothing),
        Scenario::network("network: a killed harness is swept by the next", swept),
    ]
}

/// What the sweep's test starts itself as: a harness that makes a lab and hangs.
pub(crate) const VICTIM: &str = "POLPROOF_LAB_VICTIM";

const PATIENCE: Duration = Duration::from_secs(10);
const BRIEF: Duration = Duration::from_millis(700);

/// web and stranger may connect to db only as the policy says: web, on port 5432.
const POLICY: &str = "
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  policyTypes: [Ingress]
  ingress:
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{port: 5432}]
";

fn furnish(lab: &mut Lab) -> Result<()> {
    lab.add_namespace("shop", &[])?;
    lab.apply(POLICY)?;
    lab.add_pod(
        &PodSpec::new("shop", "db", 0)
            .labels(&[("app", "db")])
            .port("pg", 5432)
            .port("http", 80),
    )?;
    for (name, app, node) in [
        ("web-same", "web", 0),
        ("web-cross", "web", 1),
        ("stranger-same", "x", 0),
        ("stranger-cross", "x", 1),
    ] {
        lab.add_pod(&PodSpec::new("shop", name, node).labels(&[("app", app)]))?;
    }
    Ok(())
}

/// Connects from a pod to db on both families, and wants the outcome.
fn expect(lab: &Lab, from: &str, port: u16, patience: Duration, outcome: Outcome) -> Result<()> {
    let db = lab.pod("shop/db")?;
    for to in [db.v4(port), db.v6(port)] {
        let attempt = lab.pod(from)?.resident().connect(to, patience)?;
        ensure!(
            attempt.outcome == outcome,
            "{from} to {to}: {:?}, not {outcome:?}",
            attempt.outcome
        );
    }
    Ok(())
}

fn without_enforcer(lab: &mut Lab) -> Result<()> {
    furnish(lab)?;
    for from in [
        "shop/web-same",
        "shop/web-cross",
        "shop/stranger-same",
        "shop/stranger-cross",
    ] {
        expect(lab, from, 5432, PATIENCE, Outcome::Connected)?;
        expect(lab, from, 9, PATIENCE, Outcome::Refused)?;
    }
    let nobody = SocketAddr::new(wiring::pod_addresses(1, 99)[0], 80);
    let attempt = lab
        .pod("shop/web-cross")?
        .resident()
        .connect(nobody, Duration::from_secs(20))?;
    ensure!(
        attempt.outcome == Outcome::Unreachable,
        "an address without a pod: {attempt:?}"
    );
    // The node itself, and the outside, in both directions.
    let db = lab.pod("shop/db")?;
    for to in [db.v4(80), db.v6(80)] {
        for (who, resident) in [("node", &lab.node(0)?.resident), ("outside", lab.outside())] {
            let attempt = resident.connect(to, PATIENCE)?;
            ensure!(
                attempt.outcome == Outcome::Connected,
                "{who} to {to}: {attempt:?}"
            );
        }
    }
    lab.outside().serve(80)?;
    for ip in wiring::OUTSIDE.into_iter().chain([wiring::METADATA]) {
        let attempt = db.resident().connect(SocketAddr::new(ip, 80), PATIENCE)?;
        ensure!(
            attempt.outcome == Outcome::Connected,
            "db to the outside: {attempt:?}"
        );
    }
    let burst = Burst {
        targets: vec![db.v4(80), db.v6(80)],
        count: 500,
        concurrency: 50,
        per_second: 0,
        patience: PATIENCE,
    };
    let tally = lab
        .pod("shop/web-cross")?
        .resident()
        .burst(burst, Duration::from_secs(60))?;
    ensure!(tally.connected == 500, "{tally:?}");
    Ok(())
}

fn iptables_drop(lab: &mut Lab) -> Result<()> {
    furnish(lab)?;
    lab.set_enforcer(Box::<IptablesDrop>::default())?;
    for from in ["shop/web-same", "shop/web-cross"] {
        expect(lab, from, 5432, PATIENCE, Outcome::Connected)?;
        expect(lab, from, 80, BRIEF, Outcome::TimedOut)?;
        expect(lab, from, 9, BRIEF, Outcome::TimedOut)?;
    }
    for from in ["shop/stranger-same", "shop/stranger-cross"] {
        expect(lab, from, 5432, BRIEF, Outcome::TimedOut)?;
    }
    let db = lab.pod("shop/db")?;
    for to in [db.v4(80), db.v6(80)] {
        let own = lab.node(0)?.resident.connect(to, PATIENCE)?;
        ensure!(
            own.outcome == Outcome::Connected,
            "the own node is always allowed: {own:?}"
        );
        let own = db.resident().connect(to, PATIENCE)?;
        ensure!(
            own.outcome == Outcome::Connected,
            "a pod may reach itself: {own:?}"
        );
        for (who, resident) in [
            ("another node", &lab.node(1)?.resident),
            ("outside", lab.outside()),
        ] {
            let attempt = resident.connect(to, BRIEF)?;
            ensure!(attempt.outcome == Outcome::TimedOut, "{who}: {attempt:?}");
        }
    }
    // The rules follow the objects ...
    lab.delete("NetworkPolicy", "shop", "db")?;
    expect(lab, "shop/stranger-cross", 80, PATIENCE, Outcome::Connected)?;
    lab.apply(POLICY)?;
    expect(lab, "shop/stranger-cross", 80, BRIEF, Outcome::TimedOut)?;
    // ... and go without a trace.
    lab.set_enforcer(Box::new(enforcers::None))?;
    expect(lab, "shop/stranger-same", 80, PATIENCE, Outcome::Connected)?;
    for node in lab.nodes() {
        let rules = node.netns().command("iptables-save")?.output()?.stdout;
        let sets = node
            .netns()
            .command("ipset")?
            .args(["list", "-n"])
            .output()?
            .stdout;
        ensure!(
            !String::from_utf8_lossy(&rules).contains("POLPROOF"),
            "rules stayed"
        );
        ensure!(
            sets.is_empty(),
            "sets stayed: {}",
            String::from_utf8_lossy(&sets)
        );
    }
    Ok(())
}

/// The demo's policies allow and deny what the demo says, as far as the reference and iptables go.
fn shop(lab: &mut Lab) -> Result<()> {
    for file in ["namespaces", "pods", "policies"] {
        let path = format!("{}/fixtures/shop/{file}.yaml", env!("CARGO_MANIFEST_DIR"));
        lab.apply(&std::fs::read_to_string(path)?)?;
    }
    let began = Instant::now();
    lab.set_enforcer(Box::<IptablesDrop>::default())?;
    eprintln!("rules in {:?}", began.elapsed());
    let (web, api, db) = (
        lab.pod("shop/web")?,
        lab.pod("shop/api")?,
        lab.pod("shop/db")?,
    );
    let dns = lab.pod("kube-system/coredns")?;
    let prometheus = lab.pod("monitoring/prometheus")?;
    for (from, to) in [
        (web, api.v4(8080)),
        (web, api.v6(8080)),
        (api, db.v4(5432)),
        (web, dns.v4(53)),
        (prometheus, db.v6(9090)),
    ] {
        let attempt = from.resident().connect(to, PATIENCE)?;
        ensure!(attempt.outcome == Outcome::Connected, "{attempt:?}");
    }
    lab.outside().serve(80)?;
    let metadata = SocketAddr::new(wiring::METADATA, 80);
    for (from, to) in [
        (web, db.v4(5432)),
        (web, db.v6(5432)),
        (prometheus, db.v4(5432)),
        (db, api.v4(8080)),
        (web, metadata),
        (api, SocketAddr::new(wiring::OUTSIDE[0], 80)),
    ] {
        let attempt = from.resident().connect(to, BRIEF)?;
        ensure!(attempt.outcome == Outcome::TimedOut, "{attempt:?}");
    }
    let internet = SocketAddr::new(wiring::OUTSIDE[0], 80);
    let attempt = web.resident().connect(internet, PATIENCE)?;
    ensure!(attempt.outcome == Outcome::Connected, "{attempt:?}");
    Ok(())
}

fn side_by_side(lab: &mut Lab) -> Result<()> {
    let mut other = Lab::create(Setup::default())?;
    ensure!(lab.id() != other.id());
    furnish(lab)?;
    furnish(&mut other)?;
    // The same addresses in both: an enforcer in one is not felt in the other.
    other.set_enforcer(Box::<IptablesDrop>::default())?;
    expect(
        lab,
        "shop/stranger-same",
        5432,
        PATIENCE,
        Outcome::Connected,
    )?;
    expect(&other, "shop/stranger-same", 5432, BRIEF, Outcome::TimedOut)?;
    drop(other);
    expect(
        lab,
        "shop/stranger-cross",
        5432,
        PATIENCE,
        Outcome::Connected,
    )
}

fn leftovers(id: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for path in [
        format!("{}/{id}", lease::LABS),
        format!("/sys/fs/bpf/polproof-lab-{id}"),
    ] {
        if Path::new(&path).exists() {
            found.push(path);
        }
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    found.extend(
        mounts
            .lines()
            .filter(|line| line.contains(id))
            .map(str::to_owned),
    );
    Ok(found)
}

fn leaves_nothing(_: &mut Lab) -> Result<()> {
    let mut lab = Lab::create(Setup::default())?;
    furnish(&mut lab)?;
    let id = lab.id().to_owned();
    ensure!(
        !leftovers(&id)?.is_empty(),
        "the check sees nothing of a living lab"
    );
    drop(lab);
    let left = leftovers(&id)?;
    ensure!(left.is_empty(), "{left:#?}");
    Ok(())
}

/// The other side of [`swept`]: a lab, its id on standard output, and then nothing but waiting.
pub(crate) fn be_a_victim() -> Result<()> {
    let mut lab = Lab::create(Setup::default())?;
    furnish(&mut lab)?;
    let mut sleeper = lab.node(0)?.netns().command("sleep")?;
    lab.lease().record(sleeper.arg("600").spawn()?.id())?;
    println!("{}", lab.id());
    std::thread::sleep(Duration::from_secs(60));
    bail!("nobody killed the victim")
}

fn swept(lab: &mut Lab) -> Result<()> {
    use std::io::{BufRead as _, BufReader};
    let mut victim = Command::new(std::env::current_exe()?)
        .env(VICTIM, "1")
        .stdout(std::process::Stdio::piped())
        .spawn()?;
    let mut id = String::new();
    if let Some(stdout) = victim.stdout.take() {
        BufReader::new(stdout).read_line(&mut id)?;
    }
    let id = id.trim().to_owned();
    victim.kill()?;
    victim.wait()?;
    ensure!(!id.is_empty(), "the victim made no lab");
    let listed = std::fs::read_to_string(format!("{}/{id}/processes", lease::LABS))?;
    let sleeper = listed.split(' ').next().unwrap_or_default().to_owned();
    ensure!(
        Path::new(&format!("/proc/{sleeper}")).exists(),
        "the victim's process is not there"
    );

    // Another test that starts a lab at this moment may be the one that sweeps.
    let said = lease::sweep()?.join("\n");
    let left = leftovers(&id)?;
    ensure!(left.is_empty(), "left of {id}: {left:#?}\nsaid: {said}");
    ensure!(
        said.is_empty()
            || said.contains(&format!("process {sleeper}"))
                && said.contains(&format!("/{id}/node-1")),
        "the sweep does not name what it deleted: {said}"
    );
    let deadline = Instant::now() + PATIENCE;
    while std::fs::read_to_string(format!("/proc/{sleeper}/cmdline"))
        .is_ok_and(|c| c.contains("sleep"))
    {
        ensure!(
            Instant::now() < deadline,
            "process {sleeper} of the dead lab still runs"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
    // The living were left alone.
    furnish(lab)?;
    expect(lab, "shop/web-same", 5432, PATIENCE, Outcome::Connected)
}
