//! The board by itself, with its own time: what a real stream cannot be made to do on purpose.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeMap;

use polproof_flow::witness::{Seen, Side};
use polproof_policy::Protocol;
use polproof_proto::v1;
use polproof_proto::v1::testimony::Word as Wire;

use super::board::{ASKED_OF_ONE, EVERYBODY, OPEN, OPEN_OF_ONE, TIMEOUT};
use super::*;

const NOON: i64 = 1_700_000_000 * Wall::SECOND;

fn question() -> Question {
    Question {
        side: Side::Destination,
        protocol: Protocol::Tcp,
        tag: 7,
        client: "10.0.0.1:40000".parse().unwrap(),
        server: "10.0.0.2:80".parse().unwrap(),
        pod: String::new(),
        asker: String::new(),
        first: Wall(NOON),
        last: Wall(NOON + Wall::SECOND),
    }
}

fn seen() -> Word {
    Word::Seen(Sighting {
        pod: Some(("shop".to_owned(), "db".to_owned(), "u".to_owned())),
        client: "10.0.0.1:40000".parse().unwrap(),
        server: "10.0.0.2:80".parse().unwrap(),
        first: Wall(NOON),
        outcome: Seen::Accepted,
    })
}

struct Bench {
    board: Board,
    figures: Arc<Figures>,
    now: Instant,
    down: BTreeMap<u64, mpsc::Receiver<Down>>,
    nodes: Nodes,
}

impl Bench {
    /// Agents 1 to `count`, on nodes n1, n2, ...; all clocks agree.
    fn new(count: u64) -> Self {
        let figures = Arc::new(Figures::default());
        let mut bench = Self {
            board: Board::new(figures.clone()),
            figures,
            now: Instant::now(),
            down: BTreeMap::new(),
            nodes: Some(Arc::new(
                (1..=count).map(|n| Arc::from(format!("n{n}"))).collect(),
            )),
        };
        for stream in 1..=count {
            bench.open(stream, stream);
            bench.beat(stream, 0);
        }
        bench.pass(Duration::ZERO);
        bench
    }

    fn open(&mut self, stream: u64, node: u64) {
        let (down, receiver) = mpsc::channel(DOWN);
        self.board
            .opened(stream, &format!("n{node}"), down, self.now);
        self.down.insert(stream, receiver);
    }

