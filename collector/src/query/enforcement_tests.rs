use super::super::status::node_status;
use super::*;
use crate::store::KindCount;

const NOW: Wall = Wall(1_800_000_000 * Wall::SECOND);
const WINDOW: Duration = Duration::from_secs(60);

fn ago(s: u64) -> Wall {
    NOW.minus(Duration::from_secs(s))
}

#[test]
fn silence_is_never_called_enforced_and_a_violation_always_counts() {
    use v1::EnforcementState::{Enforced, NotEnforced, Partial, Unproven};
    // Last violation (s ago), unanswered, stopped since, stopped recently, standing.
    for (last, unanswered, since, recent, standing, state, said) in [
        (
            None,
            0,
            0,
            0,
            0,
            Unproven,
            "no denied attempt left its pods",
        ),
        (None, 9, 0, 0, 0, Unproven, "9 denied attempts left"),
        (
            Some(5),
            0,
            0,
            0,
            1,
            NotEnforced,
            "3 denied connections were delivered in the last 60 s",
        ),
        (Some(60), 9, 0, 0, 1, NotEnforced, "delivered"),
        // That it has ended since does not make it old.
        (Some(5), 9, 0, 0, 0, NotEnforced, "delivered"),
        (
            Some(5),
            9,
            7,
            7,
            1,
            Partial,
            "in the last 60 s, and 7 proved stopped at the same time",
        ),
        (
            Some(61),
            9,
            0,
            0,
            1,
            Unproven,
            "the last violation, 61 s ago",
        ),
        (
            Some(600),
            0,
            0,
            0,
            0,
            Unproven,
            "since the last violation, 10 min ago",
        ),
        (
            Some(600),
            50,
            42,
            0,
            0,
            Enforced,
            "every denied connection that was tried and could be judged was stopped: 42 proved by both ends since the last violation, \
             10 min ago",
        ),
        (
            Some(600),
            50,
            42,
            9,
            1,
            Partial,
            "but 1 finding of before stands: it was not seen stopped since",
        ),
        (
            Some(200_000),
            50,
            42,
            9,
            2,
            Partial,
            "42 proved by both ends in the last 24 h, and none was seen delivered to its pods; but 2 findings of before stand",
        ),
        (
            None,
            1,
            1,
            1,
            0,
            Enforced,
            "1 proved by both ends since the agent was first heard of",
        ),
    ] {
        let node = Node {
            first_heard: ago(1_000),
            last_violation: last.map(ago),
            unanswered_since: unanswered,
            violations_recent: 3,
            stopped_since: since,
            stopped_recent: recent,
            violations_standing: standing,
            ..Node::default()
        };
        let (got, reason) = enforcement(&node, NOW, WINDOW);
        assert_eq!(got, state, "{reason}");
        assert!(reason.contains(said), "{said}: {reason}");
    }
}

#[test]
fn other_kinds_are_said_and_disprove_nothing() {
    let kind = |kind: Kind, seconds| KindCount {
        kind: i32::try_from(kind.number()).unwrap_or(0),
        findings: 2,
        attempts: 5,
        standing: 2,
        last: ago(seconds),
    };
    let node = Node {
        first_heard: ago(1_000),
        stopped_since: 3,
        kinds: vec![
            kind(Kind::LateEnforcement, 10),
            kind(Kind::StartupGap, 90_000),
            kind(Kind::Survivor, 20),
            kind(Kind::OverBlocked, 30),
        ],
        ..Node::default()
    };
    let (state, reason) = enforcement(&node, NOW, WINDOW);
    assert_eq!(state, v1::EnforcementState::Enforced);
    assert!(
        reason.ends_with(
            "; connections of other kinds in the last 24 h: 2 enforced late, 2 survived a change of policy, 2 blocked though allowed"
        ),
        "{reason}"
    );
}

#[test]
fn the_cluster_is_more_than_its_nodes() {
    use v1::EnforcementState::{Enforced, NotEnforced, Partial, Unproven};
    let tried = |unanswered, stopped| Tried {
        unanswered,
        stopped,
    };
    // The client's node n1 saw attempts leave, the server's node n2 saw violations. Last violation of n2, attempts
    // that did not get through, violations of n2 in the window, standing ones, whether connected; what is said.
    for (last, tried, recent, standing, connected, state, said) in [
        (
            Some(300),
            tried(42, 0),
            0,
            0,
            true,
            Unproven,
            "42 denied attempts left pods since the last violation anywhere (5 min ago, node n2), and none was",
        ),
        (
            Some(300),
            tried(0, 0),
            0,
            1,
            true,
            Unproven,
            "no denied attempt left a pod since",
        ),
        (
            Some(200_000),
            tried(1, 0),
            0,
            0,
            true,
            Unproven,
            "1 denied attempt left pods in the last 24 h",
        ),
        (
            None,
            tried(1, 0),
            0,
            0,
            true,
            Unproven,
            "since the first agent was heard of (16 min ago)",
        ),
        (
            None,
            tried(1, 0),
            0,
            0,
            false,
            Unproven,
            "2 of 2 agents away",
        ),
        (
            Some(300),
            tried(50, 42),
            0,
            0,
            true,
            Enforced,
            "42 proved by both ends since the last violation anywhere (5 min ago, node n2)",
        ),
        (
            Some(300),
            tried(50, 42),
            0,
            3,
            true,
            Partial,
            "but 3 findings of before stand",
        ),
        (
            None,
            tried(50, 42),
            0,
            0,
            false,
            Enforced,
            "2 of 2 agents away, and nothing is seen there",
        ),
        (
            Some(5),
            tried(9, 0),
            3,
            1,
            true,
            NotEnforced,
            "3 denied connections were delivered in the last 60 s on 1 of 2 nodes",
        ),
        (
            Some(5),
            tried(9, 4),
            3,
            1,
            true,
            Partial,
            "on 1 of 2 nodes, and 8 proved stopped at the same time",
        ),
    ] {
        let stopped = tried.stopped;
        let stored: Vec<Node> = ["n1", "n2"]
            .into_iter()
            .map(|name| Node {
                node: name.to_owned(),
                first_heard: ago(1_000),
                last_violation: last.filter(|_| name == "n2").map(ago),
                violations_recent: if name == "n2" { recent } else { 0 },
                violations_standing: if name == "n2" { standing } else { 0 },
                stopped_recent: if name == "n1" { stopped * 2 } else { 0 },
                ..Node::default()
            })
            .collect();
        let sight = Sight::of(&stored, NOW);
        assert!(sight.counted_since >= NOW.minus(ACTIVITY_KEPT));
        let nodes: Vec<_> = stored
            .into_iter()
            .map(|node| v1::NodeStatus {
                connected,
                ..node_status(node, None, NOW, WINDOW)
            })
            .collect();
        let overall = overall(&nodes, &sight, tried, NOW, WINDOW);
        assert!(overall.reason.contains(said), "{said}: {}", overall.reason);
        assert_eq!(overall.enforcement(), state, "{}", overall.reason);
    }
}
