//! Open file descriptors, from `/proc`.

use std::{fs, path::Path};

use memgate_evidence::{Series, Signal};

use crate::collect::{
    collector::{Boundary, Collector, Scene},
    worth::{Ending, note},
};

const SOURCE: &str = "entries of /proc/PID/fd of each process of the cgroup at 2.5 Hz";

/// Collects `fds`.
#[derive(Default)]
pub(in crate::collect) struct DescriptorCollector {
    fds: Series,
    failure: Option<String>,
}

impl DescriptorCollector {
    /// Counts them. The kernel lists each one, so a count takes longer the more there are.
    pub(in crate::collect) fn count(&mut self, scene: &Scene) {
        let at_ns = scene.clock.now_ns();
        let entries = |entry: &Path| fs::read_dir(entry.join("fd")).map(Iterator::count);
        match entries(scene.service.entry()) {
            Ok(own) => {
                let others = scene.read_others(&mut self.failure, |entry| Ok(entries(&entry)?));
                self.fds.push(at_ns, u64::try_from(own + others.iter().sum::<usize>()).unwrap_or(u64::MAX));
            }
            Err(error) => note(&mut self.failure, format!("/proc/PID/fd: {error}")),
        }
    }

    pub(in crate::collect) fn into_signal(self, ending: &Ending) -> Signal<Series> {
        ending.summed(self.failure).of(SOURCE, self.fds)
    }
}

impl Collector for DescriptorCollector {
    fn reach(&mut self, boundary: Boundary, _scene: &mut Scene) {
        // The descriptors of the service's start do not belong to the idle service.
        if boundary == Boundary::Idle {
            self.fds = Series::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use memgate_evidence::Exactness;

    use super::*;
    use crate::{
        cgroup::fake::FakeCgroup,
        collect::testing::{Fake, PID},
    };

    #[test]
    fn the_processes_of_the_cgroup_are_summed_up_from_idleness_on() {
        let mut fake = Fake::new();
        let cgroup = FakeCgroup::v2();
        fake.scene.cgroup = cgroup.files(None);
        fake.proc.open_files(PID, 5);
        fake.proc.other(4243, "worker");
        fake.proc.open_files(4243, 2);
        let mut collector = DescriptorCollector::default();
        collector.count(&fake.scene);
        collector.reach(Boundary::Idle, &mut fake.scene);
        cgroup.write("cgroup.procs", &format!("{PID}\n4243\n4244\n"));
        collector.count(&fake.scene);
        fake.proc.end_other(4243);
        fake.proc.open_files(PID, 6);
        collector.count(&fake.scene);
        let signal = collector.into_signal(&Ending::default());
        assert_eq!((signal.data.value, signal.exactness), (vec![7, 6], Exactness::Sampled));
    }

    #[test]
    fn a_process_that_lives_and_cannot_be_read_is_a_doubt_and_not_nothing() {
        let mut fake = Fake::new();
        let cgroup = FakeCgroup::v2();
        fake.scene.cgroup = cgroup.files(None);
        fake.proc.open_files(PID, 5);
        fake.proc.other(4243, "worker");
        cgroup.write("cgroup.procs", &format!("{PID}\n4243\n"));
        fake.proc.unreadable(4243, "fd");
        let mut collector = DescriptorCollector::default();
        collector.count(&fake.scene);
        let signal = collector.into_signal(&Ending::default());
        assert!(matches!(signal.exactness, Exactness::Inexact { reason } if reason.starts_with("process 4243: ")));
    }

    #[test]
    fn a_cgroup_whose_processes_cannot_be_read_is_a_doubt() {
        let mut fake = Fake::new();
        let cgroup = FakeCgroup::v2();
        fake.scene.cgroup = cgroup.files(None);
        fake.proc.open_files(PID, 5);
        cgroup.remove("cgroup.procs");
        let mut collector = DescriptorCollector::default();
        collector.count(&fake.scene);
        let signal = collector.into_signal(&Ending::default());
        assert!(matches!(signal.exactness, Exactness::Inexact { reason } if reason.contains("cgroup.procs")));
    }

    #[test]
    fn a_service_whose_descriptors_cannot_be_read_is_a_doubt() {
        let fake = Fake::new();
        fake.proc.end();
        let mut collector = DescriptorCollector::default();
        collector.count(&fake.scene);
        let signal = collector.into_signal(&Ending::default());
        assert!(matches!(signal.exactness, Exactness::Inexact { reason } if reason.starts_with("/proc/PID/fd: ")));
    }
}
