//! The stream to the collector: says hello, sends what the spool holds, takes receipts, and comes back when it
//! breaks.
//!
//! ```text
//! connect (mTLS) -> Hello -> Welcome(n) -> batches n+1, n+2, ... (a bounded window unconfirmed) -> Receipt(m): the spool trims
//!                                       -> a heartbeat every 2 s, never numbered
//!                                       <-> questions and testimonies of witnesses, in a share of their own
//! ```
//!
//! It never holds the judge up: what cannot be sent stays in the spool.

use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use polproof_proto::v1::ingest_service_client::IngestServiceClient;
use polproof_proto::v1::stream_request::Message as Up;
use polproof_proto::v1::stream_response::Message as Down;
use polproof_proto::v1::{Hello, StreamRequest, StreamResponse, Welcome};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Streaming;
use tracing::{error, info, warn};

use super::connect::{Pem, connect};
use super::diagnose::diagnose;
use super::problem::StreamProblem;
use super::spool::{SpoolReader, StoredBatch};
use super::vitals::Gather;
use super::witness::StreamEnd;

mod exchange;
mod questions;

use exchange::{EXTRA, WINDOW};
use questions::{SHARE, Witnesses};

/// Where the collector is and how to prove who we are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamConfig {
    /// `https://HOST:PORT`.
    pub collector: String,
    /// CA that signed the collector's certificate, PEM. Read afresh at every connect, as are the others.
    pub tls_ca: PathBuf,
    /// Our certificate, PEM.
    pub tls_cert: PathBuf,
    /// Its key, PEM.
    pub tls_key: PathBuf,
    /// Name to expect in the collector's certificate, if not the host of `collector`.
    pub tls_server_name: Option<String>,
    /// Name of our node.
    pub node: String,
    /// Kernel release of the node.
    pub kernel_release: String,
    /// Time between heartbeats.
    pub heartbeat: Duration,
    /// Longest wait between two tries.
    pub max_backoff: Duration,
    /// How long to go on delivering at shutdown.
    pub drain: Duration,
}

impl StreamConfig {
    /// Default of `heartbeat`.
    pub const HEARTBEAT: Duration = Duration::from_secs(2);
    /// Default of `max_backoff`.
    pub const MAX_BACKOFF: Duration = Duration::from_secs(5);
    /// Default of `drain`.
    pub const DRAIN: Duration = Duration::from_secs(3);
}

const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);
const MIN_BACKOFF: Duration = Duration::from_millis(250);

/// Counters of the stream, since the agent started.
#[derive(Debug, Default)]
pub struct StreamStats {
    /// 1 while the collector has welcomed us.
    pub connected: AtomicU64,
    /// Streams that reached the welcome.
    pub connects: AtomicU64,
    /// Tries and streams that failed.
    pub failures: AtomicU64,
    /// Batches sent, resent ones included.
    pub batches_sent: AtomicU64,
    /// Highest number the collector confirmed.
    pub confirmed: AtomicU64,
    /// Heartbeats sent.
    pub heartbeats: AtomicU64,
    /// Heartbeats not sent because the connection was congested.
    pub heartbeats_skipped: AtomicU64,
    /// Batches that were larger than any collector accepts, and left out.
    pub batches_refused: AtomicU64,
    /// Questions of other witnesses that came.
    pub questions: AtomicU64,
    /// Of these, answered at once with "overloaded": the judge's queue was full, or the question made no sense.
    pub questions_refused: AtomicU64,
    /// Answers sent to other witnesses.
    pub testimonies_sent: AtomicU64,
    /// Answers that were not: the stream was congested or gone.
    pub testimonies_dropped: AtomicU64,
    /// Inquiries sent.
    pub inquiries_sent: AtomicU64,
    /// Inquiries that were not, and were answered here: the stream was congested or there is none.
    pub inquiries_dropped: AtomicU64,
    /// Answers that the judge got, those made here included.
    pub answers: AtomicU64,
    /// Answers to nothing that is asked (any more), or that the judge had no room for.
    pub answers_dropped: AtomicU64,
}

