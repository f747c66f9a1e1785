//! Manifests that are made to hurt: whatever is in them, reading ends soon and within 512 MiB.
//!
//! Each case is read by a child process whose address space is limited, so that "within" is the kernel's word. A release
//! build reads 10 MB of each; a debug build, which is slow and not what anybody runs, reads less.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};

const SIZE: usize = if cfg!(debug_assertions) {
    200_000
} else {
    10_000_000
};
/// Ports or peers of a policy that is only large.
const MANY: usize = SIZE / 100;
const ADDRESS_SPACE_KIB: usize = 512 * 1024;
const DEADLINE: Duration = Duration::from_secs(120);
/// Names the file that a child reads.
const READ: &str = "POLPROOF_TEST_READ";

/// What must come of a case.
enum Ends {
    /// It is read, and so many objects are refused.
    Read(usize),
    /// The file is refused, at this line if it matters.
    Broken(Option<u64>),
    /// Either, as long as it ends.
    Somehow,
}

use Ends::{Broken, Read, Somehow};

struct Case {
    name: &'static str,
    file: &'static str,
    text: fn() -> Vec<u8>,
    ends: Ends,
}

const POLICY: &str =
    "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: p, namespace: shop}\n";

fn cases() -> Vec<Case> {
    let case = |name, text, ends| Case {
        name,
        file: "hostile.yaml",
        text,
        ends,
    };
    vec![
        case("a_dump_which_is_not_hostile", dump, Read(0)),
        case("aliases_of_aliases", aliases, Broken(None)),
        case("an_anchor_used_again_and_again", anchor, Broken(None)),
        case("merge_keys_of_merge_keys", merge_keys, Broken(None)),
        case(
            "ten_thousand_levels",
            || nested("[", 10_000),
            Broken(Some(1)),
        ),
        case("levels_of_blocks", blocks, Broken(None)),
        case(
            "levels_to_the_end",
            || nested("{a: ", SIZE / 4),
            Broken(Some(1)),
        ),
        Case {
            name: "levels_of_json",
            file: "hostile.json",
            text: || nested("{\"a\":", SIZE / 5),
            ends: Broken(Some(1)),
        },
        case("many_ports", || ports(MANY), Read(0)),
        case("many_peers", || peers(MANY), Read(0)),
        case("ports_to_the_end", || ports(SIZE / 16), Somehow),
        case("peers_to_the_end", || peers(SIZE / 44), Somehow),
        case("wrong_ports", wrong_ports, Read(1)),
        case("small_maps_that_take_much", small_maps, Somehow),
        case("items_that_take_much", items, Broken(None)),
        case("a_scalar", scalar, Read(1)),
        case("a_block_scalar", block_scalar, Read(0)),
        case("a_key", key, Somehow),
        case("documents", documents, Somehow),
        case("kinds", kinds, Read(0)),
        case("policies", policies, Read(0)),
        case(
            "policies_of_one_name",
            policies_of_one_name,
            Read(SIZE / 100 - 1),
        ),
        case("wrong_types_everywhere", wrong_types, Somehow),
        case("duplicate_keys", duplicate_keys, Broken(Some(2))),
        case("nul_bytes", || vec![0; SIZE], Broken(Some(1))),
        case("no_utf8", no_utf8, Broken(Some(3))),
        case("huge_numbers", huge_numbers, Somehow),
        case("anchors", anchors, Somehow),
        case("colons", || vec![b':'; SIZE], Somehow),
        case(
            "question_marks",
            || "? ".repeat(SIZE / 2).into_bytes(),
            Somehow,
        ),
        case(
            "dashes",
            || "- ".repeat(SIZE / 2).into_bytes(),
            Broken(Some(1)),
        ),
        case("quotes", quotes, Broken(None)),
    ]
}

/// Pods as `kubectl get -o yaml` prints them, shortened.
fn dump() -> Vec<u8> {
    let mut text = String::from("apiVersion: v1\nitems:\n");
    for number in 0..SIZE / 1000 {
        let (a, b) = (number / 250, number % 250);
        write!(
            text,
            "- apiVersion: v1\n  kind: Pod\n  metadata:\n    labels:\n      app: web-{number}\n    name: web-{number}\n    namespace: shop\n    \
             managedFields:\n    - fieldsV1:\n        f:metadata: {{f:labels: {{f:app: {{}}}}}}\n      manager: kubelet\n  spec:\n    containers:\n    \
             - env:\n      - name: POD_NAME\n        valueFrom:\n          fieldRef:\n            fieldPath: metadata.name\n      image: registry.example.com/web:1\n      \
             livenessProbe:\n        httpGet:\n          path: /\n          port: http\n      name: web\n      ports:\n      - containerPort: 8080\n        name: http\n      \
             resources:\n        limits:\n          cpu: 1\n    nodeName: node-1\n    tolerations:\n    - effect: NoExecute\n      operator: Exists\n  status:\n    \
             conditions:\n    - lastProbeTime: null\n      status: \"True\"\n      type: Ready\n    phase: Running\n    podIPs:\n    - ip: 10.0.{a}.{b}\n"
        )
        .unwrap();
    }
    text.push_str("kind: List\nmetadata:\n  resourceVersion: \"\"\n");
    text.into_bytes()
}

