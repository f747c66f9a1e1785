//! What a test run must not leave on the machine.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

/// How long things may take to go away after the last test: a namespace ends with its last process.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything of ours that outlives a test: mounts of the lab, pins in bpffs, devices on the host, and
/// processes of what was built.
pub(crate) fn survey(target: &Path) -> BTreeSet<String> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut found: BTreeSet<String> = lab_mounts(&mounts).collect();
    found.extend(entries(Path::new("/run/polproof-lab"), "", "file"));
    found.extend(entries(Path::new("/sys/fs/bpf"), "polproof", "pins"));
    found.extend(entries(
        Path::new("/sys/class/net"),
        "polproof",
        "network device",
    ));
    found.extend(processes(target));
    found
}

/// What is there now and was not before. Waits a little for it to go.
pub(crate) fn since(before: &BTreeSet<String>, target: &Path) -> Vec<String> {
    let start = Instant::now();
    loop {
        let left: Vec<String> = survey(target).difference(before).cloned().collect();
        if left.is_empty() || start.elapsed() >= PATIENCE {
            return left;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn lab_mounts(mounts: &str) -> impl Iterator<Item = String> {
    mounts
        .lines()
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter(|point| point.contains("polproof"))
        .map(|point| format!("mount {point}"))
}

/// Running programs of the build folder; this one and its parent's are among them before and after.
fn processes(target: &Path) -> Vec<String> {
    let numbers = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    numbers
        .filter_map(|entry| {
            let program = std::fs::read_link(entry.path().join("exe")).ok()?;
            program.starts_with(target).then(|| {
                let number = entry.file_name();
                format!("process {} {}", number.to_string_lossy(), program.display())
            })
        })
        .collect()
}

fn entries(folder: &Path, prefix: &str, what: &str) -> Vec<String> {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| format!("{what} {}", entry.path().display()))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn mounts_of_the_lab_are_found_and_others_are_not() {
        let mounts = "nsfs /run/polproof-lab/7/node-a nsfs rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n";
        assert_eq!(
            lab_mounts(mounts).collect::<Vec<_>>(),
            ["mount /run/polproof-lab/7/node-a"]
        );
    }

    #[test]
    fn only_what_is_new_counts() {
        let nowhere = Path::new("/nonexistent");
        assert_eq!(since(&survey(nowhere), nowhere), Vec::<String>::new());
    }

    #[test]
    fn a_running_program_of_the_build_folder_is_found() {
        // This test is one.
        let own = std::env::current_exe().unwrap();
        let found = processes(own.parent().unwrap());
        let number = format!("process {} ", std::process::id());
        assert!(
            found.iter().any(|line| line.starts_with(&number)),
            "{found:?}"
        );
        assert_eq!(processes(Path::new("/nonexistent")), Vec::<String>::new());
    }
}
