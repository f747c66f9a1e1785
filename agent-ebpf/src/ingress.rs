//! tcx/clsact ingress of the pod's eth0: what is here got past whatever the CNI does outside the pod.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};
use polproof_agent_common::DIRECTION_IN;

use crate::{gate, parse};

/// Records attempts and answers that come into the pod.
#[classifier]
pub fn polproof_ingress(ctx: TcContext) -> i32 {
    if gate::may_matter(&ctx, DIRECTION_IN) {
        parse::examine(&ctx, DIRECTION_IN);
    }
    TC_ACT_UNSPEC
}