fn aliases() -> Vec<u8> {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..200 {
        let inside = vec![format!("*a{}", level - 1); 10].join(", ");
        writeln!(text, "a{level}: &a{level} [{inside}]").unwrap();
    }
    text.into_bytes()
}

fn anchor() -> Vec<u8> {
    let mut text = format!("a: &a \"{}\"\nb:\n", "x".repeat(SIZE / 2));
    while text.len() < SIZE {
        text.push_str("- *a\n");
    }
    text.into_bytes()
}

fn merge_keys() -> Vec<u8> {
    let mut text = String::from("m0: &m0 {k: v}\n");
    for level in 1..2_000 {
        let before = level - 1;
        writeln!(
            text,
            "m{level}: &m{level} {{<<: [*m{before}, *m{before}], k{level}: v}}"
        )
        .unwrap();
    }
    text.into_bytes()
}

fn nested(open: &str, levels: usize) -> Vec<u8> {
    open.repeat(levels).into_bytes()
}

fn blocks() -> Vec<u8> {
    let mut text = String::new();
    for level in 0..(if cfg!(debug_assertions) { 1_000 } else { 4_000 }) {
        writeln!(text, "{}a:", " ".repeat(level)).unwrap();
    }
    text.into_bytes()
}

fn ports(count: usize) -> Vec<u8> {
    let mut text = format!("{POLICY}spec:\n  podSelector: {{}}\n  ingress:\n  - ports:\n");
    for number in 0..count {
        writeln!(text, "    - port: {}", number % 65_535 + 1).unwrap();
    }
    text.into_bytes()
}

fn peers(count: usize) -> Vec<u8> {
    let mut text = format!("{POLICY}spec:\n  podSelector: {{}}\n  ingress:\n  - from:\n");
    for number in 0..count {
        writeln!(text, "    - podSelector: {{matchLabels: {{a: b{number}}}}}").unwrap();
    }
    text.into_bytes()
}

fn wrong_ports() -> Vec<u8> {
    String::from_utf8(ports(MANY))
        .unwrap()
        .replace("port: ", "port: -")
        .into_bytes()
}

fn small_maps() -> Vec<u8> {
    format!("{POLICY}spec: [{}]\n", "{a},".repeat(SIZE / 4)).into_bytes()
}

fn items() -> Vec<u8> {
    format!(
        "apiVersion: v1\nkind: List\nitems: [{}]\n",
        "{a},".repeat(SIZE / 4)
    )
    .into_bytes()
}

fn scalar() -> Vec<u8> {
    let label = "x".repeat(SIZE);
    POLICY
        .replace("name: p", &format!("name: p, labels: {{a: {label}}}"))
        .into_bytes()
}

fn block_scalar() -> Vec<u8> {
    let line = format!("    {}\n", "x".repeat(60));
    let text = line.repeat(SIZE / line.len());
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata:\n  a: |\n{text}")
        .into_bytes()
}

fn key() -> Vec<u8> {
    format!(
        "{POLICY}spec: {{podSelector: {{{}: x}}}}\n",
        "k".repeat(SIZE)
    )
    .into_bytes()
}

fn documents() -> Vec<u8> {
    "---\na: 1\n".repeat(SIZE / 9).into_bytes()
}

fn kinds() -> Vec<u8> {
    let mut text = String::new();
    for number in 0..SIZE / 32 {
        writeln!(text, "---\n{{apiVersion: v1, kind: K{number}}}").unwrap();
    }
    text.into_bytes()
}

fn policies() -> Vec<u8> {
    let mut text = String::new();
    for number in 0..SIZE / 100 {
        let name = format!("name: p{number}");
        writeln!(text, "---\n{}", POLICY.replace("name: p", &name)).unwrap();
    }
    text.into_bytes()
}

fn policies_of_one_name() -> Vec<u8> {
    format!("---\n{POLICY}").repeat(SIZE / 100).into_bytes()
}

