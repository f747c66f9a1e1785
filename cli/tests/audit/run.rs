//! The real binary, and what it is given.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Two namespaces with pods and without policies.
pub(crate) const OPEN: &str = "\
apiVersion: v1
kind: Pod
metadata: { name: api, namespace: shop, labels: { app: api } }
spec: { containers: [{ name: c, image: i }] }
---
apiVersion: v1
kind: Pod
metadata: { name: front, namespace: web, labels: { app: front } }
spec: { containers: [{ name: c, image: i }] }
---
apiVersion: v1
kind: ConfigMap
metadata: { name: settings, namespace: web }
";

/// Policies for both of them, and no pods.
pub(crate) const DENIED: &str = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: deny, namespace: shop }
spec: { podSelector: {}, policyTypes: [Ingress, Egress] }
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: { name: deny, namespace: web }
spec: { podSelector: {}, policyTypes: [Ingress, Egress] }
";

/// As `kustomize build` prints: documents one after the other.
pub(crate) const KUSTOMIZE: &str = "\
apiVersion: v1
kind: Namespace
metadata:
  labels:
    team: shop
  name: open
---
apiVersion: v1
kind: Pod
metadata:
  name: a
  namespace: open
spec:
  containers:
  - image: i
    name: c
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: deny
  namespace: shop
spec:
  podSelector: {}
";

/// As `helm template` prints: comments, empty documents, a list.
pub(crate) const HELM: &str = "\
---
# Source: shop/templates/empty.yaml
---
# Source: shop/templates/all.yaml
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: { name: a, namespace: open }
  spec: { containers: [{ name: c, image: i, resources: { limits: { cpu: 1 } } }] }
---
# Source: shop/templates/policy.yaml
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: \"deny\"
  namespace: \"shop\"
spec:
  podSelector: {}
---
";

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_polproof"));
    // No home: no kubeconfig of the person who runs the tests.
    command.env_clear().env("HOME", "/nonexistent").args(args);
    command
}

/// Runs the command in a folder.
pub(crate) fn polproof(dir: &Path, args: &[&str]) -> Output {
    command(args).current_dir(dir).output().unwrap()
}

/// Runs the command with text on its standard input.
pub(crate) fn stdin(text: &str, args: &[&str]) -> Output {
    let mut child = command(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its flags reads nothing.
    let _ = child.stdin.take().unwrap().write_all(text.as_bytes());
    child.wait_with_output().unwrap()
}

/// What it printed.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What it noted.
pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// What it printed, if that is JSON.
pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", stdout(output), stderr(output)))
}
