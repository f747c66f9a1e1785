//! Heartbeats: kept and shown as they come, so they must be small and harmless before.

use polproof_proto::v1;

use super::printable;

/// Pods named as unwatched. Beyond, the figures say how many.
const MOST_PODS: usize = 500;
/// Hints of CNIs.
const MOST_HINTS: usize = 20;
/// Refused objects.
const MOST_REFUSED: usize = 100;
/// Kinds of policies.
const MOST_KINDS: usize = 20;
/// What a kernel lacks.
const MOST_LACKS: usize = 20;
/// A name, in bytes.
const LONGEST_NAME: usize = 253;
/// A sentence, in bytes.
const LONGEST_SENTENCE: usize = 1_000;

/// The heartbeat with all text cut and escaped, and lists cut.
pub fn heartbeat(mut heartbeat: v1::Heartbeat) -> v1::Heartbeat {
    if let Some(coverage) = &mut heartbeat.coverage {
        coverage.unwatched.truncate(MOST_PODS);
        for unwatched in &mut coverage.unwatched {
            if let Some(pod) = &mut unwatched.pod {
                clean(&mut pod.namespace, LONGEST_NAME);
                clean(&mut pod.name, LONGEST_NAME);
                clean(&mut pod.uid, LONGEST_NAME);
            }
            clean(&mut unwatched.reason, LONGEST_SENTENCE);
        }
    }
    heartbeat.cni.truncate(MOST_HINTS);
    for hint in &mut heartbeat.cni {
        clean(&mut hint.name, LONGEST_NAME);
        clean(&mut hint.evidence, LONGEST_SENTENCE);
        clean(&mut hint.remedy, LONGEST_SENTENCE);
    }
    if let Some(snapshot) = &mut heartbeat.snapshot {
        clean(&mut snapshot.source, LONGEST_NAME);
        clean(&mut snapshot.problem, LONGEST_SENTENCE);
        snapshot.refused.truncate(MOST_REFUSED);
        for refused in &mut snapshot.refused {
            clean(refused, LONGEST_SENTENCE);
        }
        snapshot.other_policies.truncate(MOST_KINDS);
        for policies in &mut snapshot.other_policies {
            clean(&mut policies.kind, LONGEST_NAME);
        }
    }
    if let Some(kernel) = &mut heartbeat.kernel {
        kernel.lacks.truncate(MOST_LACKS);
        for lack in &mut kernel.lacks {
            clean(&mut lack.name, LONGEST_NAME);
            clean(&mut lack.what, LONGEST_SENTENCE);
            clean(&mut lack.consequence, LONGEST_SENTENCE);
            clean(&mut lack.remedy, LONGEST_SENTENCE);
        }
    }
    heartbeat
}

fn clean(text: &mut String, longest: usize) {
    *text = printable(text, longest);
}