/// Runs until cancelled; then delivers what is left for at most `drain`.
///
/// # Errors
/// None at present: whatever goes wrong is said in the log and tried again.
pub async fn run(
    config: StreamConfig,
    reader: SpoolReader,
    gather: Gather,
    witnesses: StreamEnd,
    stats: Arc<StreamStats>,
    cancel: CancellationToken,
) -> anyhow::Result<()> {
    let mut witnesses = Witnesses::new(witnesses, Arc::clone(&stats));
    let mut sender = Sender {
        appended: reader.appended(),
        reader: Some(reader),
        config,
        gather,
        stats,
        cancel,
    };
    // What the log said last: one line per change of state, not per try.
    let mut said: Option<String> = None;
    let mut failures: u32 = 0;
    loop {
        let outcome = sender
            .session(&mut witnesses, &mut said, &mut failures)
            .await;
        sender.stats.connected.store(0, Ordering::Relaxed);
        witnesses.disconnected();
        let problem = match outcome {
            Ok(()) => return Ok(()),
            Err(problem) => problem,
        };
        sender.stats.failures.fetch_add(1, Ordering::Relaxed);
        let text = problem.to_string();
        if said.as_ref() != Some(&text) {
            warn!(
                collector = sender.config.collector,
                problem = text,
                "no stream to the collector; findings wait in the spool and the agent tries again"
            );
            said = Some(text);
        }
        failures = failures.saturating_add(1);
        let wait = backoff(failures, sender.config.max_backoff);
        tokio::select! {
            () = sender.cancel.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
            never = witnesses.away() => match never {},
        }
    }
}

/// Doubles from 250 ms, at most `max`, of which a random half to whole is waited: agents must not return in step.
fn backoff(failures: u32, max: Duration) -> Duration {
    let doubled = MIN_BACKOFF.saturating_mul(1_u32 << failures.saturating_sub(1).min(10));
    let base = doubled.min(max);
    // Seeded by the system; there is no need of a better random number.
    let random = std::hash::RandomState::new().build_hasher().finish() % 1_000;
    base / 2 + base.mul_f64(0.5 * f64::from(u16::try_from(random).unwrap_or(0)) / 1_000.0)
}

/// A stream that was welcomed.
type Opened = (
    mpsc::Sender<StreamRequest>,
    Streaming<StreamResponse>,
    Welcome,
);

struct Sender {
    config: StreamConfig,
    /// Away only while a blocking call has it.
    reader: Option<SpoolReader>,
    appended: watch::Receiver<u64>,
    gather: Gather,
    stats: Arc<StreamStats>,
    cancel: CancellationToken,
}

