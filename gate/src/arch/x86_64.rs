//! amd64.

use iced_x86::{Decoder, DecoderOptions, FlowControl, OpKind};

use super::Call;

/// AX at 80, BX at 40.
pub(super) const ARGUMENT_OFFSETS: [u64; 2] = [80, 40];

pub(super) fn calls(code: &[u8], address: u64) -> Vec<Call> {
    Decoder::with_ip(64, code, address, DecoderOptions::NONE)
        .into_iter()
        .filter(|instruction| {
            instruction.flow_control() == FlowControl::Call && instruction.op0_kind() == OpKind::NearBranch64
        })
        .map(|instruction| Call { at: instruction.ip(), target: instruction.near_branch_target() })
        .collect()
}
