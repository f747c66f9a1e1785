//! Network namespaces of a test: each is a thread's own, and ends with it.

use std::process::{Command, Output};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;

use nix::sched::{CloneFlags, unshare};

type Work = Box<dyn FnOnce() + Send>;

/// A namespace, and the thread in it. Dropped, both end.
pub(crate) struct Namespace {
    work: Option<Sender<Work>>,
    thread: Option<JoinHandle<()>>,
    /// Names it for `ip link`.
    tid: i32,
}

impl Namespace {
    /// With `lo` up.
    pub(crate) fn new() -> Self {
        let (work, received) = channel::<Work>();
        let (say, told) = channel();
        let thread = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            say.send(nix::unistd::gettid().as_raw()).unwrap();
            for work in received {
                work();
            }
        });
        let this = Self {
            work: Some(work),
            tid: told.recv().unwrap(),
            thread: Some(thread),
        };
        this.command("ip link set lo up");
        this
    }

    /// Runs it inside.
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (say, told) = channel();
        let work = Box::new(move || {
            let _ = say.send(work());
        });
        self.work.as_ref().unwrap().send(work).unwrap();
        told.recv().expect("the work inside panicked")
    }

    /// Runs a command inside; its failure is the test's.
    pub(crate) fn command(&self, line: &str) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let output = self.run(move || Command::new(&words[0]).args(&words[1..]).output().unwrap());
        assert_success(line, &output);
    }

    pub(crate) fn nft(&self, rules: &str) {
        // What nft takes in one line ends in something.
        let owned = rules.replace('}', "}\n");
        let output = self.run(move || Command::new("nft").arg(owned).output().unwrap());
        assert_success(rules, &output);
    }
}

#[track_caller]
fn assert_success(line: &str, output: &Output) {
    assert!(
        output.status.success(),
        "{line}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.work = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Connects their eth0 with each other. IPv4 and IPv6 addresses.
pub(crate) fn wire(a: &Namespace, of_a: [&str; 2], b: &Namespace, of_b: [&str; 2]) {
    a.command(&format!(
        "ip link add eth0 type veth peer name eth0 netns /proc/{}/task/{}/ns/net",
        std::process::id(),
        b.tid
    ));
    for (namespace, [four, six]) in [(a, of_a), (b, of_b)] {
        namespace.command(&format!("ip addr add {four}/24 dev eth0"));
        namespace.command(&format!("ip addr add {six}/64 dev eth0 nodad"));
        namespace.command("ip link set eth0 up");
    }
}

/// Whether a program is installed; says so if not.
pub(crate) fn has(program: &str) -> bool {
    let there = Command::new(program).arg("--version").output().is_ok();
    if !there {
        eprintln!("skipped: {program} is not installed");
    }
    there
}
