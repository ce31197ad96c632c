//! Whether the machine has spoiled a run.

use memgate_evidence::Evidence;

use super::{run::Run, series::Entries};

/// Why this run says little of the service, if memgate itself could not read or load it in time in the measuring phase: a
/// clause without a full stop. `None` if nothing held memgate up, or if the service ended early, which says enough.
///
/// The readings of the resident set stand for all readings. memgate takes them for every service, five a second.
pub fn held_up(evidence: &Evidence) -> Option<String> {
    const WHAT: &str = "resident-set samples";
    let run = Run(evidence);
    let span = run.measure().ok()?;
    let gap = Entries::of(&run.signals().rss, WHAT).ok()?.covering(span, WHAT).err();
    gap.or_else(|| run.share_of_rate().err()).map(|unavailable| unavailable.reason)
}

#[cfg(test)]
mod tests {
    use memgate_evidence::{Ending, platform::Runner};
    use memgate_testing::{MEASURE, SECOND, healthy};

    use super::*;

    /// A run without readings of the resident set in these nanoseconds.
    fn without(from: u64, to: u64) -> Evidence {
        let mut run = healthy(1);
        let rss = &mut run.signals.rss.data;
        let kept: Vec<(u64, u64)> = rss.at_ns.iter().copied().zip(rss.value.iter().copied()).collect();
        (rss.at_ns, rss.value) = kept.into_iter().filter(|(at, _)| !(from..to).contains(at)).unzip();
        run
    }

    #[test]
    fn a_gap_in_the_readings_spoils_a_run() {
        assert_eq!(held_up(&healthy(1)), None);
        let middle = MEASURE.start_ns + 20 * SECOND;
        assert_eq!(held_up(&without(middle, middle + 3 * SECOND)), None, "3 s of 60 s");
        let told = held_up(&without(middle, middle + 10 * SECOND)).unwrap();
        assert_eq!(told, "the resident-set samples have a gap of 10.1 s in the phase");
        assert_eq!(
            held_up(&without(0, middle)).unwrap(),
            "the resident-set samples begin 20.0 s after the start of the phase"
        );
        let mut ended = without(middle, middle + 10 * SECOND);
        ended.ending = Ending::Exited { code: 1, at_ns: middle };
        assert_eq!(held_up(&ended), None, "the service is to blame");
    }

    #[test]
    fn a_guest_that_hardly_gets_its_load_is_held_up() {
        let of = |share: f64| {
            let mut run = healthy(1);
            run.environment.runner = Runner::Qemu;
            let made = run.signals.requests.data.measure.intended as f64 / 60.0;
            run.signals.requests.data.per_second = made / share;
            held_up(&run)
        };
        assert_eq!(of(0.26), None);
        assert!(of(0.24).unwrap().contains("at 24% of the rate"), "{:?}", of(0.24));
    }
}
