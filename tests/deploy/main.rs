//! `deploy/` against the programs: every setting and argument in it is one that they have, and fits what the pods mount.
//!
//! Whether an API server takes the objects is tested in `cluster`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser as _;
use polproof_agent::config as agent;
use polproof_collector::config as collector;
use polproof_tests::deployment::{folder, objects};
use serde_json::Value;

/// A workload of `deploy/base` with what its container sees.
struct Deployed {
    name: &'static str,
    pod: Value,
    container: Value,
    config: tempfile::TempDir,
}

impl Deployed {
    fn find(name: &'static str) -> Self {
        let objects = objects().unwrap();
        let of_kind = |kinds: &[&str]| {
            let mut found = objects.iter().map(|(_, object)| object).filter(|object| {
                object["metadata"]["name"] == name
                    && kinds.iter().any(|kind| object["kind"] == *kind)
            });
            let one = found
                .next()
                .unwrap_or_else(|| panic!("no {kinds:?} {name}"));
            assert!(found.next().is_none(), "several {kinds:?} {name}");
            one.clone()
        };
        let pod = of_kind(&["DaemonSet", "Deployment"])["spec"]["template"]["spec"].clone();
        let containers = pod["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1);
        let config = tempfile::tempdir().unwrap();
        for (file, text) in of_kind(&["ConfigMap"])["data"].as_object().unwrap() {
            std::fs::write(config.path().join(file), text.as_str().unwrap()).unwrap();
        }
        Self {
            name,
            container: containers[0].clone(),
            pod,
            config,
        }
    }

    /// The command line, with `--config` at a file that holds the ConfigMap's text and variables replaced.
    fn command_line(&self) -> Vec<String> {
        let args = self.container["args"].as_array().unwrap();
        let mut line = vec![self.name.to_owned()];
        for arg in args {
            let mut arg = arg.as_str().unwrap().to_owned();
            for variable in self.container["env"].as_array().into_iter().flatten() {
                let name = variable["name"].as_str().unwrap();
                arg = arg.replace(&format!("$({name})"), "worker-1");
            }
            assert!(!arg.contains("$("), "{arg}: no such variable");
            if let Some(path) = arg.strip_prefix("--config=") {
                let file = self.mounted(Path::new(path)).expect("--config is mounted");
                assert_eq!(file["name"], "config");
                assert_eq!(
                    Path::new(path),
                    Path::new(file["mountPath"].as_str().unwrap())
                );
                let file = self.config.path().join(file["subPath"].as_str().unwrap());
                arg = format!("--config={}", file.display());
            }
            line.push(arg);
        }
        line
    }

    /// The mount that holds a path of the container.
    fn mounted(&self, path: &Path) -> Option<&Value> {
        self.container["volumeMounts"]
            .as_array()?
            .iter()
            .filter(|mount| path.starts_with(mount["mountPath"].as_str().unwrap()))
            .max_by_key(|mount| mount["mountPath"].as_str().unwrap().len())
    }

    /// What the volume of a path's mount is, and whether it may be written.
    fn volume(&self, path: &Path) -> (&Value, bool) {
        let mount = self
            .mounted(path)
            .unwrap_or_else(|| panic!("{}: nothing is mounted at {}", self.name, path.display()));
        let volumes = self.pod["volumes"].as_array().unwrap();
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == mount["name"])
            .unwrap_or_else(|| panic!("no volume {}", mount["name"]));
        (volume, mount["readOnly"] != true)
    }

    /// The path on the node that a path of the container is.
    fn host_path(&self, path: &Path, writable: bool) -> PathBuf {
        let (volume, may_write) = self.volume(path);
        assert_eq!(may_write, writable, "{}", path.display());
        let mount = self.mounted(path).unwrap()["mountPath"].as_str().unwrap();
        let host = volume["hostPath"]["path"].as_str().unwrap();
        Path::new(host)
            .components()
            .chain(path.strip_prefix(mount).unwrap().components())
            .collect()
    }

    fn tls(&self, files: [&Path; 3]) {
        for (path, key) in files.iter().zip(["ca.crt", "tls.crt", "tls.key"]) {
            let (volume, may_write) = self.volume(path);
            assert_eq!(volume["secret"]["secretName"], format!("{}-tls", self.name));
            assert!(!may_write && path.ends_with(key), "{}", path.display());
            // With subPath a renewed certificate would never appear.
            assert_eq!(self.mounted(path).unwrap()["subPath"], Value::Null);
        }
    }

    fn port(&self, name: &str) -> u64 {
        let ports = self.container["ports"].as_array().unwrap();
        let port = ports.iter().find(|port| port["name"] == name);
        port.unwrap_or_else(|| panic!("no port {name}"))["containerPort"]
            .as_u64()
            .unwrap()
    }

    /// Probes ask the pages that `telemetry` serves, on a port that is listened on from outside of the pod.
    fn probes(&self, listen: std::net::SocketAddr) {
        assert!(listen.ip().is_unspecified());
        assert_eq!(self.port("http"), u64::from(listen.port()));
        for (probe, page) in [
            ("startupProbe", "/healthz"),
            ("livenessProbe", "/healthz"),
            ("readinessProbe", "/readyz"),
        ] {
            let get = &self.container[probe]["httpGet"];
            assert_eq!(get["path"], page, "{probe}");
            assert_eq!(get["port"], "http", "{probe}");
        }
    }
}

