#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod aside;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use polproof_flow::finding::{
    End, FindingDelta, FindingKey, FindingKind, InconclusiveReason, Report,
};
use polproof_flow::record::{Crossing, Event, Instant, NetnsCookie, Record};
use polproof_policy::{NamespacedName, Protocol, Uid};
use proptest::prelude::*;

use super::*;
use crate::observe::RingId;

fn config(dir: &Path) -> SpoolConfig {
    SpoolConfig {
        dir: dir.to_owned(),
        max_bytes: 64 * 1024,
        segment_bytes: 4 * 1024,
    }
}

fn finding(port: u16, observed: u64, last: u64) -> FindingDelta {
    FindingDelta {
        key: Arc::new(FindingKey {
            kind: FindingKind::Unenforced,
            source: End::External,
            source_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            destination: End::Pod(NamespacedName::new("shop", "db"), Uid("u".into())),
            destination_ip: IpAddr::V4(Ipv4Addr::LOCALHOST),
            protocol: Protocol::Tcp,
            port,
            policies: Vec::new(),
        }),
        observed,
        settled: 0,
        retracted: 0,
        witnessed: 0,
        recovered: None,
        first: Instant(last),
        last: Instant(last),
        samples: Vec::new(),
    }
}

/// An entry that can be told from others by its position; with `findings` provisional findings.
fn entry(position: u64, findings: usize) -> Entry {
    let report = Report {
        findings: (0..findings)
            .map(|i| finding(u16::try_from(i % 60_000).unwrap(), 1, position))
            .collect(),
        ..Report::default()
    };
    Entry {
        report,
        ring: RingId {
            boot_id: "boot".into(),
            map_id: 7,
        },
        position,
        open: vec![Record {
            at: Instant(position),
            netns: NetnsCookie(1),
            crossing: Crossing::In,
            protocol: Protocol::Tcp,
            source: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1),
            destination: SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 2),
            event: Event::Syn { isn: 3 },
        }],
        settled_until: Instant(position.saturating_sub(1)),
        committed: Instant(position),
        wall_offset_ns: 1,
    }
}

fn read_all(reader: &mut SpoolReader) -> Vec<StoredBatch> {
    reader.seek(1);
    let mut all = Vec::new();
    loop {
        let some = reader.read(3).unwrap();
        if some.is_empty() {
            return all;
        }
        all.extend(some);
    }
}

fn sequences(reader: &mut SpoolReader) -> Vec<u64> {
    read_all(reader).iter().map(|b| b.sequence).collect()
}

#[test]
fn a_new_spool_is_empty_and_numbers_from_one() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader, recovered) = Spool::open(config(dir.path())).unwrap();
    assert_eq!(recovered, Recovered::default());
    assert_eq!((reader.first_sequence(), reader.next_sequence()), (1, 1));
    assert!(reader.read(10).unwrap().is_empty());
    writer.append(&entry(1, 0)).unwrap();
    assert!(
        reader.read(10).unwrap().is_empty(),
        "a checkpoint has no batch"
    );
    writer.append(&entry(2, 2)).unwrap();
    writer.append(&entry(3, 1)).unwrap();
    let batches = reader.read(10).unwrap();
    assert_eq!(
        batches.iter().map(|b| b.sequence).collect::<Vec<_>>(),
        [1, 2]
    );
    assert_eq!(batches[0].report, entry(2, 2).report);
    assert!(reader.read(10).unwrap().is_empty());
}

#[test]
fn identity_and_numbers_survive_a_reopen() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, reader, _) = Spool::open(config(dir.path())).unwrap();
    let instance = reader.instance().to_owned();
    for position in 1..=3 {
        writer.append(&entry(position, 1)).unwrap();
    }
    drop((writer, reader));
    let (mut writer, mut reader, recovered) = Spool::open(config(dir.path())).unwrap();
    assert_eq!(reader.instance(), instance);
    let last = recovered.last.unwrap();
    assert_eq!((last.position, last.open.len()), (3, 1));
    assert_eq!(recovered.unsettled, [finding(0, 1, 3)]);
    writer.append(&entry(4, 1)).unwrap();
    assert_eq!(sequences(&mut reader), [1, 2, 3, 4]);
}

#[test]
fn a_long_report_is_split_and_only_its_first_batch_has_the_counts() {
    let dir = tempfile::tempdir().unwrap();
    let roomy = SpoolConfig::new(dir.path());
    let (mut writer, mut reader, _) = Spool::open(roomy).unwrap();
    let mut long = entry(1, 2_500);
    long.report.inconclusive = vec![(InconclusiveReason::WithinGrace, 4)];
    long.report.judged.denied_delivered = 2_500;
    writer.append(&long).unwrap();
    writer.append(&entry(2, 1)).unwrap();
    let batches = read_all(&mut reader);
    let shape: Vec<_> = batches
        .iter()
        .map(|b| {
            (
                b.sequence,
                b.report.findings.len(),
                b.report.judged.denied_delivered,
            )
        })
        .collect();
    assert_eq!(
        shape,
        [(1, 1_000, 2_500), (2, 1_000, 0), (3, 500, 0), (4, 1, 0)]
    );
    let joined: Vec<_> = batches[..3]
        .iter()
        .flat_map(|b| b.report.findings.clone())
        .collect();
    assert_eq!(joined, long.report.findings);
    reader.seek(3);
    assert_eq!(reader.read(9).unwrap()[0], batches[2]);
}

