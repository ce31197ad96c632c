//! Refills of span caches, counted in windows of the measuring phase.
//!
//! A busy service refills some ten thousand times a second. A probe that counted all of it would cost it percents, so the probes
//! are there for a fiftieth of the time, and for less where that suffices.

use std::time::Duration;

use memgate_ebpf::count;
use memgate_evidence::{Exactness, Signal, SpanRefills, TimeSpan};
use memgate_goexe::probes::Probe;

use crate::collect::{
    collector::{Boundary, Collector, Scene},
    programs::{Attached, Counts, Links, ProgramError, Programs},
    worth::{Ending, Worth, note},
};

const SOURCE: &str = "uprobes on the calls of (*mcentral).cacheSpan and (*mcentral).grow, for up to 0.1 s every 5 s";
/// From the opening of one window to that of the next, tenths of a second.
const PERIOD: u32 = 50;
/// From the start of the measuring phase to the first window, tenths of a second.
const LEAD: u32 = 5;
/// After so long a window that has counted enough is closed; any other lasts until the next tenth of a second.
const SHORT: Duration = Duration::from_millis(20);
const ENOUGH: u64 = 100;

/// Collects `span_refills`: opens and closes the windows.
pub(in crate::collect) struct RefillCollector {
    /// The probes, or why there are none.
    probes: Result<Vec<Probe>, String>,
    measuring: bool,
    /// Tenths of a second of the measuring phase so far.
    ticks: u32,
    open: Option<Window>,
    refills: SpanRefills,
    failure: Option<String>,
}

struct Window {
    start_ns: u64,
    counts: Counts,
    links: Links,
}

impl RefillCollector {
    pub(in crate::collect) fn new(attached: &Attached) -> Self {
        Self {
            probes: attached.refill_probes.clone(),
            measuring: false,
            ticks: 0,
            open: None,
            refills: SpanRefills::default(),
            failure: None,
        }
    }

    fn try_tick(&mut self, scene: &mut Scene) -> Result<(), ProgramError> {
        let (Some(programs), Ok(probes)) = (&mut scene.programs, &self.probes) else { return Ok(()) };
        if let Some(window) = self.open.take() {
            window.close(programs.as_mut(), scene.clock.now_ns(), &mut self.refills)?;
        }
        if !self.measuring {
            self.ticks = 0;
            return Ok(());
        }
        let is_due = self.ticks % PERIOD == LEAD;
        self.ticks = self.ticks.wrapping_add(1);
        if is_due {
            let links = programs.attach(probes)?;
            // From here on every one of them counts.
            let (start_ns, counts) = (scene.clock.now_ns(), programs.counts()?);
            let window = self.open.insert(Window { start_ns, counts, links });
            std::thread::sleep(SHORT);
            let index = count::REFILLS as usize;
            let counted = programs.counts()?[index].saturating_sub(window.counts[index]);
            if let Some(window) = self.open.take_if(|_| counted >= ENOUGH) {
                window.close(programs.as_mut(), scene.clock.now_ns(), &mut self.refills)?;
            }
        }
        Ok(())
    }

    pub(in crate::collect) fn into_signal(self, ending: &Ending) -> Signal<SpanRefills> {
        let no_window = || self.refills.windows.is_empty().then(|| "the measuring phase had no window".to_owned());
        let missing = self.probes.as_ref().err().cloned().or_else(no_window);
        let doubt = ending.doubt.clone().or(self.failure);
        Worth { missing, doubt, lost: 0, otherwise: Exactness::Sampled }.of(SOURCE, self.refills)
    }
}

impl Collector for RefillCollector {
    fn tick(&mut self, scene: &mut Scene) {
        if let Err(error) = self.try_tick(scene) {
            note(&mut self.failure, error.reason());
        }
    }

    fn reach(&mut self, boundary: Boundary, _scene: &mut Scene) {
        self.measuring = boundary == Boundary::MeasureStart;
    }
}

impl Window {
    fn close(self, programs: &mut dyn Programs, now_ns: u64, refills: &mut SpanRefills) -> Result<(), ProgramError> {
        let counts = programs.counts()?;
        let since = |what: u32| {
            let index = what as usize;
            counts[index].saturating_sub(self.counts[index])
        };
        refills.windows.push(TimeSpan { start_ns: self.start_ns, end_ns: now_ns });
        refills.refills.push(since(count::REFILLS));
        refills.misses.push(since(count::MISSES));
        self.links.take_off();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::collect::testing::{Fake, attached};

    /// Ticks so often, with so many refills between two looks at the counts.
    fn tick(fake: &mut Fake, collector: &mut RefillCollector, times: u32, refills: u64) {
        fake.programs.count_each_time([refills, 1, 0]);
        (0..times).for_each(|_| collector.tick(&mut fake.scene));
    }

    #[test]
    fn a_window_opens_half_a_second_into_the_phase_and_then_every_five_seconds() {
        let mut fake = Fake::new();
        let mut collector = RefillCollector::new(&attached());
        tick(&mut fake, &mut collector, 20, 500);
        assert!(collector.refills.windows.is_empty(), "there is no measuring phase yet");
        collector.reach(Boundary::MeasureStart, &mut fake.scene);
        tick(&mut fake, &mut collector, LEAD, 500);
        assert!(collector.refills.windows.is_empty());
        tick(&mut fake, &mut collector, 1, 500);
        assert_eq!(collector.refills.windows.len(), 1, "enough is counted at once");
        tick(&mut fake, &mut collector, PERIOD, 500);
        assert_eq!(collector.refills.windows.len(), 2);
        // Between the looks at the start, in between and at the end lie two times 500.
        assert_eq!((&collector.refills.refills, &collector.refills.misses), (&vec![1000; 2], &vec![2; 2]));
        fake.programs.wait_until_detached();
    }

    #[test]
    fn a_window_that_counts_little_lasts_until_the_next_tick_and_ends_with_the_phase() {
        let mut fake = Fake::new();
        let mut collector = RefillCollector::new(&attached());
        collector.reach(Boundary::MeasureStart, &mut fake.scene);
        tick(&mut fake, &mut collector, LEAD + 1, 3);
        assert!(collector.open.is_some() && collector.refills.windows.is_empty());
        collector.reach(Boundary::MeasureEnd, &mut fake.scene);
        tick(&mut fake, &mut collector, 1, 3);
        assert!(collector.open.is_none());
        assert_eq!(collector.refills.refills, [6]);
        assert_eq!(collector.into_signal(&Ending::default()).exactness, Exactness::Sampled);
    }

    #[test]
    fn a_refused_probe_is_a_missing_window_and_its_reason_a_doubt() {
        let mut fake = Fake::new();
        let mut collector = RefillCollector::new(&attached());
        collector.reach(Boundary::MeasureStart, &mut fake.scene);
        tick(&mut fake, &mut collector, PERIOD, 500);
        fake.programs.refuse("refill");
        tick(&mut fake, &mut collector, PERIOD, 500);
        let signal = collector.into_signal(&Ending::default());
        assert!(matches!(signal.exactness, Exactness::Inexact { reason } if reason.contains("`refill`")));
        let collector = RefillCollector::new(&attached());
        let signal = collector.into_signal(&Ending::default());
        assert!(matches!(signal.exactness, Exactness::Missing { reason } if reason.contains("no window")));
        let signal = RefillCollector::new(&Attached::without_programs("no BPF")).into_signal(&Ending::default());
        assert!(matches!(signal.exactness, Exactness::Missing { reason } if reason == "no BPF"));
    }
}
