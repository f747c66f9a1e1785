//! Takes connections and shakes hands, each by the certificates of that moment.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;
use crate::tls::Certificates;

/// How long a handshake may take.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Handshakes at the same time; further clients wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// Connections that may wait for the server.
const WAITING: usize = 16;
/// Wait after the kernel gave no connection (no file descriptor left): trying at once would only heat the room.
const PAUSE: Duration = Duration::from_millis(200);
/// One line in this time about handshakes that failed: whoever may reach the port may cause them.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Connections whose clients have shown a certificate of the CA.
pub fn connections(
    listener: TcpListener,
    certificates: Arc<Certificates>,
    metrics: Arc<Metrics>,
    shutdown: CancellationToken,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (connections, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        tokio::select! {
            () = take(&listener, &certificates, &metrics, &connections) => {}
            () = shutdown.cancelled() => {}
        }
    });
    ReceiverStream::new(receiver)
}

async fn take(
    listener: &TcpListener,
    certificates: &Certificates,
    metrics: &Arc<Metrics>,
    connections: &mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
) {
    let places = Arc::new(Semaphore::new(HANDSHAKES));
    let failures = Arc::new(Failures::default());
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                failures.say(format_args!("cannot take a connection: {error}"));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if connections.is_closed() {
            return;
        }
        let _ = stream.set_nodelay(true);
        let acceptor = TlsAcceptor::from(certificates.current());
        let (connections, metrics) = (connections.clone(), Arc::clone(metrics));
        let failures = Arc::clone(&failures);
        tokio::spawn(async move {
            match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let _ = connections.send(Ok(stream)).await;
                }
                Ok(Err(error)) => {
                    metrics.handshakes_failed.inc();
                    failures.say(format_args!("TLS handshake with {peer} failed: {error}"));
                }
                Err(_) => {
                    metrics.handshakes_failed.inc();
                    failures.say(format_args!(
                        "TLS handshake with {peer} took more than {} s",
                        HANDSHAKE_WITHIN.as_secs()
                    ));
                }
            }
            drop(place);
        });
    }
}

/// What went wrong, said now and then.
#[derive(Debug, Default)]
struct Failures(std::sync::Mutex<(Option<Instant>, u64)>);

impl Failures {
    fn say(&self, what: std::fmt::Arguments<'_>) {
        let mut state = self
            .0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let (last, unsaid) = *state;
        if last.is_some_and(|last| last.elapsed() < SAY_EVERY) {
            state.1 += 1;
            return;
        }
        *state = (Some(Instant::now()), 0);
        drop(state);
        if unsaid == 0 {
            tracing::warn!("{what}");
        } else {
            tracing::warn!("{what} (and {unsaid} more since the last line)");
        }
    }
}
