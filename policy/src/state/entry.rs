//! Pods as they come and go, with what selects them.

use std::sync::Arc;

use smallvec::SmallVec;

use super::State;
use crate::evaluate::{PodEntry, SeenAs};
use crate::model::{Pod, Uid};

impl State {
    /// A pod with what selects it now.
    pub(super) fn entry(&mut self, pod: Arc<Pod>) -> PodEntry {
        if pod.finished {
            let nobody = self.policies.nobody();
            return PodEntry {
                uid: pod.uid.clone(),
                seen_as: SeenAs::of(&pod),
                pod,
                groups: SmallVec::new(),
                ingress: Arc::clone(&nobody),
                egress: nobody,
            };
        }
        let namespace = &pod.id.namespace;
        let store = &self.store;
        let groups =
            self.groups
                .of_pod(namespace, || store.namespace_labels(namespace), &pod.labels);
        let selected_by = self.admin.selecting(&groups);
        let (ingress, egress) = self.policies.isolating(&pod, &mut self.admin, &selected_by);
        PodEntry {
            uid: pod.uid.clone(),
            seen_as: SeenAs::of(&pod),
            pod,
            groups,
            ingress,
            egress,
        }
    }

    pub(super) fn put_pod(&mut self, mut pod: Arc<Pod>) -> bool {
        let held = self.store.pod_names.get(&pod.id).cloned();
        let old: Option<Arc<PodEntry>> = held
            .as_ref()
            .and_then(|uid| self.store.pods.get(uid).cloned());
        if let Some(old) = &old
            && *old.pod == *pod
        {
            return false;
        }
        self.texts
            .share(&mut pod, old.as_ref().map(|old| &*old.pod));
        if let Some(uid) = &held {
            if *uid == pod.uid {
                self.texts.release();
                self.release_pod_ips(uid);
            } else {
                self.drop_pod(uid);
            }
        }
        // One UID under two names is no cluster's doing, but a folder of files may hold it.
        if held.as_ref() != Some(&pod.uid) {
            self.drop_pod(&pod.uid.clone());
            self.store.pod_names.insert(pod.id.clone(), pod.uid.clone());
        }
        if !pod.finished && !pod.host_network {
            for ip in &pod.ips {
                self.store.pod_ips.add(ip.to_canonical(), pod.uid.clone());
            }
        }
        let entry = match old {
            // Most updates of a pod touch nothing that selectors see.
            Some(old) if old.pod.labels == pod.labels && old.pod.finished == pod.finished => {
                PodEntry {
                    uid: pod.uid.clone(),
                    seen_as: SeenAs::of(&pod),
                    pod,
                    groups: old.groups.clone(),
                    ingress: Arc::clone(&old.ingress),
                    egress: Arc::clone(&old.egress),
                }
            }
            Some(_) | None => self.entry(pod),
        };
        self.store.pods.insert(Arc::new(entry));
        true
    }

    fn release_pod_ips(&mut self, uid: &Uid) {
        let Some(entry) = self.store.pods.get(uid).cloned() else {
            return;
        };
        for ip in &entry.pod.ips {
            self.store.pod_ips.remove(&ip.to_canonical(), uid);
        }
    }

    pub(super) fn drop_pod(&mut self, uid: &Uid) {
        self.release_pod_ips(uid);
        if let Some(entry) = self.store.pods.remove(uid) {
            self.store.pod_names.remove(&entry.pod.id);
            self.texts.release();
        }
    }
}
