//! Questions, testimonies and losses, over the real queues.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant as Clock};

use polproof_flow::finding::InconclusiveReason;
use polproof_flow::witness::{Gap, Question, Seen, Side, Sighting, Testimony, Whom};
use polproof_policy::{NamespacedName, Protocol, Uid};

use super::world::{Bench, Life, MS, beyond_grace, until};
use crate::observe::now;
use crate::report::witness::{QUEUE, StreamEnd};

/// About nothing that anybody has seen.
fn question(tag: u32) -> Question {
    let at = now().minus(5_000 * MS);
    Question {
        side: Side::Destination,
        protocol: Protocol::Tcp,
        tag,
        client: "10.1.0.9:40000".parse().unwrap(),
        server: "10.1.0.2:5432".parse().unwrap(),
        pod: Some(Uid("nobody".into())),
        asker: None,
        first: at,
        last: at,
    }
}

async fn answer(life: &mut Life) -> (u64, Testimony) {
    tokio::time::timeout(Duration::from_secs(60), life.stream.testimonies.recv())
        .await
        .unwrap()
        .unwrap()
}

async fn stop(life: Life) {
    life.cancel.cancel();
    life.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_question_wakes_the_judge_and_is_answered_by_its_number() {
    let bench = Bench::new();
    let mut life = bench.start(1024 * 1024);
    life.identify().await;
    let mut slowest = Duration::ZERO;
    for id in 1..=20 {
        // Nothing else happens: the judge sleeps.
        tokio::time::sleep(Duration::from_millis(30)).await;
        let asked = Clock::now();
        life.stream
            .questions
            .send((id, question(u32::try_from(id).unwrap())))
            .await
            .unwrap();
        let (answered, testimony) = answer(&mut life).await;
        slowest = slowest.max(asked.elapsed());
        assert_eq!(answered, id);
        assert!(
            matches!(testimony, Testimony::Incomplete(_)),
            "{testimony:?}"
        );
    }
    println!("slowest answer: {slowest:?}");
    // It would sleep for a second if it were not woken.
    assert!(slowest < Duration::from_millis(700), "{slowest:?}");
    assert_eq!(life.stats.questions.load(Relaxed), 20);
    let told: u64 = Gap::ALL
        .into_iter()
        .map(|gap| life.stats.testimonies.incomplete(gap))
        .sum();
    assert_eq!(told, 20);
    stop(life).await;
}

#[tokio::test]
async fn answers_that_nobody_takes_are_dropped_and_counted_and_the_judge_goes_on() {
    let mut bench = Bench::new();
    let mut life = bench.start(1024 * 1024);
    life.identify().await;
    beyond_grace(&life).await;
    let all = u64::try_from(QUEUE).unwrap() + 100;
    for id in 0..all {
        // Waits while the queue is full; the judge does not.
        life.stream.questions.send((id, question(7))).await.unwrap();
    }
    until("all are heard", || {
        life.stats.questions.load(Relaxed) == all
    })
    .await;
    until("the rest is dropped", || {
        life.stats.testimonies_dropped.load(Relaxed) == 100
    })
    .await;
    bench.connect();
    until("a violation is committed all the same", || {
        life.observed() == 1
    })
    .await;
    for _ in 0..QUEUE {
        answer(&mut life).await;
    }
    life.stream
        .questions
        .send((all, question(8)))
        .await
        .unwrap();
    assert_eq!(answer(&mut life).await.0, all);
    stop(life).await;
}

#[tokio::test]
async fn a_stream_that_comes_and_goes_ends_nothing() {
    let mut bench = Bench::new();
    let mut life = bench.start(1024 * 1024);
    life.identify().await;
    beyond_grace(&life).await;
    for connected in [true, false, true] {
        life.stream.connected.send_replace(connected);
    }
    life.stream
        .answers
        .send((77, Testimony::Incomplete(Gap::TimedOut)))
        .await
        .unwrap();
    until("the answer is heard", || {
        life.stats.answers.incomplete(Gap::TimedOut) == 1
    })
    .await;
    let (_, other) = crate::report::witness::pair();
    drop(std::mem::replace(&mut life.stream, other));
    bench.connect();
    until("a violation is committed without a stream", || {
        life.observed() == 1
    })
    .await;
    stop(life).await;
}

#[tokio::test]
async fn a_violation_from_another_node_is_inquired_of_and_the_word_counts() {
    let mut bench = Bench::new();
    let mut life = bench.start(1024 * 1024);
    life.identify().await;
    life.stream.connected.send_replace(true);
    beyond_grace(&life).await;
    bench.connect_from("10.1.0.3");
    let begun = Clock::now();
    let inquiry = tokio::time::timeout(Duration::from_secs(60), life.stream.inquiries.recv())
        .await
        .unwrap()
        .unwrap();
    println!("inquired after {:?}", begun.elapsed());
    assert_eq!(inquiry.whom, Whom::Node("there".into()));
    let question = inquiry.question;
    assert_eq!(
        (question.side, question.protocol, question.tag),
        (Side::Source, Protocol::Tcp, 1)
    );
    let seen = Sighting {
        pod: Some((NamespacedName::new("shop", "remote"), Uid("remote".into()))),
        client: question.client,
        server: question.server,
        first: question.first,
        outcome: Seen::Accepted,
    };
    life.stream
        .answers
        .send((inquiry.id, Testimony::Seen(seen)))
        .await
        .unwrap();
    until("it has two witnesses", || {
        life.unenforced().witnessed.load(Relaxed) == 1
    })
    .await;
    assert_eq!(life.stats.answers.seen.load(Relaxed), 1);
    assert_eq!(life.stats.inquiries.load(Relaxed), 1);
    stop(life).await;
}

#[tokio::test]
async fn an_inquiry_that_nobody_takes_is_counted_and_the_verdict_is_that_of_one_witness() {
    let mut bench = Bench::new();
    let mut life = bench.start(1024 * 1024);
    life.identify().await;
    life.stream.connected.send_replace(true);
    beyond_grace(&life).await;
    // The stream dies, and nobody has told the judge.
    let (_, other) = crate::report::witness::pair();
    let StreamEnd {
        connected: _kept, ..
    } = std::mem::replace(&mut life.stream, other);
    bench.connect_from("10.1.0.3");
    until("the inquiry is dropped", || {
        life.stats.inquiries_dropped.load(Relaxed) == 1
    })
    .await;
    until("it is judged for good", || {
        life.unenforced().settled.load(Relaxed) == 1
    })
    .await;
    assert_eq!(life.unenforced().witnessed.load(Relaxed), 0);
    stop(life).await;
}

#[tokio::test]
async fn what_the_kernel_lost_without_a_record_spoils_silence() {
    let mut bench = Bench::new();
    let life = bench.start(1024 * 1024);
    life.identify().await;
    beyond_grace(&life).await;
    bench.syn(5432);
    bench.lost.fetch_add(1, Relaxed);
    until("the unanswered attempt is inconclusive", || {
        life.stats.inconclusive(InconclusiveReason::RecordsLost) == 1
    })
    .await;
    assert_eq!(life.stats.inconclusive(InconclusiveReason::NotAnswered), 0);
    stop(life).await;
}
