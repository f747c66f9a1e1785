//! One stream from the welcome to its end: batches and receipts, heartbeats, questions and testimonies.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::time::Duration;

use polproof_proto::v1::stream_request::Message as Up;
use polproof_proto::v1::stream_response::Message as Down;
use polproof_proto::v1::{StreamRequest, StreamResponse};
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::Streaming;
use tracing::{error, info};

use super::questions::Witnesses;
use super::{Sender, next, request};
use crate::report::convert;
use crate::report::problem::StreamProblem;

/// Most batches sent and not confirmed.
pub(super) const WINDOW: usize = 32;
/// Most bytes sent and not confirmed, unless a single batch is larger.
const WINDOW_BYTES: usize = 8 * 1024 * 1024;
/// Room in the channel besides the window and the witnesses' share: hello and heartbeats.
pub(super) const EXTRA: usize = 4;
/// The collector translates times between nodes once some heartbeats agree on our clock: so the first ones come sooner.
const EARLY: Duration = Duration::from_millis(250);
const EARLY_BEATS: u32 = 4;
/// Batches without a receipt for so long: the collector is stuck, try another connection.
const RECEIPT_TIMEOUT: Duration = Duration::from_secs(60);

/// Batches sent and not confirmed.
#[derive(Default)]
struct Window {
    sent: VecDeque<(u64, usize)>,
    bytes: usize,
}

impl Window {
    fn room(&self) -> usize {
        if self.bytes >= WINDOW_BYTES {
            return 0;
        }
        WINDOW.saturating_sub(self.sent.len())
    }
    /// Places in the channel that others must leave: the batches that may still come, and a heartbeat.
    fn reserved(&self) -> usize {
        WINDOW.saturating_sub(self.sent.len()) + EXTRA
    }
    fn confirm(&mut self, sequence: u64) {
        while let Some((_, bytes)) = self.sent.pop_front_if(|(s, _)| *s <= sequence) {
            self.bytes = self.bytes.saturating_sub(bytes);
        }
    }
}

impl Sender {
    /// Sends and receives until cancelled and drained, or until something breaks.
    pub(super) async fn exchange(
        &mut self,
        witnesses: &mut Witnesses,
        requests: &mpsc::Sender<StreamRequest>,
        responses: &mut Streaming<StreamResponse>,
    ) -> Result<(), StreamProblem> {
        let mut window = Window::default();
        let mut ticks = tokio::time::interval(self.config.heartbeat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut early = tokio::time::interval(EARLY.min(self.config.heartbeat));
        let mut early_left = EARLY_BEATS;
        let mut appended = self.appended.clone();
        let mut more = true;
        let mut progress = Instant::now();
        let mut draining: Option<Instant> = None;
        let cancel = self.cancel.clone();
        loop {
            if more && window.room() > 0 {
                more = self.send(&mut window, requests).await?;
            }
            if let Some(deadline) = draining {
                if !more && window.sent.is_empty() {
                    info!("everything is delivered");
                    return Ok(());
                }
                if Instant::now() >= deadline {
                    info!("not everything could be delivered in time; the rest waits in the spool");
                    return Ok(());
                }
            }
            let stuck = draining.unwrap_or(if window.sent.is_empty() {
                progress + Duration::from_secs(24 * 3600)
            } else {
                progress + RECEIPT_TIMEOUT
            });
            tokio::select! {
                () = cancel.cancelled(), if draining.is_none() => {
                    draining = Some(Instant::now() + self.config.drain);
                    more = true;
                }
                response = next(responses) => match response? {
                    Down::Receipt(receipt) => {
                        window.confirm(receipt.sequence);
                        progress = Instant::now();
                        self.confirm(receipt.sequence).await?;
                    }
                    Down::Welcome(_) => {
                        return Err(StreamProblem::Protocol("a second welcome"));
                    }
                    Down::Question(question) => {
                        witnesses.asked(question, requests, window.reserved());
                    }
                    Down::Testimony(testimony) => witnesses.answered(testimony),
                },
                // The reader keeps the other end: this never fails.
                _ = appended.changed(), if !more => {
                    more = true;
                    if window.sent.is_empty() {
                        progress = Instant::now();
                    }
                }
                carried = witnesses.next() => {
                    witnesses.send(carried, requests, window.reserved());
                }
                _ = early.tick(), if early_left > 0 => {
                    early_left -= 1;
                    self.beat(&window, requests);
                }
                _ = ticks.tick() => {
                    self.beat(&window, requests);
                    witnesses.expire();
                }
                () = tokio::time::sleep_until(stuck) => {
                    if draining.is_none() && !window.sent.is_empty() {
                        return Err(StreamProblem::Silent {
                            what: "receipt",
                            seconds: RECEIPT_TIMEOUT.as_secs(),
                        });
                    }
                }
            }
        }
    }

    /// Sends as much as the window takes. Returns whether there may be more.
    async fn send(
        &mut self,
        window: &mut Window,
        requests: &mpsc::Sender<StreamRequest>,
    ) -> Result<bool, StreamProblem> {
        // One at a time: batches are at most 2 MiB or so, and the window counts bytes.
        while window.room() > 0 {
            let Some(batch) = self.next_batch().await? else {
                return Ok(false);
            };
            let sequence = batch.sequence;
            let batch = convert::batch(&batch);
            let bytes = batch.encoded_len();
            if bytes > polproof_proto::MAX_MESSAGE_BYTES - 64 {
                error!(
                    sequence,
                    bytes,
                    limit = polproof_proto::MAX_MESSAGE_BYTES,
                    "a batch is larger than a message may be and is left out; the collector counts it as missing. Please report this"
                );
                self.stats.batches_refused.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            // There is room: heartbeats leave as much as the window may still take.
            if requests.try_send(request(Up::Batch(batch))).is_err() {
                // The stream has ended; its response says why. The batch is read again on the next one.
                return Ok(false);
            }
            self.stats.batches_sent.fetch_add(1, Ordering::Relaxed);
            window.sent.push_back((sequence, bytes));
            window.bytes += bytes;
        }
        Ok(true)
    }

    fn beat(&self, window: &Window, requests: &mpsc::Sender<StreamRequest>) {
        let reserved = WINDOW.saturating_sub(window.sent.len());
        let sent = requests.capacity() > reserved
            && requests
                .try_send(request(Up::Heartbeat(convert::heartbeat(&(self.gather)()))))
                .is_ok();
        let counter = if sent {
            &self.stats.heartbeats
        } else {
            &self.stats.heartbeats_skipped
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
