//! Questions and inquiries of witnesses over the stream, beside its batches, against a real gRPC server with real mutual TLS.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub
)]

mod collector;

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use collector::agent::{Agent, open, until};
use collector::{Authority, Collector, Serving};
use polproof_agent::observe::wall_offset_ns;
use polproof_agent::report::convert;
use polproof_agent::report::witness::QUEUE;
use polproof_flow::record::Instant;
use polproof_flow::witness::{
    Absence, Gap, Inquiry, Question, Seen, Side, Sighting, Testimony, Whom,
};
use polproof_policy::{NamespacedName, Protocol, Uid};
use polproof_proto::v1;
use polproof_proto::v1::stream_response::Message as Down;
use polproof_proto::v1::testimony::Word;

fn now() -> Instant {
    let time = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).unwrap();
    Instant(u64::try_from(time.tv_sec() * 1_000_000_000 + time.tv_nsec()).unwrap())
}

fn inquiry(id: u64, whom: Whom) -> Inquiry {
    Inquiry {
        id,
        whom,
        question: Question {
            side: Side::Destination,
            protocol: Protocol::Tcp,
            tag: 77,
            client: "10.0.0.1:40000".parse().unwrap(),
            server: "10.0.0.2:80".parse().unwrap(),
            pod: None,
            asker: Some(Uid("web".into())),
            first: now().minus(Instant::SECOND),
            last: now(),
        },
    }
}

/// The inquiry of another agent, as the collector passes it on.
fn question(id: u64) -> v1::Question {
    convert::inquiry_out(&inquiry(id, Whom::Everybody), wall_offset_ns())
        .question
        .unwrap()
}

async fn start(dir: &std::path::Path) -> (Agent, Collector, Serving, Authority) {
    let authority = Authority::new("test CA");
    authority.write_agent(dir);
    let collector = Collector::default();
    let server = collector.serve(&authority, None).await;
    let (_writer, reader) = open(dir);
    let agent = Agent::start(dir, server.address, reader);
    (agent, collector, server, authority)
}

async fn answer(agent: &mut Agent) -> (u64, Testimony) {
    tokio::time::timeout(Duration::from_secs(30), agent.judge.answers.recv())
        .await
        .expect("an answer within 30 s")
        .unwrap()
}

