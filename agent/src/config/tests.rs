#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use clap::{CommandFactory, Parser};

use super::*;

fn resolve(flags: &[&str]) -> Result<Config, String> {
    let named = flags.iter().any(|f| f.starts_with("--node-name"));
    let name = (!named).then_some(&"--node-name=n1");
    let words = ["polproof-agent"].iter().chain(name).chain(flags);
    let args = Args::try_parse_from(words).map_err(|e| e.to_string())?;
    Config::resolve(args).map_err(|e| e.to_string())
}

fn with_file(text: &str, flags: &[&str]) -> Result<Config, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    let config = format!("--config={}", path.display());
    let mut all = vec![config.as_str()];
    all.extend(flags);
    resolve(&all)
}

const TLS: [&str; 3] = ["--tls-ca=ca", "--tls-cert=c", "--tls-key=k"];

#[test]
fn the_command_line_is_sound() {
    Args::command().debug_assert();
}

#[test]
fn defaults() {
    let config = resolve(&[]).unwrap();
    assert_eq!(config.node_name, "n1");
    assert_eq!(config.source, Source::Kubernetes(None));
    assert_eq!(config.netns_dir, Path::new("/run/netns"));
    assert_eq!(config.bpf_dir, Path::new("/sys/fs/bpf/polproof"));
    assert_eq!(config.state_dir, Path::new("/var/lib/polproof"));
    assert_eq!(config.cni_conf_dirs, [Path::new("/etc/cni/net.d")]);
    assert_eq!(config.listen_http, Some("127.0.0.1:9464".parse().unwrap()));
    assert_eq!(config.grace, Duration::from_secs(30));
    assert_eq!(config.settle, Duration::from_secs(10));
    assert_eq!(config.late, Duration::from_secs(10));
    assert_eq!(config.witness_timeout, Duration::from_secs(10));
    assert_eq!(config.udp_idle, Duration::from_secs(180));
    assert_eq!(config.spool_max_bytes, 256 << 20);
    assert_eq!(config.ring_bytes, 16 << 20);
    assert_eq!(config.collector, None);
}

#[test]
fn flags_win_over_the_file() {
    let text = "grace = \"1m\"\nudp_idle = \"5s\"\nsettle = \"4s\"\ncni_conf_dir = [\"/a\", \"/b\"]\nkubeconfig = \"/k\"\nlisten_http = \"off\"\n";
    let config = with_file(text, &["--grace=5s", "--manifests=/m"]).unwrap();
    assert_eq!(config.grace, Duration::from_secs(5));
    assert_eq!(config.settle, Duration::from_secs(4));
    assert_eq!(config.udp_idle, Duration::from_secs(5));
    assert_eq!(config.cni_conf_dirs, [Path::new("/a"), Path::new("/b")]);
    assert_eq!(config.source, Source::Manifests("/m".into()));
    assert_eq!(config.listen_http, None);
}

#[test]
fn a_collector_is_taken_with_its_files() {
    let mut flags = vec!["--collector=https://collector.example:8443"];
    flags.extend(TLS);
    let collector = resolve(&flags).unwrap().collector.unwrap();
    assert_eq!(collector.tls_cert, Path::new("c"));
    let mut v6 = vec!["--collector=https://[::1]:8443"];
    v6.extend(TLS);
    assert!(resolve(&v6).is_ok());
}

#[test]
fn durations_and_sizes() {
    for (text, millis) in [
        ("500ms", 500),
        ("1h30m", 5_400_000),
        ("2m", 120_000),
        ("0s", 0),
    ] {
        let config = parse::duration(
            "grace",
            Some(text),
            Duration::ZERO,
            (Duration::ZERO, Duration::from_secs(10_000)),
        );
        assert_eq!(config.unwrap(), Duration::from_millis(millis), "{text}");
    }
    for (text, bytes) in [
        ("1", 1),
        ("3KiB", 3072),
        ("2 MiB", 2 << 20),
        ("1Gi", 1 << 30),
    ] {
        assert_eq!(parse::size("x", Some(text), 0).unwrap(), bytes, "{text}");
    }
}