impl Sender {
    /// One connection, from connect to end. `Ok`: cancelled.
    async fn session(
        &mut self,
        witnesses: &mut Witnesses,
        said: &mut Option<String>,
        failures: &mut u32,
    ) -> Result<(), StreamProblem> {
        let cancel = self.cancel.clone();
        let opened = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            opened = self.open() => opened,
            never = witnesses.away() => match never {},
        };
        let (requests, mut responses, welcome) = opened?;
        self.stats.connected.store(1, Ordering::Relaxed);
        self.stats.connects.fetch_add(1, Ordering::Relaxed);
        *failures = 0;
        *said = None;
        let last = welcome.last_sequence;
        info!(
            collector = self.config.collector,
            collector_version = welcome.collector_version,
            last_sequence = last,
            "connected to the collector"
        );
        let ours = self.blocking(|r| Ok(r.next_sequence())).await?;
        if last >= ours {
            error!(
                collector_has = last,
                spool_next = ours,
                "the collector has batches of this spool that the spool has lost (damaged or restored disk): beginning a new identity; \
                 findings of the lost batches that had not settled stay provisional"
            );
            self.blocking(SpoolReader::renew).await?;
            return Err(StreamProblem::Protocol(
                "numbers that the spool does not have",
            ));
        }
        self.confirm(last).await?;
        self.blocking(move |r| {
            r.seek(last.saturating_add(1));
            Ok(())
        })
        .await?;
        witnesses.connected();
        self.exchange(witnesses, &requests, &mut responses).await
    }

    /// Opens a stream. Where the connection ends without a reason, TLS is asked for one.
    async fn open(&mut self) -> Result<Opened, StreamProblem> {
        let pem = Pem::read(&self.config).await?;
        match self.hello(&pem).await {
            Err(StreamProblem::Vague(text)) => {
                let config = self.config.clone();
                let second = tokio::task::spawn_blocking(move || diagnose(&config, &pem)).await;
                Err(second.ok().flatten().unwrap_or(StreamProblem::Vague(text)))
            }
            other => other,
        }
    }

    async fn hello(&mut self, pem: &Pem) -> Result<Opened, StreamProblem> {
        let channel = connect(&self.config, pem).await?;
        let (requests, outbound) = mpsc::channel(WINDOW + EXTRA + SHARE);
        let (instance, first_sequence) = self
            .blocking(|r| Ok((r.instance().to_owned(), r.first_sequence())))
            .await?;
        let hello = Up::Hello(Hello {
            node: self.config.node.clone(),
            instance,
            agent_version: env!("CARGO_PKG_VERSION").to_owned(),
            kernel_release: self.config.kernel_release.clone(),
            first_sequence,
        });
        // The channel is empty: there is room.
        let _ = requests.try_send(request(hello));
        let mut client = IngestServiceClient::new(channel)
            .max_decoding_message_size(polproof_proto::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(polproof_proto::MAX_MESSAGE_BYTES);
        let welcome = async {
            let mut responses = client
                .stream(ReceiverStream::new(outbound))
                .await
                .map_err(|status| StreamProblem::from_status(&status))?
                .into_inner();
            match next(&mut responses).await? {
                Down::Welcome(welcome) => Ok((responses, welcome)),
                Down::Receipt(_) | Down::Question(_) | Down::Testimony(_) => {
                    Err(StreamProblem::Protocol("something before the welcome"))
                }
            }
        };
        let (responses, welcome) = tokio::time::timeout(WELCOME_TIMEOUT, welcome)
            .await
            .map_err(|_| StreamProblem::Silent {
                what: "welcome",
                seconds: WELCOME_TIMEOUT.as_secs(),
            })??;
        Ok((requests, responses, welcome))
    }

    async fn confirm(&mut self, sequence: u64) -> Result<(), StreamProblem> {
        self.stats.confirmed.store(sequence, Ordering::Relaxed);
        self.blocking(move |r| {
            if let Err(error) = r.acknowledge(sequence) {
                // It holds for this process; after a restart the collector says it again.
                warn!(%error, "a receipt cannot be noted on disk");
            }
            Ok(())
        })
        .await
    }

    async fn next_batch(&mut self) -> Result<Option<StoredBatch>, StreamProblem> {
        self.blocking(|r| Ok(r.read(1)?.pop())).await
    }

    /// Runs something that blocks on files with the reader.
    async fn blocking<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut SpoolReader) -> Result<T, super::spool::SpoolError> + Send + 'static,
    ) -> Result<T, StreamProblem> {
        let Some(mut reader) = self.reader.take() else {
            return Err(StreamProblem::Protocol(
                "nothing: the spool's reader is gone",
            ));
        };
        let done = tokio::task::spawn_blocking(move || {
            let result = work(&mut reader);
            (reader, result)
        })
        .await;
        match done {
            Ok((reader, result)) => {
                self.reader = Some(reader);
                Ok(result?)
            }
            Err(error) => Err(StreamProblem::Ended(format!("the spool's task: {error}"))),
        }
    }
}

fn request(message: Up) -> StreamRequest {
    StreamRequest {
        message: Some(message),
    }
}

async fn next(responses: &mut Streaming<StreamResponse>) -> Result<Down, StreamProblem> {
    match responses.message().await {
        Ok(Some(StreamResponse {
            message: Some(message),
        })) => Ok(message),
        Ok(Some(StreamResponse { message: None })) => {
            Err(StreamProblem::Protocol("a message of an unknown kind"))
        }
        Ok(None) => Err(StreamProblem::Ended("it is shutting down".to_owned())),
        Err(status) => Err(StreamProblem::from_status(&status)),
    }
}
