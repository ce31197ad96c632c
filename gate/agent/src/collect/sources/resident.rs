//! The resident set, its peak, and the page faults, from `/proc`.

use std::fs;

use memgate_evidence::{RssKinds, Series, Signal};

use crate::collect::{
    collector::{Boundary, Collector, Reading, Scene},
    worth::{Ending, NOT_REACHED, Worth, exact, note},
};

const STATUS: &str = "/proc/PID/status at 5 Hz";
const FAULTS: &str = "minflt + majflt of /proc/PID/stat at 5 Hz";
const PEAK: &str = "VmHWM, reset at the start of the measuring phase";

/// Collects `rss`, `rss_kinds`, `rss_peak` and `page_faults`.
#[derive(Default)]
pub(in crate::collect) struct ResidentCollector {
    rss: Series,
    kinds: RssKinds,
    page_faults: Series,
    /// The largest resident set of the measuring phase, bytes, or why it is unknown; `None` before the phase.
    peak: Option<Result<u64, String>>,
    failure: Option<String>,
}

/// The signals of this collector.
pub(in crate::collect) struct ResidentSignals {
    pub(in crate::collect) rss: Signal<Series>,
    pub(in crate::collect) rss_kinds: Signal<RssKinds>,
    pub(in crate::collect) rss_peak: Signal<u64>,
    pub(in crate::collect) page_faults: Signal<Series>,
}

impl ResidentCollector {
    fn try_read(&mut self, at_ns: u64, scene: &mut Scene) -> Result<(), String> {
        let stat = scene.service.stat().map_err(ToString::to_string)?;
        let (faults, has_children) = (stat.minflt + stat.majflt, stat.cminflt > 0);
        let status = scene.service.process().status().map_err(|error| error.to_string())?;
        let bytes = |kibibytes: Option<u64>| kibibytes.unwrap_or(0) * 1024;
        let kinds = [status.rssanon, status.rssfile, status.rssshmem].map(bytes);
        let resident = match (status.rssanon, status.vmrss) {
            (Some(_), _) => kinds.iter().sum(),
            // Linux before 4.5 does not report the kinds.
            (None, Some(resident)) => bytes(Some(resident)),
            // A process that has ended still has a status, but without its memory.
            (None, None) => return Err(procfs::ProcError::NotFound(None).to_string()),
        };
        self.rss.push(at_ns, resident);
        self.kinds.at_ns.push(at_ns);
        self.kinds.anonymous.push(kinds[0]);
        self.kinds.file.push(kinds[1]);
        self.kinds.shared.push(kinds[2]);
        self.page_faults.push(at_ns, faults);
        if has_children {
            scene.service.has_started(None);
        }
        Ok(())
    }

    pub(in crate::collect) fn into_signals(self, ending: &Ending) -> ResidentSignals {
        let worth: Worth = ending.read(self.failure);
        let peak = self.peak.unwrap_or_else(|| Err(NOT_REACHED.to_owned()));
        ResidentSignals {
            rss: worth.clone().of(STATUS, self.rss),
            rss_kinds: worth.clone().of(STATUS, self.kinds),
            rss_peak: exact(PEAK, peak, worth.doubt.clone()),
            page_faults: worth.of(FAULTS, self.page_faults),
        }
    }
}

impl Collector for ResidentCollector {
    fn read(&mut self, reading: Reading, scene: &mut Scene) {
        if let Err(reason) = self.try_read(reading.at_ns, scene) {
            note(&mut self.failure, reason);
        }
    }

