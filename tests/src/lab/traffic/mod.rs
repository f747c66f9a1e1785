//! Real traffic: servers, clients that say what became of their attempt, and bounded bursts. TCP is here, the others are in files
//! of their own.

mod datagrams;
mod lasting;
mod sctp;

use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use tokio::net::{TcpListener, TcpSocket};
use tokio::time::timeout;

use super::resident::{Pending, Resident};

pub use datagrams::Reply;
pub use lasting::Held;

/// What became of a connection attempt, as its client sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// The handshake was completed.
    Connected,
    /// A RST came back.
    Refused,
    /// Nothing came back in time.
    TimedOut,
    /// An ICMP error came back, or there is no route.
    Unreachable,
}

/// One attempt and its outcome.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    /// Where the client sent from, once known.
    pub from: Option<SocketAddr>,
    /// Where to.
    pub to: SocketAddr,
    /// What became of it.
    pub outcome: Outcome,
    /// When the SYN was sent, by the wall clock (not before it).
    pub sent: SystemTime,
    /// When the outcome was known.
    pub ended: Instant,
}

/// Outcomes of a burst, counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// [`Outcome::Connected`].
    pub connected: u64,
    /// [`Outcome::Refused`].
    pub refused: u64,
    /// [`Outcome::TimedOut`].
    pub timed_out: u64,
    /// [`Outcome::Unreachable`].
    pub unreachable: u64,
}

impl Tally {
    fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Connected => self.connected += 1,
            Outcome::Refused => self.refused += 1,
            Outcome::TimedOut => self.timed_out += 1,
            Outcome::Unreachable => self.unreachable += 1,
        }
    }

    /// All attempts.
    pub const fn total(&self) -> u64 {
        self.connected + self.refused + self.timed_out + self.unreachable
    }
}

/// A bounded number of attempts to a few targets, in turn.
#[derive(Clone, Debug)]
pub struct Burst {
    /// Whom to connect to, in turn.
    pub targets: Vec<SocketAddr>,
    /// How many attempts in all.
    pub count: u64,
    /// How many at the same time, at most.
    pub concurrency: usize,
    /// How many to begin in a second, at most; 0 for no limit.
    pub per_second: u64,
    /// How long each waits for an answer.
    pub patience: Duration,
}

/// Attempts that a burst may have under way: each costs a descriptor.
const MOST_CONCURRENT: usize = 400;
/// Attempts of one burst.
const MOST_ATTEMPTS: u64 = 200_000;

impl Resident {
    /// Listens on a TCP port for both families and accepts (and closes) whatever comes, until the
    /// resident ends.
    ///
    /// # Errors
    /// When the port is taken.
    pub fn serve(&self, port: u16) -> Result<()> {
        self.call(Duration::from_secs(10), move || async move {
            for ip in [
                IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            ] {
                let listener = listen(SocketAddr::new(ip, port), 4096)
                    .with_context(|| format!("listen on {ip} port {port}"))?;
                tokio::task::spawn_local(accept(listener));
            }
            Ok(())
        })?
    }

    /// Makes one attempt.
    ///
    /// # Errors
    /// When the socket cannot be made, or on an outcome that is none of [`Outcome`].
    pub fn connect(&self, to: SocketAddr, patience: Duration) -> Result<Attempt> {
        self.start_connect(to, patience)
            .wait(patience + Duration::from_secs(20))?
    }

    /// Begins one attempt.
    pub fn start_connect(&self, to: SocketAddr, patience: Duration) -> Pending<Result<Attempt>> {
        self.start(move || connect(to, patience))
    }

    /// Begins a burst.
    ///
    /// # Errors
    /// When the burst is larger than the lab allows.
    pub fn start_burst(&self, burst: Burst) -> Result<Pending<Result<Tally>>> {
        if burst.targets.is_empty()
            || burst.concurrency == 0
            || burst.concurrency > MOST_CONCURRENT
            || burst.count > MOST_ATTEMPTS
        {
            bail!(
                "a burst needs a target, 1 to {MOST_CONCURRENT} at a time and at most {MOST_ATTEMPTS} attempts: {burst:?}"
            );
        }
        Ok(self.start(move || run_burst(burst)))
    }

    /// Makes a burst and waits for its end.
    ///
    /// # Errors
    /// As [`Resident::connect`], or when it takes longer than `limit`.
    pub fn burst(&self, burst: Burst, limit: Duration) -> Result<Tally> {
        self.start_burst(burst)?.wait(limit)?
    }
}

fn listen(at: SocketAddr, backlog: u32) -> io::Result<TcpListener> {
    let socket = if at.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        let socket = TcpSocket::new_v6()?;
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::Ipv6V6Only, &true)?;
        socket
    };
    socket.set_reuseaddr(true)?;
    socket.bind(at)?;
    socket.listen(backlog)
}

async fn accept(listener: TcpListener) {
    loop {
        // Too many open files for a moment is no reason to stop serving.
        if listener.accept().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// Makes one attempt from the namespace of the thread that it runs on.
///
/// # Errors
/// When the socket cannot be made, or on an outcome that is none of [`Outcome`].
pub async fn connect(to: SocketAddr, patience: Duration) -> Result<Attempt> {
    let socket = if to.is_ipv4() {
        TcpSocket::new_v4()
    } else {
        TcpSocket::new_v6()
    }
    .context("make a socket")?;
    // No TIME_WAIT: thousands of attempts from one address must not run out of ports.
    socket.set_zero_linger().context("set linger")?;
    let sent = SystemTime::now();
    let (outcome, from) = match timeout(patience, socket.connect(to)).await {
        Ok(Ok(stream)) => (Outcome::Connected, stream.local_addr().ok()),
        Ok(Err(error)) => (
            classify(&error).with_context(|| format!("connect to {to}"))?,
            None,
        ),
        Err(_) => (Outcome::TimedOut, None),
    };
    Ok(Attempt {
        from,
        to,
        outcome,
        sent,
        ended: Instant::now(),
    })
}

fn classify(error: &io::Error) -> Result<Outcome> {
    let unreachable = [
        Errno::EHOSTUNREACH,
        Errno::ENETUNREACH,
        Errno::EACCES,
        Errno::EPERM,
        Errno::ENOPROTOOPT,
    ];
    match error.kind() {
        ErrorKind::ConnectionRefused => Ok(Outcome::Refused),
        ErrorKind::TimedOut => Ok(Outcome::TimedOut),
        // The server may close at once, before the handshake is noticed: it was completed.
        ErrorKind::ConnectionReset => Ok(Outcome::Connected),
        _ if error
            .raw_os_error()
            .is_some_and(|code| unreachable.contains(&Errno::from_raw(code))) =>
        {
            Ok(Outcome::Unreachable)
        }
        kind => bail!("an outcome that the lab does not know: {kind}: {error}"),
    }
}

async fn run_burst(burst: Burst) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut under_way = tokio::task::JoinSet::<Result<Attempt>>::new();
    let began = tokio::time::Instant::now();
    for (number, to) in (0..burst.count).zip(burst.targets.iter().copied().cycle()) {
        if burst.per_second > 0 {
            let due = Duration::from_secs(1).mul_f64(number as f64 / burst.per_second as f64);
            tokio::time::sleep_until(began + due).await;
        }
        while under_way.len() >= burst.concurrency
            && let Some(ended) = under_way.join_next().await
        {
            tally.add(ended??.outcome);
        }
        under_way.spawn_local(connect(to, burst.patience));
    }
    while let Some(ended) = under_way.join_next().await {
        tally.add(ended??.outcome);
    }
    Ok(tally)
}
