//! What the kernels of nodes lack, as people and programs read it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod polproof;
#[path = "../../collector/tests/support/mod.rs"]
mod support;

use std::time::Instant;

use polproof::{run, text};
use polproof_proto::v1;
use polproof_proto::v1::stream_request::Message;
use serde_json::Value;
use support::{Agent, Collector, DEADLINE, Pki, folder};

/// An agent's heartbeat; `None`: of one from before kernels were told of.
fn beat(lacks: Option<Vec<v1::KernelLack>>) -> Message {
    Message::Heartbeat(v1::Heartbeat {
        coverage: Some(v1::Coverage::default()),
        kernel: lacks.map(|lacks| v1::Kernel { lacks }),
        ..v1::Heartbeat::default()
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_kernel_lacks_is_said_and_silence_is_not_nothing() {
    let (dir, database) = folder();
    let (dir, pki) = (dir.path(), Pki::new());
    let collector = Collector::start(dir, &pki, &database, &[]);
    pki.write(dir, "person", &["polproof-reader"]);
    let tcx = v1::KernelLack {
        name: "tcx".to_owned(),
        what: "no tcx hooks".to_owned(),
        consequence: "others can remove the programs".to_owned(),
        remedy: "run Linux 6.6 or later".to_owned(),
    };
    let mut agents = Vec::new();
    for (node, lacks) in [
        ("n-new", Some(Vec::new())),
        ("n-old-agent", None),
        ("n-old-kernel", Some(vec![tcx])),
    ] {
        let agent = Agent::connect(&collector, &pki, node, node).await.unwrap();
        agent.send(beat(lacks)).await;
        agents.push(agent);
    }

    let began = Instant::now();
    let value = loop {
        let json = run(dir, &collector.address, &["status", "-o", "json"]);
        let value: Value = serde_json::from_slice(&json.stdout).unwrap();
        let lacks = |node: usize| &value["nodes"][node]["kernel_lacks"];
        if lacks(0).is_array() && lacks(2).is_array() && value["nodes"][1]["connected"] == true {
            break value;
        }
        assert!(began.elapsed() < DEADLINE, "{value}");
    };
    assert_eq!(value["nodes"][0]["kernel_lacks"], serde_json::json!([]));
    assert_eq!(value["nodes"][1]["kernel_lacks"], Value::Null);
    assert_eq!(
        value["nodes"][2]["kernel_lacks"],
        serde_json::json!([{
            "name": "tcx",
            "what": "no tcx hooks",
            "consequence": "others can remove the programs",
            "remedy": "run Linux 6.6 or later",
        }])
    );
    let yaml = run(dir, &collector.address, &["status", "-o", "yaml"]);
    let same: Value = serde_saphyr::from_str(&text(&yaml.stdout)).unwrap();
    for node in 0..3 {
        assert_eq!(
            same["nodes"][node]["kernel_lacks"],
            value["nodes"][node]["kernel_lacks"]
        );
    }

    let shown = text(&run(dir, &collector.address, &["status"]).stdout);
    for said in [
        "node n-old-kernel: its kernel 6.1 has no tcx hooks: others can remove the programs. To do: run Linux 6.6 or later",
        "node n-old-agent: what its kernel lacks is not told",
    ] {
        assert!(shown.contains(said), "{said}: {shown}");
    }
    assert!(!shown.contains("node n-new: its kernel"), "{shown}");
    assert!(!shown.contains("node n-new: what its kernel"), "{shown}");
}
