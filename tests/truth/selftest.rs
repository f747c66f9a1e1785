//! The table's own arithmetic: that it would notice what it is there to notice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use libtest_mimic::Trial;
use polproof_policy::{Family, Protocol};
use polproof_proto::v1::{FindingKind, InconclusiveReason};
use polproof_tests::lab::tap::What;

use crate::cell::{self, Cell, Path, Said, State};
use crate::expected::expected;
use crate::facts::Fact;
use crate::findings::Found;
use crate::stage::Stage;
use crate::verdict::{Row, Verdict, complaints, verdict};

pub(crate) fn trials() -> Vec<Trial> {
    let trial = |name: &str, run: fn() -> Result<()>| {
        Trial::test(format!("the table: {name}"), move || {
            run().map_err(|error| format!("{error:#}").into())
        })
    };
    vec![
        trial("no two cells share their ends", distinct),
        trial("what is said is held against what happened", judged),
        trial("what may have another cause accuses nobody", left_open),
        trial("a miss needs an excuse that was counted", excused),
    ]
}

fn distinct() -> Result<()> {
    let (cells, _) = cell::all();
    ensure!(cells.len() > 400, "only {} cells", cells.len());
    let mut ends = BTreeSet::new();
    for cell in &cells {
        let end = (cell.source(), cell.protocol, cell.family, cell.port());
        ensure!(ends.insert(end), "{cell} shares its ends with another");
    }
    for cell in &cells {
        let asked = (cell.source(), cell.protocol, cell.family, cell.asked_port());
        ensure!(
            cell.asked_port() == cell.port() || ends.insert(asked),
            "{cell} asks for what another has"
        );
    }
    Ok(())
}

const POD: &str = "t/plain-2";

fn cell(said: Said) -> Cell {
    Cell {
        path: Path::Across,
        state: State::Open,
        said,
        protocol: Protocol::Tcp,
        family: Family::V4,
    }
}

fn fact(arrived: bool, answer: Option<What>, back: Option<What>) -> Fact {
    let source = IpAddr::V4(Ipv4Addr::LOCALHOST);
    Fact {
        arrived: arrived.then(|| (POD.to_owned(), source)),
        answer,
        back,
    }
}

fn found(kinds: &[FindingKind]) -> Found {
    kinds.iter().map(|kind| (*kind, POD.to_owned())).collect()
}

fn judged() -> Result<()> {
    use FindingKind::{OverBlocked, ReplyLost, Unenforced};
    let accepted = Some(What::Accepted);
    let through = fact(true, accepted, accepted);
    let cut = fact(true, accepted, None);
    let dropped = fact(false, None, None);
    let unanswered = fact(true, None, None);
    let allowed = cell(Said::Allowed);
    let denied = cell(Said::DeniedIngress);
    let firewall = Cell {
        state: State::Firewall,
        ..denied
    };
    let hairpin = Cell {
        path: Path::Hairpin,
        ..cell(Said::DeniedBoth)
    };
    let masked = Cell {
        path: Path::NodePort,
        ..allowed
    };
    let wrong = |kinds: &[FindingKind]| Verdict::False(found(kinds));
    let missed = |kind| Verdict::Missed(kind, Vec::new());
    for (cell, fact, kinds, wanted) in [
        (
            denied,
            &through,
            &[Unenforced][..],
            Verdict::Found(Unenforced),
        ),
        (denied, &through, &[], missed(Unenforced)),
        (denied, &unanswered, &[], missed(Unenforced)),
        (denied, &dropped, &[Unenforced], wrong(&[Unenforced])),
        (denied, &dropped, &[OverBlocked], wrong(&[OverBlocked])),
        (denied, &dropped, &[], Verdict::Silent),
        (allowed, &through, &[], Verdict::Silent),
        (allowed, &through, &[Unenforced], wrong(&[Unenforced])),
        (allowed, &unanswered, &[OverBlocked], wrong(&[OverBlocked])),
        (
            allowed,
            &dropped,
            &[OverBlocked],
            Verdict::Found(OverBlocked),
        ),
        (allowed, &dropped, &[], missed(OverBlocked)),
        (allowed, &cut, &[ReplyLost], Verdict::Found(ReplyLost)),
        (allowed, &cut, &[OverBlocked], wrong(&[OverBlocked])),
        (firewall, &unanswered, &[Unenforced], wrong(&[Unenforced])),
        (hairpin, &through, &[Unenforced], wrong(&[Unenforced])),
        (masked, &dropped, &[OverBlocked], wrong(&[OverBlocked])),
    ] {
        let facts = vec![fact.clone(); 3];
        let expected = expected(cell, Stage::Settled, &facts, true);
        let verdict = verdict(&expected, &facts, &found(kinds));
        ensure!(
            verdict == wanted,
            "{cell}, {facts:?}, {kinds:?}: {verdict:?}, not {wanted:?}"
        );
    }
    let elsewhere = Found::from([(Unenforced, "t/plain-1".to_owned())]);
    let facts = [through];
    let expected = expected(denied, Stage::Settled, &facts, true);
    ensure!(
        matches!(verdict(&expected, &facts, &elsewhere), Verdict::False(_)),
        "a finding names a pod that was not reached"
    );
    Ok(())
}

fn excused() -> Result<()> {
    let row = |excuses: &[InconclusiveReason]| Row {
        enforcer: "x".to_owned(),
        label: None,
        topology: "x",
        cell: cell(Said::Allowed),
        said: Said::Allowed,
        facts: Vec::new(),
        way_open: true,
        found: Found::new(),
        verdict: Verdict::Missed(FindingKind::OverBlocked, excuses.to_vec()),
    };
    let rows = [
        row(&[InconclusiveReason::NoControl]),
        row(&[InconclusiveReason::NoControl]),
    ];
    let counted = |count| BTreeMap::from([(InconclusiveReason::NoControl, count)]);
    ensure!(complaints(&rows, &counted(2)).is_empty());
    ensure!(complaints(&rows, &counted(1)).len() == 1);
    ensure!(complaints(&rows, &BTreeMap::new()).len() == 1);
    ensure!(complaints(&[row(&[])], &counted(2)).len() == 1);
    let open = Row {
        verdict: Verdict::Open(vec![InconclusiveReason::NoControl]),
        ..row(&[])
    };
    ensure!(complaints(std::slice::from_ref(&open), &counted(1)).is_empty());
    ensure!(complaints(&[open], &BTreeMap::new()).len() == 1);
    Ok(())
}

fn left_open() -> Result<()> {
    let dropped = vec![fact(false, None, None); 3];
    let allowed = cell(Said::Allowed);
    let stage = Stage::Blocks;
    let given = expected(allowed, stage, &dropped, true);
    ensure!(
        matches!(verdict(&given, &dropped, &Found::new()), Verdict::Open(reasons) if reasons == [InconclusiveReason::ExpectationUnknown])
    );
    let accused = found(&[FindingKind::OverBlocked]);
    ensure!(verdict(&given, &dropped, &accused) == Verdict::False(accused.clone()));
    // Nor is anybody accused where nothing at all got through.
    let given = expected(allowed, Stage::Settled, &dropped, false);
    ensure!(verdict(&given, &dropped, &accused) == Verdict::False(accused));
    // What no block holds is denied by every reading of the API.
    let through = vec![fact(true, Some(What::Accepted), Some(What::Accepted)); 3];
    let given = expected(cell(Said::DeniedIngress), stage, &through, true);
    ensure!(given.right == Some(FindingKind::Unenforced) && given.excuses.is_empty());
    Ok(())
}
