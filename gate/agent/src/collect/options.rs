//! Options of the collectors.

use memgate_evidence::plan::Collecting;

/// Options of the collectors.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The user's choices.
    pub collecting: Collecting,
    /// The size of the buffer for records, bytes: a power of two, at least 4096.
    pub buffer_bytes: u32,
}

impl Default for Options {
    /// 2 MiB hold 43,690 records with their headers, which is most of a second at 50,000 records a second. A service
    /// with 10,000 GC cycles a second makes that many. The sampler empties the buffer ten times a second unless the
    /// machine is busy.
    fn default() -> Self {
        Self { collecting: Collecting::default(), buffer_bytes: 2 << 20 }
    }
}