#[test]
fn the_agent_runs_on_its_configuration() {
    let deployed = Deployed::find("polproof-agent");
    let args = agent::Args::try_parse_from(deployed.command_line()).unwrap();
    let config = agent::Config::resolve(args).unwrap();

    assert_eq!(config.node_name, "worker-1");
    assert_eq!(
        deployed.container["env"][0]["valueFrom"]["fieldRef"]["fieldPath"],
        "spec.nodeName"
    );
    assert_eq!(config.source, agent::Source::Kubernetes(None));
    // The same places as without a configuration, in the node's own paths.
    let defaults = agent::Config::resolve(
        agent::Args::try_parse_from(["polproof-agent", "--node-name=worker-1"]).unwrap(),
    )
    .unwrap();
    for (path, default, writable) in [
        (&config.netns_dir, &defaults.netns_dir, false),
        (&config.bpf_dir, &defaults.bpf_dir, true),
        (&config.state_dir, &defaults.state_dir, true),
        (&config.cgroup_root, &defaults.cgroup_root, false),
        (&config.cni_conf_dirs[0], &defaults.cni_conf_dirs[0], false),
    ] {
        assert_eq!(deployed.host_path(path, writable), *default);
    }
    assert_eq!(config.cni_conf_dirs.len(), 1);
    // /proc is the node's, and the node's namespace is its first process's.
    assert_eq!(deployed.pod["hostPID"], true);
    assert_eq!(config.proc_root, Path::new("/proc"));
    let own_namespace = deployed.pod["hostNetwork"] != true;
    assert_eq!(
        config.host_netns.as_deref(),
        own_namespace.then_some(Path::new("/proc/1/ns/net"))
    );
    assert_eq!(config.grace, defaults.grace);
    assert_eq!(config.settle, defaults.settle);
    assert_eq!(config.log_format, agent::LogFormat::Json);
    deployed.probes(config.listen_http.unwrap());

    let collector = config.collector.unwrap();
    deployed.tls([&collector.tls_ca, &collector.tls_cert, &collector.tls_key]);
    // The name that is called is a Service, and is in the certificates that the documentation makes.
    let host = collector.url.strip_prefix("https://").unwrap();
    let (host, port) = host.split_once(':').unwrap();
    let objects = objects().unwrap();
    let service = objects
        .iter()
        .map(|(_, object)| object)
        .find(|object| {
            let of = &object["metadata"];
            object["kind"] == "Service"
                && host
                    == format!(
                        "{}.{}.svc",
                        of["name"].as_str().unwrap(),
                        of["namespace"].as_str().unwrap()
                    )
        })
        .unwrap();
    assert_eq!(service["spec"]["ports"][0]["port"].to_string(), port);
    for text in ["README.md", "examples/cert-manager.yaml"] {
        let text = std::fs::read_to_string(folder().join(text)).unwrap();
        assert!(text.contains(host), "{host} is in no certificate");
    }
    assert_eq!(collector.tls_server_name, None);
}

#[test]
fn the_collector_runs_on_its_configuration() {
    let deployed = Deployed::find("polproof-collector");
    let args = collector::Args::try_parse_from(deployed.command_line()).unwrap();
    let config = args.resolve().unwrap();

    assert_eq!(config.source, collector::Source::Kubernetes(None));
    let (volume, may_write) = deployed.volume(&config.database);
    assert_eq!(
        volume["persistentVolumeClaim"]["claimName"],
        "polproof-collector"
    );
    assert!(may_write);
    deployed.tls([&config.tls.ca, &config.tls.cert, &config.tls.key]);
    assert!(config.listen.ip().is_unspecified());
    assert_eq!(deployed.port("grpc"), u64::from(config.listen.port()));
    deployed.probes(config.listen_http);
    assert!(config.retention > Duration::from_secs(86_400));
}

#[test]
fn what_people_are_told_to_apply_is_there() {
    let root = folder().join("..");
    for (file, folders) in [
        ("README.md", 1),
        ("deploy/README.md", 1),
        ("deploy/kustomization.yaml", 1),
        ("deploy/base/kustomization.yaml", 1),
        ("tests/src/bin/polproof-demo/main.rs", 1),
    ] {
        let text = std::fs::read_to_string(root.join(file)).unwrap();
        let mut named = 0;
        for flag in [" -k ", " -f "] {
            for (at, _) in text.match_indices(&format!("kubectl apply{flag}")) {
                let rest = &text[at + "kubectl apply".len() + flag.len()..];
                let path = rest
                    .split(|c: char| c.is_whitespace() || c == '`')
                    .next()
                    .unwrap();
                let path = root.join(path);
                if flag == " -k " {
                    assert!(
                        path.join("kustomization.yaml").is_file(),
                        "{file}: {}",
                        path.display()
                    );
                    named += 1;
                } else {
                    assert!(path.is_file(), "{file}: {}", path.display());
                }
            }
        }
        assert!(named >= folders, "{file} names no folder to apply");
    }
}