    fn reach(&mut self, boundary: Boundary, scene: &mut Scene) {
        match boundary {
            Boundary::MeasureStart => {
                // 5 resets the high-water mark: Documentation/filesystems/proc.rst (Linux 6.18).
                let reset = fs::write(scene.service.file("clear_refs"), "5");
                self.peak = Some(reset.map(|()| 0).map_err(|error| format!("the peak cannot be reset: {error}")));
            }
            Boundary::MeasureEnd => {
                if let Some(Ok(_)) = self.peak {
                    let peak = scene.service.process().status().map(|status| status.vmhwm);
                    self.peak = Some(match peak {
                        Ok(Some(kibibytes)) => Ok(kibibytes * 1024),
                        Ok(None) => Err("/proc/PID/status has no VmHWM".to_owned()),
                        Err(error) => Err(error.to_string()),
                    });
                }
            }
            Boundary::Idle | Boundary::Drained => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use memgate_evidence::Exactness;

    use super::*;
    use crate::collect::testing::Fake;

    const READING: Reading = Reading { at_ns: 5, attempts: 1 };

    #[test]
    fn the_resident_set_is_the_sum_of_its_kinds() {
        let mut fake = Fake::new();
        fake.proc.status(&[("VmRSS", 100), ("RssAnon", 30), ("RssFile", 20), ("RssShmem", 5)]);
        fake.proc.stat(|stat| (stat.minflt, stat.majflt) = (40, 2));
        let mut collector = ResidentCollector::default();
        fake.scene.service.look();
        collector.read(READING, &mut fake.scene);
        let signals = collector.into_signals(&Ending::default());
        assert_eq!(signals.rss.data.value, [55 * 1024]);
        assert_eq!([&signals.rss_kinds.data.anonymous, &signals.rss_kinds.data.shared], [&[30 * 1024], &[5 * 1024]]);
        assert_eq!((signals.page_faults.data.value, signals.rss.exactness), (vec![42], Exactness::Sampled));
        assert_eq!(signals.rss_peak.exactness, Exactness::Missing { reason: NOT_REACHED.to_owned() });
    }

    #[test]
    fn an_old_kernel_reports_only_the_sum_and_an_ended_process_nothing() {
        let mut fake = Fake::new();
        fake.proc.status(&[("VmRSS", 100)]);
        let mut collector = ResidentCollector::default();
        collector.read(READING, &mut fake.scene);
        fake.proc.status(&[]);
        collector.read(READING, &mut fake.scene);
        let signals = collector.into_signals(&Ending::default());
        assert_eq!(signals.rss.data.value, [100 * 1024]);
        assert!(matches!(signals.rss.exactness, Exactness::Inexact { .. }));
    }

    #[test]
    fn the_peak_is_that_of_the_measuring_phase() {
        let mut fake = Fake::new();
        fake.proc.status(&[("VmHWM", 700), ("RssAnon", 1)]);
        let mut collector = ResidentCollector::default();
        collector.reach(Boundary::Idle, &mut fake.scene);
        collector.reach(Boundary::MeasureStart, &mut fake.scene);
        assert_eq!(fake.proc.read("clear_refs"), "5");
        collector.reach(Boundary::MeasureEnd, &mut fake.scene);
        assert_eq!(collector.into_signals(&Ending::default()).rss_peak.data, 700 * 1024);
    }

    #[test]
    fn a_peak_that_cannot_be_reset_is_unknown() {
        let mut fake = Fake::new();
        fake.proc.end();
        let mut collector = ResidentCollector::default();
        collector.reach(Boundary::MeasureStart, &mut fake.scene);
        collector.reach(Boundary::MeasureEnd, &mut fake.scene);
        let signal = collector.into_signals(&Ending::default()).rss_peak;
        assert!(matches!(signal.exactness, Exactness::Missing { reason } if reason.contains("cannot be reset")));
    }

    #[test]
    fn faults_of_an_ended_child_reveal_another_process() {
        let mut fake = Fake::new();
        fake.proc.status(&[("RssAnon", 1)]);
        fake.proc.stat(|stat| stat.cminflt = 9);
        fake.scene.service.look();
        ResidentCollector::default().read(READING, &mut fake.scene);
        assert!(fake.scene.service.doubt().unwrap().contains("one that has ended"));
    }
}
