//! Names for the call stacks of a run. The evidence has each frame and each stack once.

use std::collections::HashMap;

use memgate_evidence::{Code, Frame, Language};
use memgate_goexe::FunctionTable;

use super::unwind::{self, unknown};

/// Collects the stacks of a run and numbers them.
#[derive(Debug, Default)]
pub(super) struct Symboliser {
    code: Code,
    frames: HashMap<Frame, u32>,
    stacks: HashMap<Vec<u32>, u32>,
    /// Frames by address in the executable, so that each is looked up only once.
    by_address: HashMap<u64, u32>,
}

impl Symboliser {
    /// The index in [`Code::stacks`] of a stack, the innermost frame first.
    pub(super) fn intern_stack(&mut self, frames: impl IntoIterator<Item = Frame>) -> u32 {
        let frames = frames.into_iter().map(|frame| self.intern_frame(frame)).collect();
        self.intern(frames)
    }

    /// The index in [`Code::stacks`] of a stack that the Go runtime recorded: return addresses, one for each logical
    /// frame, the innermost first, up to the first 0. `bias` is added to an address of the executable to get one of the
    /// process.
    ///
    /// The runtime's own innermost frames are left out, as in the runtime's own profiles, unless the stack has no
    /// others (`writeHeapProto` in src/runtime/pprof/protomem.go, Go 1.27).
    pub(super) fn go_stack(&mut self, functions: &FunctionTable, pcs: &[u64], bias: u64) -> u32 {
        let pcs = pcs.iter().take_while(|pc| **pc != 0);
        let mut frames: Vec<u32> = pcs.map(|pc| self.go_frame(functions, pc.wrapping_sub(1), bias)).collect();
        let runtime = frames.iter().take_while(|frame| self.is_runtime(**frame)).count();
        if runtime < frames.len() {
            frames.drain(..runtime);
        }
        self.intern(frames)
    }

    /// The index in [`Code::stacks`] of a place in Go code, with the callers into which it is inlined.
    pub(super) fn go_place(&mut self, functions: &FunctionTable, address: u64, bias: u64) -> u32 {
        let frames = functions.frames(address.wrapping_sub(bias)).into_iter().map(unwind::go_frame);
        self.intern_stack(frames)
    }

    pub(super) fn into_code(self) -> Code {
        self.code
    }

    fn go_frame(&mut self, functions: &FunctionTable, address: u64, bias: u64) -> u32 {
        let in_file = address.wrapping_sub(bias);
        if let Some(frame) = self.by_address.get(&in_file) {
            return *frame;
        }
        let frame = functions.frame(in_file).map_or_else(|| unknown(address, Language::Go), unwind::go_frame);
        let index = self.intern_frame(frame);
        self.by_address.insert(in_file, index);
        index
    }

    fn is_runtime(&self, frame: u32) -> bool {
        let frame = usize::try_from(frame).ok().and_then(|index| self.code.frames.get(index));
        frame.is_some_and(|frame| {
            frame.language == Language::Go
                && (frame.function.starts_with("runtime.") || frame.function.starts_with("internal/runtime/"))
        })
    }

    fn intern_frame(&mut self, frame: Frame) -> u32 {
        *self.frames.entry(frame).or_insert_with_key(|frame| {
            self.code.frames.push(frame.clone());
            last_index(&self.code.frames)
        })
    }

    fn intern(&mut self, frames: Vec<u32>) -> u32 {
        *self.stacks.entry(frames).or_insert_with_key(|frames| {
            self.code.stacks.push(frames.clone());
            last_index(&self.code.stacks)
        })
    }
}

/// The index of the last element of a list that is not empty. No run collects so many stacks that an index does not
/// fit. Such an index becomes `u32::MAX`, which means an unknown stack.
fn last_index<T>(list: &[T]) -> u32 {
    u32::try_from(list.len().saturating_sub(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use memgate_evidence::platform::Platform;

    use super::*;

    fn frame(function: &str, line: u32) -> Frame {
        Frame { function: function.to_owned(), file: String::new(), line, inlined: false, language: Language::Native }
    }

    #[test]
    fn each_frame_and_each_stack_is_kept_once() {
        let mut symboliser = Symboliser::default();
        let first = symboliser.intern_stack([frame("malloc", 1), frame("main", 2)]);
        let second = symboliser.intern_stack([frame("malloc", 1), frame("main", 3)]);
        assert_ne!(first, second);
        assert_eq!(symboliser.intern_stack([frame("malloc", 1), frame("main", 2)]), first);
        let code = symboliser.into_code();
        assert_eq!((code.frames.len(), code.stacks.len()), (3, 2));
        let names: Vec<_> = code.stack(second).map(|frame| (frame.function.as_str(), frame.line)).collect();
        assert_eq!(names, [("malloc", 1), ("main", 3)]);
    }

    #[test]
    fn a_go_stack_has_no_innermost_frames_of_the_runtime() {
        const BIAS: u64 = 0x5500_0000_0000;
        let directory = tempfile::tempdir().unwrap();
        let bytes = std::fs::read(unwind::go_executable(Platform::host(), directory.path())).unwrap();
        let functions = FunctionTable::read(&object::File::parse(&*bytes).unwrap(), unwind::go_minor()).unwrap();
        // A return address at the very end of a function belongs to that function, not to the next.
        let pc = |name: &str| functions.named(name).unwrap().end + BIAS;
        let nowhere = functions.text_start() - 0x100 + BIAS;
        let [park, main, run] = ["runtime.gopark", "main.main", "runtime.main"].map(pc);
        let mut symboliser = Symboliser::default();
        let stacks = [
            (vec![park, main, run], vec!["main.main".to_owned(), "runtime.main".to_owned()]),
            (vec![main, park, run, 0, main], ["main.main", "runtime.gopark", "runtime.main"].map(str::to_owned).into()),
            (vec![park, run], vec!["runtime.gopark".to_owned(), "runtime.main".to_owned()]),
            (vec![nowhere, main], vec![format!("{:#x}", nowhere - 1), "main.main".to_owned()]),
            (vec![], vec![]),
        ];
        let indices: Vec<_> = stacks.iter().map(|(pcs, _)| symboliser.go_stack(&functions, pcs, BIAS)).collect();
        assert_eq!(symboliser.go_stack(&functions, &stacks[0].0, BIAS), indices[0]);
        let code = symboliser.into_code();
        for ((pcs, expected), index) in stacks.iter().zip(indices) {
            let names: Vec<_> = code.stack(index).map(|frame| frame.function.clone()).collect();
            assert_eq!(names, *expected, "{pcs:x?}");
            assert!(code.stack(index).all(|frame| frame.language == Language::Go));
        }
    }
}