#[test]
fn receipts_remove_segments_but_keep_what_has_not_settled() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader, _) = Spool::open(config(dir.path())).unwrap();
    let mut position = 0;
    let files = || segment::list(dir.path()).unwrap().len();
    while files() < 4 {
        position += 1;
        let mut e = entry(position, 1);
        e.settled_until = Instant(0);
        writer.append(&e).unwrap();
    }
    reader.acknowledge(reader.next_sequence() - 1).unwrap();
    assert_eq!(
        files(),
        4,
        "provisional findings of all four are not settled"
    );
    position += 1;
    writer.append(&entry(position, 0)).unwrap();
    assert_eq!(
        files(),
        1,
        "all settled: only the newest, with the checkpoint, stays"
    );
    assert_eq!(
        writer
            .stats()
            .batches_dropped
            .load(std::sync::atomic::Ordering::Relaxed),
        0
    );
    let next = reader.next_sequence();
    drop((writer, reader));
    let (_writer, reader, recovered) = Spool::open(config(dir.path())).unwrap();
    assert_eq!(reader.next_sequence(), next);
    assert_eq!(recovered.last.unwrap().position, position);
}

#[test]
fn the_bound_drops_the_oldest_and_counts_its_batches() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader, _) = Spool::open(config(dir.path())).unwrap();
    for position in 1..=2_000 {
        writer.append(&entry(position, 1)).unwrap();
    }
    let bytes: u64 = segment::list(dir.path())
        .unwrap()
        .iter()
        .map(|(_, p)| p.metadata().unwrap().len())
        .sum();
    assert!(bytes <= 64 * 1024, "{bytes}");
    let left = sequences(&mut reader);
    assert_eq!(left.first(), Some(&reader.first_sequence()));
    assert_eq!(left.last(), Some(&2_000));
    let dropped = writer
        .stats()
        .batches_dropped
        .load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(dropped + left.len() as u64, 2_000);
}

#[test]
fn a_damaged_frame_costs_itself_and_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader, _) = Spool::open(config(dir.path())).unwrap();
    for position in 1..=5 {
        writer.append(&entry(position, 1)).unwrap();
    }
    let (_, path) = segment::list(dir.path()).unwrap().remove(0);
    let bytes = std::fs::read(&path).unwrap();
    let frames: Vec<_> = segment::scan(&bytes, 24)
        .map(|s| match s {
            segment::Step::Frame(at, _) => at,
            other => panic!("{other:?}"),
        })
        .collect();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all_at(b"damage", frames[2] as u64 + 30).unwrap();
    assert_eq!(sequences(&mut reader), [1, 2, 4, 5], "while running");
    drop((writer, reader));
    let (mut writer, mut reader, recovered) = Spool::open(config(dir.path())).unwrap();
    assert_eq!(recovered.corrupt, 1);
    assert_eq!(recovered.last.unwrap().position, 5);
    writer.append(&entry(6, 1)).unwrap();
    assert_eq!(sequences(&mut reader), [1, 2, 4, 5, 6]);
    // A damaged length or header is the same.
    file.write_all_at(&[0xff; 8], frames[0] as u64 + 4).unwrap();
    file.write_all_at(&[0xff; 8], 2).unwrap();
    drop((writer, reader));
    let (_writer, mut reader, recovered) = Spool::open(config(dir.path())).unwrap();
    assert_eq!(recovered.corrupt, 3);
    assert_eq!(sequences(&mut reader), [2, 4, 5, 6]);
}

#[test]
fn numbers_are_not_reused_when_the_tail_that_had_them_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, mut reader, _) = Spool::open(config(dir.path())).unwrap();
    for position in 1..=5 {
        writer.append(&entry(position, 1)).unwrap();
    }
    reader.acknowledge(5).unwrap();
    drop((writer, reader));
    for (_, path) in segment::list(dir.path()).unwrap() {
        std::fs::remove_file(path).unwrap();
    }
    let (_writer, reader, _) = Spool::open(config(dir.path())).unwrap();
    assert_eq!(reader.next_sequence(), 6);
}

