//! What changes: policies, labels of pods and namespaces, pods (whose addresses the next one gets at once), endpoints.

use std::time::{Duration, Instant};

use anyhow::Result;
use polproof_tests::lab::node::PodSpec;
use polproof_tests::lab::{Lab, wait_for};
use serde_json::{Value, json};

use crate::random::Random;
use crate::traffic::{PATIENCE, Traffic};

pub(crate) const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const TEAMS: [&str; 2] = ["red", "blue"];
const ROLES: [&str; 3] = ["web", "api", "db"];
const NODES: usize = 2;
const SEATS_A_NODE: u8 = 6;
const FIRST_HOST: u8 = 10;
/// Policies that there are at most.
const MOST_POLICIES: usize = 10;

/// A place for a pod: a node and the last number of its addresses. The next pod in it has the addresses of the last one.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) node: usize,
    pub(crate) host: u8,
    /// `namespace/name`, and how many pods the seat has had.
    pub(crate) pod: Option<String>,
    pub(crate) had: u32,
}

/// The cluster as this module has made it.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) seats: Vec<Seat>,
    policies: Vec<(String, String)>,
    named: u32,
    random: Random,
}

impl Cluster {
    pub(crate) fn new(seed: u64) -> Self {
        let seats = (0..NODES)
            .flat_map(|node| (0..SEATS_A_NODE).map(move |seat| (node, FIRST_HOST + seat)))
            .map(|(node, host)| Seat {
                node,
                host,
                pod: None,
                had: 0,
            })
            .collect();
        Self {
            seats,
            policies: Vec::new(),
            named: 0,
            random: Random::new(seed),
        }
    }

    /// Namespaces, a pod in every seat, and some policies.
    pub(crate) fn begin(&mut self, lab: &mut Lab) -> Result<()> {
        for name in NAMESPACES {
            self.label_namespace(lab, name)?;
        }
        for seat in 0..self.seats.len() {
            self.take_seat(lab, seat)?;
        }
        for _ in 0..MOST_POLICIES / 2 {
            self.new_policy(lab)?;
        }
        Ok(())
    }

    /// Seats that a pod was put into since the last call get their traffic.
    pub(crate) fn addresses(&self, lab: &Lab) -> Result<Vec<[std::net::IpAddr; 2]>> {
        self.seats
            .iter()
            .filter_map(|seat| seat.pod.as_deref())
            .map(|id| Ok(lab.pod(id)?.addresses()))
            .collect()
    }

