//! A thousand agents that ask each other over real streams: some are slow, silent, lying, flooding or never stay, and every clock is wrong.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation
)]

#[path = "support/party.rs"]
mod party;
mod support;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use party::{Party, SECOND, inquiry, nanos, not_seen, now, short, sighting};
use polproof_proto::v1;
use polproof_proto::v1::stream_request::Message as Up;
use polproof_proto::v1::stream_response::Message as Down;
use polproof_proto::v1::testimony::Word;
use support::{Collector, DEADLINE, Pki, batch, folder, update};

async fn page(collector: &Collector) -> HashMap<String, u64> {
    let address = collector.http.clone();
    let text = tokio::task::spawn_blocking(move || {
        use std::io::{Read as _, Write as _};
        let mut socket = std::net::TcpStream::connect(address).unwrap();
        socket
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        text
    })
    .await
    .unwrap();
    text.lines()
        .filter_map(|line| {
            let (name, value) = line.strip_prefix("polproof_collector_")?.rsplit_once(' ')?;
            Some((name.to_owned(), value.parse().ok()?))
        })
        .collect()
}

fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

const AGENTS: usize = 1_000;
/// Answered by node `tag % AGENTS`, if that is one that answers.
const HONEST: usize = 800;

#[derive(Default)]
struct Seen {
    wrong_time: AtomicU64,
    asked: AtomicU64,
    latencies: Mutex<Vec<Duration>>,
}

/// What an agent does, by its number: 0..800 honest, then slow, silent, lying, flooding, and never there for long.
fn kind(number: usize) -> &'static str {
    match number {
        n if n < HONEST => "honest",
        n if n < 860 => "slow",
        n if n < 900 => "silent",
        n if n < 940 => "lying",
        n if n < 950 => "flooding",
        n if n < 970 => "honest",
        _ => "restless",
    }
}

/// Answers as its kind does, until the other end goes.
async fn witness(mut party: Party, number: usize, seen: Arc<Seen>) {
    let mut beats = tokio::time::interval(Duration::from_secs(2));
    loop {
        let question = tokio::select! {
            _ = beats.tick() => {
                party.beat().await;
                continue;
            }
            message = party.next() => match message {
                Some(Down::Question(question)) => question,
                Some(_) => continue,
                None => return,
            },
        };
        seen.asked.fetch_add(1, Ordering::Relaxed);
        // In its own time it must have been some seconds ago.
        let ago = now() + party.ahead - nanos(question.first);
        if !(-SECOND..30 * SECOND).contains(&ago) {
            seen.wrong_time.fetch_add(1, Ordering::Relaxed);
        }
        let mine = question.tag as usize % AGENTS == number;
        let word = if mine {
            sighting(nanos(question.first))
        } else {
            not_seen()
        };
        match kind(number) {
            "silent" => {}
            "slow" => {
                let (up, id) = (party.up.clone(), question.id);
                tokio::spawn(async move {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    let testimony = v1::Testimony {
                        id,
                        word: Some(word),
                    };
                    let message = Some(Up::Testimony(testimony));
                    let _ = up.send(v1::StreamRequest { message }).await;
                });
            }
            "lying" => {
                // For others, twice, and nonsense.
                for id in [question.id + 1, question.id.wrapping_sub(1), u64::MAX] {
                    party.testify(id, sighting(now())).await;
                }
                party.testify(question.id, Word::Incomplete(99)).await;
                party.testify(question.id, sighting(now())).await;
            }
            _ => party.testify(question.id, word).await,
        }
    }
}

/// Waits until its clock is believed, and begins to beat.
async fn ready(party: &mut Party) {
    let began = Instant::now();
    loop {
        party.settle().await;
        party.inquire(u64::MAX, "n100", 0).await;
        let answer = party.answer().await;
        if short(&answer) == "not seen" {
            break;
        }
        assert!(began.elapsed() < DEADLINE, "{}: {answer:?}", party.name);
    }
    let (up, ahead) = (party.up.clone(), party.ahead);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let message = Some(party::beat(ahead));
            if up.send(v1::StreamRequest { message }).await.is_err() {
                return;
            }
        }
    });
}

