//! The interface of the collectors, and the state that they share.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use memgate_evidence::error::in_full;
use memgate_goexe::FunctionTable;
use nix::unistd::Pid;
use procfs::ProcResult;

use super::{
    code::Symboliser,
    memory::ServiceMemory,
    programs::Programs,
    service::ServiceProcess,
    sources::{Counters, RuntimeRanges},
    worth::note,
};
use crate::{cgroup::CgroupFiles, clock::Clock};

/// The start or the end of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Boundary {
    /// The service is ready, and there is no load yet.
    Idle,
    /// The measuring phase begins.
    MeasureStart,
    /// The measuring phase ends.
    MeasureEnd,
    /// The drain has ended, and the service is about to be stopped.
    Drained,
}

/// A window in which memgate makes the runtime collect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Its length.
    pub length: Duration,
    /// Where the service listens; `None` if memgate cannot wake it.
    pub service: Option<SocketAddr>,
}

/// One reading of everything.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reading {
    /// When, ns since launch.
    pub(super) at_ns: u64,
    /// How many times a collector tries to read a source that changes meanwhile.
    pub(super) attempts: u32,
}

/// A source of one service's signals: its reader, its data and its failures.
///
/// A collector does nothing on its own. The recorder calls it, on one thread and with one clock. The collector keeps
/// its first failure and continues. At the end it makes its signals, with a method of its own because each collector
/// has others.
pub(super) trait Collector {
    /// Reads the source, five times a second and at every boundary.
    fn read(&mut self, _reading: Reading, _scene: &mut Scene) {}

    /// Does what is due ten times a second.
    fn tick(&mut self, _scene: &mut Scene) {}

    /// Does what is due at a boundary. A reading follows.
    fn reach(&mut self, _boundary: Boundary, _scene: &mut Scene) {}
}

/// What the collectors of one service share.
pub(super) struct Scene {
    pub(super) clock: Clock,
    pub(super) service: ServiceProcess,
    /// The service's cgroup, if it has one.
    pub(super) cgroup: CgroupFiles,
    pub(super) memory: ServiceMemory,
    /// `None` in tier T0.
    pub(super) programs: Option<Box<dyn Programs>>,
    /// Names for the executable's addresses, or why there are none.
    pub(super) functions: Result<Arc<FunctionTable>, String>,
    /// The call stacks that the signals name.
    pub(super) code: Symboliser,
    /// What the runtime has mapped. The collector of mappings writes it.
    pub(super) mapped: Mapped,
    /// The last reading of the counters. The collector of counters writes it.
    pub(super) totals: Option<Counters>,
    /// GC cycles that ended between the last two readings of the counters; `None` if the last reading failed.
    pub(super) new_cycles: Option<u64>,
}

impl Scene {
    /// The other processes of the service's cgroup now; `None` if the service has no cgroup.
    ///
    /// # Errors
    /// Fails if the cgroup cannot be read.
    pub(super) fn others(&self) -> Option<Result<Vec<i32>, String>> {
        let service = self.service.process().pid();
        let others = |all: Vec<Pid>| all.into_iter().map(Pid::as_raw).filter(|pid| *pid != service).collect();
        Some(self.cgroup.processes()?.map(others).map_err(|error| in_full(&error)))
    }

    /// What `read` reads in the entry of each other process of the service's cgroup. One that has ended meanwhile does
    /// not count. What lives and cannot be read is in `failure`.
    pub(super) fn read_others<T>(
        &self,
        failure: &mut Option<String>,
        read: impl Fn(PathBuf) -> ProcResult<T>,
    ) -> Vec<T> {
        let others = self.others().unwrap_or_else(|| Ok(Vec::new())).unwrap_or_else(|reason| {
            note(failure, reason);
            Vec::new()
        });
        let mut all = Vec::new();
        for pid in others {
            match self.service.of_sibling(pid, &read) {
                Ok(of_one) => all.extend(of_one),
                Err(reason) => note(failure, reason),
            }
        }
        all
    }
}

/// What the runtime has mapped.
#[derive(Debug, Default)]
pub(super) struct Mapped {
    pub(super) ranges: RuntimeRanges,
    /// How often the runtime has mapped or unmapped.
    pub(super) changes: u64,
}

/// A value at the start and one at the end of the measuring phase.
#[derive(Debug)]
pub(super) struct AtEnds<T> {
    pub(super) start: Option<T>,
    pub(super) end: Option<T>,
}

impl<T> Default for AtEnds<T> {
    fn default() -> Self {
        Self { start: None, end: None }
    }
}

impl<T> AtEnds<T> {
    /// Stores the value at this boundary, if it starts or ends the measuring phase.
    pub(super) fn put(&mut self, boundary: Boundary, value: T) {
        match boundary {
            Boundary::MeasureStart => self.start = Some(value),
            Boundary::MeasureEnd => self.end = Some(value),
            Boundary::Idle | Boundary::Drained => {}
        }
    }

    /// Both, if the service reached both.
    pub(super) fn both(self) -> Option<(T, T)> {
        self.start.zip(self.end)
    }
}
