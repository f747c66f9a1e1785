//! What was before and what is after.

use std::collections::BTreeMap;

use polproof_policy::{Kind, Object, Snapshot, State};

use crate::args::Diff as Options;
use crate::failure::Failure;
use crate::source::{self, Loaded};

/// One side.
pub(super) struct Side {
    pub(super) name: String,
    pub(super) snapshot: Snapshot,
}

/// Both.
pub(super) struct Sides {
    pub(super) before: Side,
    pub(super) after: Side,
}

impl Sides {
    /// Reads both, and the workloads that both are to have.
    pub(super) async fn load(options: &Options) -> Result<Self, Failure> {
        let cluster = options.source.context.is_some() || options.source.kubeconfig.is_some();
        let (before, after) = match (options.paths.as_slice(), cluster) {
            ([before, after], false) => {
                if before == after && before.as_os_str() == "-" {
                    return Err(Failure::usage(
                        "standard input can be one side only: write the other one into a file",
                    ));
                }
                (source::manifests(before)?, source::manifests(after)?)
            }
            ([after], true) => (
                source::load(None, &options.source).await?,
                source::manifests(after)?,
            ),
            (_, true) => {
                return Err(Failure::usage(
                    "a cluster and two paths are given: with --context or --kubeconfig the cluster is what was before, \
                     so give the manifests after alone",
                ));
            }
            (_, false) => {
                return Err(Failure::usage(
                    "one path is given: give what was before and what is after, or --context NAME for the cluster as what \
                     was before",
                ));
            }
        };
        source::note_refused(&before);
        source::note_refused(&after);
        let workloads = options
            .workloads
            .as_deref()
            .map(source::manifests)
            .transpose()?;
        if let Some(workloads) = &workloads {
            source::note_refused(workloads);
        }
        let side = |loaded: Loaded| Side {
            snapshot: match &workloads {
                Some(workloads) => beside(&workloads.view.snapshot, &loaded.view.snapshot),
                None => loaded.view.snapshot,
            },
            name: loaded.name,
        };
        let sides = Self {
            before: side(before),
            after: side(after),
        };
        sides.check(options)?;
        Ok(sides)
    }

    /// Without pods nothing can be opened or closed, and "no change" would be a lie.
    fn check(&self, options: &Options) -> Result<(), Failure> {
        let lacks = |side: &Side| side.snapshot.pods().all(|pod| pod.finished);
        let (before, after) = (lacks(&self.before), lacks(&self.after));
        let which = match (before, after) {
            (false, false) => return Ok(()),
            (true, true) => format!("neither {} nor {} has", self.before.name, self.after.name),
            (true, false) => format!("{} does not have", self.before.name),
            (false, true) => format!("{} does not have", self.after.name),
        };
        let remedy = if options.workloads.is_some() {
            "and --workloads has none either: point it at the Deployments, StatefulSets, Pods and so on"
        } else {
            "where the change is to policies alone, give --workloads PATH with the Deployments, StatefulSets, Pods and so \
             on for both sides"
        };
        Err(Failure::usage(format!(
            "{which} any pods or workloads, so there is no connectivity to compare; {remedy}"
        )))
    }
}

/// The pods, namespaces and so on of `workloads` with the objects of `side` in front; policies are those of `side` alone.
fn beside(workloads: &Snapshot, side: &Snapshot) -> Snapshot {
    let mut objects: BTreeMap<_, Object> = BTreeMap::new();
    let shared = workloads.objects().filter(|object| {
        matches!(
            object,
            Object::Pod(_)
                | Object::Namespace(_)
                | Object::Node(_)
                | Object::Service(_)
                | Object::EndpointSlice(_)
        )
    });
    for object in shared.chain(side.objects()) {
        let key = object.key();
        objects.insert((key.kind, key.id), object);
    }
    let mut by_kind: BTreeMap<Kind, Vec<Object>> = BTreeMap::new();
    for ((kind, _), object) in objects {
        by_kind.entry(kind).or_default().push(object);
    }
    let mut state = State::new();
    for kind in Kind::ALL {
        state.reset(kind, by_kind.remove(&kind).unwrap_or_default());
    }
    state.set_refused_policies(side.refused_policies());
    state.snapshot()
}