    /// What an agent's clock says, in seconds ahead of ours.
    fn beat(&mut self, stream: u64, ahead: i64) {
        for _ in 0..2 {
            let sent = Wall(NOON + ahead * Wall::SECOND);
            self.board.heartbeat(stream, sent, Wall(NOON));
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.board.expire(self.nodes.clone(), self.now);
    }

    fn inquire(&mut self, stream: u64, id: u64, node: &str) {
        self.board.inquire(stream, id, node, question(), self.now);
    }

    /// The questions that an agent got, and the answers.
    fn read(&mut self, stream: u64) -> (Vec<v1::Question>, Vec<v1::Testimony>) {
        let (mut questions, mut answers) = (Vec::new(), Vec::new());
        let receiver = self.down.get_mut(&stream).unwrap();
        while let Ok(message) = receiver.try_recv() {
            match message {
                Down::Question(question) => questions.push(question),
                Down::Testimony(testimony) => answers.push(testimony),
                other => panic!("{other:?}"),
            }
        }
        (questions, answers)
    }

    fn testify(&mut self, stream: u64, id: u64, word: Word) {
        self.board.testify(stream, id, Some(word), self.now);
    }

    /// What an agent was told, by number.
    fn told(&mut self, stream: u64) -> Vec<(u64, &'static str)> {
        let (_, answers) = self.read(stream);
        answers
            .into_iter()
            .map(|answer| {
                let word = crate::convert::word(answer.word).unwrap();
                (answer.id, word.name())
            })
            .collect()
    }

    fn figure(&self, line: &str) -> bool {
        let mut registry = prometheus_client::registry::Registry::default();
        self.figures.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text.lines().any(|l| l == line)
    }
}

#[test]
fn times_are_translated_there_and_back() {
    let mut bench = Bench::new(2);
    // n1 is 100 s ahead of us, n2 50 s behind.
    bench.open(11, 1);
    bench.open(12, 2);
    bench.beat(11, 100);
    bench.beat(12, -50);
    bench.inquire(11, 5, "n2");
    let (questions, _) = bench.read(12);
    let first = crate::convert::moment("first", questions[0].first).unwrap();
    assert_eq!(first, Wall(NOON - 150 * Wall::SECOND));
    let Word::Seen(mut seen) = seen() else {
        panic!()
    };
    seen.first = first;
    bench.testify(12, questions[0].id, Word::Seen(seen));
    let (_, answers) = bench.read(11);
    assert_eq!(answers[0].id, 5);
    let Some(Wire::Seen(seen)) = &answers[0].word else {
        panic!("{answers:?}")
    };
    assert_eq!(
        crate::convert::moment("first", seen.first).unwrap(),
        Wall(NOON)
    );
}

#[test]
fn who_has_not_said_what_time_it_is_neither_asks_nor_answers() {
    let mut bench = Bench::new(2);
    bench.open(12, 2);
    bench.inquire(1, 1, "n2");
    assert_eq!(bench.told(1), [(1, "no_agent")]);
    bench.inquire(12, 1, "n1");
    assert_eq!(bench.told(12), [(1, "no_agent")]);
    bench.inquire(1, 2, "nowhere");
    assert_eq!(bench.told(1), [(2, "no_agent")]);
}

#[test]
fn only_the_one_who_was_asked_is_believed_and_only_once_and_in_time() {
    let mut bench = Bench::new(3);
    bench.inquire(1, 9, "n2");
    let id = bench.read(2).0[0].id;
    // Of another agent, and of numbers that were never given out.
    bench.testify(3, id, seen());
    bench.testify(2, id + 1_000, seen());
    bench.testify(2, 0, seen());
    assert_eq!(bench.told(1), []);
    bench.testify(2, id, Word::NotSeen(None));
    assert_eq!(bench.told(1), [(9, "not_seen")]);
    bench.testify(2, id, seen());
    // And too late.
    bench.inquire(1, 10, "n2");
    let id = bench.read(2).0[0].id;
    bench.pass(TIMEOUT);
    assert_eq!(bench.told(1), [(10, "timed_out")]);
    bench.testify(2, id, seen());
    assert_eq!(bench.told(1), []);
    assert!(bench.figure("witness_ignored_total{why=\"forged\"} 3"));
    assert!(bench.figure("witness_ignored_total{why=\"late\"} 2"));
    // What cannot be read is no word.
    bench.inquire(1, 11, "n2");
    let id = bench.read(2).0[0].id;
    bench.board.testify(2, id, None, bench.now);
    assert_eq!(bench.told(1), [(11, "timed_out")]);
}

#[test]
fn everybody_must_have_said_so_before_nobody_has_seen_it() {
    let control = Control {
        at: Wall(NOON),
        client: "10.0.0.3:1".parse().unwrap(),
        server: "10.0.0.2:80".parse().unwrap(),
    };
    let ids = |bench: &mut Bench| -> Vec<(u64, u64)> {
        (2..=4)
            .map(|agent| (agent, bench.read(agent).0[0].id))
            .collect()
    };
    let mut bench = Bench::new(4);
    // All say no.
    bench.inquire(1, 1, "");
    let asked = ids(&mut bench);
    for (agent, id) in &asked[..2] {
        bench.testify(*agent, *id, Word::NotSeen(Some(control)));
    }
    assert_eq!(bench.told(1), []);
    bench.testify(asked[2].0, asked[2].1, Word::NotSeen(None));
    let (_, answers) = bench.read(1);
    let Some(Wire::NotSeen(absence)) = &answers[0].word else {
        panic!("{answers:?}")
    };
    assert!(absence.control.is_some());
    // The first who has seen it decides; what the others say then is no news.
    bench.inquire(1, 2, "");
    let asked = ids(&mut bench);
    bench.testify(2, asked[0].1, Word::NotSeen(None));
    bench.testify(3, asked[1].1, seen());
    assert_eq!(bench.told(1), [(2, "seen")]);
    bench.testify(4, asked[2].1, seen());
    assert_eq!(bench.told(1), []);
    assert!(bench.figure("witness_ignored_total{why=\"superfluous\"} 1"));
    // One cannot tell; another has seen it all the same.
    for (last, told) in [(Word::NotSeen(None), "hook_shared"), (seen(), "seen")] {
        bench.inquire(1, 3, "");
        let asked = ids(&mut bench);
        bench.testify(2, asked[0].1, Word::NotSeen(None));
        bench.testify(3, asked[1].1, Word::Incomplete(Gap::HookShared));
        bench.testify(4, asked[2].1, last);
        assert_eq!(bench.told(1), [(3, told)]);
    }
    // One is silent.
    bench.inquire(1, 4, "");
    let asked = ids(&mut bench);
    for (agent, id) in &asked[..2] {
        bench.testify(*agent, *id, Word::NotSeen(None));
    }
    bench.pass(TIMEOUT);
    assert_eq!(bench.told(1), [(4, "timed_out")]);
    // One goes away, one was never there, and nobody knows who there is.
    bench.inquire(1, 5, "");
    let asked = ids(&mut bench);
    bench.board.closed(4, bench.now);
    bench.testify(2, asked[0].1, Word::NotSeen(None));
    bench.testify(3, asked[1].1, Word::NotSeen(None));
    assert_eq!(bench.told(1), [(5, "no_agent")]);
    for (number, nodes) in [(6, bench.nodes.clone()), (7, None)] {
        bench.nodes = nodes;
        bench.pass(Duration::from_secs(1));
        bench.inquire(1, number, "");
        for agent in 2..=3 {
            let id = bench.read(agent).0[0].id;
            bench.testify(agent, id, Word::NotSeen(None));
        }
        assert_eq!(bench.told(1), [(number, "no_agent")]);
    }
}

#[test]
fn a_noisy_asker_waits_for_the_quiet_ones() {
    let mut bench = Bench::new(12);
    // Agent 1 fills agent 12's hands and its line.
    for id in 0..OPEN_OF_ONE as u64 {
        bench.inquire(1, id, "n12");
    }
    bench.inquire(1, 99_999, "n12");
    assert_eq!(bench.told(1), [(99_999, "overloaded")]);
    for agent in 2..=11 {
        bench.inquire(agent, agent, "n12");
    }
    let (questions, _) = bench.read(12);
    assert_eq!(questions.len(), ASKED_OF_ONE, "no more at a time");
    // With every answer one of the waiting is asked: every quiet one within two turns of each other.
    for question in &questions[..20] {
        bench.testify(12, question.id, Word::NotSeen(None));
    }
    let (next, _) = bench.read(12);
    for question in next {
        bench.testify(12, question.id, Word::NotSeen(None));
    }
    for agent in 2..=11 {
        assert_eq!(bench.told(agent), [(agent, "not_seen")]);
    }
}

#[test]
fn what_was_never_asked_was_overload_and_what_was_is_a_time_out() {
    let mut bench = Bench::new(2);
    for id in 0..OPEN_OF_ONE as u64 {
        bench.inquire(1, id, "n2");
    }
    bench.pass(TIMEOUT);
    let told = bench.told(1);
    assert_eq!(told.len(), OPEN_OF_ONE);
    let of = |word| told.iter().filter(|(_, told)| *told == word).count();
    assert_eq!(of("timed_out"), ASKED_OF_ONE);
    assert_eq!(of("overloaded"), OPEN_OF_ONE - ASKED_OF_ONE);
    // The hands are free again.
    bench.read(2);
    bench.inquire(1, 1, "n2");
    assert_eq!(bench.read(2).0.len(), 1);
    assert!(bench.figure("witness_questions_open 0"));
}

#[test]
fn the_room_is_bounded_and_its_second_half_is_shared_equally() {
    let agents = 100;
    let mut bench = Bench::new(agents + 1);
    let silent = format!("n{}", agents + 1);
    // Half of the agents ask as much as they may.
    for agent in 1..=agents / 2 {
        for id in 0..OPEN_OF_ONE as u64 {
            bench.inquire(agent, id, &silent);
        }
    }
    // The room is not full: the others can ask.
    for agent in agents / 2 + 1..=agents {
        bench.inquire(agent, 1, &silent);
        assert_eq!(bench.told(agent), [], "agent {agent}");
    }
    // They may all go on asking; it stays within its bounds.
    for agent in 1..=agents {
        for id in 0..OPEN_OF_ONE as u64 {
            bench.inquire(agent, 10_000 + id, &silent);
        }
    }
    bench.pass(Duration::ZERO);
    let open = bench.figures.open.get();
    assert!(open <= OPEN as i64, "{open}");
    assert!(open > OPEN as i64 / 2, "{open}");
    assert_eq!(bench.figures.asked.get(), ASKED_OF_ONE as i64);
    bench.pass(TIMEOUT);
    assert_eq!(bench.figures.open.get(), 0);
}

#[test]
fn inquiries_of_everybody_take_turns_and_are_rated() {
    // A thousand agents: 32 places, 2 in a second, 4 at once.
    let mut bench = Bench::new(1_000);
    for id in 0..200 {
        bench.inquire(1, id, "");
    }
    bench.inquire(2, 1, "");
    assert!(bench.read(3).0.len() < 20, "only so many at once");
    // Turn by turn, though the first has asked two hundred times.
    let mut asked = Vec::new();
    for _ in 0..10 {
        bench.pass(Duration::from_millis(100));
        asked.extend(bench.read(3).0);
    }
    assert!((1..=3).contains(&asked.len()), "{}", asked.len());
    for agent in (1..=1_000).filter(|agent| *agent != 2) {
        for question in bench.read(agent).0 {
            bench.testify(agent, question.id, Word::NotSeen(None));
        }
    }
    for question in asked {
        bench.testify(3, question.id, Word::NotSeen(None));
    }
    assert_eq!(bench.told(2), [(1, "not_seen")]);
    // Nobody answers the others: no more than there are places are with the agents.
    for _ in 0..90 {
        bench.pass(Duration::from_millis(100));
    }
    assert!(bench.figures.asked.get() <= 1_000 * (EVERYBODY as i64 + 20));
    bench.pass(TIMEOUT);
    let told = bench.told(1);
    let of = |word| told.iter().filter(|(_, told)| *told == word).count();
    assert!(of("timed_out") > 10 && of("overloaded") > 100, "{told:?}");
    // A few agents bear more.
    let mut bench = Bench::new(5);
    for id in 0..900 {
        bench.inquire(1, id, "");
    }
    assert!(bench.read(3).0.len() > 500);
}

#[test]
fn who_goes_leaves_nothing_behind() {
    let mut bench = Bench::new(3);
    for id in 0..100 {
        bench.inquire(1, id, "n2");
        bench.inquire(2, id, "n3");
        bench.inquire(3, id, "n2");
    }
    for id in 100..150 {
        bench.inquire(2, id, "");
    }
    // A new stream of the node closes the old one.
    bench.open(22, 2);
    assert_eq!(
        bench
            .told(1)
            .iter()
            .filter(|(_, word)| *word == "no_agent")
            .count(),
        100
    );
    assert_eq!(
        bench
            .told(3)
            .iter()
            .filter(|(_, word)| *word == "no_agent")
            .count(),
        100
    );
    bench.pass(Duration::ZERO);
    assert_eq!(bench.figures.open.get(), 0);
    // What agent 3 was asked for the old stream it still has in hand, until it answers or the time is over.
    assert!(bench.figures.asked.get() > 0);
    assert_eq!(bench.told(22), []);
    bench.pass(TIMEOUT);
    assert_eq!(bench.figures.asked.get(), 0);
    // A stream that was replaced before it was opened does not take the place of the newer one.
    bench.open(21, 2);
    bench.beat(21, 0);
    bench.inquire(21, 1, "n1");
    assert_eq!(bench.told(21), []);
    // Whoever is closed twice, or talks after the end, is nobody.
    bench.board.closed(2, bench.now);
    bench.inquire(2, 1, "n1");
    bench.beat(22, 0);
    bench.inquire(22, 1, "n1");
    let id = bench.read(1).0[0].id;
    bench.testify(1, id, seen());
    assert_eq!(bench.told(22), [(1, "seen")]);
}
