//! A thread that lives in a network namespace and does there what it is asked: serve, connect, ask the
//! collector. It stands for the processes of a container.

use std::fs::File;
use std::future::Future;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use nix::sched::{CloneFlags, setns};
use tokio::task::LocalSet;

/// Jobs that may wait for a resident before [`Resident::start`] blocks.
const QUEUE: usize = 64;

type Job = Box<dyn FnOnce() + Send>;

/// See the module. Dropped, its tasks are cancelled (so its sockets close) and its thread ends.
#[derive(Debug)]
pub struct Resident {
    jobs: Option<tokio::sync::mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

/// The answer of a job that was started.
#[derive(Debug)]
pub struct Pending<T>(mpsc::Receiver<T>);

impl<T> Pending<T> {
    /// Waits for the answer.
    ///
    /// # Errors
    /// When it has not come after `limit`, or the job panicked.
    pub fn wait(self, limit: Duration) -> Result<T> {
        self.0.recv_timeout(limit).map_err(|error| {
            anyhow!("a job in a namespace gave no answer within {limit:?}: {error}")
        })
    }
}

impl Resident {
    /// Moves a new thread into the namespace that is bound to `netns`.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter(netns: &Path, name: &str) -> Result<Self> {
        let file = File::open(netns).with_context(|| format!("open {}", netns.display()))?;
        let (jobs, mut queue) = tokio::sync::mpsc::channel::<Job>(QUEUE);
        let (ready, entered) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name(format!("lab-{name}"))
            .spawn(move || {
                let made = setns(file.as_fd(), CloneFlags::CLONE_NEWNET)
                    .context("enter the namespace")
                    .and_then(|()| {
                        drop(file);
                        tokio::runtime::Builder::new_current_thread()
                            .enable_all()
                            .build()
                            .context("make a runtime")
                    });
                let runtime = match made {
                    Ok(runtime) => runtime,
                    Err(error) => {
                        let _ = ready.send(Err(error));
                        return;
                    }
                };
                let _ = ready.send(Ok(()));
                let tasks = LocalSet::new();
                tasks.block_on(&runtime, async {
                    while let Some(job) = queue.recv().await {
                        job();
                    }
                });
            })?;
        entered
            .recv()
            .map_err(|_| anyhow!("the thread for {} died", netns.display()))?
            .with_context(|| format!("enter {}", netns.display()))?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// Starts `work` as a task in the namespace.
    pub fn start<F, T>(&self, work: impl FnOnce() -> F + Send + 'static) -> Pending<T>
    where
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        let (answer, pending) = mpsc::sync_channel(1);
        let job: Job = Box::new(move || {
            tokio::task::spawn_local(async move {
                let _ = answer.send(work().await);
            });
        });
        // A resident that is gone drops the job, and `wait` says so.
        if let Some(jobs) = &self.jobs {
            let _ = jobs.blocking_send(job);
        }
        Pending(pending)
    }

    /// Does `work` in the namespace and waits for its answer, at most `limit`.
    ///
    /// # Errors
    /// When no answer comes in time.
    pub fn call<F, T>(
        &self,
        limit: Duration,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> Result<T>
    where
        F: Future<Output = T> + 'static,
        T: Send + 'static,
    {
        self.start(work).wait(limit)
    }
}

impl Drop for Resident {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