/// Each error names the setting, what was given and what to write.
#[test]
fn errors_name_the_setting_and_the_remedy() {
    let collector = |url: &'static str| {
        let mut flags = vec![url];
        flags.extend(TLS);
        flags
    };
    let cases: Vec<(Vec<&str>, &[&str])> = vec![
        (vec!["--grace=30"], &["--grace", "\"30\"", "30s"]),
        (vec!["--grace=fast"], &["--grace", "not a duration"]),
        (vec!["--grace=2h"], &["--grace", "between"]),
        (vec!["--settle=0s"], &["--settle", "between"]),
        (
            vec!["--settle=99999999999999999999s"],
            &["--settle", "not a duration"],
        ),
        (vec!["--settle="], &["--settle", "not a duration"]),
        (vec!["--late=2h"], &["--late", "between"]),
        (
            vec!["--udp-idle=999ms"],
            &["--udp-idle", "udp_idle", "between"],
        ),
        (vec!["--udp-idle=61m"], &["--udp-idle", "between"]),
        (
            vec!["--witness-timeout=0s"],
            &["--witness-timeout", "witness_timeout", "between"],
        ),
        (
            vec!["--spool-max-bytes=1MiB"],
            &["--spool-max-bytes", "8MiB"],
        ),
        (
            vec!["--spool-max-bytes=lots"],
            &["--spool-max-bytes", "256MiB"],
        ),
        (
            vec!["--spool-max-bytes=99999999999GiB"],
            &["--spool-max-bytes", "256MiB"],
        ),
        (vec!["--ring-bytes=3MiB"], &["--ring-bytes", "power of two"]),
        (
            vec!["--listen-http=9464"],
            &["--listen-http", "127.0.0.1:9464"],
        ),
        (vec!["--log-format=xml"], &["--log-format", "text or json"]),
        (vec!["--log-level=loud"], &["--log-level", "debug"]),
        (
            vec!["--node-name=No de"],
            &["--node-name", "kubectl get nodes"],
        ),
        (
            vec!["--manifests=a", "--kubeconfig=b"],
            &["--manifests", "--kubeconfig", "exclude"],
        ),
        (
            vec!["--collector=https://h:1"],
            &["--tls-ca", "missing", "PEM"],
        ),
        (vec!["--tls-ca=x"], &["--collector", "missing"]),
        (
            collector("--collector=http://h:1"),
            &["--collector", "https://"],
        ),
        (
            collector("--collector=h:8443"),
            &["--collector", "https://HOST:PORT"],
        ),
        (
            collector("--collector=https://h"),
            &["--collector", "no port"],
        ),
        (
            collector("--collector=https://h:1/x"),
            &["--collector", "path"],
        ),
        (
            collector("--collector=https://h:1 2"),
            &["--collector", "not a URL"],
        ),
        (vec!["--gracee=1s"], &["--gracee", "--grace"]),
        (
            vec!["--config=/nonexistent.toml"],
            &["--config", "/nonexistent.toml", "No such file"],
        ),
    ];
    for (flags, expected) in cases {
        let error = resolve(&flags).expect_err(&format!("{flags:?}"));
        for part in expected {
            assert!(
                error.contains(part),
                "{flags:?}: {part:?} is not in: {error}"
            );
        }
    }
}

#[test]
fn errors_of_the_file_name_line_and_key() {
    for (text, expected) in [
        ("grase = \"1s\"", &["line 1", "grase", "--help"][..]),
        ("\ngrace = 30", &["line 2", "grace"]),
        ("grace = \"30\"", &["grace", "30s"]),
        ("grace = ", &["line 1"]),
        ("cni_conf_dir = \"/a\"", &["cni_conf_dir", "sequence"]),
    ] {
        let error = with_file(text, &[]).expect_err(text);
        for part in expected {
            assert!(error.contains(part), "{text}: {part:?} is not in: {error}");
        }
    }
}

#[test]
fn help_names_every_setting() {
    let help = Args::command().render_long_help().to_string();
    for flag in [
        "--config",
        "--node-name",
        "--manifests",
        "--kubeconfig",
        "--netns-dir",
        "--bpf-dir",
        "--state-dir",
        "--cgroup-root",
        "--proc-root",
        "--cni-conf-dir",
        "--collector",
        "--tls-ca",
        "--tls-cert",
        "--tls-key",
        "--tls-server-name",
        "--listen-http",
        "--grace",
        "--settle",
        "--late",
        "--witness-timeout",
        "--udp-idle",
        "--spool-max-bytes",
        "--log-format",
        "--log-level",
        "uninstall",
        "CAP_BPF",
    ] {
        assert!(help.contains(flag), "{flag} is not in the help");
    }
}
