//! `cargo xtask demo`: the job of polproof in two acts, on two nodes made of network namespaces.
//!
//! It tells a story and checks every sentence of it: the exit code is 1 if anything is not as told.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it talks to people"
)]

mod traffic;

use std::io::IsTerminal as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use polproof_proto::v1::{EnforcementClaim, Finding, JudgedCounts};
use polproof_tests::lab::enforcers::IptablesDrop;
use polproof_tests::lab::resident::Pending;
use polproof_tests::lab::traffic::{Attempt, Outcome};
use polproof_tests::lab::{Lab, Setup, lease, prerequisites, wait_for};

use self::traffic::{Row, TRAFFIC};

/// Denied connections of the story beside which an allowed one came to the same pod, from the same node, of the same family.
const PROOFS: u64 = 2;
const NAMESPACES: &str = include_str!("../../../fixtures/shop/namespaces.yaml");
const PODS: &str = include_str!("../../../fixtures/shop/pods.yaml");
const POLICIES: &str = include_str!("../../../fixtures/shop/policies.yaml");

const HELP: &str = "\
polproof-demo: policies that nothing enforces, found by real traffic; then the same with an enforcer.

It makes two nodes of network namespaces, runs the agents, the collector and some traffic in them, checks all
that it says, and takes everything down again. It takes about 20 s and needs root.

  --keep      leave it running at the end, to look around, until Ctrl-C
  --help      this text
";

