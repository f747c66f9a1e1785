//! The stream as an agent runs it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use polproof_agent::observe::KernelLacks;
use polproof_agent::report::spool::{Spool, SpoolConfig, SpoolReader, SpoolWriter};
use polproof_agent::report::stream::{self, StreamConfig, StreamStats};
use polproof_agent::report::vitals::{Coverage, Loss, ViewState, Vitals};
use polproof_agent::report::witness::{self, JudgeEnd};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

fn vitals() -> Vitals {
    Vitals {
        at: SystemTime::now(),
        coverage: Coverage {
            expected: 2,
            watched: 1,
            unwatched: Vec::new(),
        },
        loss: Loss {
            ring_records: 7,
            ..Loss::default()
        },
        cni: Vec::new(),
        view: ViewState {
            ready: true,
            source: "manifests".to_owned(),
            ..ViewState::default()
        },
        kernel_lacks: vec![KernelLacks::Tcx],
    }
}

pub fn open(dir: &Path) -> (SpoolWriter, SpoolReader) {
    let (writer, reader, _) = Spool::open(SpoolConfig {
        dir: dir.join("spool"),
        max_bytes: 1024 * 1024,
        segment_bytes: 1024,
    })
    .unwrap();
    (writer, reader)
}

/// A stream with an agent's settings.
pub struct Agent {
    pub stats: Arc<StreamStats>,
    /// The judge's end of the witnesses' queues.
    pub judge: JudgeEnd,
    cancel: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Agent {
    pub fn start(tls: &Path, address: SocketAddr, reader: SpoolReader) -> Self {
        let stats = Arc::new(StreamStats::default());
        let cancel = CancellationToken::new();
        let (judge, witnesses) = witness::pair();
        let config = StreamConfig {
            collector: format!("https://localhost:{}", address.port()),
            tls_ca: tls.join("ca.pem"),
            tls_cert: tls.join("agent.pem"),
            tls_key: tls.join("agent.key"),
            tls_server_name: None,
            node: "node-1".to_owned(),
            kernel_release: "6.0".to_owned(),
            heartbeat: Duration::from_millis(100),
            max_backoff: Duration::from_millis(300),
            drain: Duration::from_secs(5),
        };
        let task = tokio::spawn(stream::run(
            config,
            reader,
            Box::new(vitals),
            witnesses,
            Arc::clone(&stats),
            cancel.clone(),
        ));
        Self {
            stats,
            judge,
            cancel,
            task,
        }
    }
    pub async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
    }
}

pub async fn until(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..600 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("after 30 s still not: {what}");
}
