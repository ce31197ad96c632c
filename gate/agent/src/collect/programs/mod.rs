//! The BPF programs on the service, behind an interface with a fake.

mod attach;
mod bpf;
mod error;
mod events;
mod multi;
pub mod tier;

use std::ops::Range;

use memgate_ebpf::{Fault, Record, count};
use memgate_goexe::probes::Probe;

pub(super) use attach::{Attached, attach};
pub(super) use error::ProgramError;

/// Totals of events without records, since the programs were loaded: an entry for each constant of [`count`].
pub(super) type Counts = [u64; count::COUNTS as usize];

/// Programs that are loaded for one process. Dropping them detaches them.
pub(super) trait Programs: Send {
    /// Puts probes on the running executable of the process, until the links are dropped.
    ///
    /// # Errors
    /// Fails if the kernel refuses one.
    fn attach(&mut self, probes: &[Probe]) -> Result<Links, ProgramError>;

    /// Attaches the program of this name, which captures first touches outside the runtime's own mappings; from tier T2
    /// on.
    ///
    /// # Errors
    /// Fails if the kernel refuses it.
    fn attach_first_touch(&mut self, name: &str) -> Result<(), ProgramError>;

    /// Passes every record from before this call to `each`, in the order of their times.
    fn drain(&mut self, each: &mut dyn FnMut(Record));

    /// Passes every waiting capture of a first touch to `each`.
    fn drain_faults(&mut self, each: &mut dyn FnMut(&Fault));

    /// Lets the CPUs together capture this many first touches from now on. Each CPU gets its share, and at least one.
    ///
    /// # Errors
    /// Fails if the kernel refuses.
    fn allow_captures(&mut self, captures: u64) -> Result<(), ProgramError>;

    /// Leaves touches in these ranges out of the captures. The programs know at most [`memgate_ebpf::RANGES`] of them.
    ///
    /// # Errors
    /// Fails if the kernel refuses.
    fn leave_out(&mut self, ranges: &[Range<u64>]) -> Result<(), ProgramError>;

    /// Passes the address of a thread's `m` to the programs.
    ///
    /// # Errors
    /// Fails if there are too many threads.
    fn name_thread(&mut self, thread: u32, m: u64) -> Result<(), ProgramError>;

    /// Records that did not fit since the programs were loaded, by kind.
    ///
    /// # Errors
    /// Fails if the kernel does not report it. The losses are unknown then.
    fn lost(&self) -> Result<Vec<u64>, ProgramError>;

    /// The totals of events without records.
    ///
    /// # Errors
    /// Fails if the kernel does not report them.
    fn counts(&self) -> Result<Counts, ProgramError>;
}

/// Attached probes. Dropping them detaches them.
pub(super) struct Links(Box<dyn Send>);

impl Links {
    pub(super) fn new(links: impl Send + 'static) -> Self {
        Self(Box::new(links))
    }

    /// Detaches the probes in the background. For each link the kernel waits until nothing can still run its program.
    /// That takes a tenth of a second, or seconds on a busy machine, and no reading may wait for it.
    pub(super) fn take_off(self) {
        // Without a thread they are detached here.
        let _ = std::thread::Builder::new().name("detach".to_owned()).spawn(move || drop(self.0));
    }
}
