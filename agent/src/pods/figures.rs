//! The figures and the list of what is not covered.

use std::collections::HashMap;

use polproof_flow::netns::{Hook, InPod};

use super::coverage::{Uncovered, set};
use super::identify::Identity;
use super::watch::{Namespace, Watcher};

impl Watcher {
    /// Renews all gauges and the coverage.
    pub(super) fn renew_figures(&self) {
        match self.lock().counters() {
            Ok(counters) => self.stats.set_kernel(counters),
            Err(error) => tracing::warn!(%error, "the BPF programs' counters cannot be read"),
        }
        let (mut attached, mut unidentified, mut contradicted, mut shared) = (0, 0, 0, 0);
        let mut filtered = 0;
        let mut uncovered = Vec::new();
        let mut watched_pods = HashMap::new();
        for (path, namespace) in &self.namespaces {
            let watched = match namespace {
                Namespace::Watched(watched) => watched,
                Namespace::Waiting { problem, .. } => {
                    uncovered.push(Uncovered {
                        pod: None,
                        reason: format!("{}: {problem}", path.display()),
                    });
                    continue;
                }
                Namespace::Ignored => continue,
            };
            attached += 1;
            filtered += usize::from(matches!(watched.inside.filter, Some(InPod::Filtered(_))));
            let is_shared = match &watched.attached.hook {
                Hook::Exclusive => None,
                Hook::Shared(why) => Some(why),
            };
            shared += usize::from(is_shared.is_some());
            match &watched.identity {
                Identity::Pod(uid) => {
                    watched_pods.insert(uid, is_shared);
                }
                Identity::Unknown(why) => {
                    unidentified += 1;
                    uncovered.push(Uncovered {
                        pod: None,
                        reason: format!("{} is unidentified: {why}", path.display()),
                    });
                }
                Identity::Contradicted(why) => {
                    contradicted += 1;
                    uncovered.push(Uncovered {
                        pod: None,
                        reason: format!("{} is contradicted: {why}", path.display()),
                    });
                }
            }
        }
        let (mut expected, mut covered) = (0, 0);
        for pod in self.pods.expected() {
            expected += 1;
            let reason = match watched_pods.get(&pod.uid) {
                Some(None) => {
                    covered += 1;
                    continue;
                }
                Some(Some(why)) => format!("its eth0 is not ours alone: {why}"),
                None => format!(
                    "no network namespace in {} could be matched to it",
                    self.config.netns_dir.display()
                ),
            };
            uncovered.push(Uncovered {
                pod: Some((pod.id.clone(), pod.uid.clone())),
                reason,
            });
        }
        // Pods first: they are what people ask for.
        uncovered.sort_by(|a, b| (a.pod.is_none(), &a.pod).cmp(&(b.pod.is_none(), &b.pod)));
        let stats = &self.stats;
        set(&stats.namespaces, self.namespaces.len());
        set(&stats.attached, attached);
        set(&stats.unidentified, unidentified);
        set(&stats.contradicted, contradicted);
        set(&stats.hooks_shared, shared);
        set(&stats.filtered_inside, filtered);
        set(&stats.pods_expected, expected);
        set(&stats.pods_watched, covered);
        stats.set_coverage(uncovered);
    }
}
