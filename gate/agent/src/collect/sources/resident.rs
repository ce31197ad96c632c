//! The resident set by kind, its peak, swapped-out memory, threads and page faults, from `/proc`.

use std::{fs, ops::Range};

use memgate_evidence::{RssKinds, Series, Signal};
use procfs::process::{Process, Status};

use crate::collect::{
    collector::{Boundary, Collector, Reading, Scene},
    worth::{Ending, NOT_REACHED, Worth, exact, note},
};

const STATUS: &str = "/proc/PID/status of each process of the cgroup at 5 Hz";
const FAULTS: &str = "minflt + majflt of /proc/PID/stat at 5 Hz";
const PEAK: &str = "VmHWM, reset at the start of the measuring phase";
const PEAK_OF_SEVERAL: &str = "VmHWM of the launched process, or the largest sum over all processes at 5 Hz";

/// Collects `rss`, `rss_kinds`, `swap`, `threads`, `rss_peak` and `page_faults`.
#[derive(Default)]
pub(in crate::collect) struct ResidentCollector {
    rss: Series,
    kinds: RssKinds,
    swap: Series,
    threads: Series,
    page_faults: Series,
    /// The largest resident set of the measuring phase, bytes, or why it is unknown; `None` before the phase.
    peak: Option<Result<u64, String>>,
    /// The readings of the measuring phase, with the one at its very end.
    measured: Range<usize>,
    /// The most processes in a reading.
    processes: usize,
    failure: Option<String>,
}

/// The signals of this collector.
pub(in crate::collect) struct ResidentSignals {
    pub(in crate::collect) rss: Signal<Series>,
    pub(in crate::collect) rss_kinds: Signal<RssKinds>,
    pub(in crate::collect) swap: Signal<Series>,
    pub(in crate::collect) threads: Signal<Series>,
    pub(in crate::collect) rss_peak: Signal<u64>,
    pub(in crate::collect) page_faults: Signal<Series>,
}

/// What /proc/PID/status says of processes.
#[derive(Debug, Default)]
struct Sum {
    /// Anonymous memory, pages of files, shared memory, bytes.
    kinds: [u64; 3],
    resident: u64,
    swap: u64,
    threads: u64,
}

impl Sum {
    /// Adds a process. Returns whether it has memory. A process that has ended still has a status, but without it.
    fn add(&mut self, status: &Status) -> bool {
        let bytes = |kibibytes: Option<u64>| kibibytes.unwrap_or(0) * 1024;
        let kinds = [status.rssanon, status.rssfile, status.rssshmem].map(bytes);
        self.resident += match (status.rssanon, status.vmrss) {
            (Some(_), _) => kinds.iter().sum(),
            // Linux before 4.5 does not report the kinds.
            (None, Some(resident)) => bytes(Some(resident)),
            (None, None) => return false,
        };
        self.kinds.iter_mut().zip(kinds).for_each(|(sum, kind)| *sum += kind);
        self.swap += bytes(status.vmswap);
        self.threads += status.threads;
        true
    }
}

impl ResidentCollector {
    fn try_read(&mut self, at_ns: u64, scene: &mut Scene) -> Result<(), String> {
        let stat = scene.service.stat().map_err(ToString::to_string)?;
        let (faults, has_children) = (stat.minflt + stat.majflt, stat.cminflt > 0);
        let mut sum = Sum::default();
        if !sum.add(&scene.service.process().status().map_err(|error| error.to_string())?) {
            return Err(procfs::ProcError::NotFound(None).to_string());
        }
        let others = scene.read_others(&mut self.failure, |entry| Process::new_with_root(entry)?.status());
        let others = others.iter().filter(|status| sum.add(status)).count();
        self.processes = self.processes.max(1 + others);
        self.rss.push(at_ns, sum.resident);
        let [anonymous, file, shared] = sum.kinds;
        self.kinds.at_ns.push(at_ns);
        self.kinds.anonymous.push(anonymous);
        self.kinds.file.push(file);
        self.kinds.shared.push(shared);
        self.swap.push(at_ns, sum.swap);
        self.threads.push(at_ns, sum.threads);
        self.page_faults.push(at_ns, faults);
        if has_children {
            scene.service.has_ended_one();
        }
        Ok(())
    }

    /// The most processes whose memory a reading sums up.
    pub(in crate::collect) const fn processes(&self) -> usize {
        self.processes
    }

