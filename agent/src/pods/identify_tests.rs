#![allow(clippy::unwrap_used)]

use polproof_policy::NamespacedName;

use super::*;

const UID: &str = "0f3b9c1e-6c1d-4d3b-9a53-3f3c7f0f9a11";
const OTHER: &str = "1f3b9c1e-6c1d-4d3b-9a53-3f3c7f0f9a22";

#[test]
fn cgroup_lines() {
    let under = UID.replace('-', "_");
    let found = [
        // v1, cgroupfs
        format!("4:memory:/kubepods/burstable/pod{UID}/0123abcd"),
        // v1, Guaranteed
        format!("12:cpu,cpuacct:/kubepods/pod{UID}/0123abcd"),
        // v2, systemd, containerd
        format!(
            "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{under}.slice/cri-containerd-0123.scope"
        ),
        // v2, systemd, CRI-O
        format!("0::/kubepods.slice/kubepods-pod{under}.slice/crio-0123.scope"),
        // seen from inside a cgroup namespace
        format!("0::/../../kubepods-besteffort-pod{under}.slice/cri-containerd-0123.scope"),
        // nested: a node in a container
        format!("0::/docker/0123abcd/kubelet/kubepods/besteffort/pod{UID}/0123"),
        format!(
            "0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod{under}.slice/cri-containerd-0123.scope"
        ),
        // a node in a pod: the inner one is ours
        format!("0::/kubepods/pod{OTHER}/0123/kubelet/kubepods/pod{UID}/0123"),
        // the pod's own cgroup
        format!("0::/kubepods/pod{UID}"),
    ];
    for line in found {
        assert_eq!(pod_of_line(&line), Some(Uid(UID.into())), "{line}");
    }
    assert_eq!(
        pod_of_line("0::/kubepods/pod0123456789abcdef0123456789abcdef/x"),
        Some(Uid("0123456789abcdef0123456789abcdef".into()))
    );
    for line in [
        "",
        "0::/",
        "0::",
        "no colons at all",
        "0::/user.slice/user-0.slice",
        "0::/kubepods.slice",
        "0::/machine.slice/libpod-0123456789abcdef0123456789abcdef.scope",
        "0::/podman-0123.scope",
        "0::/kubepods/pod",
        "0::/kubepods/pod0f3b9c1e-6c1d-4d3b-9a53",
        "0::/kubepods/podzzzzzzzz-6c1d-4d3b-9a53-3f3c7f0f9a11",
        "0::/kubepods/xpod0f3b9c1e-6c1d-4d3b-9a53-3f3c7f0f9a11",
    ] {
        assert_eq!(pod_of_line(line), None, "{line}");
    }
}

#[test]
fn namespace_links() {
    assert_eq!(inode_of_link("net:[4026531840]"), Some(4_026_531_840));
    for wrong in ["", "net:[]", "mnt:[4026531840]", "net:[1", "net:[-1]"] {
        assert_eq!(inode_of_link(wrong), None);
    }
}

fn pod(uid: &str, ips: &[&str]) -> Pod {
    Pod {
        id: NamespacedName::new("shop", uid.get(..2).unwrap()),
        uid: Uid(uid.into()),
        labels: Default::default(),
        ips: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
        node: Some("node-a".into()),
        host_network: false,
        finished: false,
        ports: Vec::new(),
        owner: None,
        annotations: Default::default(),
    }
}

fn node(pods: Vec<Pod>) -> NodePods {
    let pods: Vec<_> = pods.into_iter().map(Arc::new).collect();
    NodePods::new("node-a", pods.iter())
}

fn ask(pods: &NodePods, cgroup: &[&str], addresses: &[&str]) -> Identity {
    let cgroup = cgroup.iter().map(|uid| Uid((*uid).into())).collect();
    let addresses: Vec<_> = addresses.iter().map(|ip| ip.parse().unwrap()).collect();
    identify(pods, &cgroup, &addresses, |_| false)
}

fn is(uid: &str) -> Identity {
    Identity::Pod(Uid(uid.into()))
}

#[test]
fn witnesses_that_agree_or_stand_alone() {
    let pods = node(vec![pod(UID, &["10.0.0.1", "fd00::1"]), pod(OTHER, &[])]);
    assert_eq!(ask(&pods, &[UID], &["10.0.0.1"]), is(UID));
    assert_eq!(ask(&pods, &[UID], &[]), is(UID));
    assert_eq!(ask(&pods, &[], &["10.0.0.1", "fd00::1"]), is(UID));
    // Its status has no address yet.
    assert_eq!(ask(&pods, &[OTHER], &["10.0.0.9"]), is(OTHER));
}

#[test]
fn witnesses_that_contradict() {
    let mut host = pod("3f3b9c1e-6c1d-4d3b-9a53-3f3c7f0f9a44", &["10.0.0.4"]);
    host.host_network = true;
    let host_uid = host.uid.0.to_string();
    let pods = node(vec![
        pod(UID, &["10.0.0.1"]),
        pod(OTHER, &["10.0.0.2"]),
        host,
    ]);
    for (cgroup, addresses) in [
        (vec![UID, OTHER], vec!["10.0.0.1"]),
        (vec![UID], vec!["10.0.0.2"]),
        (vec![UID], vec!["192.0.2.1"]),
        (vec![host_uid.as_str()], vec![]),
        (vec![], vec!["10.0.0.1", "10.0.0.2"]),
    ] {
        assert!(
            matches!(ask(&pods, &cgroup, &addresses), Identity::Contradicted(_)),
            "{cgroup:?} {addresses:?}"
        );
    }
}

#[test]
fn witnesses_that_say_nothing_sound() {
    let mut finished = pod(OTHER, &["10.0.0.2"]);
    finished.finished = true;
    let mut away = pod("2f3b9c1e-6c1d-4d3b-9a53-3f3c7f0f9a33", &["10.0.0.3"]);
    away.node = Some("node-b".into());
    let away_uid = away.uid.0.to_string();
    let pods = node(vec![pod(UID, &["10.0.0.1"]), finished, away]);
    // A pod that the view does not have yet, at an address that its predecessor still has there.
    let newer = "4f3b9c1e-6c1d-4d3b-9a53-3f3c7f0f9a55";
    for (cgroup, addresses) in [
        (vec![newer], vec!["10.0.0.1"]),
        (vec![], vec![]),
        (vec![], vec!["10.0.0.9"]),
        (vec![], vec!["10.0.0.2"]),
        (vec![OTHER], vec!["10.0.0.2"]),
        (vec![away_uid.as_str()], vec!["10.0.0.3"]),
        (vec![], vec!["10.0.0.3"]),
    ] {
        assert!(
            matches!(ask(&pods, &cgroup, &addresses), Identity::Unknown(_)),
            "{cgroup:?} {addresses:?}"
        );
    }
    let address = ["10.0.0.1".parse().unwrap()];
    assert!(matches!(
        identify(&pods, &BTreeSet::new(), &address, |_| true),
        Identity::Unknown(_)
    ));
}

#[test]
fn proc_of_this_very_process() {
    let own = std::fs::read_link("/proc/self/ns/net").unwrap();
    let own = inode_of_link(own.to_str().unwrap()).unwrap();
    // No pod here, but the walk goes through every process of the machine.
    let found = by_cgroup(Path::new("/proc"), &HashSet::from([own]));
    assert!(found.contains_key(&own));
    assert!(by_cgroup(Path::new("/no/such/proc"), &HashSet::from([own])).is_empty());
}
