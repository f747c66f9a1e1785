//! What is asked inside a pod's network namespace, in real ones: filters of every kind, and connections. Needs root; otherwise each
//! test is listed as ignored.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr
)]

mod namespace;

use std::collections::HashSet;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use namespace::{Namespace, has, wire};
use polproof_agent::inpod;
use polproof_agent::observe::now;
use polproof_agent::sockets::{self, Listing, MAX_SOCKETS};
use polproof_flow::netns::{InPod, OpenSocket};
use polproof_policy::Protocol;

type Test = (&'static str, fn());

const TESTS: [Test; 9] = [
    ("a_namespace_without_rules_is_plain", plain),
    ("a_hooked_chain_of_nftables_filters", nftables),
    ("chains_that_stop_nothing_do_not_filter", idle_chains),
    ("iptables_of_today_is_seen_as_nftables", iptables_nft),
    ("a_table_of_legacy_iptables_filters", iptables_legacy),
    ("connections_of_both_families_and_directions", connections),
    (
        "a_listener_that_went_is_remembered_or_nothing_is_said",
        gone_listener,
    ),
    ("a_connection_that_was_cut_is_not_heard_of", cut),
    ("more_connections_than_are_told_are_counted", many),
];

fn main() {
    let arguments = Arguments::from_args();
    let root = nix::unistd::geteuid().is_root();
    if !root && !arguments.list {
        eprintln!("inside: ignored, network namespaces need root");
    }
    let trials = TESTS
        .into_iter()
        .map(|(name, test)| {
            Trial::test(name, move || {
                test();
                Ok::<(), Failed>(())
            })
            .with_ignored_flag(!root)
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

fn filter(namespace: &Namespace) -> InPod {
    namespace.run(inpod::here)
}

#[track_caller]
fn assert_filtered(namespace: &Namespace, parts: &[&str]) {
    match filter(namespace) {
        InPod::Filtered(text) => {
            println!("{text}");
            for part in parts {
                assert!(text.contains(part), "{part:?} is not in {text:?}");
            }
        }
        InPod::Plain => panic!("nothing found, but {parts:?} was to be"),
    }
}

fn plain() {
    let namespace = Namespace::new();
    assert_eq!(filter(&namespace), InPod::Plain);
    // What is asked makes nothing: the second answer is that of the first.
    assert_eq!(filter(&namespace), InPod::Plain);
    let asked = Instant::now();
    for _ in 0..100 {
        namespace.run(inpod::here);
    }
    println!("asked in {:?}", asked.elapsed() / 100);
}

fn nftables() {
    let namespace = Namespace::new();
    for (table, chain, parts) in [
        (
            "inet filter",
            "input { type filter hook input priority 0 ; policy accept ; tcp dport 80 drop ; }",
            ["nftables: table inet filter", "chain input"],
        ),
        (
            "ip nat",
            "mesh { type nat hook prerouting priority -100 ; tcp dport 80 redirect to :15006 ; }",
            ["nftables: table ip nat", "chain mesh"],
        ),
        (
            "ip6 shut",
            "in { type filter hook input priority 0 ; policy drop ; }",
            ["nftables: table ip6 shut", "chain in"],
        ),
    ] {
        namespace.nft(&format!("table {table} {{ chain {chain} }}"));
        assert_filtered(&namespace, &parts);
        namespace.nft(&format!("delete table {table}"));
        assert_eq!(filter(&namespace), InPod::Plain, "{table}");
    }
    // Many are counted.
    let chains: String = (0..20)
        .map(|n| format!("chain c{n} {{ type filter hook input priority {n} ; policy drop ; }} "))
        .collect();
    namespace.nft(&format!("table inet many {{ {chains} }}"));
    assert_filtered(&namespace, &["chain c0", "and 12 more"]);
}

fn idle_chains() {
    let namespace = Namespace::new();
    namespace.nft(
        "table inet idle { chain input { type filter hook input priority 0 ; policy accept ; } \
         chain unhooked { drop ; } set names { type ipv4_addr ; } }",
    );
    assert_eq!(filter(&namespace), InPod::Plain);
    namespace.nft("add rule inet idle input jump unhooked");
    assert_filtered(&namespace, &["table inet idle, chain input"]);
    namespace.nft("flush chain inet idle input");
    assert_eq!(filter(&namespace), InPod::Plain);
}

fn iptables_nft() {
    if !has("iptables-nft") {
        return;
    }
    let namespace = Namespace::new();
    // Looking makes chains, but no rules.
    namespace.command("iptables-nft -L");
    assert_eq!(filter(&namespace), InPod::Plain);
    namespace.command("iptables-nft -A INPUT -p tcp --dport 80 -j DROP");
    assert_filtered(&namespace, &["table ip filter, chain INPUT"]);
    namespace.command("iptables-nft -F");
    assert_eq!(filter(&namespace), InPod::Plain);
    namespace.command("ip6tables-nft -P INPUT DROP");
    assert_filtered(&namespace, &["table ip6 filter, chain INPUT"]);
}

fn iptables_legacy() {
    if !has("iptables-legacy") {
        return;
    }
    let namespace = Namespace::new();
    namespace.command("iptables-legacy -t nat -A PREROUTING -p tcp -j REDIRECT --to-ports 15006");
    assert_filtered(&namespace, &["legacy iptables: nat"]);
    namespace.command("ip6tables-legacy -A INPUT -p tcp -j DROP");
    assert_filtered(
        &namespace,
        &["legacy iptables: nat", "legacy ip6tables: filter"],
    );
    // Another namespace has none of it.
    assert_eq!(filter(&Namespace::new()), InPod::Plain);
}

const A4: &str = "10.79.0.1";
const B4: &str = "10.79.0.2";
const A6: &str = "fd79::1";
const B6: &str = "fd79::2";

fn ips(addresses: [&str; 2]) -> Vec<IpAddr> {
    addresses.iter().map(|ip| ip.parse().unwrap()).collect()
}

/// Lists until it holds: a connection is established at the other end a moment later.
fn list(namespace: &Namespace, own: [&str; 2], holds: impl Fn(&Listing) -> bool) -> Listing {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let own = ips(own);
        let listing = namespace
            .run(move || sockets::here(&own, HashSet::new()))
            .unwrap();
        if holds(&listing) {
            return listing;
        }
        assert!(Instant::now() < deadline, "{listing:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn pair() -> (Namespace, Namespace) {
    let (a, b) = (Namespace::new(), Namespace::new());
    wire(&a, [A4, A6], &b, [B4, B6]);
    (a, b)
}

fn find(listing: &Listing, local: SocketAddr, remote: SocketAddr) -> &OpenSocket {
    listing
        .sockets
        .iter()
        .find(|socket| socket.local == local && socket.remote == remote)
        .unwrap_or_else(|| panic!("{local} {remote} is not in {listing:?}"))
}

fn connections() {
    let (a, b) = pair();
    let mut held = Vec::new();
    // One listener for both families, as most servers have, and one of IPv4 alone.
    let both = b.run(|| TcpListener::bind("[::]:8080").unwrap());
    let four = b.run(|| TcpListener::bind("0.0.0.0:8081").unwrap());
    let begun = now();
    for (to, listener) in [
        (SocketAddr::new(B4.parse().unwrap(), 8080), &both),
        (SocketAddr::new(B6.parse().unwrap(), 8080), &both),
        (SocketAddr::new(B4.parse().unwrap(), 8081), &four),
    ] {
        let out = a.run(move || TcpStream::connect(to).unwrap());
        held.push((out, listener.accept().unwrap().0, to));
    }
    // What is of no interest: loopback, and the pod to itself.
    let to_self = b.run(|| {
        let one = TcpStream::connect("127.0.0.1:8080").unwrap();
        let two = TcpStream::connect((B4, 8080)).unwrap();
        (one, two)
    });
    let udp = a.run(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect((B4, 53)).unwrap();
        socket
    });
    let udp_server = b.run(|| UdpSocket::bind("0.0.0.0:53").unwrap());
    let at_a = list(&a, [A4, A6], |listing| listing.sockets.len() >= 4);
    let at_b = list(&b, [B4, B6], |listing| listing.sockets.len() >= 3);
    assert_eq!(at_a.sockets.len(), 4, "{at_a:?}");
    assert_eq!(at_b.sockets.len(), 3, "{at_b:?}");
    for (out, accepted, to) in &held {
        let from = out.local_addr().unwrap();
        let outbound = find(&at_a, from, *to);
        let inbound = find(&at_b, *to, from);
        assert!(
            !outbound.inbound && inbound.inbound,
            "{outbound:?} {inbound:?}"
        );
        for socket in [outbound, inbound] {
            assert_eq!(socket.protocol, Protocol::Tcp);
            let heard = socket.heard.unwrap();
            // The kernel tells milliseconds, in jiffies.
            assert!(
                heard.plus(50_000_000) >= begun && heard <= now(),
                "{heard:?} {begun:?}"
            );
        }
        assert!(accepted.peer_addr().is_ok());
    }
    let cookies: HashSet<u64> = at_a.sockets.iter().map(|socket| socket.cookie).collect();
    assert_eq!(cookies.len(), 4);
    let datagrams = find(
        &at_a,
        udp.local_addr().unwrap(),
        SocketAddr::new(B4.parse().unwrap(), 53),
    );
    assert_eq!(
        (datagrams.protocol, datagrams.inbound, datagrams.heard),
        (Protocol::Udp, false, None)
    );
    drop((held, to_self, udp_server));
    list(&b, [B4, B6], |listing| listing.sockets.is_empty());
}

fn gone_listener() {
    let (a, b) = pair();
    let listener = b.run(|| TcpListener::bind((B4, 8080)).unwrap());
    let out = a.run(|| TcpStream::connect((B4, 8080)).unwrap());
    let accepted = listener.accept().unwrap().0;
    let first = list(&b, [B4, B6], |listing| listing.sockets.len() == 1);
    drop(listener);
    let second = list(&b, [B4, B6], |listing| listing.undecided == 1);
    assert_eq!(second.sockets, []);
    let remembered = first.listening;
    let third = b
        .run(move || sockets::here(&ips([B4, B6]), remembered))
        .unwrap();
    assert!(third.sockets.iter().all(|socket| socket.inbound) && third.sockets.len() == 1);
    drop((out, accepted));
}

fn cut() {
    let (a, b) = pair();
    let listener = b.run(|| TcpListener::bind((B4, 8080)).unwrap());
    let mut out = a.run(|| TcpStream::connect((B4, 8080)).unwrap());
    let mut accepted = listener.accept().unwrap().0;
    let mut say = |text: &[u8]| {
        out.write_all(text).unwrap();
        let mut heard = vec![0; text.len()];
        accepted.read_exact(&mut heard).unwrap();
    };
    say(b"before");
    let heard = |listing: &Listing| listing.sockets.first().and_then(|socket| socket.heard);
    let before = list(&b, [B4, B6], |listing| heard(listing).is_some());
    let quiet = heard(&before).unwrap();
    // It goes on: what was heard last grows with it.
    let later = quiet.plus(100_000_000);
    list(&b, [B4, B6], |listing| {
        let _ = listing;
        now() > later
    });
    say(b"after");
    list(&b, [B4, B6], |listing| {
        heard(listing) > Some(quiet.plus(50_000_000))
    });
    // Cut silently, as some enforcers do: it stays established, and nothing more is heard.
    b.nft("table inet cut { chain input { type filter hook input priority 0 ; policy drop ; } }");
    let cut = now();
    out.write_all(b"into the void").unwrap();
    let end = cut.plus(300_000_000);
    let last = list(&b, [B4, B6], |_| now() > end);
    assert_eq!(last.sockets.len(), 1);
    // The end that connected sends on, and nothing of it arrives.
    let sender = list(&a, [A4, A6], |_| true);
    assert_eq!(sender.sockets.len(), 1);
    assert!(
        heard(&sender).unwrap() < cut.plus(20_000_000),
        "{sender:?} {cut:?}"
    );
    assert!(
        heard(&last).unwrap() < cut.plus(20_000_000),
        "{last:?} {cut:?}"
    );
}

fn many() {
    let (a, b) = pair();
    raise_limit();
    let listener = b.run(|| TcpListener::bind((B4, 8080)).unwrap());
    let wanted = MAX_SOCKETS + 50;
    let mut held = Vec::new();
    for _ in 0..wanted {
        let out = a.run(|| TcpStream::connect((B4, 8080)).unwrap());
        held.push((out, listener.accept().unwrap().0));
    }
    let listing = list(&b, [B4, B6], |listing| listing.left_out == 50);
    assert_eq!(listing.sockets.len(), MAX_SOCKETS);
    let own = ips([B4, B6]);
    let begun = Instant::now();
    for _ in 0..10 {
        let own = own.clone();
        b.run(move || sockets::here(&own, HashSet::new())).unwrap();
    }
    println!("listed {wanted} connections in {:?}", begun.elapsed() / 10);
    let empty = Namespace::new();
    let begun = Instant::now();
    for _ in 0..10 {
        let own = own.clone();
        empty
            .run(move || sockets::here(&own, HashSet::new()))
            .unwrap();
    }
    println!(
        "listed a namespace without any beside it in {:?}",
        begun.elapsed() / 10
    );
}

fn raise_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}