    pub(in crate::collect) fn into_signals(self, ending: &Ending) -> ResidentSignals {
        let worth: Worth = ending.read(self.failure.clone());
        let summed = ending.summed(self.failure);
        let peak = self.peak.unwrap_or_else(|| Err(NOT_REACHED.to_owned()));
        let rss_peak = match peak {
            // The kernel's peak is that of one process.
            Ok(of_one) if self.processes > 1 => {
                let Range { start, end } = self.measured;
                let most = self.rss.value.iter().take(end).skip(start).fold(of_one, |most, sum| most.max(*sum));
                summed.clone().of(PEAK_OF_SEVERAL, most)
            }
            peak => exact(PEAK, peak, worth.doubt.clone()),
        };
        ResidentSignals {
            rss: summed.clone().of(STATUS, self.rss),
            rss_kinds: summed.clone().of(STATUS, self.kinds),
            swap: summed.clone().of(STATUS, self.swap),
            threads: summed.of(STATUS, self.threads),
            rss_peak,
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
                self.measured = self.rss.value.len()..usize::MAX;
            }
            Boundary::MeasureEnd => {
                self.measured.end = self.rss.value.len() + 1;
                if let Some(Ok(_)) = self.peak {
                    let peak = scene.service.process().status().map(|status| status.vmhwm);
                    self.peak = Some(match peak {
                        Ok(Some(kibibytes)) => Ok(kibibytes * 1024),
                        Ok(None) => Err("/proc/PID/status has no VmHWM".to_owned()),
                        Err(error) => Err(error.to_string()),
                    });
                }
            }
            // The threads of the service's start do not belong to the idle service.
            Boundary::Idle => self.threads = Series::default(),
            Boundary::Drained => {}
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
    fn the_processes_of_the_cgroup_are_summed_up() {
        let mut fake = Fake::new();
        let cgroup = FakeCgroup::v2();
        fake.scene.cgroup = cgroup.files(None);
        fake.proc.status(&[("RssAnon", 30), ("RssFile", 20), ("RssShmem", 5), ("VmSwap", 2)]);
        fake.proc.other(4243, "worker");
        fake.proc.status_of(4243, 7, &[("RssAnon", 300), ("RssFile", 200), ("RssShmem", 50), ("VmSwap", 10)]);
        fake.proc.other(4244, "ending");
        fake.proc.status_of(4244, 1, &[]);
        cgroup.write("cgroup.procs", &format!("{PID}\n4243\n4244\n4245\n"));
        let mut collector = ResidentCollector::default();
        collector.read(READING, &mut fake.scene);
        cgroup.write("cgroup.procs", &format!("{PID}\n"));
        collector.read(READING, &mut fake.scene);
        assert_eq!(collector.processes(), 2);
        for at_ns in [0, 20_000_000_000] {
            fake.scene.service.has_started(4243, at_ns);
        }
        let ending = Ending::new(fake.scene.service.doubt(u64::MAX), None, None).summed_over_the_cgroup(None);
        let signals = collector.into_signals(&ending);
        let kib = |sizes: [u64; 2]| sizes.map(|size| size * 1024);
        assert_eq!(signals.rss.data.value, kib([605, 55]));
        let kinds = &signals.rss_kinds.data;
        assert_eq!(
            [&kinds.anonymous, &kinds.file, &kinds.shared],
            [[330, 30], [220, 20], [55, 5]].map(kib).each_ref().map(|kind| kind.to_vec()).each_ref()
        );
        assert_eq!((signals.swap.data.value, signals.threads.data.value), (kib([12, 2]).to_vec(), vec![8, 1]));
        assert_eq!(signals.rss.exactness, Exactness::Sampled, "the sum is of the whole service");
        assert!(matches!(signals.page_faults.exactness, Exactness::Inexact { .. }), "these are of one process");
    }

    #[test]
    fn idleness_drops_only_the_threads_of_the_start() {
        let mut fake = Fake::new();
        fake.proc.status(&[("RssAnon", 1)]);
        let mut collector = ResidentCollector::default();
        collector.read(READING, &mut fake.scene);
        collector.reach(Boundary::Idle, &mut fake.scene);
        collector.read(READING, &mut fake.scene);
        collector.reach(Boundary::Drained, &mut fake.scene);
        collector.read(READING, &mut fake.scene);
        let signals = collector.into_signals(&Ending::default());
        assert_eq!((signals.threads.data.value.len(), signals.rss.data.value.len()), (2, 3));
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
    fn the_peak_of_several_processes_is_the_largest_sum_that_was_read() {
        let mut fake = Fake::new();
        let cgroup = FakeCgroup::v2();
        fake.scene.cgroup = cgroup.files(None);
        fake.proc.status(&[("VmHWM", 700), ("RssAnon", 1)]);
        fake.proc.other(4243, "convert");
        fake.proc.status_of(4243, 1, &[("RssAnon", 900)]);
        cgroup.write("cgroup.procs", &format!("{PID}\n4243\n"));
        let mut collector = ResidentCollector::default();
        collector.reach(Boundary::MeasureStart, &mut fake.scene);
        collector.read(READING, &mut fake.scene);
        collector.reach(Boundary::MeasureEnd, &mut fake.scene);
        fake.proc.status_of(4243, 1, &[("RssAnon", 1000)]);
        collector.read(READING, &mut fake.scene);
        fake.proc.status_of(4243, 1, &[("RssAnon", 5000)]);
        collector.read(READING, &mut fake.scene);
        let ending = Ending::new(Some("children".to_owned()), None, None).summed_over_the_cgroup(None);
        let peak = collector.into_signals(&ending).rss_peak;
        assert_eq!(
            (peak.data, peak.exactness),
            (1001 * 1024, Exactness::Sampled),
            "a reading after the phase is none of it"
        );
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
        assert!(fake.scene.service.other_processes(u64::MAX).unwrap().contains("had ended"));
    }
}
