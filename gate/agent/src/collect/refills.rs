//! Refills of span caches, counted in windows of the measuring phase.
//!
//! A busy service refills some ten thousand times a second. A probe that counted all of it would cost it percents, so the probes
//! are there for a fiftieth of the time, and for less where that suffices.

use std::time::Duration;

use memgate_ebpf::count;
use memgate_evidence::{SpanRefills, TimeSpan, error::Result};
use memgate_goexe::probes::Probe;

use super::{Bpf, bpf::Links};
use crate::clock::Clock;

/// From the opening of one window to that of the next, tenths of a second.
const PERIOD: u32 = 50;
/// From the start of the measuring phase to the first window, tenths of a second.
const LEAD: u32 = 5;
/// After so long a window that has counted enough is closed; any other lasts until the next tenth of a second.
const SHORT: Duration = Duration::from_millis(20);
const ENOUGH: u64 = 100;

/// Opens and closes the windows.
#[derive(Default)]
pub(super) struct RefillWindows {
    /// Tenths of a second of the measuring phase so far.
    ticks: u32,
    open: Option<Window>,
}

struct Window {
    start_ns: u64,
    counts: [u64; count::COUNTS as usize],
    links: Links,
}

impl RefillWindows {
    /// To be called every tenth of a second.
    ///
    /// # Errors
    /// When the kernel refuses a probe.
    pub(super) fn tick(
        &mut self,
        bpf: &mut Bpf,
        probes: &[Probe],
        measuring: bool,
        clock: Clock,
        refills: &mut SpanRefills,
    ) -> Result<()> {
        if let Some(window) = self.open.take() {
            window.close(bpf, clock.now_ns(), refills)?;
        }
        if !measuring {
            self.ticks = 0;
            return Ok(());
        }
        let is_due = self.ticks % PERIOD == LEAD;
        self.ticks = self.ticks.wrapping_add(1);
        if is_due {
            let window = self.open.insert(Window::open(bpf, probes, clock)?);
            std::thread::sleep(SHORT);
            let index = count::REFILLS as usize;
            let counted = bpf.counts()?[index].saturating_sub(window.counts[index]);
            if let Some(window) = self.open.take_if(|_| counted >= ENOUGH) {
                window.close(bpf, clock.now_ns(), refills)?;
            }
        }
        Ok(())
    }
}

impl Window {
    fn open(bpf: &mut Bpf, probes: &[Probe], clock: Clock) -> Result<Self> {
        let links = bpf.attach(probes)?;
        // From here on every one of them counts.
        Ok(Self { start_ns: clock.now_ns(), counts: bpf.counts()?, links })
    }

    fn close(self, bpf: &mut Bpf, now_ns: u64, refills: &mut SpanRefills) -> Result<()> {
        let counts = bpf.counts()?;
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