fn wrong_types() -> Vec<u8> {
    const VALUES: [&str; 8] = ["7", "x", "true", "[]", "{}", "[[]]", "1.5", "null"];
    const KINDS: [(&str, &str); 9] = [
        ("v1", "Pod"),
        ("v1", "Namespace"),
        ("v1", "Node"),
        ("v1", "Service"),
        ("networking.k8s.io/v1", "NetworkPolicy"),
        ("discovery.k8s.io/v1", "EndpointSlice"),
        ("policy.networking.k8s.io/v1alpha1", "AdminNetworkPolicy"),
        ("cilium.io/v2", "CiliumNetworkPolicy"),
        ("apps/v1", "Deployment"),
    ];
    const FIELDS: [&str; 6] = ["metadata", "spec", "status", "ports", "endpoints", "specs"];
    let mut text = String::new();
    for round in 0.. {
        for (version, kind) in KINDS {
            for (place, field) in FIELDS.iter().enumerate() {
                let value = VALUES[(round + place) % VALUES.len()];
                let inner = VALUES[(round / VALUES.len()) % VALUES.len()];
                writeln!(
                    text,
                    "---\napiVersion: {version}\nkind: {kind}\n{field}: {value}\nx{field}: {{name: {inner}, ingress: {value}, template: {inner}}}"
                )
                .unwrap();
            }
        }
        if text.len() > SIZE {
            break;
        }
    }
    text.into_bytes()
}

fn duplicate_keys() -> Vec<u8> {
    "a: 1\n".repeat(SIZE / 5).into_bytes()
}

fn no_utf8() -> Vec<u8> {
    let mut text = b"a: 1\nb: 2\nc: ".to_vec();
    text.resize(SIZE, 0xc3);
    text
}

fn huge_numbers() -> Vec<u8> {
    let number = "9".repeat(SIZE / 4);
    format!("{POLICY}spec: {{podSelector: {{}}, ingress: [{{ports: [{{port: {number}}}, {{port: 1e{number}}}, {{port: 0x{number}}}]}}]}}\n").into_bytes()
}

fn anchors() -> Vec<u8> {
    let mut text = String::new();
    for number in 0..SIZE / 16 {
        writeln!(text, "a{number}: &b{number} 1").unwrap();
    }
    text.into_bytes()
}

fn quotes() -> Vec<u8> {
    format!("a: \"{}", "\\\"".repeat(SIZE / 2)).into_bytes()
}

fn run(case: &Case) -> Result<(), String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let path = folder.path().join(case.file);
    std::fs::write(&path, (case.text)()).map_err(|error| error.to_string())?;
    let started = Instant::now();
    let ours = std::env::current_exe().map_err(|error| error.to_string())?;
    let output = Command::new("sh")
        .arg("-c")
        .arg(format!("ulimit -v {ADDRESS_SPACE_KIB} && exec \"$0\""))
        .arg(ours)
        .env(READ, &path)
        .env("MALLOC_ARENA_MAX", "1")
        .output()
        .map_err(|error| error.to_string())?;
    let took = started.elapsed();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(format!("{}: {told}{error}", output.status));
    }
    if took > DEADLINE {
        return Err(format!("it took {took:?}"));
    }
    let at = |line: u64| told.starts_with(&format!("broken {}:{line}: ", path.display()));
    let as_told = match case.ends {
        Read(refused) => told.starts_with(&format!("read, {refused} refused")),
        Broken(Some(line)) => at(line),
        Broken(None) => told.starts_with(&format!("broken {}:", path.display())),
        Somehow => true,
    };
    let short: String = told.chars().take(400).collect();
    println!("{}: {took:.1?} {short}", case.name);
    if as_told { Ok(()) } else { Err(short) }
}

/// The child: reads a file and says what came of it.
fn read(path: &Path) {
    match polproof_cluster::manifests::load(path) {
        Ok(view) => println!(
            "read, {} refused, {} policies, {}",
            view.refused.len(),
            view.snapshot.policies().count(),
            peak()
        ),
        Err(error) => println!("broken {error}, {}", peak()),
    }
}

fn peak() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM"));
    line.unwrap_or_default().to_owned()
}

fn main() {
    if let Some(path) = std::env::var_os(READ) {
        read(Path::new(&path));
        return;
    }
    let trials = cases()
        .into_iter()
        .map(|case| Trial::test(case.name, move || run(&case).map_err(Failed::from)))
        .collect();
    libtest_mimic::run(&Arguments::from_args(), trials).exit();
}
