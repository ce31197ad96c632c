//! How the collectors work.

use memgate_evidence::plan::Collecting;

/// How the collectors work.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// What the user decides.
    pub collecting: Collecting,
    /// How much the buffer for records holds, bytes: a power of two from 4096 on.
    pub buffer_bytes: u32,
}

impl Default for Options {
    /// 2 MiB hold 43,690 records with their headers: most of a second at 50,000 records a second, which 10,000 GC cycles make. The
    /// sampler empties the buffer ten times a second, unless the machine is busy.
    fn default() -> Self {
        Self { collecting: Collecting::default(), buffer_bytes: 2 << 20 }
    }
}
