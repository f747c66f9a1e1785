//! Spools that another version of the agent wrote.

use std::sync::atomic::Ordering;

use super::super::segment;
use super::*;

/// Makes a spool look as if it had been written in another format.
fn become_of_format(dir: &Path, version: u32) {
    let instance = dir.join("instance");
    let text = std::fs::read_to_string(&instance).unwrap();
    let ours = format!("polproof-spool {DISK_VERSION}");
    assert!(text.starts_with(&ours));
    let theirs = format!("polproof-spool {version}");
    std::fs::write(&instance, text.replace(&ours, &theirs)).unwrap();
    for (_, path) in segment::list(dir).unwrap() {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[8..12].copy_from_slice(&version.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..20]);
        bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(&path, bytes).unwrap();
    }
}

/// A spool of another format with this many batches, of which the first `confirmed` are confirmed. Gives its identity.
fn other(dir: &Path, version: u32, batches: u64, confirmed: u64) -> String {
    let (mut writer, mut reader, _) = Spool::open(config(dir)).unwrap();
    for position in 1..=batches {
        writer.append(&entry(position, 20)).unwrap();
    }
    assert_eq!(read_all(&mut reader).len() as u64, batches);
    reader.acknowledge(confirmed).unwrap();
    let instance = reader.instance().to_owned();
    drop((writer, reader));
    become_of_format(dir, version);
    instance
}

fn dropped(writer: &SpoolWriter) -> u64 {
    writer.stats().batches_dropped.load(Ordering::Relaxed)
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(dir)
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn a_spool_of_another_version_is_set_aside_and_what_was_not_delivered_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let old = other(dir.path(), 1, 7, 3);
    let segments = segment::list(dir.path()).unwrap().len();
    assert!(segments > 1, "the test needs several");

    let (mut writer, mut reader, recovered) = Spool::open(config(dir.path())).unwrap();
    assert_eq!(dropped(&writer), 4);
    assert_eq!(recovered, Recovered::default());
    assert_ne!(reader.instance(), old, "the numbers begin anew");
    writer.append(&entry(1, 1)).unwrap();
    assert_eq!(sequences(&mut reader), [1]);
    drop((writer, reader));

    // Whole, so that the version that wrote it can take it up again.
    let aside = dir.path().join("format-1");
    assert_eq!(segment::list(&aside).unwrap().len(), segments);
    let kept = std::fs::read_to_string(aside.join("instance")).unwrap();
    assert!(kept.contains(&old) && aside.join("acknowledged").exists());

    // The loss is told once.
    let (writer, _reader, _) = Spool::open(config(dir.path())).unwrap();
    assert_eq!(dropped(&writer), 0);
}

#[test]
fn upgrades_back_and_forth_keep_one_spool_of_a_version() {
    let dir = tempfile::tempdir().unwrap();
    other(dir.path(), 1, 20, 0);
    drop(Spool::open(config(dir.path())).unwrap());
    let first = names(&dir.path().join("format-1")).len();
    let second = other(dir.path(), 1, 2, 0);
    drop(Spool::open(config(dir.path())).unwrap());
    let aside = dir.path().join("format-1");
    assert!(names(&aside).len() < first, "{:?}", names(&aside));
    let kept = std::fs::read_to_string(aside.join("instance")).unwrap();
    assert!(kept.contains(&second));
    other(dir.path(), 4, 2, 0);
    drop(Spool::open(config(dir.path())).unwrap());
    assert!(aside.join("instance").exists() && dir.path().join("format-4/instance").exists());
}

#[test]
fn a_crash_while_a_spool_is_set_aside_loses_no_file_of_it() {
    let dir = tempfile::tempdir().unwrap();
    other(dir.path(), 1, 7, 0);
    let all = segment::list(dir.path()).unwrap();
    // As far as an earlier start came: one segment is there already.
    let aside = dir.path().join("format-1");
    std::fs::create_dir(&aside).unwrap();
    let (_, first) = &all[0];
    std::fs::rename(first, aside.join(first.file_name().unwrap())).unwrap();
    drop(Spool::open(config(dir.path())).unwrap());
    assert_eq!(segment::list(&aside).unwrap().len(), all.len());
    assert!(aside.join("instance").exists());
}

#[test]
fn segments_of_another_version_under_an_identity_of_ours_are_set_aside_too() {
    let dir = tempfile::tempdir().unwrap();
    other(dir.path(), 9, 3, 0);
    std::fs::remove_file(dir.path().join("instance")).unwrap();
    let (writer, _reader, _) = Spool::open(config(dir.path())).unwrap();
    assert_eq!(dropped(&writer), 3);
    assert_eq!(
        names(dir.path()),
        ["format-9", "instance", "lock"],
        "nothing of it is left"
    );
}