/// Asks a number of nodes, and takes what comes back.
async fn ask(mut party: Party, number: usize, seen: Arc<Seen>) -> Vec<(usize, &'static str)> {
    const EACH: usize = 20;
    let whom: Vec<usize> = (0..EACH).map(|k| (number * 37 + k * 61) % 960).collect();
    let began = Instant::now();
    for (id, of) in whom.iter().enumerate() {
        // Every other one the asked node has seen.
        let tag = if id % 2 == 0 { *of } else { of + 1 };
        party
            .inquire(id as u64, &format!("n{of}"), tag as u32)
            .await;
    }
    let mut answers = vec![None; EACH];
    while answers.iter().any(Option::is_none) {
        let testimony = party.answer().await;
        let id = testimony.id as usize;
        assert!(answers[id].is_none(), "{} twice", party.name);
        if let Some(Word::Seen(sighting)) = &testimony.word {
            let ago = now() + party.ahead - nanos(sighting.first);
            if !(-SECOND..30 * SECOND).contains(&ago) {
                seen.wrong_time.fetch_add(1, Ordering::Relaxed);
            }
        }
        // A witness that answers is right, whatever its clock says.
        let word = short(&testimony);
        if matches!(kind(whom[id]), "honest" | "slow") && matches!(word, "seen" | "not seen") {
            assert_eq!(
                word == "seen",
                id.is_multiple_of(2),
                "{number} of {}",
                whom[id]
            );
        }
        if kind(whom[id]) == "honest" {
            seen.latencies.lock().unwrap().push(began.elapsed());
        }
        answers[id] = Some(word);
    }
    whom.into_iter()
        .zip(answers)
        .map(|(of, word)| (of, word.unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_agents_ask_each_other() {
    let (dir, database) = folder();
    let pki = Pki::new();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    // A connection carries a hundred streams: what is simulated are agents, not handshakes.
    let mut channels = Vec::new();
    for _ in 0..12 {
        let tls = pki.client(&["polproof-agent"]);
        channels.push(collector.channel(tls).await.unwrap());
    }
    let seen = Arc::new(Seen::default());
    let clock = |number: usize| (number as i64 % 11 - 5) * 1_000 * SECOND;
    let mut witnesses = tokio::task::JoinSet::new();
    let mut askers = Vec::new();
    for number in (0..AGENTS).rev() {
        let channel = &channels[number / 100];
        let party = Party::open(channel, &format!("n{number}"), clock(number)).await;
        // The first hundred only ask, and are asked: they keep their stream to themselves.
        if number < 100 {
            askers.push((number, party));
        } else {
            witnesses.spawn(witness(party, number, seen.clone()));
        }
    }
    // Those who never stay, and those who ask without end.
    let channel = channels[11].clone();
    for number in 970..AGENTS {
        let channel = channel.clone();
        witnesses.spawn(async move {
            loop {
                let party = Party::open(&channel, &format!("n{number}"), clock(number)).await;
                party.beat().await;
                party.inquire(1, "n200", 200).await;
                tokio::time::sleep(Duration::from_millis(800 + number as u64 % 7 * 100)).await;
            }
        });
    }
    let mut getting_ready = tokio::task::JoinSet::new();
    for (number, mut party) in askers.drain(..) {
        getting_ready.spawn(async move {
            ready(&mut party).await;
            (number, party)
        });
    }
    askers = getting_ready.join_all().await;
    let mut floods = Vec::new();
    for number in 940..950 {
        let mut party = Party::open(&channels[10], &format!("n{number}"), clock(number)).await;
        ready(&mut party).await;
        floods.push(party);
    }
    let flooded = Arc::new(AtomicU64::new(0));
    for party in floods {
        let flooded = flooded.clone();
        witnesses.spawn(async move {
            let Party {
                up,
                mut down,
                ahead,
                ..
            } = party;
            tokio::spawn(async move {
                for id in 0.. {
                    // One node, a silent one, everybody.
                    let node = match (id, id % 10) {
                        (1, _) => "",
                        (_, 0..4) => "n150",
                        _ => "n880",
                    };
                    let message = Some(inquiry(id, node, 150, now() + ahead));
                    if up.send(v1::StreamRequest { message }).await.is_err() {
                        return;
                    }
                    if id > 300 {
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            });
            while let Ok(Some(_)) = down.message().await {
                flooded.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let mut asking = tokio::task::JoinSet::new();
    for (number, party) in askers {
        asking.spawn(ask(party, number, seen.clone()));
    }
    let mut tally: HashMap<(&str, &str), usize> = HashMap::new();
    while let Some(answers) = asking.join_next().await {
        for (of, word) in answers.unwrap() {
            // Nodes below 100 ask and do not answer here.
            let who = if of < 100 { "asker" } else { kind(of) };
            *tally.entry((who, word)).or_default() += 1;
        }
    }
    let mut latencies = std::mem::take(&mut *seen.latencies.lock().unwrap());
    latencies.sort_unstable();
    // What the flood does not get is counted 10 s after it asked, and on a busy machine it begins late: wait for each count.
    const COUNTED: [&str; 4] = [
        "witness_ignored_total{why=\"forged\"}",
        "witness_ignored_total{why=\"late\"}",
        "witness_ignored_total{why=\"malformed\"}",
        "witness_answers_total{word=\"overloaded\"}",
    ];
    let began = Instant::now();
    let figures = loop {
        let figures = page(&collector).await;
        let missing: Vec<_> = COUNTED
            .into_iter()
            .filter(|name| figures.get(*name).is_none_or(|count| *count == 0))
            .collect();
        if missing.is_empty() {
            break figures;
        }
        assert!(began.elapsed() < DEADLINE, "{missing:?} in {figures:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    println!(
        "{tally:?}\nlatency p50 {:?} p99 {:?}, {} questions, {} answers to the flood, {} MiB\n{figures:?}",
        latencies[latencies.len() / 2],
        latencies[latencies.len() * 99 / 100],
        seen.asked.load(Ordering::Relaxed),
        flooded.load(Ordering::Relaxed),
        memory_kib(collector.pid()) / 1024,
    );
    let of = |who, word| tally.get(&(who, word)).copied().unwrap_or(0);
    // Whoever answers is heard, whatever the others do.
    for who in ["honest", "slow"] {
        let good = of(who, "seen") + of(who, "not seen");
        let all: usize = tally
            .iter()
            .filter(|((kind, _), _)| *kind == who)
            .map(|(_, count)| count)
            .sum();
        // A heartbeat that is late on a busy machine may cost one.
        assert!(good * 20 >= all * 19, "{who}: {tally:?}");
        assert!(of(who, "seen") > 0, "{who}: {tally:?}");
    }
    assert_eq!(of("silent", "seen") + of("silent", "not seen"), 0);
    assert!(of("silent", "timed out") > 0, "{tally:?}");
    // A word that is none was said first; the second is no word any more.
    assert_eq!(of("lying", "seen"), 0, "{tally:?}");
    assert_eq!(seen.wrong_time.load(Ordering::Relaxed), 0);
    let figure = |name: &str| figures.get(name).copied().unwrap_or(0);
    assert!(figure("witness_inquiries_open") <= 65_536);
    assert!(
        memory_kib(collector.pid()) < 512 * 1024,
        "{} KiB",
        memory_kib(collector.pid())
    );
    // Batches go their way beside all that.
    let mut party = Party::open(&channels[11], "n5", 0).await;
    party
        .say(Up::Batch(batch(1, vec![update("web", 1, 1)])))
        .await;
    let receipt = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Some(Down::Receipt(receipt)) = party.next().await {
                return receipt.sequence;
            }
        }
    });
    assert_eq!(receipt.await.unwrap(), 1);
    witnesses.shutdown().await;
}

const NODES: &str = r#"
apiVersion: v1
kind: Namespace
metadata: { name: shop, uid: ns }
---
apiVersion: v1
kind: Pod
metadata: { name: db, namespace: shop, uid: pod-db }
spec: { nodeName: n2, containers: [{ name: c, image: i }] }
status: { phase: Running, podIP: 10.0.0.2, podIPs: [{ ip: 10.0.0.2 }] }
---
apiVersion: v1
kind: Pod
metadata: { name: web, namespace: shop, uid: pod-web }
spec: { nodeName: n1, containers: [{ name: c, image: i }] }
status: { phase: Running, podIP: 10.0.0.1, podIPs: [{ ip: 10.0.0.1 }] }
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_view_says_who_everybody_is_and_whose_pod_it_is() {
    let (dir, database) = folder();
    let pki = Pki::new();
    std::fs::create_dir_all(dir.path().join("manifests")).unwrap();
    std::fs::write(dir.path().join("manifests/all.yaml"), NODES).unwrap();
    let collector = Collector::start(dir.path(), &pki, &database, &[]);
    let channel = collector
        .channel(pki.client(&["polproof-agent"]))
        .await
        .unwrap();
    let mut asker = Party::open(&channel, "n1", 7_000 * SECOND).await;
    let other = Party::open(&channel, "n2", -7_000 * SECOND).await;
    let third = Party::open(&channel, "n3", 0).await;
    asker.settle().await;
    let mut crowd = tokio::task::JoinSet::new();
    for (party, number) in [(other, 2), (third, 3)] {
        crowd.spawn(witness(party, number, Arc::default()));
    }
    // The collector may still be reading, and heartbeats be on their way.
    let began = Instant::now();
    let mut id = 0;
    loop {
        id += 1;
        asker.inquire(id, "", 500).await;
        match short(&asker.answer().await) {
            "not seen" => break,
            word => assert!(began.elapsed() < DEADLINE, "{word}"),
        }
    }
    asker.inquire(1_001, "", 3).await;
    let answer = asker.answer().await;
    assert_eq!((answer.id, short(&answer)), (1_001, "seen"));
    // By pod: only its node is asked, so what n3 has seen nobody hears of. About another's pod nobody may ask.
    for (pod, of, tag, word) in [
        ("pod-db", "pod-web", 2, "seen"),
        ("pod-db", "pod-web", 3, "not seen"),
        ("pod-nobody", "pod-nobody", 3, "seen"),
        ("pod-db", "pod-db", 2, "pod unknown"),
    ] {
        let Up::Inquiry(mut inquiry) = inquiry(2_000, "", tag, now() + asker.ahead) else {
            panic!()
        };
        let question = inquiry.question.as_mut().unwrap();
        question.pod_uid = pod.to_owned();
        question.asker_uid = of.to_owned();
        asker.say(Up::Inquiry(inquiry)).await;
        assert_eq!(short(&asker.answer().await), word, "{pod} {of} {tag}");
    }
    let figures = page(&collector).await;
    assert_eq!(figures["witness_ignored_total{why=\"not_theirs\"}"], 1);
    // Gone is away: "not seen" cannot be said any more.
    crowd.shutdown().await;
    let began = Instant::now();
    loop {
        asker.inquire(3_000, "", 500).await;
        match short(&asker.answer().await) {
            "no agent" => break,
            word => assert!(began.elapsed() < DEADLINE, "{word}"),
        }
    }
    let _ = asker.name;
}
