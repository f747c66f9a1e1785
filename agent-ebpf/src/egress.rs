//! tcx/clsact egress of the pod's eth0: what is here left the pod, and nothing outside has judged it yet.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};
use polproof_agent_common::DIRECTION_OUT;

use crate::{gate, parse};

/// Records attempts and answers that go out of the pod.
#[classifier]
pub fn polproof_egress(ctx: TcContext) -> i32 {
    if gate::may_matter(&ctx, DIRECTION_OUT) {
        parse::examine(&ctx, DIRECTION_OUT);
    }
    TC_ACT_UNSPEC
}
