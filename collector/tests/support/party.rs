//! An agent that asks and answers, with a clock of its own.
#![allow(unreachable_pub)]

use std::time::Duration;

use polproof_proto::v1;
use polproof_proto::v1::ingest_service_client::IngestServiceClient;
use polproof_proto::v1::stream_request::Message as Up;
use polproof_proto::v1::stream_response::Message as Down;
use polproof_proto::v1::testimony::Word;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::support::DEADLINE;

pub const SECOND: i64 = 1_000_000_000;

pub fn now() -> i64 {
    let since = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap();
    i64::try_from(since.as_nanos()).unwrap()
}

fn stamp(at: i64) -> Option<prost_types::Timestamp> {
    Some(prost_types::Timestamp {
        seconds: at.div_euclid(SECOND),
        nanos: at.rem_euclid(SECOND) as i32,
    })
}

pub fn nanos(at: Option<prost_types::Timestamp>) -> i64 {
    let at = at.unwrap();
    at.seconds * SECOND + i64::from(at.nanos)
}

/// One stream.
pub struct Party {
    pub name: String,
    /// Its clock less the true one.
    pub ahead: i64,
    pub up: mpsc::Sender<v1::StreamRequest>,
    pub down: Streaming<v1::StreamResponse>,
}

impl Party {
    pub async fn open(channel: &Channel, name: &str, ahead: i64) -> Self {
        let (up, receiver) = mpsc::channel(256);
        let party_up = up.clone();
        let send = |message| v1::StreamRequest {
            message: Some(message),
        };
        up.send(send(Up::Hello(v1::Hello {
            node: name.to_owned(),
            instance: format!("spool-{name}"),
            first_sequence: 1,
            ..v1::Hello::default()
        })))
        .await
        .unwrap();
        let mut down = IngestServiceClient::new(channel.clone())
            .stream(ReceiverStream::new(receiver))
            .await
            .unwrap()
            .into_inner();
        let first = tokio::time::timeout(DEADLINE, down.message())
            .await
            .expect("a welcome")
            .unwrap();
        assert!(
            matches!(first.unwrap().message, Some(Down::Welcome(_))),
            "first of all the welcome"
        );
        Self {
            name: name.to_owned(),
            ahead,
            up: party_up,
            down,
        }
    }

    /// Says what time it is often enough to be believed, if nothing is in the way.
    pub async fn settle(&self) {
        for _ in 0..6 {
            self.beat().await;
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
    }

    pub async fn say(&self, message: Up) {
        let _ = self
            .up
            .send(v1::StreamRequest {
                message: Some(message),
            })
            .await;
    }

    pub async fn beat(&self) {
        self.say(beat(self.ahead)).await;
    }

    /// Asks of an attempt that node number `tag` has seen, a second ago.
    pub async fn inquire(&self, id: u64, node: &str, tag: u32) {
        self.say(inquiry(id, node, tag, now() - SECOND + self.ahead))
            .await;
    }

    pub async fn next(&mut self) -> Option<Down> {
        self.down.message().await.ok().flatten()?.message
    }

    /// The next answer to an inquiry.
    pub async fn answer(&mut self) -> v1::Testimony {
        loop {
            let next = tokio::time::timeout(DEADLINE, self.next())
                .await
                .expect("an answer");
            if let Some(Down::Testimony(testimony)) = next {
                return testimony;
            }
        }
    }

    pub async fn testify(&self, id: u64, word: Word) {
        self.say(Up::Testimony(v1::Testimony {
            id,
            word: Some(word),
        }))
        .await;
    }
}

/// What time it is, by such a clock.
pub fn beat(ahead: i64) -> Up {
    Up::Heartbeat(v1::Heartbeat {
        sent: stamp(now() + ahead),
        ..v1::Heartbeat::default()
    })
}

pub fn inquiry(id: u64, node: &str, tag: u32, at: i64) -> Up {
    Up::Inquiry(v1::Inquiry {
        node: node.to_owned(),
        question: Some(v1::Question {
            id,
            side: v1::WitnessSide::Destination.into(),
            protocol: v1::Protocol::Tcp.into(),
            tag,
            client_address: "10.0.0.1".to_owned(),
            client_port: 40_000,
            server_address: "10.0.0.2".to_owned(),
            server_port: 80,
            pod_uid: String::new(),
            asker_uid: String::new(),
            first: stamp(at),
            last: stamp(at),
        }),
    })
}

pub fn sighting(first: i64) -> Word {
    Word::Seen(v1::Sighting {
        pod: None,
        client_address: "10.0.0.1".to_owned(),
        client_port: 40_000,
        server_address: "10.0.0.2".to_owned(),
        server_port: 80,
        first: stamp(first),
        outcome: v1::SeenOutcome::Accepted.into(),
    })
}

pub fn not_seen() -> Word {
    Word::NotSeen(v1::Absence { control: None })
}

/// The word of a testimony, in short.
pub fn short(testimony: &v1::Testimony) -> &'static str {
    match testimony.word.as_ref().unwrap() {
        Word::Seen(_) => "seen",
        Word::NotSeen(_) => "not seen",
        Word::Incomplete(gap) => match v1::WitnessGap::try_from(*gap).unwrap() {
            v1::WitnessGap::NoAgent => "no agent",
            v1::WitnessGap::TimedOut => "timed out",
            v1::WitnessGap::Overloaded => "overloaded",
            v1::WitnessGap::PodUnknown => "pod unknown",
            _ => "incomplete",
        },
    }
}
