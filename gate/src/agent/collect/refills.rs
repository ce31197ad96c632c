//! Refills of span caches, counted in windows of the measuring phase.
//!
//! A busy service refills some ten thousand times a second. A probe that counted all of it would cost it percents, so the probes
//! are there for a fiftieth of the time, and for less where that suffices.

use std::time::Duration;

use aya::programs::uprobe::UProbeLinkId;
use memgate_ebpf::count;

use super::Bpf;
use crate::{
    agent::clock::Clock,
    error::Result,
    evidence::{Span, SpanRefills},
    probes::Probe,
};

/// From the start of one window to the start of the next, ns.
const PERIOD_NS: u64 = 5_000_000_000;
/// Length of a window, ns.
const LENGTH_NS: u64 = 100_000_000;
/// Length of a window in which that many refills are counted, ns.
const SHORT_NS: u64 = 20_000_000;
const ENOUGH: u64 = 1000;
/// From the start of the measuring phase to the first window, ns.
const LEAD_NS: u64 = 500_000_000;

/// Opens and closes the windows.
#[derive(Default)]
pub(super) struct RefillWindows {
    /// When the next window opens; `None` outside the measuring phase.
    next_ns: Option<u64>,
    open: Option<Window>,
}

struct Window {
    start_ns: u64,
    counts: [u64; count::COUNTS as usize],
    links: Vec<(&'static str, UProbeLinkId)>,
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
        let now_ns = clock.now_ns();
        if let Some(window) = self.open.take_if(|window| !measuring || now_ns >= window.start_ns + LENGTH_NS) {
            window.close(bpf, now_ns, refills)?;
        }
        if !measuring {
            self.next_ns = None;
            return Ok(());
        }
        let next_ns = *self.next_ns.get_or_insert(now_ns + LEAD_NS);
        if self.open.is_none() && now_ns >= next_ns {
            self.next_ns = Some(next_ns + PERIOD_NS);
            let window = self.open.insert(Window::open(bpf, probes, now_ns)?);
            std::thread::sleep(Duration::from_nanos(SHORT_NS));
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
    fn open(bpf: &mut Bpf, probes: &[Probe], now_ns: u64) -> Result<Self> {
        let mut links = Vec::new();
        for probe in probes {
            links.push((probe.program, bpf.attach(probe)?));
        }
        // From here on every one of them counts.
        Ok(Self { start_ns: now_ns, counts: bpf.counts()?, links })
    }

    fn close(self, bpf: &mut Bpf, now_ns: u64, refills: &mut SpanRefills) -> Result<()> {
        let counts = bpf.counts()?;
        let since = |what: u32| {
            let index = what as usize;
            counts[index].saturating_sub(self.counts[index])
        };
        refills.windows.push(Span { start_ns: self.start_ns, end_ns: now_ns });
        refills.refills.push(since(count::REFILLS));
        refills.misses.push(since(count::MISSES));
        bpf.detach(self.links)
    }
}
