//! Figures of the service's cgroup: its processes, huge pages and OOM kills.

use memgate_evidence::{Series, Signal};
use nix::unistd::Pid;

use crate::collect::{
    collector::Scene,
    worth::{CGROUP, exact},
};

/// Collects `thp_events` and `oom_kills`, and notices the processes that the service starts.
#[derive(Default)]
pub(in crate::collect) struct CgroupCollector {
    thp_events: Series,
}

/// The signals of this collector.
pub(in crate::collect) struct CgroupSignals {
    pub(in crate::collect) thp_events: Signal<Series>,
    pub(in crate::collect) oom_kills: Signal<u64>,
}

impl CgroupCollector {
    /// Adds a reading of the cgroup: its processes, and its huge pages since the launch if the kernel counts them.
    pub(in crate::collect) fn see(&mut self, processes: &[Pid], thp_events: Option<u64>, scene: &mut Scene) {
        let service = scene.service.process().pid();
        for other in processes.iter().map(|pid| pid.as_raw()).filter(|pid| *pid != service) {
            scene.service.has_started(Some(other));
        }
        if let Some(events) = thp_events {
            self.thp_events.push(scene.clock.now_ns(), events);
        }
    }

    /// `oom_kills` is the number of OOM kills, or why it is unknown.
    pub(in crate::collect) fn into_signals(self, oom_kills: Result<u64, String>) -> CgroupSignals {
        let events = self.thp_events;
        let counted =
            if events.value.is_empty() { Err("the cgroup does not count them".to_owned()) } else { Ok(events) };
        CgroupSignals { thp_events: exact(CGROUP, counted, None), oom_kills: exact(CGROUP, oom_kills, None) }
    }
}

#[cfg(test)]
mod tests {
    use memgate_evidence::Exactness;

    use super::*;
    use crate::collect::testing::{Fake, PID};

    #[test]
    fn huge_pages_are_a_series_and_other_processes_a_doubt() {
        let mut fake = Fake::new();
        fake.proc.other(4243, "worker");
        let mut collector = CgroupCollector::default();
        let service = Pid::from_raw(PID);
        collector.see(&[service], Some(3), &mut fake.scene);
        assert_eq!(fake.scene.service.doubt(), None);
        collector.see(&[service, Pid::from_raw(4243)], None, &mut fake.scene);
        assert!(fake.scene.service.doubt().unwrap().ends_with("worker"));
        let signals = collector.into_signals(Ok(1));
        assert_eq!((signals.thp_events.data.value, signals.oom_kills.data), (vec![3], 1));
        let signals = CgroupCollector::default().into_signals(Err("no memory controller".to_owned()));
        assert!(matches!(signals.thp_events.exactness, Exactness::Missing { .. }));
        assert_eq!(signals.oom_kills.exactness, Exactness::Missing { reason: "no memory controller".to_owned() });
    }
}