async fn connected(agent: &mut Agent, is: bool) {
    tokio::time::timeout(
        Duration::from_secs(30),
        agent.judge.connected.wait_for(|connected| *connected == is),
    )
    .await
    .expect("within 30 s")
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_reach_the_judge_and_its_word_goes_back() {
    let dir = tempfile::tempdir().unwrap();
    let (mut agent, collector, _server, _) = start(dir.path()).await;
    connected(&mut agent, true).await;
    let wire = question(5);
    collector.tell(Down::Question(wire.clone())).await;
    let (id, asked) = tokio::time::timeout(Duration::from_secs(30), agent.judge.questions.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((id, asked.tag, asked.side), (5, 77, Side::Destination));
    assert_eq!(asked.asker, Some(Uid("web".into())));
    // In our own time again, to within the rounding of two readings of the clocks.
    assert!(asked.first.since(now()) == 0 && now().since(asked.last) < 60 * Instant::SECOND);
    assert!(asked.last.since(asked.first) >= Instant::SECOND);
    let word = Testimony::Seen(Sighting {
        pod: Some((NamespacedName::new("shop", "db"), Uid("db".into()))),
        client: asked.client,
        server: asked.server,
        first: asked.first,
        outcome: Seen::Refused,
    });
    agent.judge.testimonies.send((id, word)).await.unwrap();
    until("the testimony", || collector.lock().testimonies.len() == 1).await;
    let testimony = collector.lock().testimonies[0].clone();
    assert_eq!(testimony.id, 5);
    let Some(Word::Seen(seen)) = testimony.word else {
        panic!("{testimony:?}");
    };
    assert_eq!(seen.outcome(), v1::SeenOutcome::Refused);
    assert_eq!(seen.pod.unwrap().name, "db");
    let apart = seen.first.unwrap().seconds - wire.first.unwrap().seconds;
    assert!(apart.abs() <= 1, "{apart} s");

    // One that makes no sense is answered too, and does not reach the judge.
    let mut broken = question(6);
    broken.client_port = 1 << 20;
    collector.tell(Down::Question(broken)).await;
    until("the refusal", || collector.lock().testimonies.len() == 2).await;
    let refusal = collector.lock().testimonies[1].clone();
    assert_eq!(refusal.id, 6);
    assert_eq!(
        refusal.word,
        Some(Word::Incomplete(v1::WitnessGap::Overloaded.into()))
    );
    assert!(agent.judge.questions.try_recv().is_err());
    assert_eq!(agent.stats.questions_refused.load(Relaxed), 1);
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_judge_that_is_busy_answers_by_overloaded_and_holds_nothing_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut agent, collector, _server, _) = start(dir.path()).await;
    connected(&mut agent, true).await;
    // Its queue holds QUEUE of them; the rest is refused at once.
    let surplus = 10;
    for id in 0..(QUEUE + surplus) as u64 {
        collector.tell(Down::Question(question(id))).await;
    }
    until("the refusals", || {
        collector.lock().testimonies.len() == surplus
    })
    .await;
    assert!(
        collector
            .lock()
            .testimonies
            .iter()
            .all(|t| t.word == Some(Word::Incomplete(v1::WitnessGap::Overloaded.into())))
    );
    // Heartbeats go on.
    let beats = collector.lock().heartbeats.len();
    until("heartbeats", || {
        collector.lock().heartbeats.len() > beats + 2
    })
    .await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_inquiry_is_answered_once_over_disconnects_too() {
    let dir = tempfile::tempdir().unwrap();
    let (mut agent, collector, server, authority) = start(dir.path()).await;
    let address = server.address;
    connected(&mut agent, true).await;
    for (id, whom) in [(1, Whom::Node("n2".into())), (2, Whom::Everybody)] {
        agent.judge.inquiries.send(inquiry(id, whom)).await.unwrap();
    }
    until("both", || collector.lock().inquiries.len() == 2).await;
    let inquiries = collector.lock().inquiries.clone();
    assert_eq!(
        (inquiries[0].node.as_str(), inquiries[1].node.as_str()),
        ("n2", "")
    );
    let reply =
        |id, testimony| Down::Testimony(convert::testimony_out(id, &testimony, wall_offset_ns()));
    let not_seen = Testimony::NotSeen(Absence { control: None });
    collector.tell(reply(2, not_seen.clone())).await;
    assert_eq!(answer(&mut agent).await, (2, not_seen.clone()));
    // Again, and to what nobody asked: the judge does not hear of it.
    collector.tell(reply(2, not_seen.clone())).await;
    collector.tell(reply(99, not_seen)).await;
    until("both counted", || {
        agent.stats.answers_dropped.load(Relaxed) == 2
    })
    .await;
    // What cannot be read is an answer that will not come.
    agent
        .judge
        .inquiries
        .send(inquiry(3, Whom::Everybody))
        .await
        .unwrap();
    until("the third", || collector.lock().inquiries.len() == 3).await;
    collector
        .tell(Down::Testimony(v1::Testimony { id: 3, word: None }))
        .await;
    assert_eq!(
        answer(&mut agent).await,
        (3, Testimony::Incomplete(Gap::TimedOut))
    );

    // Number 1 is still out when the collector goes.
    server.stop().await;
    let away = Testimony::Incomplete(Gap::NoAgent);
    assert_eq!(answer(&mut agent).await, (1, away.clone()));
    connected(&mut agent, false).await;
    agent
        .judge
        .inquiries
        .send(inquiry(4, Whom::Everybody))
        .await
        .unwrap();
    assert_eq!(answer(&mut agent).await, (4, away));

    let _server = collector.serve(&authority, Some(address)).await;
    connected(&mut agent, true).await;
    agent
        .judge
        .inquiries
        .send(inquiry(5, Whom::Everybody))
        .await
        .unwrap();
    until("the fifth", || collector.lock().inquiries.len() == 4).await;
    agent.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_inquiries_delays_no_batch_and_each_is_answered() {
    let dir = tempfile::tempdir().unwrap();
    let (mut agent, collector, server, _) = start(dir.path()).await;
    connected(&mut agent, true).await;
    const MANY: u64 = 20_000;
    let sender = agent.judge.inquiries.clone();
    let flood = tokio::spawn(async move {
        for id in 0..MANY {
            sender.send(inquiry(id, Whom::Everybody)).await.unwrap();
        }
    });
    // Nobody answers them: 4,096 may be out, the others come back; on a busy machine some of the first have waited too long by then.
    let mut answered = std::collections::BTreeSet::new();
    let mut refused = 0;
    while answered.len() < usize::try_from(MANY).unwrap() - 4_096 {
        let (id, testimony) = answer(&mut agent).await;
        match testimony {
            Testimony::Incomplete(Gap::Overloaded) => refused += 1,
            Testimony::Incomplete(Gap::TimedOut) => {}
            other => panic!("{id}: {other:?}"),
        }
        assert!(answered.insert(id), "{id} twice");
    }
    assert!(refused > 0, "nothing was too much");
    flood.await.unwrap();
    let beats = collector.lock().heartbeats.len();
    until("heartbeats", || collector.lock().heartbeats.len() > beats).await;
    assert_eq!(agent.stats.heartbeats_skipped.load(Relaxed), 0);
    server.stop().await;
    while answered.len() < usize::try_from(MANY).unwrap() {
        let (id, testimony) = answer(&mut agent).await;
        assert!(answered.insert(id), "{id} twice: {testimony:?}");
    }
    agent.stop().await;
}
