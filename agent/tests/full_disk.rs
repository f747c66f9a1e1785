//! The spool on a full disk: a small tmpfs that the test mounts. Needs root; otherwise it is listed as ignored.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stderr
)]

use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering;

use libtest_mimic::{Arguments, Failed, Trial};
use polproof_agent::observe::RingId;
use polproof_agent::report::spool::{Entry, Spool, SpoolConfig, SpoolError, SpoolReader};
use polproof_flow::finding::{InconclusiveReason, Report};
use polproof_flow::record::Instant;

fn main() {
    let arguments = Arguments::from_args();
    let root = nix::unistd::geteuid().is_root();
    if !root && !arguments.list {
        eprintln!("full_disk: ignored, mounting a tmpfs needs root");
    }
    let trial = Trial::test("a_full_disk_is_a_typed_error_and_recovers", full_disk)
        .with_ignored_flag(!root);
    libtest_mimic::run(&arguments, vec![trial]).exit();
}

/// Unmounts when the test ends, however it ends.
struct Tmpfs<'a>(&'a Path);
impl Drop for Tmpfs<'_> {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(self.0, nix::mount::MntFlags::MNT_DETACH);
    }
}

fn entry(position: u64) -> Entry {
    Entry {
        report: Report {
            inconclusive: vec![(InconclusiveReason::WithinGrace, position)],
            ..Report::default()
        },
        ring: RingId {
            boot_id: "boot".into(),
            map_id: 7,
        },
        position,
        open: Vec::new(),
        settled_until: Instant(position),
        committed: Instant(position),
        wall_offset_ns: 1,
    }
}

fn sequences(reader: &mut SpoolReader) -> Vec<u64> {
    reader.seek(1);
    let batches = reader.read(usize::MAX).unwrap();
    batches.iter().map(|b| b.sequence).collect()
}

fn full_disk() -> Result<(), Failed> {
    let dir = tempfile::tempdir()?;
    nix::mount::mount(
        Some("tmpfs"),
        dir.path(),
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=256k"),
    )?;
    let mounted = Tmpfs(dir.path());
    let spool = dir.path().join("spool");
    let config = SpoolConfig {
        dir: spool,
        max_bytes: 64 * 1024,
        segment_bytes: 4 * 1024,
    };
    let (mut writer, mut reader, _) = Spool::open(config.clone())?;
    writer.append(&entry(1))?;
    // Somebody else fills the disk.
    let filler = dir.path().join("filler");
    let mut file = std::fs::File::create(&filler)?;
    while file.write_all(&[0_u8; 4096]).is_ok() {}
    let mut appended = 1;
    let error = loop {
        match writer.append(&entry(appended + 1)) {
            Ok(()) => appended += 1,
            Err(error) => break error,
        }
        assert!(appended < 1_000, "the disk never filled");
    };
    assert!(matches!(error, SpoolError::Full { .. }), "{error}");
    assert!(error.to_string().contains("disk is full"), "{error}");
    let again = writer.append(&entry(appended + 1));
    assert!(matches!(again, Err(SpoolError::Full { .. })));

    drop(file);
    std::fs::remove_file(&filler)?;
    writer.append(&entry(appended + 1))?;
    let expected: Vec<u64> = (1..=appended + 1).collect();
    assert_eq!(sequences(&mut reader), expected);
    drop((writer, reader));
    let (writer, mut reader, recovered) = Spool::open(config.clone())?;
    assert_eq!((recovered.corrupt, recovered.truncated_bytes), (0, 0));
    assert_eq!(sequences(&mut reader), expected);

    // A bound larger than the disk: the oldest goes, nothing fails.
    drop((writer, reader));
    let larger = SpoolConfig {
        max_bytes: 1024 * 1024,
        ..config
    };
    let (mut writer, _reader, _) = Spool::open(larger)?;
    for position in 1..=8_000 {
        writer.append(&entry(position))?;
    }
    assert!(writer.stats().batches_dropped.load(Ordering::Relaxed) > 0);
    drop(mounted);
    Ok(())
}