fn main() -> ExitCode {
    let mut keep = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--keep" => keep = true,
            "--help" | "-h" => {
                print!("{HELP}");
                return ExitCode::SUCCESS;
            }
            other => {
                eprintln!("polproof-demo: unknown argument {other}\n\n{HELP}");
                return ExitCode::from(2);
            }
        }
    }
    let missing = prerequisites::missing_for_agents();
    if !missing.is_empty() {
        eprintln!("The demo cannot run here. It needs:");
        for line in missing {
            eprintln!("  - {line}");
        }
        return ExitCode::from(2);
    }
    let began = Instant::now();
    let story = match Story::prepare() {
        Ok(story) => story,
        Err(error) => {
            eprintln!("\nThe demo could not be set up: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    story.play(began, keep)
}

/// The lab and how to print.
struct Story {
    lab: Lab,
    colour: bool,
}

impl Story {
    fn prepare() -> Result<Self> {
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let lab = Lab::create(Setup::default())?;
        Ok(Self { lab, colour })
    }

    fn play(mut self, began: Instant, keep: bool) -> ExitCode {
        if let Err(error) = self.acts(began) {
            lease::end_if_interrupted();
            println!(
                "\n{} {error:#}",
                self.paint("1;31", "This is not as it should be:")
            );
            println!("\nWhat the programs logged last:\n{}", self.lab.logs(25));
            return ExitCode::FAILURE;
        }
        if keep {
            self.keep();
        }
        ExitCode::SUCCESS
    }

    fn acts(&mut self, began: Instant) -> Result<()> {
        self.set_the_scene()?;
        let before = self.act_1()?;
        self.act_2(&before)?;
        self.what_next(began);
        Ok(())
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn heading(&self, text: &str) {
        println!("\n{}\n", self.paint("1", text));
    }

    fn set_the_scene(&mut self) -> Result<()> {
        self.heading("polproof: are your NetworkPolicies enforced, or merely created?");
        println!(
            "A small shop runs on two nodes. Nodes and pods are network namespaces of this machine; the packets, the\n\
             eBPF programs, the agents and the collector are real. The CNI is flannel.\n"
        );
        self.lab.apply(NAMESPACES)?;
        self.lab.apply(PODS)?;
        self.lab.apply(POLICIES)?;
        // Answers for the metadata service, as a cloud would.
        self.lab.outside().serve(80)?;
        println!("  node-1   shop/web   shop/db   kube-system/coredns");
        println!("  node-2   shop/api   shop/jobs   monitoring/prometheus\n");
        println!("Its policies (tests/fixtures/shop/policies.yaml):\n");
        for (name, says) in [
            (
                "default-deny",
                "nothing in or out of the shop's pods, except:",
            ),
            (
                "allow-dns",
                "every pod may ask kube-system/coredns, port 53",
            ),
            (
                "web",
                "web may call api:8080, and the internet without the cloud's metadata service",
            ),
            ("api", "api may be called by web, and use db:5432"),
            ("db", "db may be used by api, port 5432"),
            (
                "allow-monitoring",
                "monitoring/prometheus may scrape metrics, port 9090",
            ),
        ] {
            println!("  {}  {says}", self.paint("36", &format!("{name:<16}")));
        }
        println!("\nAn agent on each node and the collector are starting ...");
        self.lab.start_all()?;
        self.lab.wait_ready(Duration::from_secs(60))
    }

    fn act_1(&self) -> Result<Vec<Finding>> {
        self.heading("Act 1: the policies are created. Traffic flows:");
        self.traffic(true)?;
        println!(
            "\n`kubectl get networkpolicy` would show six healthy policies. polproof compared what they say with what\n\
             was delivered to the pods:\n"
        );
        let violations = TRAFFIC
            .iter()
            .filter(|row| row.is_witnessed_violation())
            .count();
        let found = wait_for(
            Duration::from_secs(10),
            "every violation is reported",
            || {
                let found = self.lab.questions()?.findings()?;
                Ok((found.len() >= violations).then_some(found))
            },
        )
        .context("violations are missing")?;
        for row in TRAFFIC {
            let reported = found.iter().filter(|finding| row.is(finding)).count();
            let expected = usize::from(row.is_witnessed_violation());
            ensure!(
                reported == expected,
                "{} to {} was reported {reported} times, not {expected}",
                row.from,
                row.to
            );
        }
        self.run(
            &["violations"],
            &["shop/web", "shop/db", "5432", "default-deny"],
        )?;
        println!(
            "\nEach line is a connection that arrived at a pod although the policies named deny it. One of them, walked\n\
             through rule by rule:\n"
        );
        self.run(
            &["explain", "monitoring/prometheus", "shop/db:5432"],
            &["deny", "shop/allow-monitoring", "shop/db"],
        )?;
        println!("\nAnd the nodes, with what their CNI claims:\n");
        self.wait_for_cni()?;
        self.run(&["status"], &["node-1", "node-2", "flannel"])?;
        println!(
            "\nThe metadata service is no pod: no agent stands at its door to see what arrives. So that connection is\n\
             counted at its source, as answered although denied, and accuses nobody."
        );
        let denied = u64::try_from(TRAFFIC.iter().filter(|row| !row.allowed).count())?;
        wait_for(
            Duration::from_secs(15),
            "every denied connection is counted at its source",
            || Ok((self.judged()?.denied_answered == denied).then_some(())),
        )?;
        // All are final, and none was taken back, before anything changes.
        wait_for(
            Duration::from_secs(15),
            "the violations are settled",
            || {
                let found = self.lab.questions()?.findings()?;
                let settled = found
                    .iter()
                    .all(|finding| finding.settled == finding.observed);
                Ok((settled && found.len() == violations).then_some(found))
            },
        )
    }

    fn act_2(&mut self, before: &[Finding]) -> Result<()> {
        self.heading("Act 2: an enforcer is switched on (iptables and ipsets on both nodes). The same traffic:");
        let judged = self.judged()?;
        let began = Instant::now();
        self.lab.set_enforcer(Box::<IptablesDrop>::default())?;
        self.traffic(false)?;
        println!(
            "\nA connection that nobody answers is given up after 8 s. Waiting for that ...\n"
        );
        let denied = u64::try_from(TRAFFIC.iter().filter(|row| !row.allowed).count())?;
        let allowed = u64::try_from(TRAFFIC.len())? - denied;
        let mut last = judged;
        let now = wait_for(
            Duration::from_secs(30),
            "every attempt of act 2 is judged",
            || {
                let now = self.judged()?;
                let delivered = now.allowed_delivered >= judged.allowed_delivered + allowed;
                let stopped = now.denied_unanswered >= judged.denied_unanswered + denied;
                last = now;
                Ok((delivered && stopped).then_some(now))
            },
        )
        .with_context(|| format!("before act 2: {judged:?}; last: {last:?}"))?;
        ensure!(
            now.denied_delivered == judged.denied_delivered,
            "{} denied connections were delivered in spite of the enforcer",
            now.denied_delivered - judged.denied_delivered
        );
        let after = self.lab.questions()?.findings()?;
        let attempts =
            |found: &[Finding]| found.iter().map(|finding| finding.observed).sum::<u64>();
        ensure!(
            attempts(&after) == attempts(before),
            "new violations although an enforcer is on"
        );
        let since = format!("{}s", began.elapsed().as_secs() + 1);
        self.run(&["violations", "--since", &since], &["No violation"])?;
        println!(
            "\n{} {} before, {} now. That alone would prove nothing, so the attempts themselves were counted:\n\
             all {denied} denied connections left their pods and died on the way, all {allowed} allowed ones arrived.",
            self.paint("1;32", "No new violation:"),
            attempts(before),
            attempts(&after),
        );
        let proved = wait_for(
            Duration::from_secs(30),
            "the agents have asked each other",
            || {
                let proved = self.judged()?.denied_stopped - judged.denied_stopped;
                let over = self.lab.questions()?.findings()?;
                let over = over.iter().all(|finding| finding.recovered.is_some());
                Ok((proved >= PROOFS && over).then_some(proved))
            },
        )?;
        println!(
            "\nAnd the agents asked each other. {proved} of them are {}: the agent at the destination, which missed nothing,\n\
             did not see them arrive, while another connection came to the same pod from the same node. So the findings end:\n",
            self.paint("1;32", "proof of enforcement")
        );
        self.run(&["violations"], &["ended: stopped"])?;
        println!(
            "\n(`polproof status` looks back 60 s; so long it still holds act 1 against the nodes.)"
        );
        Ok(())
    }

    fn what_next(&self, began: Instant) {
        self.heading("What next");
        println!("  on a cluster        kubectl apply -k deploy/          (see deploy/README.md)");
        println!("  then                kubectl polproof status");
        println!("                      kubectl polproof violations -f");
        println!(
            "  why is it denied?   polproof explain shop/web shop/db:5432 --manifests tests/fixtures/shop"
        );
        println!("  look around here    cargo xtask demo --keep");
        println!("  how it works        docs/ARCHITECTURE.md");
        println!(
            "\nThe demo took {:.0} s and leaves nothing behind.",
            began.elapsed().as_secs_f64()
        );
    }

    fn keep(&self) {
        let dir = self.lab.lease().dir().display();
        println!("\nIt is still running. In another terminal, as root:\n");
        println!(
            "  nsenter --net={dir}/control env POLPROOF_COLLECTOR=https://{} \\",
            Lab::collector_address()
        );
        println!(
            "    POLPROOF_TLS_CA={dir}/tls/lab-ca.pem POLPROOF_TLS_CERT={dir}/tls/polproof-reader.crt \\"
        );
        println!(
            "    POLPROOF_TLS_KEY={dir}/tls/polproof-reader.key POLPROOF_TLS_SERVER_NAME=polproof-collector \\"
        );
        println!("    target/debug/polproof violations -f\n");
        println!(
            "  edit {dir}/manifests/*.yaml: agents and collector follow\n\nCtrl-C ends it and cleans up."
        );
        loop {
            std::thread::park();
        }
    }

    /// Makes every connection of the story at once, and checks and prints what became of it.
    fn traffic(&self, unenforced: bool) -> Result<()> {
        // Denied ones wait in vain under an enforcer: less than a second, or their SYN comes twice.
        let brief = Duration::from_millis(950);
        let patience = |row: &Row| {
            if row.allowed || unenforced {
                Duration::from_secs(5)
            } else {
                brief
            }
        };
        let mut pending: Vec<(&Row, Pending<Result<Attempt>>)> = Vec::new();
        for row in TRAFFIC {
            let from = self.lab.pod(row.from)?.resident();
            pending.push((
                row,
                from.start_connect(row.to.address(&self.lab)?, patience(row)),
            ));
        }
        for (row, attempt) in pending {
            let outcome = attempt.wait(Duration::from_secs(20))??.outcome;
            let arrived = row.allowed || unenforced;
            let expected = if arrived {
                Outcome::Connected
            } else {
                Outcome::TimedOut
            };
            let (policy, colour) = if row.allowed {
                ("allowed", "32")
            } else {
                ("denied", "33")
            };
            let (what, mark) = match (outcome, row.allowed) {
                (Outcome::Connected, true) => ("connected", self.paint("32", "ok")),
                (Outcome::Connected, false) => (
                    "connected",
                    self.paint("1;31", "<-- should not be possible"),
                ),
                (Outcome::TimedOut, false) => ("stopped", self.paint("32", "ok")),
                _ => ("failed", self.paint("1;31", "<-- unexpected")),
            };
            println!(
                "  {:<22} -> {:<28} {}  {:<25}  {what:<9}  {mark}",
                row.from,
                row.to.to_string(),
                self.paint(colour, &format!("{policy:<7}")),
                row.why,
            );
            ensure!(
                outcome == expected,
                "{} to {}: {outcome:?}, not {expected:?}",
                row.from,
                row.to
            );
        }
        Ok(())
    }

    fn judged(&self) -> Result<JudgedCounts> {
        let mut sum = JudgedCounts::default();
        for counts in self
            .lab
            .questions()?
            .status()?
            .nodes
            .iter()
            .filter_map(|node| node.judged)
        {
            sum.allowed_delivered += counts.allowed_delivered;
            sum.denied_delivered += counts.denied_delivered;
            sum.denied_unanswered += counts.denied_unanswered;
            sum.denied_answered += counts.denied_answered;
            sum.denied_stopped += counts.denied_stopped;
        }
        Ok(sum)
    }

    fn wait_for_cni(&self) -> Result<()> {
        wait_for(
            Duration::from_secs(10),
            "flannel is named as not enforcing",
            || {
                let status = self.lab.questions()?.status()?;
                let named = status.nodes.iter().all(|node| {
                    node.cni.iter().any(|hint| {
                        hint.name.eq_ignore_ascii_case("flannel")
                            && hint.claim() == EnforcementClaim::DoesNotEnforce
                    })
                });
                Ok(named.then_some(()))
            },
        )
    }

    /// Shows what the `polproof` command prints, and checks that it says what the story needs.
    fn run(&self, arguments: &[&str], must_say: &[&str]) -> Result<()> {
        let line = format!("$ polproof {}", arguments.join(" "));
        println!("{}", self.paint("1;34", &line));
        let colour = if self.colour { "always" } else { "never" };
        let mut all = vec!["--color", colour];
        all.extend(arguments);
        let output = self.lab.polproof(&all)?;
        let text = String::from_utf8_lossy(&output.stdout);
        print!("{text}");
        let complaint = String::from_utf8_lossy(&output.stderr);
        // 1 says "there are violations" to a script; anything above is a failure of the command.
        if output.status.code().is_none_or(|code| code > 1) {
            bail!("{line}: {}: {complaint}", output.status);
        }
        for word in must_say {
            ensure!(
                text.contains(word),
                "{line} does not mention {word}\n{complaint}"
            );
        }
        Ok(())
    }
}