#[test]
fn a_renewed_identity_sends_only_what_is_new() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, reader, _) = Spool::open(config(dir.path())).unwrap();
    let old = reader.instance().to_owned();
    for position in 1..=3 {
        writer.append(&entry(position, 1)).unwrap();
    }
    drop((writer, reader));
    let (mut writer, mut reader, _) = Spool::open(config(dir.path())).unwrap();
    writer.append(&entry(4, 1)).unwrap();
    reader.renew().unwrap();
    assert_ne!(reader.instance(), old);
    assert_eq!(reader.first_sequence(), 4);
    assert_eq!(sequences(&mut reader), [4]);
    drop((writer, reader));
    let (_writer, mut reader, _) = Spool::open(config(dir.path())).unwrap();
    assert_eq!(sequences(&mut reader), [4]);
}

#[test]
fn another_boot_leaves_nothing_to_settle() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, reader, _) = Spool::open(config(dir.path())).unwrap();
    writer.append(&entry(1_000, 1)).unwrap();
    let mut rebooted = entry(5, 1);
    rebooted.ring.boot_id = "another".into();
    writer.append(&rebooted).unwrap();
    drop((writer, reader));
    let (_w, _r, recovered) = Spool::open(config(dir.path())).unwrap();
    assert_eq!(recovered.unsettled, [finding(0, 1, 5)]);
}

#[test]
fn refusals_say_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let held = Spool::open(config(dir.path())).unwrap();
    let error = Spool::open(config(dir.path())).unwrap_err();
    assert!(matches!(error, SpoolError::Locked { .. }), "{error}");
    drop(held);

    let small = SpoolConfig {
        max_bytes: 5_000,
        ..config(dir.path())
    };
    assert!(matches!(Spool::open(small), Err(SpoolError::Sizes { .. })));

    std::fs::write(dir.path().join("instance"), "\u{0}\u{0}garbage").unwrap();
    let (mut writer, _reader, _) = Spool::open(config(dir.path())).unwrap();
    let huge = entry(1, 60_000);
    assert!(matches!(
        writer.append(&huge),
        Err(SpoolError::TooLarge { .. })
    ));
    writer.append(&entry(2, 1)).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Cut the last segment anywhere: all entries that were whole before the cut are there, once, with their
    /// numbers, and appending goes on with the next number.
    #[test]
    fn any_truncation_keeps_all_whole_entries(
        sizes in prop::collection::vec(0_usize..4, 1..40),
        cut in 0.0_f64..=1.0,
    ) {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, reader, _) = Spool::open(config(dir.path())).unwrap();
        for (position, findings) in (1..).zip(&sizes) {
            writer.append(&entry(position, *findings)).unwrap();
        }
        drop((writer, reader));

        let files = segment::list(dir.path()).unwrap();
        let (_, last) = files.last().unwrap();
        let length = last.metadata().unwrap().len();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let keep = (length as f64 * cut) as u64;
        std::fs::OpenOptions::new().write(true).open(last).unwrap().set_len(keep).unwrap();

        // What must survive, from the files themselves.
        let mut whole = 0;
        for (_, path) in &files {
            let bytes = std::fs::read(path).unwrap();
            let mut at = 24;
            while let Some(frame) = bytes.get(at..).and_then(segment::read_frame) {
                at += frame.bytes();
                whole += 1;
            }
        }
        let expected: Vec<_> = (1_u64..).zip(
            (1_u64..).zip(&sizes).take(whole).filter(|(_, n)| **n > 0).map(|(p, n)| entry(p, *n).report)
        ).collect();

        let (mut writer, mut reader, recovered) = Spool::open(config(dir.path())).unwrap();
        prop_assert_eq!(recovered.corrupt, 0);
        prop_assert_eq!(recovered.last.map(|c| c.position), (whole > 0).then_some(whole as u64));
        let got: Vec<_> = read_all(&mut reader).into_iter().map(|b| (b.sequence, b.report)).collect();
        prop_assert_eq!(&got, &expected);
        writer.append(&entry(1_000, 1)).unwrap();
        let next = expected.len() as u64 + 1;
        prop_assert_eq!(sequences(&mut reader), (1..=next).collect::<Vec<_>>());
    }

    /// Any single damaged byte: no panic, and every entry but the damaged one is there with its number.
    #[test]
    fn any_damaged_byte_costs_at_most_its_own_entry(at in 0_usize..3_000, flip in 1_u8..=255) {
        let dir = tempfile::tempdir().unwrap();
        let (mut writer, reader, _) = Spool::open(config(dir.path())).unwrap();
        for position in 1..=12 {
            writer.append(&entry(position, 1)).unwrap();
        }
        drop((writer, reader));
        let (_, path) = segment::list(dir.path()).unwrap().remove(0);
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= flip;
        std::fs::write(&path, &bytes).unwrap();
        let (_writer, mut reader, _) = Spool::open(config(dir.path())).unwrap();
        let got = sequences(&mut reader);
        prop_assert!(got.len() >= 11, "{:?}", got);
        prop_assert!(got.windows(2).all(|w| w[0] < w[1]), "{:?}", got);
        for batch in read_all(&mut reader) {
            prop_assert_eq!(batch.report, entry(batch.sequence, 1).report);
        }
    }
}