    /// One change; says in a word which. `moved` is called with every pod that is new.
    pub(crate) fn change(
        &mut self,
        lab: &mut Lab,
        traffic: &Traffic,
        moved: &mut dyn FnMut(&Lab, &Seat) -> Result<()>,
    ) -> Result<&'static str> {
        match self.random.below(100) {
            0..25 => {
                self.new_policy(lab)?;
                Ok("policy written")
            }
            25..45 => {
                self.drop_policy(lab)?;
                Ok("policy deleted")
            }
            45..70 => {
                self.label_pod(lab)?;
                Ok("pod labels")
            }
            70..78 => {
                let name = self.random.one_of(&NAMESPACES).unwrap_or("a");
                self.label_namespace(lab, name)?;
                Ok("namespace labels")
            }
            78..86 => {
                self.endpoints(lab)?;
                Ok("endpoints")
            }
            _ => {
                self.replace_pod(lab, traffic, moved)?;
                Ok("pod replaced")
            }
        }
    }

    fn label_namespace(&mut self, lab: &mut Lab, name: &str) -> Result<()> {
        let team = self.random.one_of(&TEAMS).unwrap_or("red");
        lab.apply(
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": {"team": team}}})
                .to_string(),
        )
    }

    fn take_seat(&mut self, lab: &mut Lab, seat: usize) -> Result<()> {
        let namespace = self.random.one_of(&NAMESPACES).unwrap_or("a");
        let role = self.random.one_of(&ROLES).unwrap_or("web");
        // Half of them are called as the one before them, like those of a StatefulSet.
        let again = self.random.chance(50);
        let Some(place) = self.seats.get_mut(seat) else {
            return Ok(());
        };
        place.had += 1;
        let number = if again { 0 } else { place.had };
        let name = format!("p{}-{}-{number}", place.node, place.host);
        lab.add_pod(
            &PodSpec::new(namespace, &name, place.node)
                .labels(&[("role", role)])
                .port("http", 80)
                .host(place.host),
        )?;
        place.pod = Some(format!("{namespace}/{name}"));
        Ok(())
    }

    fn replace_pod(
        &mut self,
        lab: &mut Lab,
        traffic: &Traffic,
        moved: &mut dyn FnMut(&Lab, &Seat) -> Result<()>,
    ) -> Result<()> {
        let number = self.random.below(self.seats.len());
        let Some(seat) = self.seats.get_mut(number) else {
            return Ok(());
        };
        let Some(id) = seat.pod.take() else {
            return Ok(());
        };
        traffic.aim(self.addresses(lab)?);
        // What is under way to its addresses must not reach the next pod before that is enforced: no enforcer could help it.
        let drained = Instant::now() + PATIENCE + Duration::from_millis(50);
        wait_for(PATIENCE * 4, "attempts to the old pod have ended", || {
            Ok((Instant::now() > drained).then_some(()))
        })?;
        lab.delete_pod(&id)?;
        self.take_seat(lab, number)?;
        if let Some(seat) = self.seats.get(number) {
            moved(lab, seat)?;
        }
        traffic.aim(self.addresses(lab)?);
        Ok(())
    }

    fn label_pod(&mut self, lab: &mut Lab) -> Result<()> {
        let number = self.random.below(self.seats.len());
        let Some((namespace, name)) = self
            .seats
            .get(number)
            .and_then(|seat| seat.pod.as_deref()?.split_once('/'))
        else {
            return Ok(());
        };
        let role = self.random.one_of(&ROLES).unwrap_or("web");
        lab.label_pod(namespace, name, &[("role", role)])
    }

    fn endpoints(&mut self, lab: &mut Lab) -> Result<()> {
        let mut endpoints = Vec::new();
        for seat in &self.seats {
            if let Some(id) = &seat.pod
                && self.random.chance(30)
            {
                let [v4, _] = lab.pod(id)?.addresses();
                endpoints
                    .push(json!({"addresses": [v4.to_string()], "conditions": {"ready": true}}));
            }
        }
        lab.apply(&json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"namespace": "a", "name": "web-1", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 80, "protocol": "TCP"}], "endpoints": endpoints,
        }).to_string())
    }

    fn drop_policy(&mut self, lab: &mut Lab) -> Result<()> {
        if self.policies.len() < 3 {
            return self.new_policy(lab);
        }
        let (namespace, name) = self.policies.remove(self.random.below(self.policies.len()));
        lab.delete("NetworkPolicy", &namespace, &name)
    }

    /// A new policy, or another spec of one that is there.
    fn new_policy(&mut self, lab: &mut Lab) -> Result<()> {
        let edit = self.policies.len() >= MOST_POLICIES
            || (self.random.chance(30) && !self.policies.is_empty());
        let (namespace, name) = if edit {
            let which = self.random.below(self.policies.len());
            self.policies.get(which).cloned().unwrap_or_default()
        } else {
            self.named += 1;
            let namespace = self.random.one_of(&NAMESPACES).unwrap_or("a").to_owned();
            (namespace, format!("policy-{}", self.named))
        };
        let spec = self.spec();
        lab.apply(
            &json!({
                "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
                "metadata": {"namespace": namespace, "name": name}, "spec": spec,
            })
            .to_string(),
        )?;
        if !edit {
            self.policies.push((namespace, name));
        }
        Ok(())
    }

    fn spec(&mut self) -> Value {
        let selector = self.selector();
        let types = self
            .random
            .one_of(&[
                &["Ingress"][..],
                &["Ingress"],
                &["Egress"],
                &["Ingress", "Egress"],
            ])
            .unwrap_or(&["Ingress"]);
        let mut spec = json!({"podSelector": selector, "policyTypes": types});
        for (direction, field, peer) in [("Ingress", "ingress", "from"), ("Egress", "egress", "to")]
        {
            if !types.contains(&direction) {
                continue;
            }
            let rules: Vec<Value> = (0..self.random.below(3)).map(|_| self.rule(peer)).collect();
            if let Some(object) = spec.as_object_mut() {
                object.insert(field.to_owned(), json!(rules));
            }
        }
        spec
    }

    fn rule(&mut self, peer: &str) -> Value {
        let mut rule = json!({});
        let peers: Vec<Value> = (0..self.random.below(3))
            .map(|_| match self.random.below(3) {
                0 => json!({"podSelector": self.selector()}),
                1 => json!({"namespaceSelector": self.teams()}),
                _ => json!({"namespaceSelector": self.teams(), "podSelector": self.selector()}),
            })
            .collect();
        if let Some(object) = rule.as_object_mut() {
            if !peers.is_empty() {
                object.insert(peer.to_owned(), json!(peers));
            }
            if self.random.chance(50) {
                let port = if self.random.chance(70) {
                    json!(80)
                } else {
                    json!("http")
                };
                object.insert("ports".to_owned(), json!([{"port": port}]));
            }
        }
        rule
    }

    fn selector(&mut self) -> Value {
        match self.random.below(ROLES.len() + 1) {
            0 => json!({}),
            other => json!({"matchLabels": {"role": ROLES.get(other - 1)}}),
        }
    }

    fn teams(&mut self) -> Value {
        match self.random.below(TEAMS.len() + 1) {
            0 => json!({}),
            other => json!({"matchLabels": {"team": TEAMS.get(other - 1)}}),
        }
    }
}
